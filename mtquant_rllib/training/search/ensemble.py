"""Ensembles: the same training with other seeds, as one run whose policies are the members' mean actions.

runs/NAME/sweep.json              kind `ensemble`: settings, number of members
runs/NAME/trial_02_seed_2/        a member, a run like any other
runs/NAME/evaluation/             of the ensemble
"""

from __future__ import annotations

from pathlib import Path

from mtquant_rllib.config import Settings
from mtquant_rllib.config.search_space import settings_with
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.paths import is_address
from mtquant_rllib.training.curriculum.phases import expect_trainable
from mtquant_rllib.training.preparation import file_name, for_market
from mtquant_rllib.training.records import ownership, run_names
from mtquant_rllib.training.records.manifest import phases_of
from mtquant_rllib.training.reporting.trackers import expect_trackers
from mtquant_rllib.training.search import sweep
from mtquant_rllib.training.search.declaration import expect_the_same
from mtquant_rllib.training.search.record import SweepRecord, is_sweep


def train_ensemble(
    settings: Settings,
    members: int,
    *,
    run: Path | None = None,
    phase: int | None = None,
    market: Path | None = None,
    macro: Path | None = None,
    budget_scale: float = 1.0,
    address: str | None = None,
    resume_existing: bool = False,
) -> Path:
    """Train members with the settings' seed and those that follow it, side by side as far as the machine goes.

    Parameters
    ----------
    phase
        Train phase 1 alone; None for the whole curriculum.
    run, market, macro, budget_scale, address, resume_existing
        As of `curriculum.driver.train`.

    Raises
    ------
    ConfigError
        When they cannot be trained.
    RunError
        When the folder is taken.
    """
    if run is not None and is_address(run):
        raise RunError(f"--run {run}: an ensemble lies in a folder that every node mounts; stores hold single runs")
    known = list(phases_of(settings))
    if phase not in (None, known[0]):
        raise ConfigError(f"--seeds with --phase {phase}: members begin with phase {known[0]}")
    whole = settings_with(settings, {"search.scheduler": "grid", "search.searcher": "random", "search.seeds": 1})
    wanted = known if phase is None else [phase]
    expect_trackers(whole)
    for one in wanted:
        expect_trainable(for_market(whole, from_files=market is not None), one)
    run = run_names.claim_free() if run is None else run_names.run_path(run).resolve()
    named = [None if one is None else file_name(one) for one in (market, macro)]
    if is_sweep(run):
        record = SweepRecord.read(run)
        if not resume_existing:
            raise RunError(f"{run}: this ensemble exists; carry it on with `mtquant resume {run}` or name another")
        if record.kind != "ensemble" or record.n_trials != members:
            raise ConfigError(f"{run}: it is no ensemble of {members} members; name another run")
        expect_the_same(record, whole, record.load_space(), named, budget_scale, wanted)
    else:
        ownership.claim(run)
        SweepRecord.ensemble(
            run.name,
            whole,
            members,
            phases=wanted,
            budget_scale=budget_scale,
            market=named[0],
            macro=named[1],
        ).write(run)
    sweep.carry_on(run, address)
    return run
