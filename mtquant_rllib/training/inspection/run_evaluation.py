"""Evaluates a run: its policies and the baselines on the same bars, costs and risk rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mtquant_rllib import strict_json
from mtquant_rllib.config import Settings
from mtquant_rllib.config.loader import apply_overrides, validate
from mtquant_rllib.env.prepared.data import UNSEEN, DeskData
from mtquant_rllib.errors import RunError
from mtquant_rllib.evaluation.backtest import reference, rollout
from mtquant_rllib.evaluation.backtest.baselines import weight_rules
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.regimes.report import ByRegime, by_regime, write_by_regime
from mtquant_rllib.evaluation.report.bar_tables import write_bar_tables
from mtquant_rllib.evaluation.report.blotter import Blotter
from mtquant_rllib.evaluation.report.book_curves import write_book_curves
from mtquant_rllib.evaluation.report.building import EvaluationReport, build_report
from mtquant_rllib.evaluation.report.output import write_report
from mtquant_rllib.evaluation.report.plots import plot_equity
from mtquant_rllib.evaluation.report.reward_terms import TermLog, Terms, write_terms
from mtquant_rllib.policies.attention.fallbacks import Counts
from mtquant_rllib.training.inspection.evaluation_folder import evaluation_folder, evaluation_name
from mtquant_rllib.training.inspection.unseen_bars import UnseenBars
from mtquant_rllib.training.preparation import prepare, restored
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.manifest import Manifest, phases_of
from mtquant_rllib.training.records.run_names import existing_run
from mtquant_rllib.training.storage import mirror


if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RunEvaluation:
    """The report, and the files it was written to: json, books, parts, bars, instruments, trades, equity, drawdown,
    picture, fallbacks, regimes.

    records: what every book did, bar by bar, in the report's order. fallbacks: who took the decisions of the run's
    attention networks; empty where it has none. terms: what the terms of an allocator's reward would have paid every
    book; empty for the desk. kept: where an earlier evaluation was moved that this one takes the place of.
    """

    report: EvaluationReport
    files: Mapping[str, Path]
    fallbacks: Counts
    records: Sequence[Record]
    regimes: ByRegime
    terms: Terms
    trades_table: pa.Table
    kept: Path | None = None

    @cached_property
    def books(self) -> pd.DataFrame:
        """Figures of every book on all bars, a row a book; the run's own is the first."""
        from mtquant_rllib.evaluation.report.frames import books_frame

        return books_frame(self.report)

    @cached_property
    def returns(self) -> pd.DataFrame:
        """Net simple returns, a column a book, by environment and stamp."""
        from mtquant_rllib.evaluation.report.frames import returns_frame

        return returns_frame(self.records)

    @cached_property
    def weights(self) -> pd.DataFrame:
        """Weights that the run's own book held after each bar, a column an instrument, by environment and stamp."""
        from mtquant_rllib.evaluation.report.frames import weights_frame

        return weights_frame(self.records[0])

    @cached_property
    def trades(self) -> pd.DataFrame:
        """The blotter of the run's own book (`evaluation.report.blotter`), a row a trade."""
        frame: pd.DataFrame = self.trades_table.to_pandas()
        return frame


def last_done(manifest: Manifest, run: Path) -> int:
    """The last phase whose policies the run has. Raises RunError when there is none."""
    for phase in sorted(map(int, manifest.phases), reverse=True):
        result = manifest.phase(phase).result
        if manifest.phase(phase).status == "done" and result is not None and module_states.exists(run / result):
            return phase
    raise RunError(f"{run}: no phase of this run is done yet; carry it on with `mtquant resume {run}`")


@dataclass(frozen=True)
class OpenedRun:
    """A run's policies after a phase, and the split on which they are looked at."""

    run: Path
    phase: int
    settings: Settings
    own: Settings
    """The run's own settings, where those it is looked at with are others."""
    data: DeskData
    states: Mapping[str, module_states.ModuleState]
    facts: Mapping[str, Any]
    seed: int
    folder: Path
    """The prepared market."""


