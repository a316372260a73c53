"""A history takes bars one by one, and refuses what is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from serving_fixtures import Served

from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.serving.history import BarHistory, closes_of

GOOD = (100.0, 101.0, 99.0, 100.5, 10_000.0)


@pytest.fixture
def history(desk: Served) -> BarHistory:
    return BarHistory(desk.policies.settings, desk.market.rows(0, 400))


@pytest.mark.parametrize(
    ("day", "bars", "macro", "named"),
    [
        (0, {"EURUSD": GOOD}, {}, "expected one later than"),
        (1, {}, {}, "no instrument has one"),
        (1, {"EURCHF": GOOD}, {}, "no instrument EURCHF"),
        (1, {"EURUSD": GOOD[:4]}, {}, "EURUSD has 4 values; expected 5: open, high, low, close, volume"),
        (1, {"EURUSD": (100.0, 99.0, 98.0, 98.5, 1.0)}, {}, "low <= open, close <= high"),
        (1, {"EURUSD": (np.nan, 101.0, 99.0, 100.0, 1.0)}, {}, "expected finite prices"),
        (1, {"EURUSD": (100.0, 101.0, -1.0, 100.0, 1.0)}, {}, "above 0"),
        (1, {"EURUSD": GOOD}, {"cpi": 1.0}, "macro: no series cpi"),
        (1, {"EURUSD": GOOD}, {"vix": np.inf}, "macro.vix = inf: expected a finite number"),
    ],
)
def test_what_is_no_next_bar_is_refused_and_changes_nothing(
    history: BarHistory, day: int, bars: Mapping[str, Sequence[float]], macro: dict[str, Any], named: str
) -> None:
    before = history.market
    with pytest.raises(MarketDataError, match=named):
        history.append(history.closed_at + np.timedelta64(day, "D"), bars, macro)
    assert history.market is before


def test_a_timestamp_is_a_date_or_a_moment(history: BarHistory) -> None:
    with pytest.raises(MarketDataError, match="the bar of yesterday: expected a date such as 2023-01-02"):
        history.append("yesterday", {"EURUSD": GOOD})
    with pytest.raises(MarketDataError, match="these bars are daily; expected a date"):
        history.append(f"{history.closed_at.astype('datetime64[D]') + 1}T15:00Z", {"EURUSD": GOOD})


def test_an_instrument_without_a_bar_is_masked_and_macro_values_stand_until_newer_ones(history: BarHistory) -> None:
    before = history.market
    history.append(history.closed_at + np.timedelta64(1, "D"), {"XAUUSD": GOOD}, {"vix": 33.0})
    now, gold = history.market, history.market.symbols.index("XAUUSD")
    assert len(now) == len(before) + 1
    assert now.valid[-1].sum() == 1
    assert now.bars[-1, gold].tolist() == list(GOOD)
    assert np.isnan(np.delete(now.bars[-1], gold, axis=0)).all()
    vix = now.macro_columns.index("vix")
    assert now.macro[-1, vix] == 33.0
    np.testing.assert_array_equal(np.delete(now.macro[-1], vix), np.delete(before.macro[-1], vix))


def test_too_few_bars_are_refused_with_the_bar_from_which_features_are_known(desk: Served) -> None:
    settings = desk.policies.settings
    enough = desk.segment.start + 2
    BarHistory(settings, desk.market.rows(0, enough)).closes()
    with pytest.raises(MarketDataError, match="a decision needs them at two closes; expected a longer history"):
        BarHistory(settings, desk.market.rows(0, enough - 1)).closes()


def test_the_last_bars_alone_give_nearly_the_same_features(desk: Served) -> None:
    """Half the history: blocks move by less than a thousandth of their spread on average."""
    settings, rows = desk.policies.settings, desk.market.rows(0, 650)
    whole, part = BarHistory(settings, rows).closes(), BarHistory(settings, rows, keep_bars=400).closes()
    assert np.abs(part.block - whole.block).mean() < 0.05
    np.testing.assert_array_equal(part.money, whole.money)


def test_a_market_in_memory_is_read_as_a_history(desk: Served) -> None:
    rows = desk.market.rows(0, 400)
    own, again = (closes_of(one, desk.policies.settings) for one in (BarHistory(desk.policies.settings, rows), rows))
    for item in fields(own):
        np.testing.assert_array_equal(getattr(own, item.name), getattr(again, item.name))
