"""Latency of the risk rules: measuring one book and a batch by every VaR method, and repairing one book.

Covariances and past returns are drawn, of the size that the settings ask for. The times are of
`PortfolioRiskManager.measure`, which measures all that the rules limit, VaR among it, and of `repair`, which holds a
book to all rules: one that passes, and one that is scaled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_args

import numpy as np

from mtquant_rllib.config.search_space import settings_with
from mtquant_rllib.config.sections.risk import VarMethod
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.risk.engine import PortfolioRiskManager
from mtquant_rllib.risk.past_returns import PastReturns
from mtquant_rllib.risk.rules import Proposal

_DEVIATION = 0.01
"""Of a day's return of every instrument."""


def bench_risk(settings: Settings, n_books: int, calls: int) -> Mapping[str, Any]:
    """Microseconds a call of one book by method, p50 and p99, and a book of a batch.

    n_books: of the batch; calls: how often each is timed.
    """
    methods = {}
    for method in get_args(VarMethod):
        manager = PortfolioRiskManager.from_settings(settings_with(settings, {"risk.var_method": method}))
        one = drawn_proposal(settings, manager, 1)
        methods[method] = _quantiles(partial(manager.measure, one), calls)
    manager = PortfolioRiskManager.from_settings(settings_with(settings, {"risk.var_method": "parametric"}))
    batch, calm = drawn_proposal(settings, manager, n_books), drawn_proposal(settings, manager, 1)
    wild = drawn_proposal(settings, manager, 1, size=5.0)
    per_batch = _quantiles(lambda: manager.measure(batch), max(calls // 10, 1))
    return {
        "calls": calls,
        "one_book_us": methods,
        "batch": n_books,
        "batched_parametric_us_a_book": {name: value / n_books for name, value in per_batch.items()},
        "all_rules_passing_us": _quantiles(lambda: manager.repair(calm), calls),
        "all_rules_repaired_us": _quantiles(lambda: manager.repair(wild), calls),
        "draws": settings.risk.var_methods.draws,
        "history_days": settings.risk.var_methods.history_days,
    }


def drawn_proposal(settings: Settings, manager: PortfolioRiskManager, n_books: int, size: float = 0.02) -> Proposal:
    """Books of weights about `size` in markets with random correlations, each with its past days."""
    rng, n, days = np.random.default_rng(settings.seed), settings.universe.n_instruments, settings.risk.var_methods
    common = rng.normal(size=(n_books, n, 2))
    covariance = common @ common.swapaxes(1, 2) + np.eye(n)
    deviation = np.sqrt(np.einsum("bii->bi", covariance))
    correlation = covariance / deviation[:, :, None] / deviation[:, None, :]
    weights = size * rng.normal(size=(n_books, n))
    past = PastReturns.of(_DEVIATION * rng.standard_normal((days.history_days, n)), n_books)
    return Proposal(
        proposed=weights,
        current=np.zeros_like(weights),
        tradable=np.ones(weights.shape, dtype=bool),
        covariance=manager.index.pack(correlation * _DEVIATION**2),
        correlation=manager.index.pack_hollow(correlation),
        equity=np.full(n_books, settings.desk.account.start_equity_ccy),
        past=past,
    )


def _quantiles(call: Callable[[], Any], calls: int) -> dict[str, float]:
    call()
    taken = np.empty(calls)
    for place in range(calls):
        began = time.perf_counter()
        call()
        taken[place] = time.perf_counter() - began
    p50, p99 = np.quantile(taken, (0.5, 0.99)) * 1e6
    return {"p50": float(p50), "p99": float(p99)}
