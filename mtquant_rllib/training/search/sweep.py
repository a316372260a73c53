"""Sweeps from their declaration to their table: `sweep` begins one and carries it on, `resume` carries one on.

Everything is checked before anything is made: the space against the settings, every trial's settings, and whether a
trial fits onto the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from mtquant_rllib import durable, strict_json
from mtquant_rllib.config import Settings
from mtquant_rllib.config.search_space import read_space, settings_with
from mtquant_rllib.errors import ConfigError, RunError, TrainingFailed
from mtquant_rllib.evaluation.report.output import print_report
from mtquant_rllib.paths import is_address
from mtquant_rllib.training.curriculum.attempt import Attempt
from mtquant_rllib.training.curriculum.changeable_settings import refuse_unchangeable, with_overrides
from mtquant_rllib.training.placement.node_readiness import Readiness
from mtquant_rllib.training.preparation import centred, file_name, for_market, prepare, restored
from mtquant_rllib.training.records import ledger, ownership, run_names
from mtquant_rllib.training.records.manifest import Manifest, MarketRecord
from mtquant_rllib.training.records.manifest_file import is_run
from mtquant_rllib.training.reporting.trackers import TENSORBOARD, WANDB
from mtquant_rllib.training.reporting.weights_and_biases.launcher import followed
from mtquant_rllib.training.run_log import ends_in_the_log, log_to, resume_command, tell
from mtquant_rllib.training.search import experiment, handover, table
from mtquant_rllib.training.search.declaration import (
    declared_phases,
    declared_trials,
    expect_all_trainable,
    expect_comparable,
    expect_room,
    expect_the_same,
)
from mtquant_rllib.training.search.record import SELECTION, SweepRecord, is_sweep
from mtquant_rllib.training.search.results import FAILED, FINISHED, Results, TrialRow, ranked
from mtquant_rllib.training.session.interruption import Interruption
from mtquant_rllib.training.session.ray_session import session
from mtquant_rllib.training.storage import exclusive_access, mirror


def sweep(
    settings: Settings,
    space: Sequence[str] | Mapping[str, Any],
    *,
    run: str | Path | None = None,
    market: Path | None = None,
    macro: Path | None = None,
    budget_scale: float = 1.0,
    phase: int | str = 1,
    address: str | None = None,
    resume_existing: bool = False,
) -> Path:
    """Compare trials of declared settings and return the sweep's folder.

    Parameters
    ----------
    settings
        What every trial begins with; section `search` says how trials are compared.
    space
        As of `read_space`.
    run
        The folder; by default the next free `runs/run_NNN`.
    phase
        1, or `all` for the whole curriculum.
    market, macro, budget_scale, address, resume_existing
        As of `curriculum.driver.train`.

    Raises
    ------
    ConfigError
        When the space or a trial's settings cannot be.
    RunError
        When the folder is taken.
    """
    if run is not None and is_address(run):
        raise RunError(f"--run {run}: a sweep lies in a folder that every node mounts; object stores hold single runs")
    found = read_space(space, settings)
    phases = declared_phases(settings, phase)
    values = declared_trials(settings, found)
    expect_comparable(settings, found)
    for one in values:
        expect_all_trainable(for_market(settings_with(settings, one), from_files=market is not None), phases)
    expect_room(settings, phases, address)
    run = run_names.claim_free() if run is None else run_names.run_path(run).resolve()
    if is_sweep(run):
        if not resume_existing:
            raise RunError(f"{run}: this sweep exists; carry it on with `mtquant resume {run}` or name another")
        files = [None if one is None else file_name(one) for one in (market, macro)]
        expect_the_same(SweepRecord.read(run), settings, found, files, budget_scale, phases)
    else:
        ownership.claim(run)
        record = SweepRecord.begin(
            run.name,
            settings,
            found,
            values,
            phases=phases,
            budget_scale=budget_scale,
            market=None if market is None else file_name(market),
            macro=None if macro is None else file_name(macro),
        )
        record.write(run)
    carry_on(run, address)
    return run


def resume(run: Path, address: str | None = None, overrides: Sequence[str] = (), *, trust: bool = False) -> Path:
    """Carry on a sweep. overrides: of what shapes no result (`movable_settings`). trust: load checkpoints that this
    user did not sign."""
    run = run_names.existing_run(run).resolve()
    SweepRecord.read(run)
    refuse_unchangeable(overrides)
    if frozen := [one for one in overrides if one.startswith("search.")]:
        raise ConfigError(f"--set {frozen[0]}: a sweep goes on with what it declared; begin another")
    carry_on(run, address, overrides=overrides, trust=trust)
    return run


def carry_on(run: Path, address: str | None = None, *, overrides: Sequence[str] = (), trust: bool = False) -> None:
    """Train what is not over."""
    log_to(run)
    with ends_in_the_log(resume_command(run)), exclusive_access.held(run, tell):
        record = SweepRecord.read(run)
        if overrides:
            record.settings = with_overrides(record.settings, overrides, str(run))
            record.write(run)
        _carry_on(run, record, address, trust, overrides)


def _carry_on(run: Path, record: SweepRecord, address: str | None, trust: bool, overrides: Sequence[str]) -> None:
    settings = record.load_settings()
    results = Results.read(run, dict(zip(record.names, record.trials)))
    results.begin_attempt()
    tell(f"{run}: {_declared(record)}")
    if apart := [one.tracker for one in settings.tracking.trackers if one.tracker not in (TENSORBOARD, WANDB)]:
        tell(f"tracking.trackers: {', '.join(apart)} take no part in a sweep; TensorBoard and Weights & Biases do")
    if all(row.over for row in results.rows.values()) and len(record.trials) == record.n_trials:
        tell("nothing left to do")
        _count_taken_over(run, record, results)
        _conclude(run, record, results)
        return
    markets = _Markets(record)
    for name in record.names:
        if not results.rows[name].over:
            _begin_trial(run, record, results, markets, overrides, name)
    _count_taken_over(run, record, results)
    results.write()
    table.write(results)
    interruption = Interruption(settings.checkpoints.stop_grace_seconds)
    go_on = f"carry it on with `{resume_command(run)}`"
    with (
        interruption.handled(tell),
        interruption.ends_sessions(go_on),
        session(settings, run, address, tell) as machines,
        interruption.handled(tell),
    ):
        readiness = Readiness(run, Path(markets.of(settings).data), tell)
        # What a run of the settings that every trial begins with would be.
        base = Manifest.begin(record.name, settings, markets.of(settings), record.budget_scale, record.phases)
        attempt = Attempt(run, base, machines, readiness, interruption, trust, tell)
        with followed(run, settings, tell):
            experiment.fit(attempt, record, results, partial(_begin_trial, run, record, results, markets, overrides))
    _count_taken_over(run, record, results)
    _conclude(run, record, results)


# -- what is made -----------------------------------------------------------------------------------------------------


class _Markets:
    """The prepared market of each trial, and what was measured on it, once for all trials that share it."""

    def __init__(self, record: SweepRecord) -> None:
        self._files = tuple(None if path is None else Path(path) for path in (record.market, record.macro))
        self._means: dict[str, Any] = {}
        self._restored: dict[str, MarketRecord] = {}

    def of(self, settings: Settings) -> MarketRecord:
        return prepare(settings, *self._files)

    def centred(self, settings: Settings) -> tuple[MarketRecord, Settings]:
        """The market, and the settings as a run on it has them (`training.preparation.centred`)."""
        record = self.of(settings)
        settings = for_market(settings, from_files=record.kind == "file")
        key = f"{record.data} {settings.desk.observation.model_dump_json()}"
        if key not in self._means:
            self._means[key] = centred(settings, record).desk.observation.feature_means
        return record, settings_with(settings, {"desk.observation.feature_means": self._means[key]})

    def restored(self, settings: Settings, record: MarketRecord) -> MarketRecord:
        """The record with arrays that are there, every byte read once."""
        if record.data not in self._restored:
            self._restored[record.data] = restored(settings, record)
        return self._restored[record.data]


def _begin_trial(
    sweep: Path, record: SweepRecord, results: Results, markets: _Markets, overrides: Sequence[str], trial: str
) -> None:
    """Make the runs of a trial, one a seed, where they are not there yet; those that are there go on with the overrides
    of this attempt."""
    for run, seed in zip(record.runs_of(sweep, trial), record.seeds_of(trial)):
        if is_run(run):
            manifest = Manifest.read(run)
            market = markets.restored(manifest.load_settings(), manifest.market)
            if overrides or market != manifest.market:
                manifest.market = market
                manifest.settings = with_overrides(manifest.settings, overrides, str(run))
                manifest.write(run)
        else:
            market, settings = markets.centred(record.settings_of(trial, seed))
            ownership.claim(run)
            manifest = Manifest.begin(
                run.name, settings, market, record.budget_scale, record.phases, part_of=record.name
            )
            manifest.write(run)
            if record.kind == "sweep":
                _note_selection(sweep, record, results, run, trial, seed)
        same = ledger.SEEDS_AND_SPLITS if record.kind == "walk_forward" else ledger.SEEDS
        ledger.training_begins(run, manifest, part_of=record.name, leave_out=same)


def _count_taken_over(sweep: Path, record: SweepRecord, results: Results) -> None:
    """Note in the ledger the values that trials of a population went on with: each is a configuration that was
    tried. Those of a sweep that was stopped are noted when it goes on. Runs that were removed are left out."""
    for name, row in results.rows.items():
        run = record.runs_of(sweep, name)[0]
        for one in row.handovers if is_run(run) else ():
            manifest = Manifest.read(run)
            ledger.training_begins(run, manifest, part_of=record.name, leave_out=ledger.SEEDS, changes=one["values"])


def _note_selection(
    sweep: Path, record: SweepRecord, results: Results, run: Path, trial: str, seed: int, place: int | None = None
) -> None:
    """Beside a run: out of how many it was chosen, for whoever judges it later."""
    note = {
        "sweep": record.name,
        "trial": trial,
        "seed": seed,
        "values": results.rows[trial].values,
        "scheduler": record.settings["search"]["scheduler"],
        "split": "validation",
        "n_trials": record.n_trials,
        "n_configurations": max(results.n_configurations, record.n_trials),
        "rank": place,
    }
    durable.replace_file(run / SELECTION, strict_json.dumps(note, indent=1).encode())


def _declared(record: SweepRecord) -> str:
    search = record.settings["search"]
    phases = "phase 1" if len(record.phases) == 1 else "all phases"
    if record.kind == "walk_forward":
        return (
            f"walk-forward, {record.n_trials} folds x {len(record.seeds)} seeds; {phases}, budgets times "
            f"{record.budget_scale:g}"
        )
    if record.kind == "ensemble":
        return f"ensemble of {record.n_trials} members; {phases}, budgets times {record.budget_scale:g}"
    if record.kind == "ablation":
        return (
            f"ablation, {record.n_trials - 1} changes x {len(record.seeds)} seeds; {phases}, budgets times "
            f"{record.budget_scale:g}"
        )
    return (
        f"{record.n_trials} trials x {len(record.seeds)} seeds by {search['scheduler']} over "
        f"{', '.join(record.space)}; {phases}, budgets times {record.budget_scale:g}"
    )


def _conclude(run: Path, record: SweepRecord, results: Results) -> None:
    """The table, the best trial, and beside every run out of how many it was.

    Raises
    ------
    TrainingFailed
        When no trial came to its end.
    """
    rows = list(results.rows.values())
    results.write()
    table.write(results)
    if record.kind == "walk_forward":
        _judge(run, record, rows)
        return
    for place, row in enumerate(ranked(rows) if record.kind == "sweep" else (), start=1):
        for folder, seed in zip(record.runs_of(run, row.name), record.seeds_of(row.name)):
            if is_run(folder):
                _note_selection(run, record, results, folder, row.name, seed, place)
    handover.forget(run)
    tell("\n".join(table.lines(rows)))
    if record.kind == "ensemble":
        if failed := next((row for row in rows if row.status != FINISHED), None):
            raise TrainingFailed(f"{mirror.named(run)}: {failed.name}: {failed.why or failed.status}")
        tell(f"next: mtquant evaluate {mirror.named(run)}")
        return
    if record.kind == "ablation":
        tell(f"next: mtquant compare {mirror.named(run)} --evaluate")
        return
    finished = [row for row in ranked(rows) if row.status == FINISHED]
    if not finished:
        failed = next((row for row in rows if row.status == FAILED), None)
        why = "" if failed is None else f"; {failed.name}: {failed.why}"
        raise TrainingFailed(f"{mirror.named(run)}: no trial came to its end{why}")
    best = finished[0]
    tell(table.verdict(rows))
    tell(f"its settings: {' '.join(f'--set {path}={strict_json.dumps(value)}' for path, value in best.values.items())}")
    tell(f"table: {run / table.FILE}\nnext: mtquant evaluate {mirror.named(record.runs_of(run, best.name)[0])}")


def _judge(run: Path, record: SweepRecord, rows: Sequence[TrialRow]) -> None:
    """The report of a walk-forward test.

    Raises
    ------
    TrainingFailed
        When a fold did not come to its end.
    """
    from mtquant_rllib.training.walk_forward import report

    if failed := next((row for row in rows if row.status != FINISHED), None):
        raise TrainingFailed(
            f"{mirror.named(run)}: {failed.name} did not come to its end: {failed.why or failed.status}"
        )
    folds = [record.runs_of(run, name) for name in record.names]
    found, files = report.judge(folds, record.load_settings(), run / report.FOLDER)
    print_report(found.report, Console())
    tell("\n".join(report.lines(found)))
    tell(f"report: {files['walk_forward'].parent}")


def table_of(run: Path) -> list[str]:
    """The table of a sweep as it is now, whoever trains it."""
    run = run_names.existing_run(run)
    record = SweepRecord.read(run)
    rows = list(Results.read(run, dict(zip(record.names, record.trials))).rows.values())
    return [f"{run}: {_declared(record)}", *table.lines(rows), table.verdict(rows)]
