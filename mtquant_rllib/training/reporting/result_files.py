"""The files that grow while a phase trains: the run's curves, and Tune's progress.csv, result.json and TensorBoard.

Everything written is keyed by iteration. A trial that restores goes back to its checkpoint and repeats what came after
it; whoever writes here first takes back what the lost part had written, so no iteration stands twice anywhere.

A disk that is full or away for a while is waited for (`patience`), so that no row is lost.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback
from ray.tune.logger.tensorboardx import TBXLoggerCallback
from ray.tune.result import EXPR_PROGRESS_FILE, EXPR_RESULT_FILE, TRAINING_ITERATION

from mtquant_rllib import durable, strict_json
from mtquant_rllib.training.records import ownership
from mtquant_rllib.training.reporting.curve_columns import curve_row
from mtquant_rllib.training.reporting.curve_files import (
    ITERATION,
    append_row,
    curve_of,
    rewrite,
    truncated_csv,
    written,
)
from mtquant_rllib.training.result_keys import BARS_LIFETIME, TRIAL
from mtquant_rllib.training.storage import mirror
from mtquant_rllib.training.storage.retries import with_retries


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


def _written_patiently(write: Callable[[bool], None], turns_back: bool, path: Any, patience_s: float) -> None:
    """Call `write(turns_back)`, waiting for storage that is away; an attempt after a failed one turns back, so that
    what the failed one wrote in part does not stand twice."""
    attempts = 0

    def attempt() -> None:
        nonlocal attempts
        attempts += 1
        write(turns_back or attempts > 1)

    with_retries(attempt, str(path), patience_s)


class _Keyed:
    """A logger of Tune's that writes every iteration once and waits for storage; subclasses say how in `_log`."""

    def __init__(self, patience_s: float) -> None:
        super().__init__()
        self.patience_s = patience_s
        self._timeline = _Timeline()

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        _written_patiently(
            lambda back: self._log(iteration, trial, result, back),
            self._timeline.turns_back(trial, result),
            trial.local_path,
            self.patience_s,
        )

    def _log(self, iteration: int, trial: Any, result: dict[str, Any], turns_back: bool) -> None:
        """turns_back: what stands written may hold this iteration and later ones already."""
        raise NotImplementedError


class ProgressCSV(_Keyed, CSVLoggerCallback):
    """Tune's progress.csv with every iteration once, and columns that keep their place over a restore."""

    def _log(self, iteration: int, trial: Any, result: dict[str, Any], turns_back: bool) -> None:
        if turns_back:
            if trial not in self._trial_files:
                self._setup_trial(trial)
            self._trial_files[trial].close()
            path = Path(trial.local_path, EXPR_PROGRESS_FILE)
            rewrite(path, lambda text: truncated_csv(text, TRAINING_ITERATION, result[TRAINING_ITERATION]))
            header = path.read_text().split("\n", 1)[0] if path.exists() else ""
            self._trial_files[trial] = path.open("at")
            self._trial_continue[trial] = bool(header)
            writers: dict[Any, Any] = self._trial_csv
            writers[trial] = csv.DictWriter(self._trial_files[trial], next(csv.reader([header]))) if header else None
        CSVLoggerCallback.log_trial_result(self, iteration, trial, result)


class ResultJson(_Keyed, JsonLoggerCallback):
    """Tune's result.json with every iteration once, and null for what is no number: Ray writes NaN, which is no
    JSON."""

    def _log(self, iteration: int, trial: Any, result: dict[str, Any], turns_back: bool) -> None:
        if turns_back:
            if trial not in self._trial_files:
                self.log_trial_start(trial)
            self._trial_files[trial].close()
            path = Path(trial.local_path, EXPR_RESULT_FILE)
            rewrite(path, lambda text: truncated_jsonl(text, TRAINING_ITERATION, result[TRAINING_ITERATION]))
            self._trial_files[trial] = path.open("at")
        JsonLoggerCallback.log_trial_result(self, iteration, trial, strict_json.json_values(result))


