"""From an evaluation to its tear sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mtquant_rllib.config.sections.evaluation import BootstrapConfig
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.compare import attribution, performance
from mtquant_rllib.evaluation.compare.compared_run import ComparedRun, StrategyReturns
from mtquant_rllib.evaluation.compare.comparison import compare
from mtquant_rllib.evaluation.regimes.figures import REGIME_NAMES
from mtquant_rllib.evaluation.regimes.report import ByRegime
from mtquant_rllib.evaluation.report.book_styles import is_held
from mtquant_rllib.evaluation.report.building import EvaluationReport
from mtquant_rllib.evaluation.report.output import report_tree
from mtquant_rllib.evaluation.tear_sheet import panels
from mtquant_rllib.evaluation.web_page.page import Page, PageSection
from mtquant_rllib.evaluation.web_page.panel import number, percent

FILE = "tear_sheet.html"
REFERENCE = "reference"


def returns_of(record: Record) -> StrategyReturns:
    """A record as a book of a comparison. The record's environments share their bars."""
    return StrategyReturns(
        record.name,
        record.timestamps,
        {
            "net_return": record.returns,
            "turnover": np.where(record.played, record.traded_frac.sum(axis=-1), np.nan),
            "exposure_gross": np.where(record.played, np.abs(record.weights).sum(axis=-1), np.nan),
            "exposure_net": np.where(record.played, record.weights.sum(axis=-1), np.nan),
        },
    )


def build_page(
    records: Sequence[Record],
    report: EvaluationReport,
    regimes: ByRegime,
    trades: pa.Table,
    *,
    title: str,
    bootstrap: BootstrapConfig,
    line_points: int,
) -> Page:
    """The page of the first record. The others are rules on the same bars.

    Parameters
    ----------
    trades
        Of the first record (`evaluation.report.blotter`).
    """
    subject, tree = records[0], report_tree(report)
    books = {record.name: returns_of(record) for record in records}
    shares = regimes[subject.name].bars[:-1] / max(regimes[subject.name].bars[-1], 1)
    by_regime = dict(zip(REGIME_NAMES, zip(regimes[subject.name].sharpe_ann[:-1], shares)))
    run = ComparedRun(subject.name, tree, books, {}, by_regime)
    alone = compare([run], bootstrap)
    own, *others = books.values()
    days_per_year = subject.bars_per_year * len(np.unique(own.timestamps.astype("datetime64[D]"))) / len(own.timestamps)
    shown = {book.name: book for book in others if not is_held(book.name)}
    reference = shown.get(REFERENCE)
    values, context = run.values, report.context
    facts, verdict = context["facts"], report.verdict
    return Page(
        title=title,
        facts=f"{context['first_date']} to {context['last_date']}, {facts.get('split', '')} split: "
        f"{context['n_bars']:,} bars, histories: {context['n_envs']}. Market: {facts.get('market', '')}. "
        + ("" if verdict is None else f"Verdict: {verdict.words}."),
        tiles=(
            ("Sharpe, net", f"{number(values['sharpe_ann'])} ± {number(run.sharpe_error)}"),
            ("return a year", percent(values["annual_return"])),
            ("volatility a year", percent(values["volatility_ann"])),
            ("maximum drawdown", percent(values["max_drawdown_frac"])),
        ),
        sections=[
            PageSection(
                "performance",
                "Performance",
                (
                    performance.wealth_panel(alone, line_points),
                    performance.rolling_panel(alone, line_points),
                    performance.years_panel(alone),
                    performance.months_panel(alone),
                    performance.distribution_panel(alone),
                ),
            ),
            PageSection(
                "risk_section",
                "Risk",
                (
                    panels.drawdowns_panel(own, line_points, subject.bars_per_year),
                    panels.risk_panel(own, reference, line_points, days_per_year),
                    attribution.edits_panel(alone),
                ),
            ),
            PageSection(
                "holdings",
                "Positions and trades",
                (
                    panels.weights_panel(subject, line_points),
                    attribution.trading_panel(alone, line_points),
                    panels.trades_panel(subject, trades),
                    attribution.parts_panel(alone),
                    attribution.costs_panel(alone),
                ),
            ),
        ],
        footer=f"Net of costs and financing. Costs, bps of notional (spread/commission/slippage): "
        f"{context['costs_line']}.",
        choices={},
        table=panels.figure_tables(own, shown, days_per_year),
    )


def write_tear_sheet(page: Page, folder: Path) -> Path:
    """`tear_sheet.html` in a folder."""
    return page.write(folder / FILE)
