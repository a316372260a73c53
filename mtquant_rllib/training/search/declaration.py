"""What is checked before a sweep begins: its phases, the values of its trials, and whether they can be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence

import ray

from mtquant_rllib import strict_json
from mtquant_rllib.config import Settings
from mtquant_rllib.config.search_space import Space, Values, expect_perturbable
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.curriculum.phases import expect_trainable
from mtquant_rllib.training.placement.planner import placed
from mtquant_rllib.training.records.manifest import phases_of
from mtquant_rllib.training.reporting.trackers import expect_trackers
from mtquant_rllib.training.search import experiment
from mtquant_rllib.training.search.optuna_searcher import expect_optuna
from mtquant_rllib.training.search.record import SweepRecord
from mtquant_rllib.training.session.ray_session import local_node

ALL = "all"
"""Every phase of the curriculum."""


def declared_phases(settings: Settings, phase: int | str) -> list[int]:
    known = phases_of(settings)
    if phase == ALL:
        if settings.search.scheduler == "pbt" and len(known) > 1:
            raise ConfigError("--phase all with --scheduler pbt: a population hands states over inside one phase")
        return list(known)
    if phase != known[0]:
        raise ConfigError(f"--phase {phase}: a sweep begins with phase {known[0]}; expected {known[0]} or {ALL}")
    return [known[0]]


def declared_trials(settings: Settings, space: Space) -> list[Values]:
    """The values of every trial; with Optuna those of the first alone."""
    search = settings.search
    if search.searcher == "optuna":
        if search.scheduler in ("pbt", "grid"):
            raise ConfigError(
                f"search.searcher = 'optuna' with search.scheduler = {search.scheduler!r}: expected asha or random"
            )
        expect_optuna()
        return []
    if search.scheduler == "grid":
        return space.grid()
    if search.scheduler == "pbt":
        expect_perturbable(space)
        if search.trials < 2:
            raise ConfigError(
                f"search.trials = {search.trials} with search.scheduler = 'pbt': a population has two trials at least"
            )
    return [space.draw(settings.seed, number) for number in range(search.trials)]


def expect_comparable(settings: Settings, space: Space) -> None:
    """Raises ConfigError where trials would be compared before they are validated."""
    search, validations = settings.search, settings.recipe.validations
    first = {"asha": search.asha.grace_frac, "pbt": 1 / search.pbt.rounds}.get(search.scheduler, 1.0)
    name = "asha.grace_frac" if search.scheduler == "asha" else "pbt.rounds"
    if first * validations < 1:
        raise ConfigError(
            f"search.{name}: trials would be compared at {100 * first:.3g}% of the budget, and the first of "
            f"recipe.validations = {validations} comes at {100 / validations:.3g}%"
        )


def expect_all_trainable(settings: Settings, phases: Sequence[int]) -> None:
    """Raises ConfigError where a phase cannot be trained, or a tracker cannot be made."""
    expect_trackers(settings)
    for phase in phases:
        expect_trainable(settings, phase)


def expect_room(settings: Settings, phases: Sequence[int], address: str | None) -> None:
    """What a cluster has is asked once it is joined."""
    if address is None and not ray.is_initialized():
        resources = experiment.resources_of(settings, settings.search.seeds)
        placed(resources, phases[0], ["trial_00"], [local_node(settings)])


def expect_the_same(
    record: SweepRecord,
    settings: Settings,
    space: Space,
    files: Sequence[str | None],
    budget_scale: float,
    phases: Sequence[int],
) -> None:
    """Raises ConfigError when a sweep that exists was declared otherwise, but for what shapes no result."""
    own = json.loads(strict_json.dumps(settings.model_dump(mode="json")))
    other = [
        f"section `{section}`"
        for section, values in own.items()
        if section not in ("resources", "tracking", "checkpoints") and record.settings.get(section) != values
    ]
    if record.space != json.loads(strict_json.dumps(space.declared())):
        other.insert(0, "--space")
    if [record.market, record.macro] != list(files):
        other.append("--market or --macro")
    if record.phases != list(phases):
        other.append("--phase")
    if record.budget_scale != budget_scale:
        other.append("--budget-scale")
    if other:
        raise ConfigError(f"sweep {record.name} was declared with another {other[0]}; name another run")