class TensorBoard(_Keyed, TBXLoggerCallback):
    """TensorBoard over bars; after a restore, points of the lost part are purged."""

    def _log(self, iteration: int, trial: Any, result: dict[str, Any], turns_back: bool) -> None:
        if turns_back and result[TRAINING_ITERATION] > 1:
            if trial in self._trial_writer:
                self._trial_writer[trial].close()
            trial.init_local_path()
            self._trial_writer[trial] = self._summary_writer_cls(
                trial.local_path, flush_secs=30, purge_step=result[BARS_LIFETIME]
            )
            self._trial_result[trial] = {}
        TBXLoggerCallback.log_trial_result(self, iteration, trial, result)

    def _try_log_hparams(self, trial: Any, result: dict[str, Any]) -> None:
        """Left out: the run's settings stand in its manifest."""


class Curves(Callback):
    """One CSV per trial in the run's `curves` folder, a row an iteration, written as results come in.

    Columns that a later row has and the first had not are added to the file; rows before have them empty.
    """

    def __init__(self, run: Path, phase: int, patience_s: float) -> None:
        self.run, self.phase, self.patience_s = run, phase, patience_s
        self._timeline = _Timeline()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        path = curve_of(self.run, self.phase, trial.config[TRIAL])
        turns_back = self._timeline.turns_back(trial, result)
        _written_patiently(lambda back: self._write(path, result, back), turns_back, path, self.patience_s)

    def _write(self, path: Path, result: dict[str, Any], turns_back: bool) -> None:
        ownership.expect_there(self.run)
        path.parent.mkdir(exist_ok=True)
        if turns_back:
            rewrite(path, lambda text: truncated_csv(text, ITERATION, result[TRAINING_ITERATION]))
        append_row(path, curve_row(result))
        mirror.push(path)


def rows_of_results(path: Path) -> dict[int, dict[str, str]]:
    """The rows that a curve had, by iteration, from Tune's result.json of its trial; lines that cannot be read are left
    out."""
    rows = {}
    for line in path.read_text(errors="replace").splitlines() if path.is_file() and not path.is_symlink() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            row = {name: str(value) for name, value in curve_row(_without_nulls(json.loads(line))).items()}
            rows[int(row[ITERATION])] = row
    return rows


def _without_nulls(tree: Any) -> Any:
    """NaN again where `ResultJson` wrote null."""
    if isinstance(tree, dict):
        return {key: _without_nulls(value) for key, value in tree.items()}
    return math.nan if tree is None else tree


def mend(path: Path, known: Mapping[int, Mapping[str, str]], upto: int) -> str | None:
    """Put rows back into a curve that lacks them or has them broken.

    Parameters
    ----------
    known
        Iteration -> row, of the checkpoints that are there and of Tune's results.
    upto
        The iteration that the trial goes on from: later rows are made again anyway.

    Returns
    -------
    What was wrong and what became of it; None where nothing was.
    """
    text = path.read_text(errors="replace") if path.exists() else ""
    rows = {int(row[ITERATION]): row for row in csv.DictReader(io.StringIO(truncated_csv(text, ITERATION, upto + 1)))}
    there = {
        number
        for number, row in rows.items()
        if None not in row.values() and all(row.get(name) == value for name, value in known.get(number, {}).items())
    }
    # A write that was cut short may end inside the last number, which then is one still.
    last = max(there, default=0)
    if text and not text.endswith("\n") and known.get(last, rows.get(last)) != rows.get(last):
        there.discard(last)
    missing = [number for number in range(1, upto + 1) if number not in there]
    if not missing:
        return None
    back = [number for number in missing if known.get(number)]
    whole = {**{number: rows[number] for number in there}, **{number: known[number] for number in back}}
    header = list(dict.fromkeys(name for number in sorted(whole) for name in whole[number]))
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.replace_file(path, written(header, [whole[number] for number in sorted(whole)]).encode())
    lost = f", {len(missing) - len(back)} are lost" if len(back) < len(missing) else ""
    return f"{path}: {len(missing)} of {upto} rows were damaged or missing; {len(back)} are put back{lost}"
