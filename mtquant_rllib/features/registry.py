"""The registries of features: named functions with their formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

F = TypeVar("F", bound=Callable[..., np.ndarray])


@dataclass(frozen=True)
class Feature:
    """name and group as in the layout; formula: one line in the notation of `own_bars.py`; compute: the function."""

    name: str
    group: str
    formula: str
    compute: Callable[..., np.ndarray]


class Registry:
    """Features of one kind by name. Their order in an observation is the layout's, not the registry's."""

    def __init__(self) -> None:
        self._features: dict[str, Feature] = {}

    def __call__(self, group: str, formula: str, name: str | None = None) -> Callable[[F], F]:
        """Decorator that registers a function under its own name, or under `name`."""

        def register(compute: F) -> F:
            key = name or compute.__name__
            assert key not in self._features, f"feature {key} is registered twice"
            self._features[key] = Feature(key, group, formula, compute)
            return compute

        return register

    def __getitem__(self, name: str) -> Feature:
        return self._features[name]

    def __contains__(self, name: object) -> bool:
        return name in self._features

    def __iter__(self) -> Any:
        return iter(self._features.values())

    def __len__(self) -> int:
        return len(self._features)
