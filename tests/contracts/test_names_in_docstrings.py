"""Docstrings and comments name modules, functions and settings that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from mtquant_rllib.config import Settings

PACKAGE = Path(__file__).resolve().parents[2] / "mtquant_rllib"
PARTS = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
FILES = {"yaml", "json", "csv", "md"}
DOTTED = re.compile(r"`([a-z_]+(?:\.[A-Za-z_][\w]*)+)`")


def _prose(source: Path) -> Iterator[str]:
    text = source.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
    yield from re.findall(r"#(.*)", text)


def _is_setting(names: list[str]) -> bool:
    """A path through the settings; what stands below a table of one's own names is anything."""
    at: Any = Settings.load()
    for name in names:
        if isinstance(at, BaseModel) and name in type(at).model_fields:
            at = getattr(at, name)
        else:
            return not isinstance(at, BaseModel)
    return True


def _is_code(names: list[str], root: Path) -> bool:
    """A module below `root`, or a name that stands in one."""
    for length in range(len(names), 0, -1):
        place, rest = root.joinpath(*names[:length]), names[length:]
        module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if module.is_file():
            return all(re.search(rf"\b{name}\b", module.read_text()) for name in rest)
    return False


def _is_rllibs(names: list[str]) -> bool:
    """`config.NAME`: what RLlib's configuration has."""
    return names[0] == "config" and hasattr(AlgorithmConfig(), names[1])


def _is_there(names: list[str], source: Path) -> bool:
    roots = (PACKAGE, source.parent)
    return _is_setting(names) or _is_rllibs(names) or any(_is_code(names, root) for root in roots)


@pytest.mark.slow
@pytest.mark.parametrize("part", sorted(PARTS))
def test_what_prose_names_is_there(part: str) -> None:
    sources = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").is_file() else sorted((PACKAGE / part).rglob("*.py"))
    lost = []
    for source in sources:
        for prose in _prose(source):
            for name in DOTTED.findall(prose):
                names = name.split(".")
                if names[0] in PARTS and names[-1] not in FILES and not _is_there(names, source):
                    lost.append(f"{source.relative_to(PACKAGE)}: {name}")
    assert not lost
