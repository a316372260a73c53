"""What is written while a phase trains: lines for the person, curves for later, and the trackers.

Everything written is keyed by iteration. A trial that restores goes back to its checkpoint and repeats what came after
it; whoever writes here first takes back what the lost part had written, so no iteration stands twice anywhere.

The callbacks are pickled into the experiment, so they keep no place and no open file: the run's folder is asked for
when it is needed.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback
from ray.tune.logger.tensorboardx import TBXLoggerCallback
from ray.tune.result import EXPR_PROGRESS_FILE, EXPR_RESULT_FILE, TRAINING_ITERATION

from mtquant_rllib.training.curve_columns import ITERATION, curve_row
from mtquant_rllib.training.desk_algorithm import BARS_LIFETIME, SHARPE, VALIDATION, run_folder
from mtquant_rllib.training.phases import TRIAL

logger = logging.getLogger("mtquant_rllib.training")


def truncated_csv(text: str, key: str, first_lost: int) -> str:
    """The CSV without the rows whose `key` is at or after `first_lost`, and without a half-written last row."""
    rows = list(csv.reader(io.StringIO(text)))
    if not rows or key not in rows[0]:
        return ""
    column, width = rows[0].index(key), len(rows[0])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(rows[0])
    seen = -1
    for row in rows[1:]:
        if len(row) == width and row[column].isdigit() and seen < int(row[column]) < first_lost:
            seen = int(row[column])
            writer.writerow(row)
    return out.getvalue()


def truncated_jsonl(text: str, key: str, first_lost: int) -> str:
    """The same for one JSON object a line."""
    kept = []
    for line in text.splitlines():
        try:
            if json.loads(line)[key] < first_lost:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue
    return "".join(kept)


def _rewrite(path: Path, change: Callable[[str], str]) -> None:
    if path.exists():
        half = path.with_name(f".{path.name}.{os.getpid()}")
        half.write_text(change(path.read_text()))
        os.replace(half, path)


class _Timeline:
    """Knows, per trial, whether a result continues what this process has seen of it."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def turns_back(self, trial: Any, result: dict[str, Any]) -> bool:
        """Whether what stands written may hold this iteration already: it is the first one seen, or not the next."""
        iteration = result[TRAINING_ITERATION]
        last = self._last.get(trial.trial_id)
        self._last[trial.trial_id] = iteration
        return last is None or iteration <= last


class ProgressCSV(CSVLoggerCallback):
    """Tune's progress.csv with every iteration once, and columns that keep their place over a restore."""

    def __init__(self) -> None:
        super().__init__()
        self._timeline = _Timeline()

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        if self._timeline.turns_back(trial, result):
            if trial not in self._trial_files:
                self._setup_trial(trial)
            self._trial_files[trial].close()
            path = Path(trial.local_path, EXPR_PROGRESS_FILE)
            _rewrite(path, lambda text: truncated_csv(text, TRAINING_ITERATION, result[TRAINING_ITERATION]))
            header = path.read_text().split("\n", 1)[0] if path.exists() else ""
            self._trial_files[trial] = path.open("at")
            self._trial_continue[trial] = bool(header)
            writers: dict[Any, Any] = self._trial_csv
            writers[trial] = csv.DictWriter(self._trial_files[trial], next(csv.reader([header]))) if header else None
        super().log_trial_result(iteration, trial, result)


class ResultJson(JsonLoggerCallback):
    """Tune's result.json with every iteration once."""

    def __init__(self) -> None:
        super().__init__()
        self._timeline = _Timeline()

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        if self._timeline.turns_back(trial, result):
            if trial not in self._trial_files:
                self.log_trial_start(trial)
            self._trial_files[trial].close()
            path = Path(trial.local_path, EXPR_RESULT_FILE)
            _rewrite(path, lambda text: truncated_jsonl(text, TRAINING_ITERATION, result[TRAINING_ITERATION]))
            self._trial_files[trial] = path.open("at")
        super().log_trial_result(iteration, trial, result)


class TensorBoard(TBXLoggerCallback):
    """TensorBoard over bars; after a restore, points of the lost part are purged."""

    def __init__(self) -> None:
        super().__init__()
        self._timeline = _Timeline()

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        if self._timeline.turns_back(trial, result) and result[TRAINING_ITERATION] > 1:
            if trial in self._trial_writer:
                self._trial_writer[trial].close()
            trial.init_local_path()
            self._trial_writer[trial] = self._summary_writer_cls(
                trial.local_path, flush_secs=30, purge_step=result[BARS_LIFETIME]
            )
            self._trial_result[trial] = {}
        super().log_trial_result(iteration, trial, result)

    def _try_log_hparams(self, trial: Any, result: dict[str, Any]) -> None:
        """Left out: the run's settings stand in its manifest."""


class Curves(Callback):
    """One CSV per trial in the run's `curves` folder, written as results come in."""

    def __init__(self, phase: int) -> None:
        self.phase = phase
        self._timeline = _Timeline()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        path = run_folder() / "curves" / f"phase_{self.phase}_{trial.config[TRIAL]}.csv"
        path.parent.mkdir(exist_ok=True)
        if self._timeline.turns_back(trial, result):
            _rewrite(path, lambda text: truncated_csv(text, ITERATION, result[TRAINING_ITERATION]))
        row = curve_row(result)
        header = next(csv.reader([path.read_text().split("\n", 1)[0]])) if path.exists() and path.stat().st_size else []
        with open(path, "a", newline="") as file:
            writer = csv.DictWriter(file, header or list(row), extrasaction="ignore", lineterminator="\n")
            if not header:
                writer.writeheader()
            writer.writerow(row)


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
    """Progress on the console and in the run's log: a live table on a terminal, plain lines elsewhere."""

    def __init__(self, phase: int, every_s: float) -> None:
        self.phase, self.every_s = phase, every_s
        self._lines: dict[str, str] = {}
        self._said: dict[str, float] = {}
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
        name = trial.config[TRIAL]
        line = progress_line(self.phase, name, result)
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

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(f"phase {self.phase} {trial.config[TRIAL]}: failed and starts again from its last checkpoint")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(f"phase {self.phase} {trial.config[TRIAL]}: failed; its error is in {trial.error_file}")

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _tell(self, text: str) -> None:
        logger.warning(text)
        print(text, flush=True)


class WandB(Callback):
    """One Weights & Biases run per trial, over bars; without a key it is kept offline in the run's folder."""

    def __init__(self, phase: int, project: str) -> None:
        self.phase, self.project = phase, project
        self._runs: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_runs": {}}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        import wandb

        name = trial.config[TRIAL]
        if name not in self._runs:
            folder = run_folder()
            os.environ["WANDB_DIR"] = str(folder)
            self._runs[name] = wandb.init(
                project=self.project,
                group=folder.name,
                name=f"{folder.name}-phase_{self.phase}-{name}",
                dir=str(folder),
                mode="online" if os.environ.get("WANDB_API_KEY") else "offline",
                reinit="create_new",
                settings=wandb.Settings(silent=True),
            )
        self._runs[name].log(curve_row(result), step=result[BARS_LIFETIME])

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        for run in self._runs.values():
            run.finish()
        self._runs = {}
