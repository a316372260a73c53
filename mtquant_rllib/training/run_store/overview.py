"""What a run is and how far it is, as plain facts: for tables, for pages and for scripts.

Everything comes from the manifest and the indexes of checkpoints; nothing is loaded, so a run of a stranger can be
looked at safely.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import MtquantError, RunError
from mtquant_rllib.training.curriculum.phases import TrialPlan, at_bars, budget_bars, plan_phase
from mtquant_rllib.training.inspection.opened_run import MALFORMED, opened
from mtquant_rllib.training.records.manifest import FILE, Manifest
from mtquant_rllib.training.run_store.checkpoint_survey import newest_whole, surveyed
from mtquant_rllib.training.run_store.errors import LOG, last_errors
from mtquant_rllib.training.storage import run_lock

_TRACES = (LOG, "phase_1", "policies", "curves")
"""What is left of a run whose manifest is gone."""
_ERRORS_SHOWN = 3
_VALUE_CHARACTERS = 60


@dataclass(frozen=True)
class TrialFacts:
    """One trial. status: pending, running (begun and not at its end) or done; bars: what its newest checkpoint holds;
    checkpoint: the newest whole one; damaged: those that are newer, and why they are not used; modules: best states."""

    name: str
    status: str
    bars: int
    budget_bars: int
    best_sharpe: float | None = None
    best_bars: int | None = None
    checkpoint: str | None = None
    signed: bool = False
    damaged: tuple[str, ...] = ()
    modules: str | None = None


@dataclass(frozen=True)
class PhaseFacts:
    """policies: the folder of module states that it hands over, once it is done."""

    number: int
    status: str
    policies: str | None
    trials: tuple[TrialFacts, ...]


@dataclass(frozen=True)
class RunFacts:
    """A run. running: who trains it at this moment; changed: settings that differ from a configuration, with values of
    the run and of the configuration; go_on: the command that comes next, and why."""

    folder: str
    name: str
    run_id: str
    created: str
    updated: str
    seed: int
    budget_scale: float
    market: str
    market_content: str
    versions: Mapping[str, str]
    running: str | None
    bytes: int
    phases: tuple[PhaseFacts, ...]
    changed: Mapping[str, tuple[str, str]]
    errors: tuple[str, ...]
    go_on: str


@dataclass(frozen=True)
class RunLine:
    """A run in a table of many. fault: why nothing more can be said of it."""

    folder: Path
    bytes: int
    fault: str | None = None
    created: str = ""
    phases: Mapping[int, str] | None = None
    finished: bool = False
    """Every phase that was asked for is done."""
    bars: int = 0
    budget_bars: int = 0
    best: tuple[float, int, str] | None = None
    """Sharpe, phase and trial: the best of the last phase that was validated."""
    running: str | None = None


def list_runs(folder: Path) -> list[RunLine]:
    """The runs in a folder by name, damaged ones among them.

    Raises
    ------
    RunError
        When there is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder of runs; `mtquant train --run NAME` makes runs/ and a run in it")
    try:
        there = sorted(folder.iterdir())
    except OSError as error:
        raise RunError(f"{folder}: cannot be read ({error.strerror})") from None
    return [_line(path) for path in there if _is_or_was_run(path)]


def _is_or_was_run(path: Path) -> bool:
    try:
        return path.is_dir() and any(os.path.lexists(path / name) for name in (FILE, *_TRACES))
    except OSError:
        return False


def _line(run: Path) -> RunLine:
    size = size_of(run)
    try:
        manifest, settings = opened(run)
        phases = _phases(run, manifest, settings, indexes_alone=True)
    except (MtquantError, *MALFORMED) as error:
        # A damaged run must not hide the others, whatever is wrong with it.
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        return RunLine(run, size, fault=why.removeprefix(f"{run}").lstrip("/: "), running=run_lock.holder(run))
    wanted = [phase for phase in phases if phase.number in manifest.wanted]
    return RunLine(
        run,
        size,
        created=manifest.created,
        phases={phase.number: phase.status for phase in phases},
        finished=all(phase.status == "done" for phase in wanted),
        bars=sum(trial.bars for phase in wanted for trial in phase.trials),
        budget_bars=sum(trial.budget_bars for phase in wanted for trial in phase.trials),
        best=_best(phases),
        running=run_lock.holder(run),
    )


def _best(phases: tuple[PhaseFacts, ...]) -> tuple[float, int, str] | None:
    for phase in reversed(phases):
        judged = [(trial.best_sharpe, trial.name) for trial in phase.trials if trial.best_sharpe is not None]
        if judged:
            sharpe, name = max(judged)
            return sharpe, phase.number, name
    return None


def look(run: Path, config: Settings | None = None) -> RunFacts:
    """Everything about one run; its checkpoints are compared with their checksums.

    config: what the run's settings are compared with; by default the default configuration.

    Raises
    ------
    RunError
        When the folder is no run, or its manifest is damaged.
    """
    manifest, settings = opened(run)
    phases, running = _phases(run, manifest, settings, indexes_alone=False), run_lock.holder(run)
    return RunFacts(
        folder=str(run),
        name=manifest.name,
        run_id=manifest.id or "",
        created=manifest.created,
        updated=manifest.updated,
        seed=manifest.seed,
        budget_scale=manifest.budget_scale,
        market=manifest.market.bars or f"synthetic market ({settings.embedded.variant})",
        market_content=manifest.market.content,
        versions=manifest.versions,
        running=running,
        bytes=size_of(run),
        phases=phases,
        changed=differences(manifest.settings, (config or Settings.load()).model_dump(mode="json")),
        errors=tuple(last_errors(run, _ERRORS_SHOWN)),
        go_on=_go_on(run, manifest, phases, running),
    )


