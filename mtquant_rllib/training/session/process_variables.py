"""Environment variables that every process of a run begins with, whatever the user's shell says.

They act only where they are set before an interpreter starts. So the driver re-executes itself once, and actors get
them through Ray's runtime environment.

Same seed, same result: Python's string hashes are salted per process, and sets of agent names iterate in that order.
Sums over several threads depend on how many there are, so every process computes with one.

Memory stands still: Ray keeps some twenty threads in every process, and by default glibc gives each an arena of its
own, which fills with what is freed and not given back (8 MB an hour in every idle actor; 0.2 MB with two arenas).
"""

from __future__ import annotations

import os
import sys

HASH_SEED = "PYTHONHASHSEED"
PROCESS_VARIABLES = {
    HASH_SEED: "0",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "MALLOC_ARENA_MAX": "2",
}


def reexec_with_variables() -> None:
    """Start this interpreter again with the variables, unless its string hashes are pinned already."""
    if os.environ.get(HASH_SEED) == PROCESS_VARIABLES[HASH_SEED]:
        return
    os.environ.update(PROCESS_VARIABLES)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
