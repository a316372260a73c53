"""JSON that every reader takes: Python's writes NaN and Infinity, which are no JSON and break other programs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any


def dumps(tree: Any, **how: Any) -> str:
    """`json.dumps` with null for what is no finite number, and NumPy's numbers as numbers.

    how: as of `json.dumps`.
    """
    return json.dumps(json_values(tree, how.get("default")), allow_nan=False, **how)


def json_values(value: Any, default: Callable[[Any], Any] | None = None) -> Any:
    """The same tree in values that JSON has."""
    if isinstance(value, dict):
        return {_key(key): json_values(item, default) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(item, default) for item in value]
    if getattr(value, "ndim", None) == 0:
        # A number of NumPy's, which the command line does without.
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return value if default is None else json_values(default(value), default)


def _key(key: Any) -> Any:
    return key if key is None or isinstance(key, str | int | float) else str(key)
