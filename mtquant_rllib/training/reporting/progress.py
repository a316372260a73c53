"""What a person sees while a phase trains: progress lines, failures and their causes, and what is waited for."""

from __future__ import annotations

import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

from ray.tune import Callback

from mtquant_rllib.training.result_keys import BARS_LIFETIME, ENV_FAULTS, SHARPE, TRIAL, VALIDATION
from mtquant_rllib.training.storage.retries import TELL_EVERY_S, probe, reason

logger = logging.getLogger("mtquant_rllib.training")


def clock(seconds: float) -> str:
    """h:mm:ss, without the hours below one."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def progress_line(phase: int, name: str, result: dict[str, Any]) -> str:
    """Phase, bars done of budget, bars/s, validation Sharpe, time left."""
    bars, budget, speed = result[BARS_LIFETIME], result["bars_budget"], result["bars_per_s"]
    validation, best = result[VALIDATION].get(SHARPE, math.nan), result["best"][SHARPE]
    sharpe = "  --  " if math.isnan(validation) else f"{validation:6.2f}"
    best_so_far = "" if math.isnan(best) else f" (best {best:.2f})"
    return (
        f"phase {phase} {name:<12} {bars:>9,} of {budget:,} bars {100 * bars / budget:4.0f}%  {speed:7,.0f} bars/s  "
        f"validation Sharpe {sharpe}{best_so_far}  left {clock(result['seconds_left'])}"
    )


class Progress(Callback):
    """Progress on the console and in the run's log: a live table on a terminal, plain lines elsewhere.

    An environment that failed is told of, at most every 30 seconds a trial. So is a trial that gives no result for much
    longer than its iterations take, with the reason where it is known.
    """

    def __init__(self, run: Path, phase: int, every_s: float) -> None:
        self.run, self.phase, self.every_s = run, phase, every_s
        self._lines: dict[str, str] = {}
        self._said: dict[str, float] = {}
        self._seen: dict[str, float] = {}
        self._longest: dict[str, float] = {}
        self._waiting: dict[str, float] = {}
        self._failing: dict[str, float] = {}
        self._live: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_live": None}

    def setup(self, *args: Any, **info: Any) -> None:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(transient=False)
            self._live.start()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        name, now = trial.config[TRIAL], time.monotonic()
        if name in self._seen:
            self._longest[name] = max(self._longest.get(name, 0.0), now - self._seen[name])
        self._seen[name] = now
        self._waiting.pop(name, None)
        if ENV_FAULTS in result and now - self._failing.get(name, -math.inf) > TELL_EVERY_S:
            self._failing[name] = now
            self._tell(f"phase {self.phase} {name}: {result[ENV_FAULTS]}; the bars of that call were sampled again")
        line = progress_line(result.get("phase", self.phase), name, result)
        logger.info(line)
        self._lines[name] = line
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text("\n".join(self._lines.values())))
            return
        finished = result[BARS_LIFETIME] >= result["bars_budget"]
        if finished or time.monotonic() - self._said.get(name, -math.inf) >= self.every_s:
            self._said[name] = time.monotonic()
            print(line, flush=True)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        now = time.monotonic()
        for trial in trials:
            name = trial.config[TRIAL]
            if trial.status != "RUNNING":
                self._seen.pop(name, None)
                continue
            silent = now - self._seen.setdefault(name, now)
            usual = max(TELL_EVERY_S, _PATIENT * self._longest.get(name, TELL_EVERY_S))
            if silent > usual and now - self._waiting.get(name, -math.inf) > TELL_EVERY_S:
                self._waiting[name] = now
                self._tell(f"phase {self.phase} {name}: no result for {silent:.0f} seconds{storage_trouble(self.run)}")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(
            f"phase {self.phase} {trial.config[TRIAL]}: failed ({last_line(trial)}) and starts again from its newest "
            "checkpoint"
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(
            f"phase {self.phase} {trial.config[TRIAL]}: failed for good ({last_line(trial)}); its whole error is in "
            f"{trial.error_file}"
        )

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _tell(self, text: str) -> None:
        logger.warning(text)
        print(text, flush=True)


_PATIENT = 4.0
"""How many times the longest iteration so far a result may take before it is told of."""


def last_line(trial: Any) -> str:
    """The last line of a trial's newest error, which names it."""
    try:
        lines = [line.strip() for line in Path(trial.error_file).read_text().splitlines() if line.strip()]
    except (OSError, TypeError):
        return "its process is gone"
    return lines[-1] if lines else "its process is gone"


def storage_trouble(run: Path) -> str:
    """`; RUN cannot be written: why`, or nothing where it can."""
    try:
        probe(run)
    except OSError as error:
        return f"; {run} cannot be written: {reason(error)}"
    return ""
