"""Divergence of modules: skipped optimiser steps, and parameters that are not finite or too large.

A step whose gradient is not finite is skipped, so that it reaches neither parameters nor Adam's moments; an optimiser
that takes none of its steps in `learner.max_skipped_updates` updates in a row has stopped learning. Parameters are
checked after every update against `learner.max_parameter_abs`: one step at a rate far too high makes them finite and
useless. A module that fails keeps its parameters from before that update, and its metric `diverged` is 1 from then on;
the trial ends with it.

Metrics of each module that learns, in an algorithm's results under ["learners"][module]:

    skipped_steps            optimiser steps skipped since the last report
    skipped_steps_lifetime   optimiser steps skipped since the trial began
    diverged                 1 from the update on in which the module diverged, 0 before
    diverged_reason          a `Divergence`
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any

from torch import Tensor

from mtquant_rllib.config.sections.training import LearnerConfig

logger = logging.getLogger(__name__)

SKIPPED_STEPS, SKIPPED_STEPS_LIFETIME = "skipped_steps", "skipped_steps_lifetime"
DIVERGED, REASON = "diverged", "diverged_reason"


class Divergence(IntEnum):
    """Why a module counts as diverged."""

    NONE = 0
    NOT_FINITE = 1
    TOO_LARGE = 2
    SKIPPED = 3


_MESSAGES = {
    Divergence.NOT_FINITE: "its parameters are not finite",
    Divergence.TOO_LARGE: "a parameter is larger than learner.max_parameter_abs",
    Divergence.SKIPPED: "all steps of learner.max_skipped_updates updates in a row had gradients that are not finite",
}


def parameter_divergence(weight_RP: Tensor, limit: float) -> list[Divergence]:
    """The divergence of each of R rows of parameters, by its largest absolute value."""
    return [
        Divergence.NOT_FINITE
        if not math.isfinite(largest)
        else Divergence.TOO_LARGE
        if largest > limit
        else Divergence.NONE
        for largest in weight_RP.detach().abs().amax(dim=1).tolist()
    ]


class StepCounts:
    """Optimiser steps of an update, those due and those of them that were skipped, by name of the optimiser."""

    def __init__(self) -> None:
        self.due: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()

    def count(self, optimizer: str, *, skipped: bool) -> None:
        self.due[optimizer] += 1
        if skipped:
            self.skipped[optimizer] += 1

    @property
    def stalled(self) -> bool:
        """Whether an optimiser took none of its steps."""
        return any(self.skipped[optimizer] == due for optimizer, due in self.due.items())


class DivergenceWatch:
    """Records the divergence of a learner's modules. counts_skipped: whether this learner logs skipped steps; of
    several learners, which all skip the same, only one does."""

    def __init__(self, modules: Iterable[str], options: LearnerConfig, *, counts_skipped: bool) -> None:
        self.max_parameter_abs = options.max_parameter_abs
        self._max_skipped_updates = options.max_skipped_updates
        self._counts_skipped = counts_skipped
        self._stalled_updates = dict.fromkeys(modules, 0)
        self._skipped: Counter[str] = Counter()
        self.diverged = dict.fromkeys(self._stalled_updates, Divergence.NONE)

    def record(self, module: str, steps: StepCounts, divergence: Divergence, bars: int) -> None:
        """Record an update of a module: its steps and the divergence of its parameters."""
        skipped = steps.skipped.total()
        self._skipped[module] += skipped
        self._stalled_updates[module] = self._stalled_updates[module] + 1 if steps.stalled else 0
        if skipped:
            logger.warning(
                "%s: gradient is not finite at bar %d; %d of %d steps are skipped",
                module,
                bars,
                skipped,
                steps.due.total(),
            )
        if divergence is Divergence.NONE and self._stalled_updates[module] >= self._max_skipped_updates:
            divergence = Divergence.SKIPPED
        if divergence is not Divergence.NONE and self.diverged[module] is Divergence.NONE:
            self.diverged[module] = divergence
            logger.error("%s has diverged at bar %d: %s", module, bars, _MESSAGES[divergence])

    def log(self, metrics: Any) -> None:
        """Log the metrics of all modules; called once an update."""
        for module, reason in self.diverged.items():
            skipped = self._skipped[module] if self._counts_skipped else 0
            metrics.log_value((module, SKIPPED_STEPS), skipped, reduce="sum")
            metrics.log_value((module, SKIPPED_STEPS_LIFETIME), skipped, reduce="lifetime_sum")
            metrics.log_value((module, DIVERGED), int(reason is not Divergence.NONE), window=1)
            metrics.log_value((module, REASON), int(reason), window=1)
        self._skipped.clear()


def diverged_modules(learners: Mapping[str, Any]) -> dict[str, str]:
    """Module -> why it has diverged, from an algorithm's results["learners"]; empty where none has."""
    return {
        module: _MESSAGES[Divergence(int(metrics[REASON]))]
        for module, metrics in learners.items()
        # A module that no longer learns has NaN averages.
        if isinstance(metrics, Mapping) and metrics.get(DIVERGED) == 1
    }
