"""Undisturbed runs to compare with, made once, and the table of what was tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

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


@pytest.fixture(scope="session", autouse=True)
def printed_table(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and TABLE.rows:
        reporter.write_line("")
        for line in TABLE.lines():
            reporter.write_line(line)
