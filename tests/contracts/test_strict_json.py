"""Every JSON that is written is one that other programs read: no NaN, no Infinity."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest

from mtquant_rllib import strict_json

PACKAGE = Path(__file__).resolve().parents[2] / "mtquant_rllib"


def test_what_is_no_number_is_null() -> None:
    tree = {"a": [float("nan"), np.inf, np.float32(0.5)], "b": (1, True, None, np.int64(3), np.bool_(False)), 4: "x"}
    said = strict_json.dumps(tree)
    assert json.loads(said, parse_constant=pytest.fail) == {
        "a": [None, None, 0.5],
        "b": [1, True, None, 3, False],
        "4": "x",
    }
    assert strict_json.dumps({"path": Path("a"), "bad": float("nan")}, default=str) == '{"path": "a", "bad": null}'


def test_numbers_are_written_as_json_dumps_writes_them() -> None:
    tree = {"x": [0.1, 1e-300, -0.0, 3, 10**20], "y": {"z": "\u00e4"}}
    assert strict_json.dumps(tree, sort_keys=True, indent=1) == json.dumps(tree, sort_keys=True, indent=1)


@pytest.mark.slow
def test_nobody_writes_any_other_json() -> None:
    wrong = []
    for source in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            of_json = isinstance(node.func.value, ast.Name) and node.func.value.id == "json"
            if of_json and node.func.attr in ("dump", "dumps"):
                strict = any(word.arg == "allow_nan" for word in node.keywords)
                wrong += [] if strict else [f"{source.relative_to(PACKAGE)}:{node.lineno}"]
    assert wrong == []
