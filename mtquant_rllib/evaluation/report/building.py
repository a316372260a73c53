"""Builds an evaluation report from records (`output` prints and writes it).

A report sets every book beside the others on the same bars, with and without the excluded dates, with standard
errors, and says what it was measured on: seeds, split, costs. It takes `Record`s only, so it can be made again from a
saved rollout.

With one environment a figure is that history's; the Sharpe's standard error is analytic and its interval comes from
resampled blocks of time. With several, the Sharpe is pooled over them and every other figure is the mean over
environments with the error of that mean; the Sharpe's error and interval come from resampled environments, and with
fewer than `statistics.FEW_PATHS` from their bars, as with one. VaR, its backtest and blocks of time are those of
trading days whatever the bars. Episodes from random starts within one history overlap: they are
that one history, from whose blocks of time the Sharpe's error comes then, and no other figure has one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtquant_rllib.config.sections.evaluation import BootstrapConfig, EvaluationConfig
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.evaluation import measures
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.backtest.trading_days import bars_per_day, by_day, days_and_forecasts
from mtquant_rllib.evaluation.statistics.bootstrap import (
    FEW_PATHS,
    few_paths_interval,
    overlapping_interval,
    pooled_sharpe_interval,
)
from mtquant_rllib.evaluation.statistics.var_tests import VarTests, judge_forecast
from mtquant_rllib.evaluation.statistics.verdict import Verdict, judge_returns


@dataclass(frozen=True)
class Summary:
    """Figures of one book or one part of it: values by name, and standard errors where there is one."""

    values: dict[str, float]
    standard_errors: dict[str, float]


@dataclass(frozen=True)
class BookReport:
    """One book on all bars, and without the excluded dates."""

    name: str
    all_bars: Summary
    without_excluded: Summary
    edits_by_rule: dict[str, int]


@dataclass(frozen=True)
class PartReport:
    """What one domain or instrument added to the subject's book."""

    kind: str
    name: str
    summary: Summary


@dataclass(frozen=True)
class EvaluationReport:
    """The subject (first book), the books beside it, the subject's parts, what all of it was measured on, and of the
    subject the verdict (None where it never traded) and the tests of its VaR forecast (None where it has none)."""

    books: tuple[BookReport, ...]
    parts: tuple[PartReport, ...]
    context: dict[str, Any]
    notes: tuple[str, ...]
    verdict: Verdict | None = None
    var_tests: VarTests | None = None

    @property
    def subject(self) -> BookReport:
        return self.books[0]


def build_report(
    records: Sequence[Record], settings: Settings, *, n_trials: int = 1, notes: Sequence[str] = ()
) -> EvaluationReport:
    """Measure every record; `records[0]` is the subject, the others are shown beside it, and the verdict compares it
    with them. n_trials: from which the subject was chosen. notes: beside the report's own.

    The records must cover the same bars (a `ValueError` names the one that does not): a comparison on other bars is
    none.
    """
    subject = records[0]
    for other in records[1:]:
        if (
            not np.array_equal(other.timestamps, subject.timestamps)
            or other.equity_ccy.shape != subject.equity_ccy.shape
        ):
            raise ValueError(f"{other.name} was played on other bars than {subject.name}; they cannot be compared")
    config, confidence = settings.evaluation, settings.portfolio_risk.var_confidence
    # Blocks of a month are as many days on shorter bars.
    config = config.model_copy(update={"bootstrap": config.bootstrap.of_bars(bars_per_day(subject))})
    books = tuple(_book_report(record, confidence, config, settings.seed) for record in records)
    parts = tuple(_part_reports(subject, confidence, config.bootstrap, settings.seed))
    tests = judge_forecast(*days_and_forecasts(subject), confidence, np.random.default_rng(settings.seed))
    said = (*_notes(records, tests, settings), *notes)
    verdict = _verdict(records, config, n_trials)
    return EvaluationReport(books, parts, _context(subject, settings), said, verdict, tests)


