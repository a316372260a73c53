"""Loads runs to be compared: their evaluations on one split, settings and learning curves."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtquant_rllib import strict_json
from mtquant_rllib.errors import RunError
from mtquant_rllib.evaluation.compare.compared_run import ComparedRun, LearningCurve, read_books, read_report
from mtquant_rllib.evaluation.report.output import REPORT
from mtquant_rllib.training.inspection.evaluation_folder import FOLDER, evaluation_name
from mtquant_rllib.training.inspection.opened_policies import last_done
from mtquant_rllib.training.records.ledger import trials_behind
from mtquant_rllib.training.records.manifest import Manifest, phases_of
from mtquant_rllib.training.records.manifest_file import is_run
from mtquant_rllib.training.reporting.curve_files import BARS, curve_of, whole_rows
from mtquant_rllib.training.run_store.tags import tags_of
from mtquant_rllib.training.search.record import is_ensemble, is_sweep, members_of

_VALIDATED, _SHARPE = "validation_bars", "validation_sharpe"
_SECONDS = ("sampling_s", "learning_s", "validation_s")


def runs_named(
    names: Sequence[Path], group: str | None, folder: Path, tell: Callable[[str], None] = print
) -> list[Path]:
    """The folders of the runs: those that are named, where a sweep stands for its runs and an ensemble for itself, and
    those below `folder` that bear the tag `group`. tell: of how many runs of a sweep are left out, since their trials
    were stopped before a phase was done.

    Raises
    ------
    RunError
        When there is none, or one is no run.
    """
    found = [run for name in names for run in (_trained_of_sweep(name, tell) if is_sweep(name) else [name])]
    if group is not None:
        tagged = [run for run in _below(folder) if group in tags_of(run)]
        if not tagged:
            raise RunError(
                f"--group {group}: no run below {folder} bears this tag; give it one with `mtquant runs tag`"
            )
        found += tagged
    if missing := [run for run in found if not (is_run(run) or is_ensemble(run))]:
        raise RunError(f"{missing[0]}: no run there")
    if not found:
        raise RunError(f"{', '.join(map(str, names))}: no run there is through a phase, so there is nothing to compare")
    return list(dict.fromkeys(found))


def _of_sweep(sweep: Path) -> list[Path]:
    if is_ensemble(sweep):
        return [sweep]
    return sorted(path for path in sweep.iterdir() if is_run(path))


def _trained_of_sweep(sweep: Path, tell: Callable[[str], None]) -> list[Path]:
    """Those that were judged, or have policies that can be."""
    runs = _of_sweep(sweep)
    trained = runs if is_ensemble(sweep) else [run for run in runs if _can_be_judged(run)]
    if len(trained) < len(runs):
        tell(f"{sweep}: {len(runs) - len(trained)} of {len(runs)} runs are left out: no phase of them is done")
    return trained


def _can_be_judged(run: Path) -> bool:
    if any((run / FOLDER).rglob(REPORT)):
        return True
    try:
        return bool(last_done(Manifest.read(run), run))
    except RunError:
        return False


def _below(folder: Path) -> Iterator[Path]:
    """Runs in a folder, and in the sweeps in it."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if is_run(path):
            yield path
        elif is_sweep(path):
            yield from _of_sweep(path)


def evaluation_of(run: Path, evaluation: str | None) -> Path:
    """The folder of an evaluation of a run. None: of the whole test split, by the policies of the last phase that is
    done."""
    whole = run / FOLDER / "test"
    if evaluation is None and not (whole / REPORT).is_file():
        run, own = (members_of(run)[0], run) if is_ensemble(run) else (run, run)
        manifest = Manifest.read(run)
        settings = manifest.load_settings()
        done, last = last_done(manifest, run), phases_of(settings)[-1]
        evaluation = evaluation_name(
            "test", phase=done, last_phase=last, episodes=None, settings=settings, own=settings
        )
        run = own
    return whole if evaluation is None else run / FOLDER / evaluation


