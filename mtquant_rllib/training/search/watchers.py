"""What is done in a sweep's own process with every result of a trial."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback

from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records import signatures
from mtquant_rllib.training.records.checkpoints import SIGNATURE, DamagedCheckpoint, read_index
from mtquant_rllib.training.reporting.progress import last_line
from mtquant_rllib.training.result_keys import TRIAL
from mtquant_rllib.training.search import table
from mtquant_rllib.training.search.record import SweepRecord
from mtquant_rllib.training.search.results import FAILED, Results, note_result

TABLE_EVERY_S = 30.0
"""Least seconds between two tables on the console."""


class ResultsTableCallback(Callback):
    """Keeps results.json and results.csv up to date, at most every so many seconds, and prints the table whenever a
    trial has ended."""

    def __init__(self, results: Results, every_s: float, tell: Callable[[str], None]) -> None:
        self._results, self._every_s, self._tell = results, every_s, tell
        self._written, self._printed = -math.inf, -math.inf

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        note_result(self._results, result)
        row = self._results.rows[result[TRIAL]]
        if row.over or time.monotonic() - self._written >= self._every_s:
            self._write()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        row = self._results.rows[trial.config[TRIAL]]
        if not row.over:
            return
        why = f": {row.why}" if row.why else ""
        self._tell(
            f"{row.name} {row.status} at {row.progress_pct:.0f}%, {table.score_in_words(row.score, row.score_se)}{why}"
        )
        if time.monotonic() - self._printed >= TABLE_EVERY_S:
            self._printed = time.monotonic()
            self._tell("\n".join(table.lines(list(self._results.rows.values()))))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._results.note(trial.config[TRIAL], status=FAILED, why=last_line(trial), crashed=True)
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        self._results.write()
        table.write(self._results)


class SignRunCheckpoints(Callback):
    """Signs the checkpoints of a trial's runs that it could not sign where it ran."""

    def __init__(self, record: SweepRecord, sweep: Path) -> None:
        self._record, self._sweep = record, sweep

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        for run in self._record.runs_of(self._sweep, result[TRIAL]):
            for path in run.glob("phase_*/*/checkpoint_*"):
                with contextlib.suppress(DamagedCheckpoint, RunError):  # removed meanwhile by the trial that wrote it
                    if not (path / SIGNATURE).exists() and read_index(path).attempt == trial.config["attempt"]:
                        signatures.sign(path, signatures.user_key())
