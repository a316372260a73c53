"""`VectorState`: the state of B environments as a value.

A state is a dataclass whose every field is an array with a leading axis of B environments, or another state. Snapshots,
checkpoints and environments that are not stepped are loops over the fields. An attribute that is not a field is not
state: it is set before it is read, or never changes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Self

import numpy as np

from mtquant_rllib.errors import MtquantError


class VectorState:
    """Base of the dataclasses that hold the state of B environments. See the module's docstring."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def parts(self) -> Iterator[tuple[str, np.ndarray | VectorState]]:
        """Name and content of each field."""
        for field in fields(self):
            yield field.name, getattr(self, field.name)

    def select(self, envs: np.ndarray) -> Self:
        """The rows `envs` (indices, R of them) of every array, copied: the state of R environments."""
        chosen = copy.copy(self)
        for name, part in self.parts():
            setattr(chosen, name, part.select(envs) if isinstance(part, VectorState) else part[envs])
        return chosen

    def put(self, envs: np.ndarray, rows: Self) -> None:
        """Write what `select(envs)` returned, here or from a state of the same kind, into the rows `envs`."""
        for name, part in self.parts():
            new = getattr(rows, name)
            if isinstance(part, VectorState):
                part.put(envs, new)
            else:
                part[envs] = new
        self.derive()

    def where(self, mask: np.ndarray, other: Self) -> Self:
        """A new state: this one's rows where `mask`, bool (B,), and `other`'s elsewhere."""
        mixed = other.copy()
        envs = np.flatnonzero(mask)
        mixed.put(envs, self.select(envs))
        return mixed

    def copy(self) -> Self:
        """The same state in arrays of its own."""
        twin = copy.copy(self)
        for name, part in self.parts():
            setattr(twin, name, part.copy())
        return twin

    def arrays(self) -> dict[str, np.ndarray]:
        """Copies of all arrays by dotted name: what a checkpoint keeps."""
        found: dict[str, np.ndarray] = {}
        for name, part in self.parts():
            if isinstance(part, VectorState):
                found |= {f"{name}.{inner}": array for inner, array in part.arrays().items()}
            else:
                found[name] = part.copy()
        return found

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `arrays()` of a state of this kind and size returned; nothing of it is kept.

        Raises
        ------
        MtquantError
            When an array is missing, unknown, or of another shape or type: it is of another version, or another number
            of environments. Nothing has changed then.
        """
        own = self.arrays()
        kind = type(self).__name__
        if missing := sorted(own.keys() - arrays.keys()):
            raise MtquantError(f"the saved {kind} is of another version: it lacks {missing[0]}")
        if unknown := sorted(arrays.keys() - own.keys()):
            raise MtquantError(f"the saved {kind} is of another version: it holds {unknown[0]}, which is unknown here")
        for name, array in own.items():
            there = arrays[name]
            if there.shape != array.shape or there.dtype != array.dtype:
                raise MtquantError(
                    f"the saved {kind} does not fit: {name} is {there.dtype} {there.shape}, "
                    f"expected {array.dtype} {array.shape}"
                )
        self._load(arrays, "")

    def _load(self, arrays: Mapping[str, np.ndarray], prefix: str) -> None:
        for name, part in self.parts():
            if isinstance(part, VectorState):
                part._load(arrays, f"{prefix}{name}.")
            else:
                part[...] = arrays[prefix + name]
        self.derive()

    def derive(self) -> None:
        """Compute again what is kept beside the fields for speed. Called after rows were written."""
