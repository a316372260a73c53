"""`mtquant export`: from a run or an ensemble to a folder that decides without it (`serving.exported_system`)."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from mtquant_rllib.serving.exported_system import SystemDocument, write_system
from mtquant_rllib.serving.opening import members_of, of_run
from mtquant_rllib.training.inspection.policy_export import appearing_whole, expect_free, export_policies
from mtquant_rllib.training.records.run_names import existing_run

EXPORTS = Path("exports")
"""Where a folder without a name of its own stands."""


def export_system(run: str | Path, to: Path | None = None, *, phase: int | None = None) -> tuple[Path, SystemDocument]:
    """Write everything that deciding needs into a new or empty folder, which appears whole or not at all.

    Parameters
    ----------
    to
        The folder; by default `exports/` and the run's name.
    phase
        The policies after this phase; by default after the newest that is done.

    Returns
    -------
    The folder, and what its `system.json` says.

    Raises
    ------
    RunError
        When the run is none or has no such phase, its policies are damaged, or something is in the folder.
    """
    out = Path(os.path.abspath(EXPORTS / existing_run(run).resolve().name if to is None else to))
    expect_free(out, "--to")
    policies = of_run(run, phase=phase)
    chosen = int(policies.source["phase"])
    writers = [partial(_write_member, member, chosen) for member in members_of(run)]
    with appearing_whole(out, "--to") as half:
        document = write_system(half, policies, writers)
    return out, document


def _write_member(member: Path, phase: int, folder: Path) -> None:
    export_policies(member, folder, phase=phase)
