"""Who may import what. The direction of dependency is the architecture; a drawing of it would go stale, this does
not."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "mtquant_rllib"

ALLOWED = {
    "universe": set(),
    "errors": set(),
    "paths": {"errors"},
    "object_store": {"errors", "paths"},
    "config": {"universe", "errors"},
    "market": {"universe", "errors", "config"},
    "features": {"universe", "errors", "config", "market"},
    "risk": {"universe", "errors", "config", "features"},
    "portfolio": {"universe", "errors", "config", "market", "features", "risk"},
    "env": {"universe", "errors", "paths", "object_store", "config", "market", "features", "risk", "portfolio"},
    "policies": {"universe", "errors", "config", "features"},
    "evaluation": {"universe", "errors", "config", "market", "features", "risk", "portfolio", "env", "policies"},
    "engine": {"universe", "errors", "config", "features", "portfolio", "env", "policies"},
    "training": {
        "universe",
        "errors",
        "paths",
        "object_store",
        "config",
        "market",
        "features",
        "env",
        "policies",
        "evaluation",
        "engine",
    },
    "bench": {"universe", "errors", "config", "features", "env", "policies", "evaluation", "engine", "training"},
    "doctor": {"errors", "object_store", "config", "env", "training"},
    "system": {"config", "env", "errors", "evaluation", "training"},
}
"""What each part may import of the package."""
COMMAND_LINE = {"cli", "commands"}
"""They may import everything, and nothing imports them."""

TORCH = {"policies", "engine", "training", "bench", "doctor"}
RAY = {"engine", "training", "bench", "doctor"}
RAY_FILES = {"env/multi_agent.py", "policies/modules.py"}
"""Adapters: one file each."""
PANDAS = {"market"}


def _imports(source: Path) -> set[str]:
    """Modules named anywhere in a file, those under TYPE_CHECKING left out: they are never loaded."""
    tree = ast.parse(source.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _part(source: Path) -> str:
    return source.relative_to(PACKAGE).parts[0].removesuffix(".py")


SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_what_its_place_allows(source: Path) -> None:
    part = _part(source)
    if part in COMMAND_LINE:
        return
    own = {name.split(".")[1] for name in _imports(source) if name.startswith("mtquant_rllib.")}
    own -= {part, "__version__", "Settings"}
    assert own <= ALLOWED[part], f"{part} may not import {sorted(own - ALLOWED[part])}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_stay_in_their_places(source: Path) -> None:
    part, name = _part(source), str(source.relative_to(PACKAGE))
    roots = {imported.split(".")[0] for imported in _imports(source)}
    if part not in TORCH:
        assert "torch" not in roots
    if part not in RAY and name not in RAY_FILES:
        assert "ray" not in roots
    if part not in PANDAS:
        assert "pandas" not in roots


def test_every_part_of_the_package_has_a_place() -> None:
    assert {_part(source) for source in SOURCES} - COMMAND_LINE == set(ALLOWED)
