"""RLlib's seeding, without loading torch's compiler.

Reaches past RLlib: where a seed is set, the constructors of its algorithm, runners and learners call
`torch.use_deterministic_algorithms`, which imports the whole compiler only to set an option of it. That is two
seconds and 70 MB of every process of a training. Whoever compiles sets the option itself
(`learning.execution_options`).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch

COMPILER = "torch._inductor"


@contextlib.contextmanager
def seeding_without_compiler() -> Iterator[None]:
    """While RLlib seeds: `torch.use_deterministic_algorithms` does the same to all that is not compiled. Changes
    nothing where the compiler is loaded already."""
    whole = torch.use_deterministic_algorithms
    if COMPILER in sys.modules:
        yield
        return

    def kernels(mode: bool, *, warn_only: bool = False) -> None:
        torch.set_deterministic_debug_mode(0 if not mode else 1 if warn_only else 2)

    torch.use_deterministic_algorithms = kernels
    try:
        yield
    finally:
        torch.use_deterministic_algorithms = whole
