"""Who may import what. The direction of dependency is the architecture; a drawing of it would go stale, this does
not."""

from __future__ import annotations

import ast
import functools
import graphlib
from collections.abc import Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "mtquant_rllib"

ALLOWED = {
    "universe": set(),
    "errors": set(),
    "strict_json": set(),
    "version": set(),
    "extensions": {"errors"},
    "vector_state": {"errors"},
    "short_rows": set(),
    "paths": {"errors"},
    "object_store": {"errors", "paths"},
    "durable": {"errors"},
    "config": {"universe", "errors"},
    "market": {"strict_json", "universe", "errors", "config"},
    "features": {"strict_json", "universe", "errors", "extensions", "config", "market"},
    "risk": {"universe", "errors", "extensions", "vector_state", "short_rows", "config", "features"},
    "portfolio": {
        "universe",
        "errors",
        "extensions",
        "vector_state",
        "short_rows",
        "config",
        "market",
        "features",
        "risk",
    },
    "env": {
        "strict_json",
        "universe",
        "errors",
        "extensions",
        "vector_state",
        "short_rows",
        "paths",
        "object_store",
        "config",
        "market",
        "features",
        "agents",
        "risk",
        "portfolio",
    },
    "agents": {"universe", "errors", "config", "features"},
    "policies": {"universe", "errors", "extensions", "config", "features", "agents"},
    "evaluation": {
        "strict_json",
        "universe",
        "errors",
        "config",
        "market",
        "features",
        "agents",
        "risk",
        "portfolio",
        "env",
        "policies",
    },
    "engine": {"universe", "errors", "config", "features", "agents", "portfolio", "env", "policies"},
    "training": {
        "durable",
        "extensions",
        "strict_json",
        "universe",
        "errors",
        "version",
        "paths",
        "object_store",
        "config",
        "market",
        "features",
        "agents",
        "env",
        "policies",
        "evaluation",
        "engine",
    },
    "audit": {
        "universe",
        "errors",
        "config",
        "market",
        "features",
        "portfolio",
        "env",
        "policies",
        "evaluation",
        "training",
    },
    "bench": {
        "risk",
        "market",
        "strict_json",
        "universe",
        "errors",
        "config",
        "features",
        "agents",
        "env",
        "policies",
        "evaluation",
        "engine",
        "training",
        "serving",
    },
    "doctor": {"errors", "object_store", "config", "env", "training"},
    "serving": {
        "durable",
        "paths",
        "strict_json",
        "universe",
        "errors",
        "vector_state",
        "config",
        "market",
        "features",
        "agents",
        "risk",
        "portfolio",
        "env",
        "policies",
        "evaluation",
        "training",
    },
    "system": {"config", "env", "errors", "evaluation", "serving", "training"},
}
"""What each part may import of the package."""
COMMAND_LINE = {"cli", "commands"}
"""They may import everything, and nothing imports them."""

TORCH = {"policies", "engine", "training", "bench", "doctor"}
RAY = {"engine", "training", "bench", "doctor"}
RAY_FILES = {"env/multi_agent.py", "policies/modules.py"}
"""Adapters: one file each."""
PANDAS = {"market"}
PANDAS_FILES = {"evaluation/report/frames.py"}


@functools.cache
def _imports(source: Path, type_checking: bool = False) -> set[str]:
    """Names imported anywhere in a file; those under TYPE_CHECKING, which are never loaded, if asked for."""
    tree = ast.parse(source.read_text())
    for node in ast.walk(tree) if not type_checking else ():
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


@pytest.mark.slow
def test_files_import_only_what_their_place_allows() -> None:
    wrong = []
    for source in SOURCES:
        part = _part(source)
        own = {name.split(".")[1] for name in _imports(source) if name.startswith("mtquant_rllib.")}
        odd = own - {part, "Settings"} - ALLOWED.get(part, own)
        wrong += [f"{source.relative_to(PACKAGE)} may not import {name}" for name in sorted(odd)]
    assert not wrong


def test_heavy_libraries_stay_in_their_places() -> None:
    wrong = []
    for source in SOURCES:
        part, name = _part(source), str(source.relative_to(PACKAGE))
        allowed = {
            "torch": part in TORCH,
            "ray": part in RAY or name in RAY_FILES,
            "pandas": part in PANDAS or name in PANDAS_FILES,
        }
        roots = {imported.split(".")[0] for imported in _imports(source)}
        wrong += [f"{name} may not import {root}" for root, may in allowed.items() if root in roots and not may]
    assert not wrong


def test_every_part_of_the_package_has_a_place() -> None:
    assert {_part(source) for source in SOURCES} - COMMAND_LINE == set(ALLOWED)


def _module(source: Path) -> str:
    """Dotted name of a file."""
    parts = source.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.slow
def test_no_files_import_each_other_in_a_circle() -> None:
    """At the level of files, those under TYPE_CHECKING and inside functions included: a circle is one room with a wall
    through it."""
    modules = {_module(source): source for source in PACKAGE.rglob("*.py")}
    graph = {
        module: {_file_of(name, modules) for name in _imports(source, type_checking=True)} - {module, ""}
        for module, source in modules.items()
    }
    sorter = graphlib.TopologicalSorter(graph)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def _file_of(name: str, modules: Mapping[str, Path]) -> str:
    """The module that an imported name is, or stands in; empty for one of another package."""
    return name if name in modules else name.rpartition(".")[0] if name.rpartition(".")[0] in modules else ""