def summarise(
    record: Record, confidence: float, bootstrap: BootstrapConfig, seed: int, left_out: np.ndarray | None = None
) -> Summary:
    """Figures of a whole book; `left_out` is bool of shape (B, T)."""
    keep = record.played if left_out is None else record.played & ~left_out
    returns = np.where(keep, record.returns, np.nan)
    by_env = measures.measure_returns(returns, record.bars_per_year, confidence)
    del by_env["sharpe_standard_error"]
    by_env |= _money(record, keep, np.ones(len(record.symbols), dtype=bool))
    by_env["var_frac"] = measures.value_at_risk(by_day(record, returns), confidence)
    by_env["cvar_frac"] = measures.conditional_value_at_risk(by_day(record, returns), confidence)
    by_env["gross_sharpe_ann"] = measures.sharpe(np.where(keep, record.gross_returns, np.nan), record.bars_per_year)
    values, errors = _over_environments(by_env, record)
    _put_sharpe(values, errors, returns, record, bootstrap, seed)
    values["n_bars"] = float(keep.sum())
    values["bankruptcies"] = float(record.bankrupt.sum())
    for level, trips in enumerate(record.breaker_trips.sum(axis=0), start=1):
        values[f"breaker_trips_{level}"] = float(trips)
    return Summary(values, errors)


def _book_report(record: Record, confidence: float, config: EvaluationConfig, seed: int) -> BookReport:
    return BookReport(
        name=record.name,
        all_bars=summarise(record, confidence, config.bootstrap, seed),
        without_excluded=summarise(
            record, confidence, config.bootstrap, seed, left_out=record.on_dates(config.excluded_dates)
        ),
        edits_by_rule=record.edits_by_rule(),
    )


def _verdict(records: Sequence[Record], config: EvaluationConfig, n_trials: int) -> Verdict | None:
    """On all bars that the subject played, one environment after the other. None where environments started at random
    and may have played the same bars: they are fewer than they look."""
    subject, *others = records
    if subject.overlaps:
        return None
    mine = measures.living_returns(subject.returns)
    played = np.isfinite(mine)
    if played.sum() < 2:
        return None
    rules = {record.name: np.nan_to_num(measures.living_returns(record.returns)[played]) for record in others}
    return judge_returns(mine[played], rules, subject.bars_per_year, config.verdict, n_trials=n_trials)


def _part_reports(record: Record, confidence: float, bootstrap: BootstrapConfig, seed: int) -> list[PartReport]:
    domain_of = np.array(record.domain_of)
    parts = [("domain", name, domain_of == d) for d, name in enumerate(record.domains)]
    parts += [("instrument", symbol, np.arange(len(record.symbols)) == i) for i, symbol in enumerate(record.symbols)]
    reports = []
    for kind, name, members in parts:
        added = np.where(record.played, record.contributions[..., members].sum(axis=-1), np.nan)
        by_env = {
            "volatility_ann": measures.volatility(added, record.bars_per_year),
            "return_ann": measures.exposure(added) * record.bars_per_year,
            "win_rate": measures.win_rate(added),
            "profit_factor": measures.profit_factor(added),
            **_money(record, record.played, members),
        }
        values, errors = _over_environments(by_env, record)
        _put_sharpe(values, errors, added, record, bootstrap, seed)
        reports.append(PartReport(kind, name, Summary(values, errors)))
    return reports


def _money(record: Record, keep: np.ndarray, members: np.ndarray) -> dict[str, np.ndarray]:
    """What was traded, paid and edited in some instruments: per environment, shape (B,)."""

    def over_members(values: np.ndarray) -> np.ndarray:
        return np.where(keep, values[..., members].sum(axis=-1), np.nan)

    gross, cost, financing = (
        over_members(values) for values in (record.pnl_ccy, record.cost_ccy, record.financing_ccy)
    )
    paid = cost + financing
    equity = np.where(keep, record.equity_before_ccy, np.nan)
    return {
        "price_pnl_ccy": np.nansum(gross, axis=-1),
        "cost_ccy": np.nansum(cost, axis=-1),
        "financing_ccy": np.nansum(financing, axis=-1),
        "net_pnl_ccy": np.nansum(gross - paid, axis=-1),
        "cost_frac_ann": measures.exposure(paid / equity) * record.bars_per_year,
        "cost_share": measures.cost_share(np.nansum(gross, axis=-1), np.nansum(paid, axis=-1)),
        "turnover_ann": measures.turnover(over_members(record.traded_frac), record.bars_per_year),
        "exposure_gross": measures.exposure(over_members(np.abs(record.weights))),
        "exposure_net": measures.exposure(over_members(record.weights)),
        "risk_edits": (record.edited[..., members] & keep[..., None]).sum(axis=(-1, -2)).astype(np.float64),
    }


