"""Splits never share a row, keep their gaps, and walk-forward tests tile the end of history."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.market.splits import cut, time_splits

SETTINGS = Settings.load()


def market_on(timestamps: np.ndarray, daily: bool) -> MarketData:
    n = len(timestamps)
    return MarketData(
        symbols=("EURUSD",),
        timestamps=timestamps.astype("datetime64[s]"),
        bars=np.ones((n, 1, 5)),
        valid=np.ones((n, 1), dtype=bool),
        macro=np.empty((n, 0)),
        macro_columns=(),
        stale_open=np.zeros((n, 1), dtype=bool),
        volume_proxy=np.zeros(1, dtype=bool),
        daily=daily,
    )


def test_daily_bars_are_cut_at_the_configured_dates_with_purge_and_embargo() -> None:
    days = np.array(pd.bdate_range("2005-01-03", "2022-12-30"), dtype="datetime64[D]")
    market = market_on(days, daily=True)
    splits = time_splits(market, SETTINGS.market.splits)
    assert list(splits) == ["train", "validation", "test"]
    train, validation, test = splits.values()
    assert train.start == 0
    # One row is purged before a cut: of 2014 everything but the last day.
    assert str(days[train.stop - 1]) == "2014-12-30"
    assert days[validation.start] == days[np.searchsorted(days, np.datetime64("2015-01-01")) + 20]
    assert str(days[validation.stop - 1]) == "2016-12-29"
    assert days[test.start] == days[np.searchsorted(days, np.datetime64("2017-01-01")) + 20]
    assert test.stop == len(days)
    assert test.of(market).timestamps[0] == market.timestamps[test.start]


@pytest.mark.parametrize(("daily", "start"), [(True, "2016-06-01"), (False, "2005-01-03")])
def test_other_spans_and_intraday_bars_are_cut_by_fractions(daily: bool, start: str) -> None:
    days = np.array(pd.bdate_range(start, periods=1000), dtype="datetime64[D]")
    splits = time_splits(market_on(days, daily), SETTINGS.market.splits)
    assert [(s.start, s.stop) for s in splits.values()] == [(0, 649), (670, 779), (800, 1000)]


def test_a_history_too_short_for_its_gaps_is_refused() -> None:
    days = np.array(pd.bdate_range("2005-01-03", periods=60), dtype="datetime64[D]")
    with pytest.raises(MarketDataError, match=r"split validation: .* embargo 20; accepted: more bars"):
        time_splits(market_on(days, True), SETTINGS.market.splits)


@given(st.integers(30, 200), st.integers(30, 200), st.integers(30, 200), st.integers(0, 5), st.integers(0, 20))
def test_splits_do_not_overlap_and_respect_the_gap(a: int, b: int, c: int, purge: int, embargo: int) -> None:
    train, validation, test = cut((0, a, a + b, a + b + c), purge, embargo)
    assert validation.start - train.stop == purge + embargo
    assert test.start - validation.stop == purge + embargo
    assert train.start == 0
    assert test.stop == a + b + c
    assert min(len(train), len(validation), len(test)) > 0
