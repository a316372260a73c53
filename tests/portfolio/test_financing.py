"""Overnight financing: base rates by kind, those of docs/extending.md among them, against rates read by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from small_runs import written

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.portfolio.execution_data import LONG_FINANCING, SHORT_FINANCING, ExecutionData
from mtquant_rllib.portfolio.financing import base_rates

N_ROWS = 60
BROKEN = """
import numpy as np

NUMBER = 3


def fails(one):
    raise ValueError("boom")


def narrow(one):
    return np.zeros(3)


def unknown(one):
    return np.full(len(one.timestamps), np.nan)


def lacking(one):
    return one.macro("basis")
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (written(tmp_path) / "my_broken_financing.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("my_financing", "my_broken_financing"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def crypto(home: Path, kind: str) -> Settings:
    financing = f"symbols.BTCUSD.financing={{kind: '{kind}', markup_pct: 0}}"
    return Settings.load(home / "my_crypto.yaml", [financing, "market.instruments=[EURUSD, BTCUSD]"])


def market(settings: Settings) -> MarketData:
    """Closes that rise for thirty rows and fall for thirty; the account's short rate is 4."""
    n = settings.universe.n_instruments
    close = 1.0 + 0.01 * np.minimum(np.arange(N_ROWS), N_ROWS - np.arange(N_ROWS))
    bars = np.broadcast_to(close[:, None, None], (N_ROWS, n, 5)).copy()
    start = np.datetime64("2020-01-06", "s")
    return MarketData(
        symbols=settings.universe.symbols, timestamps=start + np.arange(N_ROWS) * np.timedelta64(1, "D"), bars=bars,
        valid=np.ones((N_ROWS, n), dtype=bool), macro=np.full((N_ROWS, 1), 4.0), macro_columns=("rate_3m",),
        stale_open=np.zeros((N_ROWS, n), dtype=bool), volume_proxy=np.zeros(n, dtype=bool), daily=True,
    )  # fmt: skip


def test_each_kind_pays_what_it_says():
    settings = Settings.load()
    rates = base_rates(settings, market(settings))
    rate = dict(zip(settings.universe.symbols, rates[0]))
    known = {currency: by_year[2019] for currency, by_year in settings.policy_rates.items()}
    assert rate["EURUSD"] == pytest.approx(4.0 - known["EUR"]), "the account pays dollars and earns euros"
    assert rate["USDJPY"] == pytest.approx(known["JPY"] - 4.0)
    assert rate["XAUUSD"] == 4.0
    assert rate["WTIUSD"] == -settings.symbols["WTIUSD"].financing.roll_yield_pct
    assert rate["SPX500"] == pytest.approx(4.0 - settings.symbols["SPX500"].financing.dividend_pct)
    assert (rates == rates[0]).all(), "no rate changes within these sixty days"


def test_a_kind_of_ones_own_is_paid_for_the_nights_after_it_was_known(home: Path) -> None:
    settings = crypto(home, "my_financing:funding")
    history = market(settings)
    money = ExecutionData.build(settings, [history]).money
    bitcoin, per_night = settings.universe.symbols.index("BTCUSD"), 1 / 100 / settings.desk.account.day_count
    close = history.bars[:, bitcoin, 3]
    for row in (35, 36, 50, 59):
        mean = close[row - 30 : row].mean()
        percent = 31.0 if close[row - 1] > mean else 11.0
        assert money[row, LONG_FINANCING, bitcoin] == pytest.approx(percent * per_night, rel=1e-12)
        assert money[row, SHORT_FINANCING, bitcoin] == pytest.approx(-percent * per_night, rel=1e-12)
    assert len(np.unique(money[31:, LONG_FINANCING, bitcoin])) == 2, "both rates occur"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("my_broken_financing:fails", "my_broken_financing:fails fails: ValueError: boom"),
        ("my_broken_financing:narrow", r"returns an array of shape \(3,\); expected \(60,\)"),
        ("my_broken_financing:unknown", "returns a number that is not finite"),
        ("my_broken_financing:lacking", "no macro column 'basis'; there are .*rate_3m"),
        ("my_broken_financing:NUMBER", "is no function"),
        ("swap", "no kind 'swap'; there are fx, spot, index, commodity"),
    ],
)
def test_a_kind_that_cannot_be_used_is_named(home: Path, kind: str, said: str) -> None:
    settings = crypto(home, kind)
    with pytest.raises(ConfigError, match=rf"symbols.BTCUSD.financing.*{said}"):
        base_rates(settings, market(settings))