def _over_environments(by_env: dict[str, np.ndarray], record: Record) -> tuple[dict[str, float], dict[str, float]]:
    """Mean over environments, and its standard error where there is more than one and they do not overlap."""
    values, errors = {}, {}
    for name, column in by_env.items():
        known = column[~np.isnan(column)]
        values[name] = float(known.mean()) if len(known) else math.nan
        if len(known) > 1 and not record.overlaps and np.isfinite(known).all():
            errors[name] = float(known.std(ddof=1) / np.sqrt(len(known)))
    return values, errors


def _put_sharpe(
    values: dict[str, float],
    errors: dict[str, float],
    returns: np.ndarray,
    record: Record,
    bootstrap: BootstrapConfig,
    seed: int,
) -> None:
    """Replace the mean Sharpe by the pooled one, with its error and interval. Every book meets the same resamples."""
    rng, bars_per_year = np.random.default_rng(seed), record.bars_per_year
    if record.overlaps:
        interval = overlapping_interval(returns, record.timestamps, bars_per_year, bootstrap, rng)
        errors["sharpe_ann"] = interval.standard_error
    elif len(returns) < FEW_PATHS:
        interval = few_paths_interval(returns, bars_per_year, bootstrap, rng)
        errors["sharpe_ann"] = measures.pooled_sharpe_standard_error(returns, bars_per_year)
    else:
        interval = pooled_sharpe_interval(returns, bars_per_year, bootstrap, rng)
        errors["sharpe_ann"] = interval.standard_error
    values["sharpe_ann"] = interval.estimate
    values["sharpe_lower"], values["sharpe_upper"] = interval.lower, interval.upper


def _context(subject: Record, settings: Settings) -> dict[str, Any]:
    rows = {symbol: settings.symbols[symbol] for symbol in subject.symbols if symbol in settings.symbols}
    costs = {
        symbol: {
            "spread_bps": row.spread_bps,
            "commission_bps": row.commission_bps,
            "slippage_bps": row.slippage_bps,
            "financing": row.financing.model_dump(),
        }
        for symbol, row in rows.items()
    }
    costs_line = ", ".join(
        f"{symbol} {row.spread_bps:g}/{row.commission_bps:g}/{row.slippage_bps:g}" for symbol, row in rows.items()
    )
    days = subject.timestamps.astype("datetime64[D]")
    return {
        "n_envs": subject.n_envs,
        "n_bars": subject.n_bars,
        "bars_per_year": subject.bars_per_year,
        "first_date": str(days.min()),
        "last_date": str(days.max()),
        "excluded_dates": [str(date) for date in settings.evaluation.excluded_dates],
        "overlaps": subject.overlaps,
        "settings_seed": settings.seed,
        "confidence": settings.evaluation.bootstrap.confidence,
        "bootstrap_resamples": settings.evaluation.bootstrap.resamples,
        "facts": subject.facts,
        "costs": costs,
        "costs_line": costs_line,
    }


def _notes(records: Sequence[Record], tests: VarTests | None, settings: Settings) -> list[str]:
    subject = records[0]
    notes = ["Net of costs and financing; no shaped reward. ± is one standard error."]
    if subject.n_envs > 1:
        notes.append(f"Sharpe pooled over {subject.n_envs} environments; other figures are means over them.")
    if subject.overlaps:
        times = len(np.unique(subject.timestamps))
        notes.append(
            f"Episodes that start at random share bars: these are no more than the {times:,} bars of the history. The "
            "Sharpe's error is of blocks of them, other figures have none, and there is no verdict."
        )
    dates = " and ".join(str(date) for date in settings.evaluation.excluded_dates)
    if subject.on_dates(settings.evaluation.excluded_dates).any():
        notes.append(f"Sharpe* leaves out {dates}.")
    rolled = [s for s in subject.symbols if s in settings.symbols and settings.symbols[s].financing.kind == "commodity"]
    if rolled:
        notes.append(f"{', '.join(rolled)}: an unadjusted front month, so its rolls look like profit and loss.")
    for record in records:
        if record.bankrupt.any():
            notes.append(
                f"{record.name} went bankrupt in {int(record.bankrupt.sum())} of {record.n_envs} environment(s)."
            )
    rejected = () if tests is None else tests.rejected(settings.evaluation.var_test_significance)
    if rejected:
        notes.append(f"The VaR forecast of {subject.name} is rejected by its backtest: {', '.join(rejected)}.")
    return notes
