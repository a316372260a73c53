"""What a run's log says of networks that fell back while they sampled.

Trials count in processes of their own (`engine.sampling.runner_base`), whose lines end in Ray's logs; their results
carry the counts to the process that trains, and this is where a person reads of them. At most one line of a trial, a
module and a reason in some seconds, with everything since the line before.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from typing import Any

from ray.tune import Callback

from mtquant_rllib.engine.sampling.runner_base import FALLBACKS
from mtquant_rllib.policies.attention.fallbacks import fallback_message
from mtquant_rllib.policies.attention.regime_network import Fallback
from mtquant_rllib.training.result_keys import BARS_LIFETIME, TRIAL

logger = logging.getLogger("mtquant_rllib.training")


def sampled_fallbacks(result: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Module -> reason -> decisions of this iteration; empty where no network can fall back."""
    counts: dict[str, dict[str, int]] = result.get("env_runners", {}).get(FALLBACKS, {})
    return counts


class FallbackLines(Callback):
    """See the module's docstring. every_s: least seconds between two lines on the same."""

    def __init__(self, phase: int, every_s: float) -> None:
        self.phase, self.every_s = phase, every_s
        self._since: dict[tuple[str, str, str], Counter[str]] = {}
        self._said: dict[tuple[str, str, str], float] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        for module, counts in sampled_fallbacks(result).items():
            for reason in Fallback:
                if reason is not Fallback.NONE:
                    self._note(trial.config[TRIAL], module, reason, counts, result[BARS_LIFETIME])

    def _note(self, trial: str, module: str, reason: Fallback, counts: dict[str, int], bars: int) -> None:
        name = reason.name.lower()
        key = (trial, module, name)
        since = self._since.setdefault(key, Counter())
        since.update({which: int(count) for which, count in counts.items()})
        now = time.monotonic()
        if not since[name] or now - self._said.get(key, -math.inf) < self.every_s:
            return
        self._said[key] = now
        level = logging.INFO if reason is Fallback.UNSURE else logging.WARNING
        line = fallback_message(module, reason, since[name], since.total())
        logger.log(level, "phase %d %s, bar %s: %s", self.phase, trial, f"{bars:,}", line)
        since.clear()
