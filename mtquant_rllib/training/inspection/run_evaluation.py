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
from mtquant_rllib.evaluation.backtest import reference, rollout
from mtquant_rllib.evaluation.backtest.baselines import weight_rules
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.regimes.report import ByRegime, by_regime, write_by_regime
from mtquant_rllib.evaluation.report.bar_tables import write_bar_tables
from mtquant_rllib.evaluation.report.blotter import Blotter
from mtquant_rllib.evaluation.report.book_curves import write_book_curves
from mtquant_rllib.evaluation.report.building import EvaluationReport, build_report
from mtquant_rllib.evaluation.report.disagreement import DisagreementLog
from mtquant_rllib.evaluation.report.output import write_report
from mtquant_rllib.evaluation.report.plots import plot_equity
from mtquant_rllib.evaluation.report.reward_terms import TermLog, Terms, write_terms
from mtquant_rllib.evaluation.tear_sheet import page as tear_sheet
from mtquant_rllib.policies.attention.fallbacks import Counts
from mtquant_rllib.policies.ensemble import EnsembleActor
from mtquant_rllib.training.inspection.evaluation_folder import evaluation_folder, evaluation_name
from mtquant_rllib.training.inspection.opened_policies import OpenedRun, open_policies
from mtquant_rllib.training.inspection.unseen_bars import UnseenBars
from mtquant_rllib.training.records.ledger import RECEIPT, Ledger, LedgerEntries
from mtquant_rllib.training.records.manifest import phases_of

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
        """Net simple returns, a column a book, by environment and timestamp."""
        from mtquant_rllib.evaluation.report.frames import returns_frame

        return returns_frame(self.records)

    @cached_property
    def weights(self) -> pd.DataFrame:
        """Weights that the run's own book held after each bar, a column an instrument, by environment and timestamp."""
        from mtquant_rllib.evaluation.report.frames import weights_frame

        return weights_frame(self.records[0])

    @cached_property
    def trades(self) -> pd.DataFrame:
        """The blotter of the run's own book (`evaluation.report.blotter`), a row a trade."""
        frame: pd.DataFrame = self.trades_table.to_pandas()
        return frame


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
        draws = rollout.whole(data.segments)
    else:
        draws = rollout.random_starts(data.segments, settings.desk.episode.bars, episodes, opened.seed)
    player = opened.player()
    closes = rollout.closes_of(data)
    rules = {name: rollout.RulePlayer(rule, closes) for name, rule in weight_rules(settings).items()}
    records, terms = [], {}
    books: dict[str, rollout.Player] = {rollout.subject_of(settings): player}
    if settings.reference.exists:
        books[reference.NAME] = reference.ReferencePlayer(settings)
    books |= rules
    blotter = Blotter(data)
    ensemble = player.actor if isinstance(player.actor, EnsembleActor) else None
    disagreement = None if ensemble is None else DisagreementLog(ensemble, data)
    for name, book in books.items():
        log = None if settings.allocator is None else TermLog()
        own = (blotter, disagreement) if book is player else ()
        watchers = [one for one in (log, *own) if one is not None]
        records.append(rollout.play(settings, data, book, draws, name=name, facts=facts, on_bar=_each_of(watchers)))
        if log is not None:
            terms[name] = log.figures(records[-1])
    ledger = Ledger.beside(opened.run)
    history = ledger.read()
    n_trials = max(history.trials_on(opened.market), 1)
    notes = _ledger_notes(opened, ledger, history, n_trials)
    if disagreement is not None:
        said = ", ".join(f"{group} {value:.3f}" for group, value in disagreement.mean.items())
        notes += (f"{len(opened.members)} members; mean deviation of their actions in [-1, 1]: {said}.",)
    report = build_report(records, settings, n_trials=n_trials, notes=notes)
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
        if disagreement is not None:
            files["disagreement"] = disagreement.write(out / "disagreement.csv")
        files["picture"] = plot_equity(records, out / "equity.png", settings.evaluation.plot, _title(opened, name))
        files["fallbacks"] = out / "fallbacks.json"
        files["fallbacks"].write_text(strict_json.dumps(player.fallbacks, indent=1) + "\n")
        files["regimes"] = write_by_regime(regimes, out / "regimes.csv")
        if not records[0].overlaps:
            explain = settings.evaluation.explain
            page = tear_sheet.build_page(
                records,
                report,
                regimes,
                blotter.table(),
                title=_title(opened, name),
                bootstrap=settings.evaluation.bootstrap,
                line_points=explain.line_points,
            )
            files["tear_sheet"] = tear_sheet.write_tear_sheet(page, out)
        files["ledger"] = out / RECEIPT
        line = opened.looked("evaluation", evaluation=name, trials=n_trials, **_outcome(report))
        files["ledger"].write_text(strict_json.dumps({"number": line.number, "hash": line.hash}) + "\n")
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


def _ledger_notes(opened: OpenedRun, ledger: Ledger, history: LedgerEntries, n_trials: int) -> tuple[str, ...]:
    """Where the number of trials is from, and what makes it too small."""
    notes = []
    if not all(map(history.has_training_of, opened.manifests)):
        notes.append(
            f"{ledger.path.name} has no line of this run's training (the run was moved, or the ledger lost or cut), so "
            "there were more trials than the verdict counts."
        )
    if n_trials > 1:
        notes.append(f"Trials: {n_trials} different trainings on these bars stand in {ledger.path.name}.")
    if history.faults:
        notes.append(f"{ledger.path.name} is damaged, so there may have been more trials: {history.faults[0]}.")
    return tuple(notes)


def _outcome(report: EvaluationReport) -> dict[str, Any]:
    """What the ledger keeps of a report."""
    values, verdict = report.subject.all_bars.values, report.verdict
    found = {"finding": str(verdict.finding), "deflated": verdict.deflated} if verdict is not None else {}
    return {"sharpe_ann": values["sharpe_ann"], "max_drawdown_frac": values["max_drawdown_frac"], **found}


def _title(opened: OpenedRun, name: str) -> str:
    """Of the picture: the run, which evaluation, and whether the market is a synthetic one."""
    kind = opened.facts["market"]
    return f"{opened.run.name}, {name}" + (", synthetic market" if kind.startswith("synthetic market") else "")


def _each_of(watchers: Sequence[Callable[[Any], None]]) -> Callable[[Any], None]:
    def watch(desk: Any) -> None:
        for watcher in watchers:
            watcher(desk)

    return watch
