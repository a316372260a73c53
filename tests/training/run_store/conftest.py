"""Copies to break of one small run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def run(watched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(watched, tmp_path / "runs" / "mine"))
