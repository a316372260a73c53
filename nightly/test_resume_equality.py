"""Killed at twenty random moments and carried on after each: the run that nobody disturbed, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import runs
from table import TABLE, Row

KILLS = 20


@pytest.mark.parametrize("runners", [0, 2])
@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_twenty_kills_change_nothing(
    tmp_path: Path, reference: Callable[..., Path], algorithm: str, runners: int
) -> None:
    overrides = [*(runs.SMALL_SAC if algorithm == "sac" else ()), f"resources.runners={runners}"]
    whole = reference(*overrides)
    killed, said = runs.killed_at_random(tmp_path, "killed", KILLS, 1 + runners, *overrides)
    phases = sorted({line.split()[1] for line in said if "goes on from" in line})
    differing = runs.differences(whole, killed)
    seen = f"{len(said)} trials went on, in phases {', '.join(phases)}; {len(runs.fingerprint(whole))} compared"
    fault = f"SIGKILL of the driver, {KILLS} times a run, {algorithm}, {runners} runners"
    TABLE.add(Row(fault, True, 0, seen, len(differing), runs.bars_lost(tmp_path)))
    assert not differing, differing[:20]
