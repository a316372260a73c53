"""What a walk-forward test found: one record out of sample, beside the reference and every simple rule.

Each fold's desks were trained and selected on bars before its test span alone. The mean action of a fold's members is
one desk; its test spans, one after the other, are one history. The rule of the verdict stands in the settings
(`evaluation.verdict`, `evaluation.walk_forward`) before anything is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mtquant_rllib import strict_json
from mtquant_rllib.config import Settings
from mtquant_rllib.env.prepared.data import market_of
from mtquant_rllib.evaluation.backtest import rollout
from mtquant_rllib.evaluation.backtest.baselines import HOLD_PREFIX, weight_rules
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.backtest.reference import NAME as REFERENCE
from mtquant_rllib.evaluation.backtest.reference import ReferencePlayer
from mtquant_rllib.evaluation.backtest.stitching import stitched
from mtquant_rllib.evaluation.report.book_curves import write_book_curves
from mtquant_rllib.evaluation.report.building import EvaluationReport, build_report
from mtquant_rllib.evaluation.report.output import write_report
from mtquant_rllib.evaluation.report.plots import plot_equity
from mtquant_rllib.evaluation.statistics.bootstrap import Interval, sharpe_difference_interval
from mtquant_rllib.policies.ensemble import EnsembleActor
from mtquant_rllib.training.inspection.opened_policies import OpenedRun, open_policies
from mtquant_rllib.training.records.ledger import Ledger
from mtquant_rllib.training.records.manifest import Manifest

FOLDER = "report"
ENSEMBLE = "ensemble"
"""Name of the book of the members' mean actions."""


@dataclass(frozen=True)
class WalkForwardReport:
    """report: of the stitched records, the ensemble first. members: annual Sharpe ratio of each seed alone, out of
    sample. differences: the ensemble's Sharpe less each other book's, with intervals."""

    report: EvaluationReport
    members: Mapping[str, float]
    differences: Mapping[str, Interval]
    words: str


def judge(
    folds: Sequence[Sequence[Path]], settings: Settings, folder: Path
) -> tuple[WalkForwardReport, Mapping[str, Path]]:
    """The report on the runs of each fold, one a seed, and the files in `folder` that it was written to."""
    played: list[dict[str, Record]] = [_played(runs) for runs in folds]
    # A rule that is missing in one fold is no book of the whole.
    names = [name for name in played[0] if all(name in fold for fold in played)]
    books = {name: stitched([fold[name] for fold in played]) for name in names}
    members = {name: record for name, record in books.items() if name.startswith(_SEED)}
    shown = [record for name, record in books.items() if name not in members]
    market = market_of(Path(Manifest.read(folds[0][0]).market.data))
    n_trials = max(Ledger.beside(folds[0][0]).read().trials_on(market), 1)
    report = build_report(shown, settings, n_trials=n_trials)
    rng = np.random.default_rng(settings.seed)
    subject, *others = shown
    differences = {
        other.name: sharpe_difference_interval(
            subject.returns[0], other.returns[0], subject.bars_per_year, settings.evaluation.bootstrap, rng
        )
        for other in others
    }
    sharpes = {name: _sharpe(record) for name, record in members.items()}
    words = _verdict(report, differences, settings)
    found = WalkForwardReport(report, sharpes, differences, words)
    files = dict(write_report(report, folder)) | write_book_curves(shown, folder)
    files["picture"] = plot_equity(shown, folder / "equity.png", settings.evaluation.plot, "out of sample")
    files["walk_forward"] = folder / "walk_forward.json"
    tree = {"verdict": words, "members": sharpes, "differences": {k: asdict(v) for k, v in differences.items()}}
    files["walk_forward"].write_text(strict_json.dumps(strict_json.json_values(tree), indent=1) + "\n")
    for name, record in books.items():
        record.save(folder / "records" / f"{name}.npz")
    return found, files


_SEED = "seed_"


def _played(runs: Sequence[Path]) -> dict[str, Record]:
    """Every book on a fold's test bars: the ensemble, the reference, each member, the rules."""
    opened = [open_policies(run, "test") for run in runs]
    first: OpenedRun = opened[0]
    first.looked("walk-forward", runs=[run.name for run in runs])
    settings, data, draws = first.settings, first.data, rollout.whole(first.data.segments)
    equal = first.phase == 1 and settings.allocator is None

    def played(name: str, player: rollout.Player) -> Record:
        return rollout.play(settings, data, player, draws, name=name, facts={"market": first.facts["market"]})

    def desk(states: Sequence[OpenedRun]) -> rollout.PolicyPlayer:
        actor = EnsembleActor(settings, [one.states for one in states])
        return rollout.PolicyPlayer(actor, equal_allocation=equal)

    books = {ENSEMBLE: played(ENSEMBLE, desk(opened))}
    if settings.reference.exists:
        books[REFERENCE] = played(REFERENCE, ReferencePlayer(settings))
    closes = rollout.closes_of(data)
    for name, rule in weight_rules(settings).items():
        if not name.startswith(HOLD_PREFIX):
            books[name] = played(name, rollout.RulePlayer(rule, closes))
    for one in opened:
        name = f"{_SEED}{one.seed}"
        books[name] = played(name, desk([one]))
    return books


def _sharpe(record: Record) -> float:
    returns = record.returns[0]
    return float(np.nanmean(returns) / np.nanstd(returns, ddof=1) * np.sqrt(record.bars_per_year))


def _verdict(report: EvaluationReport, differences: Mapping[str, Interval], settings: Settings) -> str:
    """One sentence by the rules of the settings."""
    most = settings.evaluation.walk_forward.behind_at_most
    said = "" if report.verdict is None else f"{report.verdict.words}. "
    if REFERENCE not in differences:
        return said.strip()
    gap = differences[REFERENCE]
    measured = f"its Sharpe less the reference's is {gap.estimate:+.2f} [{gap.lower:+.2f}, {gap.upper:+.2f}]"
    if gap.lower > 0:
        return f"{said}Learning added to the reference: {measured}"
    if gap.lower > -most:
        return f"{said}Learning neither added to the reference nor fell behind it by more than {most:g}: {measured}"
    return f"{said}It is not shown that learning did not fall behind the reference: {measured}"


def lines(found: WalkForwardReport) -> list[str]:
    """For a terminal, beside the report's own table."""
    sharpes = np.array(list(found.members.values()))
    spread = f", deviation {sharpes.std(ddof=1):.2f}" if len(sharpes) > 1 else ""
    members = ", ".join(f"{name.removeprefix(_SEED)} {sharpe:.2f}" for name, sharpe in found.members.items())
    rows = [f"members alone, by seed: {members} (mean {sharpes.mean():.2f}{spread})"]
    for name, gap in found.differences.items():
        rows.append(f"ensemble less {name:<20} {gap.estimate:+.2f} [{gap.lower:+.2f}, {gap.upper:+.2f}]")
    return [*rows, found.words]
