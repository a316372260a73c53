"""What each part of the desk is worth: the same training with the part taken out, or put in, over the same seeds.

The trials of an ablation are those of a sweep: trial 0 as the settings have it, and one for each change. Nothing is
chosen among them; `mtquant compare` sets them beside the first on the test split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from mtquant_rllib.config import Settings
from mtquant_rllib.config.search_space import Values, settings_with
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.paths import is_address
from mtquant_rllib.training.curriculum.phases import expect_trainable
from mtquant_rllib.training.preparation import file_name, for_market
from mtquant_rllib.training.records import ownership, run_names
from mtquant_rllib.training.records.manifest import phases_of
from mtquant_rllib.training.reporting.trackers import expect_trackers
from mtquant_rllib.training.search import sweep
from mtquant_rllib.training.search.record import SweepRecord, is_sweep


def ablate(
    settings: Settings,
    names: Sequence[str] = (),
    *,
    seeds: int = 1,
    run: str | Path | None = None,
    market: Path | None = None,
    macro: Path | None = None,
    budget_scale: float = 1.0,
    phases: int | None = None,
    address: str | None = None,
) -> Path:
    """Train the settings as they are and with each of the changes, and return the folder.

    Parameters
    ----------
    names
        Of changes in `search.ablations`; none for all of them.
    seeds
        Runs of each: the settings' seed and those that follow it.
    phases
        How many phases of the curriculum; None for all.
    run, market, macro, budget_scale, address
        As of `curriculum.driver.train`.

    Raises
    ------
    ConfigError
        When there is no such change, or one of them cannot be trained.
    RunError
        When the folder is taken.
    """
    if run is not None and is_address(run):
        raise RunError(f"--run {run}: an ablation lies in a folder that every node mounts; stores hold single runs")
    wanted = list(phases_of(settings))[:phases]
    values = declared(settings, names)
    whole = settings_with(settings, {"search.scheduler": "grid", "search.searcher": "random", "search.seeds": seeds})
    for one in values:
        for phase in wanted:
            expect_trainable(for_market(settings_with(whole, one), from_files=market is not None), phase)
    expect_trackers(whole)
    run = run_names.claim_free() if run is None else run_names.run_path(run).resolve()
    if is_sweep(run):
        raise RunError(f"{run}: this experiment exists; carry it on with `mtquant resume {run}` or name another")
    ownership.claim(run)
    SweepRecord.ablation(
        run.name,
        whole,
        values,
        phases=wanted,
        budget_scale=budget_scale,
        market=None if market is None else file_name(market),
        macro=None if macro is None else file_name(macro),
    ).write(run)
    sweep.carry_on(run, address)
    return run


def declared(settings: Settings, names: Sequence[str] = ()) -> list[Values]:
    """Values of every trial, the first as the settings are; all name the same settings.

    Raises
    ------
    ConfigError
        When there is no such change, or it changes nothing.
    """
    known = {name: change for name, change in settings.search.ablations.items() if change is not None}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"no ablation {unknown[0]!r}; search.ablations has {', '.join(known) or 'none'}")
    chosen = {name: known[name] for name in (names or known)}
    if not chosen:
        raise ConfigError("search.ablations names no change; there is nothing to compare with")
    tree = settings.model_dump(mode="json")
    base = {path: _value(tree, path) for change in chosen.values() for path in change}
    for name, change in chosen.items():
        if all(base[path] == value for path, value in change.items()):
            raise ConfigError(f"search.ablations.{name}: the settings are so already")
    return [base, *({**base, **change} for change in chosen.values())]


def _value(tree: Mapping[str, Any], path: str) -> Any:
    try:
        return reduce(lambda part, key: part[key], path.split("."), tree)
    except (KeyError, TypeError):
        raise ConfigError(f"search.ablations: there is no setting {path}") from None