def _phases(run: Path, manifest: Manifest, settings: Settings, *, indexes_alone: bool) -> tuple[PhaseFacts, ...]:
    facts = []
    for number in sorted(map(int, manifest.phases)):
        record = manifest.phase(number)
        trials = tuple(
            _trial(run, manifest, plan, budget_bars(settings, plan, manifest.budget_scale), indexes_alone)
            for plan in plan_phase(settings, number)
        )
        facts.append(PhaseFacts(number, record.status, record.result, trials))
    return tuple(facts)


def _trial(run: Path, manifest: Manifest, plan: TrialPlan, planned: int, indexes_alone: bool) -> TrialFacts:
    phase, name = plan.phase, plan.name
    phase_record = manifest.phase(phase)
    record = phase_record.trials.get(name)
    if record is None:
        return TrialFacts(name, "pending", 0, planned)
    newest = newest_whole(run, manifest, phase, name, indexes_alone=indexes_alone)
    index = newest.index if newest is not None else None
    done = phase_record.status == "done"
    best = {} if index is None else index.result.get("best", {})
    sharpe, bars = (record.best_sharpe, record.best_bars) if done else (best.get("sharpe"), best.get("bars"))
    damaged = []
    if not indexes_alone:
        for one in surveyed(run, manifest, phase, name):
            if newest is not None and one.path == newest.path:
                break
            damaged.append(f"{one.path.name}: {one.fault or 'another run or trial wrote it'}")
    return TrialFacts(
        name,
        "done" if done or (index is not None and index.finished) else "running",
        record.bars if done else 0 if index is None else index.bars,
        record.budget_bars,
        float(sharpe) if sharpe is not None and math.isfinite(sharpe) else None,
        None if bars is None else int(bars),
        None if newest is None else str(newest.path),
        newest is not None and newest.signed,
        tuple(damaged),
        record.best if done else None if bars is None else f"{plan.folder}/{at_bars(int(bars))}",
    )


def newest_checkpoint(facts: RunFacts, wanted: str) -> Path:
    """The path of the newest whole checkpoint of a trial, named as PHASE/TRIAL (`1/forex`, `phase_3/desk`), or as PHASE
    where it has one trial alone.

    Raises
    ------
    RunError
        When there is no such trial, or no checkpoint of it is whole.
    """
    number, _, name = wanted.removeprefix("phase_").partition("/")
    known = {(str(phase.number), trial.name): trial for phase in facts.phases for trial in phase.trials}
    found = [trial for (phase, trial_name), trial in known.items() if phase == number and name in ("", trial_name)]
    if len(found) != 1:
        there = ", ".join(f"{phase}/{trial}" for phase, trial in known)
        raise RunError(f"--newest {wanted}: expected one trial of this run; there are {there}")
    if found[0].checkpoint is None:
        why = f" ({'; '.join(found[0].damaged)})" if found[0].damaged else ""
        raise RunError(f"--newest {wanted}: no whole checkpoint of this trial is there{why}")
    return Path(found[0].checkpoint).absolute()


def _go_on(run: Path, manifest: Manifest, phases: tuple[PhaseFacts, ...], running: str | None) -> str:
    if running is not None:
        return f"{running} trains it; nothing to do"
    left = [phase for phase in phases if phase.number in manifest.wanted and phase.status != "done"]
    if left:
        strange = any(trial.checkpoint and not trial.signed for phase in left for trial in phase.trials)
        note = "    (its checkpoints are not signed by you: read what `mtquant resume --help` says of --trust)"
        return f"mtquant resume {run}{note if strange else ''}"
    pending = [phase.number for phase in phases if phase.status == "pending"]
    more = f"    or: mtquant train --phase {pending[0]} --run {run}" if pending else ""
    return f"mtquant evaluate {run}{more}"


def differences(own: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Settings in which two trees differ, as dotted keys: (this value, the other), each shortened. A whole table that
    only one of them has is one entry."""
    found: dict[str, tuple[str, str]] = {}

    def compare(key: str, mine: Any, theirs: Any) -> None:
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            for name in sorted(mine.keys() | theirs.keys()):
                compare(f"{key}.{name}" if key else name, mine.get(name), theirs.get(name))
        elif mine != theirs:
            found[key] = (_short(mine), _short(theirs))

    compare("", own, other)
    return found


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a table of {len(value)}"
    text = "null" if value is None else str(value)
    return text if len(text) <= _VALUE_CHARACTERS else f"{text[:_VALUE_CHARACTERS]}..."


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder; symbolic links are not followed."""
    alone = path.is_symlink() or path.is_file()
    files = [str(path)] if alone else [os.path.join(top, name) for top, _, names in os.walk(path) for name in names]
    total = 0
    for file in files:
        try:
            total += os.lstat(file).st_size
        except OSError:
            # It went while its folder was read: the run is being trained.
            continue
    return total
