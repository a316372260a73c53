"""A vector state is a value: rows are taken out, put back, mixed and saved, and nothing else moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtquant_rllib.errors import MtquantError
from mtquant_rllib.vector_state import VectorState


@dataclass(init=False, eq=False)
class Inner(VectorState):
    level: np.ndarray

    def __init__(self, n_envs: int) -> None:
        self.level = np.zeros(n_envs, dtype=np.int8)


@dataclass(init=False, eq=False)
class Outer(VectorState):
    """`total` is kept beside `weight` for speed, and is no field."""

    weight: np.ndarray
    ring: np.ndarray
    inner: Inner

    def __init__(self, n_envs: int) -> None:
        self.weight = np.zeros((n_envs, 3))
        self.ring = np.zeros((n_envs, 4, 2))
        self.inner = Inner(n_envs)
        self.derive()

    def derive(self) -> None:
        self.total = float(self.weight.sum())


def filled(n_envs: int, seed: int) -> Outer:
    state, rng = Outer(n_envs), np.random.default_rng(seed)
    state.weight[:] = rng.normal(size=state.weight.shape)
    state.ring[:] = rng.normal(size=state.ring.shape)
    state.inner.level[:] = rng.integers(0, 100, n_envs)
    state.derive()
    return state


def same(one: Outer, other: Outer) -> bool:
    first, second = one.arrays(), other.arrays()
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


masks = st.lists(st.booleans(), min_size=1, max_size=9).map(np.array)


@given(mask=masks)
def test_rows_taken_out_and_put_back_leave_the_others_where_they_have_gone(mask: np.ndarray) -> None:
    state, later = filled(len(mask), 1), filled(len(mask), 2)
    envs = np.flatnonzero(mask)
    kept = state.select(envs)
    state.load(later.arrays())
    state.put(envs, kept)
    expected = filled(len(mask), 1).where(mask, later)
    assert same(state, expected)
    assert state.total == pytest.approx(float(expected.weight.sum()))
    assert np.array_equal(state.inner.level[~mask], later.inner.level[~mask])


def test_a_copy_and_what_was_saved_do_not_move_with_the_state() -> None:
    state = filled(5, 3)
    twin, saved = state.copy(), state.arrays()
    state.weight += 1.0
    state.inner.level += 1
    assert same(twin, filled(5, 3))
    state.load(saved)
    saved["weight"] += 1.0
    assert same(state, twin)
    assert state.total == pytest.approx(twin.total)


def test_fields_may_be_bound_to_new_arrays() -> None:
    """As `state.weight = ...` does in the middle of a bar."""
    state = filled(4, 5)
    saved = state.arrays()
    state.weight = np.ones((4, 3))
    state.load(saved)
    assert same(state, filled(4, 5))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda saved: saved.pop("inner.level"), "of another version: it lacks inner.level"),
        (lambda saved: saved.update(swaps=np.zeros(4)), "it holds swaps, which is unknown here"),
        (
            lambda saved: saved.update(ring=np.zeros((4, 5, 2))),
            r"ring is float64 \(4, 5, 2\), expected float64 \(4, 4, 2\)",
        ),
        (lambda saved: saved.update(weight=np.zeros((4, 3), np.float32)), "weight is float32"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(change: object, said: str) -> None:
    state = filled(4, 6)
    saved = filled(4, 7).arrays()
    change(saved)  # type: ignore[operator]
    with pytest.raises(MtquantError, match=said):
        state.load(saved)
    assert same(state, filled(4, 6))
