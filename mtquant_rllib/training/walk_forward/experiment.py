"""A walk-forward test from its declaration to its report.

Its folds are the trials of a sweep (`training.search`): placed on the machines there are, each with its seeds, resumed
after a kill with nothing repeated. Nothing is chosen among them. What they did out of sample is stitched together
(`walk_forward.report`).
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from mtquant_rllib.config import Settings
from mtquant_rllib.config.loader import apply_overrides, validate
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.market.importing.importers import load_market
from mtquant_rllib.paths import is_address
from mtquant_rllib.training.curriculum.phases import expect_trainable
from mtquant_rllib.training.preparation import file_name, for_market
from mtquant_rllib.training.records import ownership, run_names
from mtquant_rllib.training.records.manifest import phases_of
from mtquant_rllib.training.reporting.trackers import expect_trackers
from mtquant_rllib.training.search import sweep
from mtquant_rllib.training.search.record import SweepRecord, is_sweep
from mtquant_rllib.training.walk_forward.folds import Fold, expanding_folds


def walk_forward(
    settings: Settings,
    *,
    market: Path,
    macro: Path | None = None,
    folds: int = 6,
    seeds: int = 1,
    run: str | Path | None = None,
    budget_scale: float = 1.0,
    phases: int | None = None,
    address: str | None = None,
) -> Path:
    """Train every fold with every seed, judge them out of sample, and return the folder.

    Parameters
    ----------
    market, macro
        Daily bars and macro series.
    folds
        Test spans of one length, from `evaluation.walk_forward.first_test` to the last bar.
    seeds
        Members of each fold's ensemble: the settings' seed and those that follow it.
    phases
        How many phases of the curriculum; None for all.
    run, budget_scale, address
        As of `curriculum.driver.train`.

    Raises
    ------
    ConfigError
        When the folds cannot be, or a fold cannot be trained.
    RunError
        When the folder is taken.
    """
    if run is not None and is_address(run):
        raise RunError(f"--run {run}: a walk-forward test lies in a folder that every node mounts")
    wanted = list(phases_of(settings))[:phases]
    declared = declare(settings, market, folds)
    tree = settings.model_dump(mode="json")
    whole = validate(
        Settings,
        apply_overrides(tree, ["search.scheduler=grid", "search.searcher=random", f"search.seeds={seeds}"]),
        "--seeds",
    )
    expect_trackers(whole)
    for phase in wanted:
        expect_trainable(for_market(whole, from_files=True), phase)
    run = run_names.claim_free() if run is None else run_names.run_path(run).resolve()
    if is_sweep(run):
        raise RunError(f"{run}: this experiment exists; carry it on with `mtquant resume {run}` or name another")
    ownership.claim(run)
    record = SweepRecord.walk_forward(
        run.name,
        whole,
        [fold.values for fold in declared],
        phases=wanted,
        budget_scale=budget_scale,
        market=file_name(market),
        macro=None if macro is None else file_name(macro),
    )
    record.write(run)
    sweep.carry_on(run, address)
    return run


def declare(settings: Settings, market: Path, folds: int) -> list[Fold]:
    """The folds of these bars.

    Raises
    ------
    ConfigError
        When the bars are not daily, or end before the first test day.
    """
    bars, _ = load_market(settings, market, None)
    if not bars.daily:
        raise ConfigError(f"{market}: a walk-forward test is cut at days, and takes daily bars; these are shorter")
    config = settings.evaluation.walk_forward
    last = bars.timestamps[-1].astype("datetime64[D]").astype(dt.date)
    if last <= config.first_test:
        raise ConfigError(
            f"{market}: its bars end on {last}, and the first test day is {config.first_test}; set "
            "evaluation.walk_forward.first_test"
        )
    return expanding_folds(config.first_test, last, folds, config.validation_years)
