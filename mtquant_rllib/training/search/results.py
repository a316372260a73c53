"""What came of a sweep so far: one row a trial and the scheduler's state, in one file that is replaced as a whole.

A trial's score and the decision that rests on it are written together, so that a sweep that is killed at any moment
knows of both or of neither. The score is the mean over the trial's seeds of the best validation Sharpe so far; where a
phase has several trials, of their mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from mtquant_rllib import durable
from mtquant_rllib.config.search_space import Values
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.result_keys import BARS_LIFETIME, FAILURE, TRIAL
from mtquant_rllib.training.search.keys import COMPLETE, PROGRESS, SCORES, SECONDS

FILE = "results.json"
PENDING, RUNNING, INTERRUPTED = "pending", "running", "interrupted"
FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
OVER = (FINISHED, STOPPED, FAILED)


@dataclass
class TrialRow:
    """One trial. score_se: standard error over seeds, None for one seed. handovers: the rounds in which it took over
    another trial's state, whose, and the values since. crashed: it failed in a way that may pass, and begins
    again with the next attempt."""

    name: str
    values: Values
    status: str = PENDING
    phase: int | None = None
    progress_pct: float = 0.0
    bars: int = 0
    score: float | None = None
    score_se: float | None = None
    scores: list[float | None] = field(default_factory=list)
    seconds: float = 0.0
    why: str = ""
    crashed: bool = False
    handovers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.status in OVER


def mean_and_error(scores: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and its standard error; both None where a score is lacking, the error for one score."""
    known = [score for score in scores if score is not None and math.isfinite(score)]
    if not known or len(known) < len(scores):
        return None, None
    error = float(np.std(known, ddof=1) / math.sqrt(len(known))) if len(known) > 1 else None
    return float(np.mean(known)), error


def ranked(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The best first: finished trials by their score, then the others by how far they came and their score."""

    def key(row: TrialRow) -> tuple[bool, float, float]:
        far = 100.0 if row.status == FINISHED else row.progress_pct
        return row.status == FINISHED, far, -math.inf if row.score is None else row.score

    return sorted(rows, key=key, reverse=True)


def lead(best: TrialRow, other: TrialRow) -> tuple[float | None, float | None]:
    """By how much a trial's score is above another's, with the standard error of the difference, seed by seed: both
    trials have the same seeds."""
    return mean_and_error(
        [None if one is None or two is None else one - two for one, two in zip(best.scores, other.scores)]
    )


class Results:
    """The rows of a sweep in its folder. state: the scheduler's, as plain values."""

    def __init__(self, sweep: Path, rows: Sequence[TrialRow], state: Mapping[str, Any] | None = None) -> None:
        self.sweep = sweep
        self.rows = {row.name: row for row in rows}
        self.state: dict[str, Any] = dict(state or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Results:
        """The same object: Tune copies what it is configured with, and callbacks and scheduler share this one."""
        return self

    @classmethod
    def read(cls, sweep: Path, trials: Mapping[str, Values]) -> Results:
        """With a row for every trial, new where nothing is known of it.

        Raises
        ------
        RunError
            When the file is damaged: its decisions could not be made again.
        """
        path = sweep / FILE
        if not path.exists():
            return cls(sweep, [TrialRow(name, dict(values)) for name, values in trials.items()])
        known = {one.name for one in fields(TrialRow)}
        try:
            tree = json.loads(path.read_bytes())
            rows = [TrialRow(**{key: row[key] for key in known if key in row}) for row in tree["trials"]]
            found = cls(sweep, rows, tree["scheduler"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path}: damaged ({error}); put it back from a copy, or begin another sweep") from error
        for name, values in trials.items():
            found.rows.setdefault(name, TrialRow(name, dict(values)))
        return found

    @property
    def n_configurations(self) -> int:
        """Different settings that were tried: each taking over adds one."""
        return len(self.rows) + sum(len(row.handovers) for row in self.rows.values())

    def note(self, name: str, **figures: Any) -> None:
        """Update a trial's row."""
        row = self.rows[name]
        for key, value in figures.items():
            setattr(row, key, value)

    def begin_attempt(self) -> None:
        """Let trials that crashed, or were interrupted, run again."""
        for row in self.rows.values():
            if row.crashed or not row.over:
                row.status, row.why, row.crashed = PENDING, "", False

    def end_attempt(self) -> None:
        """What runs no more, and is not over, was interrupted."""
        for row in self.rows.values():
            if row.status == RUNNING:
                row.status = INTERRUPTED
        self.write()

    def tree(self) -> dict[str, Any]:
        """As plain values; what is no number is null."""
        return {
            "score": "mean over seeds of the best validation Sharpe, net and annualised",
            "n_trials": len(self.rows),
            "n_configurations": self.n_configurations,
            "trials": [_finite(asdict(row)) for row in self.rows.values()],
            "scheduler": _finite(self.state),
        }

    def write(self) -> None:
        durable.replace_file(self.sweep / FILE, json.dumps(self.tree(), indent=1, allow_nan=False).encode())


def note_result(results: Results, result: Mapping[str, Any]) -> None:
    """Take a result of a trial into its row."""
    name = result[TRIAL]
    row = results.rows[name]
    score, error = mean_and_error(result[SCORES])
    if score is not None:
        results.note(name, score=score, score_se=error, scores=[float(one) for one in result[SCORES]])
    results.note(
        name,
        phase=result["phase"],
        progress_pct=result[PROGRESS],
        bars=result[BARS_LIFETIME],
        seconds=result[SECONDS],
    )
    if FAILURE in result:
        results.note(name, status=FAILED, why=result[FAILURE])
    elif result[COMPLETE]:
        results.note(name, status=FINISHED, why="")
    elif not row.over:
        results.note(name, status=RUNNING)


def _finite(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
