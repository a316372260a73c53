"""Undisturbed runs to compare with, made once, and the table of what was tried."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runs
from table import TABLE

Reference = Callable[..., Path]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """(overrides...) -> an undisturbed run with them."""
    folder, made = tmp_path_factory.mktemp("undisturbed"), dict[tuple[str, ...], Path]()

    def make(*overrides: str) -> Path:
        if overrides not in made:
            made[overrides] = runs.undisturbed(folder, f"run_{len(made)}", *overrides)
        return made[overrides]

    return make


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for line in TABLE.lines() if TABLE.rows else ():
        terminalreporter.write_line(line)