def without_evaluation(runs: Sequence[Path], evaluation: str | None) -> list[Path]:
    """Those that have not been judged so."""
    return [run for run in runs if not (evaluation_of(run, evaluation) / REPORT).is_file()]


def load(runs: Sequence[Path], evaluation: str | None = None) -> list[ComparedRun]:
    """The runs as they were judged; evaluation: as of `evaluation_of`.

    Raises
    ------
    RunError
        When one has no such evaluation, or it cannot be read.
    """
    if absent := without_evaluation(runs, evaluation):
        words = " ".join(str(run) for run in absent[:3]) + (" ..." if len(absent) > 3 else "")
        raise RunError(
            f"{len(absent)} of {len(runs)} runs have no evaluation {evaluation or 'test'!r} ({words}); make them with "
            f"--evaluate, or with `mtquant evaluate {absent[0]}`"
        )
    names = _short_names(runs)
    return [
        _loaded(run, name, evaluation_of(run, evaluation), first=number == 0)
        for number, (run, name) in enumerate(zip(runs, names))
    ]


def _short_names(runs: Sequence[Path]) -> list[str]:
    """The folders' own names, with as much of what is above them as tells them apart."""
    parts = [run.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-depth:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [str(run) for run in runs]


def _loaded(run: Path, name: str, folder: Path, *, first: bool) -> ComparedRun:
    report = read_report(folder)
    books = [book["name"] for book in report["books"]]
    learning: tuple[LearningCurve, ...] = ()
    if is_ensemble(run):
        members = len(members_of(run))
        manifest = Manifest.read(members_of(run)[0])
    else:
        members, manifest = 1, Manifest.read(run)
        learning = tuple(_curves(run, manifest))
    return ComparedRun(
        name=name,
        report=report,
        # Rules are the same for all: the first run's stand for them.
        books=read_books(folder, books if first else books[:1]),
        settings={**dict(_leaves(manifest.settings)), "budget_scale": manifest.budget_scale, "members": members},
        regimes=_regimes(folder / "regimes.csv", books[0]),
        learning=learning,
        n_trials=trials_behind(run, folder),
    )


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", strict_json.dumps(value) if isinstance(value, list | dict) else value


def _regimes(path: Path, book: str) -> dict[str, tuple[float, float]]:
    try:
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["book"] == book]
            bars = {row["regime"]: float(row["bars"] or 0) for row in rows}
            sharpes = {row["regime"]: float(row["sharpe_ann"] or "nan") for row in rows}
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path}: not readable ({error}); evaluate the run again") from error
    total = max(bars.get("all", 0.0), 1.0)
    return {regime: (sharpe, bars[regime] / total) for regime, sharpe in sharpes.items() if regime != "all"}


def _curves(run: Path, manifest: Manifest) -> Iterator[LearningCurve]:
    """Of the trials of the last phase that has any."""
    for phase in sorted(map(int, manifest.phases), reverse=True):
        found = [
            curve
            for trial in manifest.phase(phase).trials
            if (curve := _curve(trial, whole_rows(curve_of(run, phase, trial)))) is not None
        ]
        if found:
            yield from found
            return


def _curve(trial: str, rows: Sequence[Mapping[str, str]]) -> LearningCurve | None:
    """The validations of a curve; None where there is none."""
    hours = np.cumsum([sum(_number(row.get(name)) for name in _SECONDS) for row in rows]) / 3600
    sharpe = np.array([_number(row.get(_SHARPE), np.nan) for row in rows])
    at = np.array([_number(row.get(_VALIDATED), np.nan) for row in rows])
    bars = np.array([_number(row.get(BARS), np.nan) for row in rows])
    # A row repeats the last validation until there is another.
    new = np.isfinite(sharpe) & np.r_[True, at[1:] != at[:-1]] if len(rows) else np.zeros(0, dtype=bool)
    if not new.any():
        return None
    return LearningCurve(trial, np.where(np.isfinite(at), at, bars)[new], hours[new], sharpe[new])


def _number(text: str | None, missing: float = 0.0) -> float:
    try:
        return float(text) if text else missing
    except ValueError:
        return missing
