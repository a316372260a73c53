"""Seeds of a run's random streams, and deterministic torch: the same seed gives the same bits."""

from __future__ import annotations

import numpy as np
import torch

NOISE, SHUFFLE, DROPOUT, REPLAY, LOSS = 0, 1, 2, 3, 4
"""Streams of one seed: exploration, shuffling of rows, dropout, replay sampling, the actions in SAC's losses."""


def generator(*parts: int) -> np.random.Generator:
    """An independent generator for each tuple of non-negative integers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(parts)))


def derived_seed(*parts: int) -> int:
    """A 63-bit seed from a tuple of non-negative integers; neighbouring tuples give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def seed_torch(*parts: int) -> None:
    torch.manual_seed(derived_seed(*parts))


def make_torch_deterministic() -> None:
    """Set one thread and deterministic kernels."""
    torch.set_num_threads(1)
    # As `torch.use_deterministic_algorithms(True, warn_only=True)`, which also loads torch's compiler to tell it so:
    # two seconds and 70 MB in every process. Whoever compiles calls that one (`learning.execution_options`).
    torch.set_deterministic_debug_mode("warn")
    # Part of the mode above; it costs a pass over memory in every operation, and nothing reads uninitialised memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
