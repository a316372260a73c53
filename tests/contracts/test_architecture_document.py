"""docs/architecture.md names files that are there, and every room of the package."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mtquant_rllib"
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\b(?:\w+/)+\w+\.py|\b\w+\.py", DOCUMENT))))
def test_a_file_of_the_document_exists(path: str) -> None:
    places = [ROOT, PACKAGE, PACKAGE / "engine" / "learning", PACKAGE / "engine", PACKAGE / "features"]
    assert any((place / path).is_file() for place in places)


def test_every_room_of_the_package_is_in_it() -> None:
    rooms = [path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").is_file()]
    assert [room for room in rooms if f"`{room}/`" not in DOCUMENT] == []


@pytest.mark.slow
def test_the_index_of_files_is_the_files_own_first_sentences() -> None:
    """`python .ci/file_index.py` writes it."""
    written = runpy.run_path(str(ROOT / ".ci" / "file_index.py"))
    assert (ROOT / "docs" / "files.md").read_text() == written["index"]()
