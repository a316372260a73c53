"""Hyperparameters of a trial that follow from several settings, or from its budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mtquant_rllib.agents.groups import module_groups
from mtquant_rllib.config import Settings


@dataclass(frozen=True)
class Hyperparameters:
    """The recipe with the document's numbers filled in where it leaves them."""

    learning_rate: float
    gamma: float
    gae_lambda: float
    n_epochs: int
    batch_size: int
    clip_range: float

    @classmethod
    def of(cls, settings: Settings) -> Hyperparameters:
        recipe, document = settings.recipe, settings.training

        def filled(name: str) -> Any:
            value = getattr(recipe, name)
            return getattr(document, name) if value is None else value

        rate = settings.meta_controller.learning_rate if recipe.learning_rate is None else recipe.learning_rate
        return cls(rate, *(filled(name) for name in ("gamma", "gae_lambda", "n_epochs", "batch_size", "clip_range")))


def learning_rates(settings: Settings, modules: tuple[str, ...], phase: int) -> dict[str, float]:
    """Starting rate of each module in a phase, by its level."""
    default, groups = Hyperparameters.of(settings).learning_rate, module_groups(settings)
    share = settings.recipe.phase_learning_rate_fracs[phase - 1]

    def rate(module: str) -> float:
        own = groups[module].learning_rate
        return share * (default if own is None else own)

    return {module: rate(module) for module in modules}


def train_batch_bars(settings: Settings, budget: int) -> int:
    recipe = settings.recipe
    return max(1, min(recipe.train_batch_bars, max(recipe.environments, math.ceil(budget / recipe.min_updates))))


def learning_starts_bars(settings: Settings, budget: int) -> int:
    """Bars that SAC collects of a budget before its first gradient step."""
    return min(settings.sac.learning_starts_bars, int(settings.sac.learning_starts_frac * budget))
