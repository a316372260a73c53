"""Same seed, same result: what has to be pinned in every process that computes.

Python's string hashes are salted per process, and sets of agent names iterate in that order; the salt can only be set
before an interpreter starts. So the driver re-executes itself once, and actors get the variable through Ray's runtime
environment. Sums over several threads depend on how many there are, so every process computes with one.
"""

from __future__ import annotations

import os
import sys

HASH_SEED = "PYTHONHASHSEED"
PINNED = {HASH_SEED: "0", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def reexec_with_hash_seed() -> None:
    """Start this interpreter again with the pinned variables, unless its string hashes are pinned already."""
    if os.environ.get(HASH_SEED) == PINNED[HASH_SEED]:
        return
    os.environ.update(PINNED)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