def open_policies(
    run: Path,
    split: str,
    *,
    phase: int | None = None,
    settings: Settings | None = None,
    overrides: Sequence[str] = (),
    unseen: UnseenBars | None = None,
) -> OpenedRun:
    """Parameters as of `evaluate_run`.

    Raises
    ------
    RunError
        When the folder is no run, or the phase is not done or none of the run's.
    """
    run = existing_run(run).resolve()
    manifest = Manifest.read(run)
    own, as_trained = settings is None and not overrides, manifest.load_settings()
    if settings is None:
        settings = validate(Settings, apply_overrides(manifest.settings, overrides), str(run))
    phase = last_done(manifest, run) if phase is None else phase
    if str(phase) not in manifest.phases:
        raise RunError(f"{run}: there is no phase {phase} in this run; its phases are {', '.join(manifest.phases)}")
    folder = manifest.phase(phase).result
    if folder is None:
        raise RunError(f"{run}: phase {phase} is not done; the last that is done is phase {last_done(manifest, run)}")
    mirror.pull_market(run, manifest.market.data)
    facts = {
        "run": run.name,
        "phase": phase,
        "split": split if unseen is None else UNSEEN,
        "seed": manifest.seed,
        "market": manifest.market.bars or f"synthetic market ({settings.embedded.variant})",
    }
    if unseen is not None:
        facts["market"] = str(unseen.market)
        prepared = unseen.prepared(settings, manifest)
        data = DeskData.open(prepared, UNSEEN)
    else:
        market = restored(settings, manifest.market) if own else prepare(settings, *manifest.market.files)
        prepared = Path(market.data)
        data = DeskData.open(prepared, split)
    return OpenedRun(
        run, phase, settings, as_trained, data, module_states.read(run / folder), facts, manifest.seed, prepared
    )


def evaluate_run(
    run: Path,
    *,
    split: str = "test",
    episodes: int | None = None,
    phase: int | None = None,
    settings: Settings | None = None,
    overrides: Sequence[str] = (),
    unseen: UnseenBars | None = None,
) -> RunEvaluation:
    """Play the run's policies and every baseline over a split and write the comparison into a folder of its own
    (`evaluation_folder`), `RUN/evaluation/SPLIT` for the whole split.

    Parameters
    ----------
    episodes
        This many episodes from random starts instead of the whole split once from end to end.
    phase
        The policies after this phase; by default after the last that is done. After phase 1 there is no meta-controller
        yet: every domain has the same allocation, at full appetite.
    settings, overrides
        Other settings than the run's, or changes to them: other costs, say. The market is then prepared again.
    unseen
        Bars that the run was not made with, in place of a split of its own.
    """
    opened = open_policies(run, split, phase=phase, settings=settings, overrides=overrides, unseen=unseen)
    settings, data, facts = opened.settings, opened.data, opened.facts
    if episodes is None:
        draws = rollout.whole(data.stretches)
    else:
        draws = rollout.random_starts(data.stretches, settings.desk.episode.bars, episodes, opened.seed)
    player = rollout.policy_player(settings, opened.states, equal_allocation=opened.phase == 1)
    closes = rollout.closes_of(data)
    rules = {name: rollout.RulePlayer(rule, closes) for name, rule in weight_rules(settings).items()}
    records, terms = [], {}
    books: dict[str, rollout.Player] = {rollout.subject_of(settings): player}
    if settings.reference.exists:
        books[reference.NAME] = reference.ReferencePlayer(settings)
    books |= rules
    blotter = Blotter(data)
    for name, book in books.items():
        log = None if settings.allocator is None else TermLog()
        watchers = [one for one in (log, blotter if book is player else None) if one is not None]
        records.append(rollout.play(settings, data, book, draws, name=name, facts=facts, on_bar=_each_of(watchers)))
        if log is not None:
            terms[name] = log.figures(records[-1])
    report = build_report(records, settings)
    regimes = by_regime(records, data, draws)
    what = split if unseen is None else unseen.name
    name = evaluation_name(
        what,
        phase=opened.phase,
        last_phase=phases_of(settings)[-1],
        episodes=episodes,
        settings=settings,
        own=opened.own,
    )
    with evaluation_folder(opened.run, name) as folder:
        out = folder.writing
        files = dict(write_report(report, out)) | write_bar_tables(records, out) | write_book_curves(records, out)
        files["trades"] = blotter.write(out / "trades.csv")
        files["picture"] = plot_equity(
            records, out / "equity.png", settings.evaluation.plot, _title(opened, name)
        )
        files["fallbacks"] = out / "fallbacks.json"
        files["fallbacks"].write_text(strict_json.dumps(player.fallbacks, indent=1) + "\n")
        files["regimes"] = write_by_regime(regimes, out / "regimes.csv")
        if terms:
            files["reward_terms"] = write_terms(terms, out / "reward_terms.csv")
    return RunEvaluation(
        report,
        {kind: folder.path / path.name for kind, path in files.items()},
        player.fallbacks,
        records,
        regimes,
        terms,
        blotter.table(),
        folder.kept,
    )


def _title(opened: OpenedRun, name: str) -> str:
    """Of the picture: the run, which evaluation, and that the market is none of this world where it is not."""
    kind = opened.facts["market"]
    return f"{opened.run.name}, {name}" + (", synthetic market" if kind.startswith("synthetic market") else "")


def _each_of(watchers: Sequence[Callable[[Any], None]]) -> Callable[[Any], None]:
    def watch(desk: Any) -> None:
        for watcher in watchers:
            watcher(desk)

    return watch
