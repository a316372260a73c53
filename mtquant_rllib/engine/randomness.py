"""Seeds of a run's streams of randomness, and torch pinned so that the same seed gives the same bits."""

from __future__ import annotations

import numpy as np
import torch

NOISE, SHUFFLE, DROPOUT, REPLAY, LOSS = 0, 1, 2, 3, 4
"""Streams of one seed: exploration, the order of rows, dropout, draws from the replay, the actions in SAC's losses."""


def generator(*parts: int) -> np.random.Generator:
    """A generator of its own for these non-negative integers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(parts)))


def mixed(*parts: int) -> int:
    """One 63-bit seed from several non-negative integers; neighbours give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def seed_torch(*parts: int) -> None:
    torch.manual_seed(mixed(*parts))


def pin_torch() -> None:
    """One thread, deterministic kernels."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Part of the mode above, and a pass over memory with every operation: nothing here reads what it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
