"""Whether modules still learn: steps that were skipped, and parameters that cannot be a policy's any more.

A gradient that is not finite is skipped, so that neither parameters nor the moments of Adam take it in; an optimiser
that took none of its steps in several updates in a row learns nothing any more. A rate far too high needs one step to
make parameters that are finite and worth nothing: they are measured after every update. A module of such parameters
keeps what it had before that update. Its learner says `diverged` from then on; whoever runs the trial ends it.

Metrics of each module that learns, in an algorithm's results under ["learners"][module]:

    skipped_steps            optimiser steps skipped since the last report
    skipped_steps_lifetime   and since the trial began
    diverged                 1 once it has, 0 before
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

from mtquant_rllib.config.training import LearnerConfig

logger = logging.getLogger(__name__)

SKIPPED_STEPS, SKIPPED_STEPS_LIFETIME = "skipped_steps", "skipped_steps_lifetime"
DIVERGED, REASON = "diverged", "diverged_reason"


class Divergence(IntEnum):
    """Why a module counts as diverged."""

    NONE = 0
    NOT_FINITE = 1
    TOO_LARGE = 2
    SKIPPED = 3


_SAID = {
    Divergence.NOT_FINITE: "its parameters are not finite",
    Divergence.TOO_LARGE: "a parameter is larger than learner.max_parameter_abs",
    Divergence.SKIPPED: "all steps of learner.max_skipped_updates updates in a row had gradients that are not finite",
}


def measured(weight_RP: Tensor, limit: float) -> list[Divergence]:
    """What is wrong with each row of parameters, (R,), by its largest absolute value."""
    return [
        Divergence.NOT_FINITE
        if not math.isfinite(largest)
        else Divergence.TOO_LARGE
        if largest > limit
        else Divergence.NONE
        for largest in weight_RP.detach().abs().amax(dim=1).tolist()
    ]


class Steps:
    """Optimiser steps of an update: those that were due and those of them that were skipped, by optimiser."""

    def __init__(self) -> None:
        self.due: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()

    def note(self, optimizer: str, *, skipped: bool) -> None:
        self.due[optimizer] += 1
        if skipped:
            self.skipped[optimizer] += 1

    @property
    def stalled(self) -> bool:
        """Whether there is an optimiser that took none of its steps."""
        return any(self.skipped[optimizer] == due for optimizer, due in self.due.items())


class DivergenceWatch:
    """Keeps count of one learner's modules; see this file's docstring. tells: whether this one of several learners
    counts, which all see the same."""

    def __init__(self, modules: Iterable[str], options: LearnerConfig, *, tells: bool) -> None:
        self.max_parameter_abs = options.max_parameter_abs
        self._most = options.max_skipped_updates
        self._tells = tells
        self._in_a_row = dict.fromkeys(modules, 0)
        self._skipped: Counter[str] = Counter()
        self.diverged = dict.fromkeys(self._in_a_row, Divergence.NONE)

    def note(self, module: str, steps: Steps, found: Divergence, bars: int) -> None:
        """Take in an update in which the module had steps; `found`: what its parameters were measured to be."""
        skipped = steps.skipped.total()
        self._skipped[module] += skipped
        self._in_a_row[module] = self._in_a_row[module] + 1 if steps.stalled else 0
        if skipped:
            logger.warning(
                "%s: gradient is not finite at bar %d; %d of %d steps are skipped",
                module,
                bars,
                skipped,
                steps.due.total(),
            )
        if found is Divergence.NONE and self._in_a_row[module] >= self._most:
            found = Divergence.SKIPPED
        if found is not Divergence.NONE and self.diverged[module] is Divergence.NONE:
            self.diverged[module] = found
            logger.error("%s has diverged at bar %d: %s", module, bars, _SAID[found])

    def log(self, metrics: Any) -> None:
        """Once an update, whether or not there was something."""
        for module, reason in self.diverged.items():
            skipped = self._skipped[module] if self._tells else 0
            metrics.log_value((module, SKIPPED_STEPS), skipped, reduce="sum")
            metrics.log_value((module, SKIPPED_STEPS_LIFETIME), skipped, reduce="lifetime_sum")
            metrics.log_value((module, DIVERGED), int(reason is not Divergence.NONE), window=1)
            metrics.log_value((module, REASON), int(reason), window=1)
        self._skipped.clear()


def diverged_modules(learners: Mapping[str, Any]) -> dict[str, str]:
    """Of an algorithm's results["learners"]: module -> why it has diverged, in words; empty where none has."""
    return {
        module: _SAID[Divergence(int(figures[REASON]))]
        for module, figures in learners.items()
        # A module that no longer learns has averages of nothing, which are no numbers.
        if isinstance(figures, Mapping) and figures.get(DIVERGED) == 1
    }
