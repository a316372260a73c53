"""The backtest of VaR forecasts as a table, and which of them no test rejects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rich.console import Console

from mtquant_rllib.evaluation.book_risk.forecast_backtest import ForecastBacktest
from mtquant_rllib.evaluation.report.terminal_tables import print_cells
from mtquant_rllib.evaluation.statistics.var_tests import VarTests

SHORT = {
    "coverage": "C",
    "independence": "I",
    "conditional coverage": "B",
    "dynamic quantile": "D",
    "expected shortfall": "S",
}
"""Tests by a letter."""


def print_backtest(found: Sequence[ForecastBacktest], days: np.ndarray, significance: float, console: Console) -> None:
    """One table for each book and confidence, with a legend."""
    for book, confidence in dict.fromkeys((one.book, one.confidence) for one in found):
        own = [one for one in found if (one.book, one.confidence) == (book, confidence)]
        judged = max((one.raw.n_days for one in own if one.raw is not None), default=0)
        head = ("VaR", "mean", "beyond", "rejected by", "calibrated: beyond", "rejected by")
        rows = (
            (named(one), f"{one.mean_var:.2%}", *_cells(one.raw, significance),
             *_cells(one.calibrated, significance))
            for one in own
        )  # fmt: skip
        title = f"{book}, {judged:,} days to {days[-1]}: share of days beyond the {confidence:.0%} VaR"
        print_cells([head, *rows], console, title=title, words=(0, 3, 5))
    legend = ", ".join(f"{letter} {name}" for name, letter in SHORT.items())
    console.print(f"tests, adjusted by Holm over the five of a forecast: {legend}", highlight=False)


def named(one: ForecastBacktest) -> str:
    """Method and, where it uses one, covariance."""
    return f"{one.method}, {one.covariance}" if one.covariance else one.method


def _cells(tests: VarTests | None, significance: float) -> tuple[str, str]:
    if tests is None:
        return "", ""
    return f"{tests.breach_rate:.2%}", " ".join(SHORT[name] for name in tests.rejected(significance)) or "none"


def passing_lines(found: Sequence[ForecastBacktest], significance: float) -> Iterator[str]:
    """For the forecasts as they are and for calibrated ones: those that no test rejects on any book and confidence,
    or, where there is none, those that the fewest reject."""
    for what in ("raw", "calibrated"):
        rejections: dict[str, int] = {}
        for one in found:
            tests: VarTests | None = getattr(one, what)
            name = named(one)
            rejected = 0 if tests is None else len(tests.rejected(significance))
            rejections[name] = rejections.get(name, 0) + rejected
        least = min(rejections.values(), default=0)
        best = "; ".join(name for name, count in rejections.items() if count == least)
        verdict = "no test rejects" if least == 0 else f"the fewest tests reject ({least})"
        yield f"{what}: {verdict} {best}"
