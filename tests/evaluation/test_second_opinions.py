"""Measures beside those of quantstats, where it is installed: what people compare with. Its VaR is a Gaussian's, and is
left out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mtquant_rllib.evaluation import measures

YEAR = 252
quantstats = pytest.importorskip(
    "quantstats.stats", reason="quantstats is not installed: a second opinion, no dependency"
)


@pytest.fixture(scope="module")
def returns() -> np.ndarray:
    return np.asarray(0.01 * np.random.default_rng(0).standard_t(4, 1500) + 0.0004)


@pytest.fixture(scope="module")
def series(returns: np.ndarray) -> pd.Series:
    return pd.Series(returns, index=pd.bdate_range("2015-01-01", periods=len(returns)))


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("sharpe", lambda r: measures.sharpe(r, YEAR)),
        ("sortino", lambda r: measures.sortino(r, YEAR)),
        ("volatility", lambda r: measures.volatility(r, YEAR)),
        ("max_drawdown", lambda r: -measures.max_drawdown(r)),
        ("win_rate", measures.win_rate),
        ("profit_factor", measures.profit_factor),
        ("comp", measures.total_return),
    ],
)
def test_quantstats_measures_the_same(name: str, own, returns: np.ndarray, series: pd.Series) -> None:
    assert float(own(returns)) == pytest.approx(float(getattr(quantstats, name)(series)), rel=1e-6)
