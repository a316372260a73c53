"""Made-up records of books, for tests of what is measured on them."""

from __future__ import annotations

import numpy as np

from mtquant_rllib.config import Settings
from mtquant_rllib.evaluation.backtest.record import Record

SETTINGS = Settings.load(overrides=["evaluation.bootstrap.resamples=100"])
UNIVERSE = SETTINGS.universe
N = UNIVERSE.n_instruments


def played(name="desk", n_envs=1, n_bars=120, seed=0, shock=None, drift=0.0):
    """A made-up book that conserves: equity is what its profits, costs and financing leave."""
    rng = np.random.default_rng(seed)
    stamps = (np.datetime64("2020-02-03") + np.arange(n_bars)).astype("datetime64[s]")
    earned = rng.normal(drift, 0.003, (n_envs, n_bars, N))
    if shock is not None:
        earned[:, np.flatnonzero(stamps == np.datetime64("2020-04-20"))[0], 4] = shock
    pnl, cost, equity = np.zeros_like(earned), np.zeros_like(earned), np.full((n_envs, n_bars), np.nan)
    now = np.full(n_envs, 100_000.0)
    for t in range(n_bars):
        alive = now > 0
        pnl[:, t] = np.where(alive[:, None], earned[:, t] * now[:, None], 0)
        cost[:, t] = np.where(alive[:, None], 2e-5 * now[:, None], 0)
        now = now + (pnl[:, t] - 1.5 * cost[:, t]).sum(axis=1)
        equity[:, t] = np.where(alive, now, np.nan)
    weights = rng.normal(0, 0.2, earned.shape)
    rule_ids = np.zeros(earned.shape, dtype=np.int8)
    rule_ids[:, 3, 0], rule_ids[:, 4:6, 1] = 9, 6
    return Record(
        name=name,
        symbols=UNIVERSE.symbols,
        domains=tuple(domain.name for domain in UNIVERSE.domains),
        domain_of=UNIVERSE.domain_of,
        bars_per_year=252.0,
        stamps=stamps,
        equity_start_ccy=np.full(n_envs, 100_000.0),
        equity_ccy=equity,
        pnl_ccy=pnl,
        cost_ccy=cost,
        financing_ccy=0.5 * cost,
        weights=weights,
        proposed=1.1 * weights,
        traded_frac=np.full(earned.shape, 0.01),
        rule_ids=rule_ids,
        rule_names={9: "var", 6: "concentration"},
        var_forecast_frac=np.full((n_envs, n_bars), 0.014),
        breaker_trips=np.tile([2, 1, 0, 0], (n_envs, 1)),
        facts={"seed": 7, "split": "test"},
    )
