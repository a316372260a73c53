"""Each suspicion meets one series that it must accept and one that it must name."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from mtquant_rllib.config import Settings
from mtquant_rllib.market.alignment import BarSeries, align
from mtquant_rllib.market.checking.quality import describe, suspicions

SETTINGS = Settings.load()


def walk(symbol: str, seed: int, *, n: int = 520, daily: bool = True, gap_share: float = 0.3) -> BarSeries:
    """A random walk of bars around 1000, whose openings gap by a share of the daily deviation (1%)."""
    rng = np.random.default_rng(seed)
    gap = np.exp(0.01 * np.sqrt(gap_share) * rng.standard_normal(n))
    body = np.exp(0.01 * np.sqrt(1 - gap_share) * rng.standard_normal(n))
    close = 1000 * np.cumprod(gap * body)
    open_ = close / body
    wick = 1 + 0.003 * rng.random(n)
    bars = np.column_stack(
        [open_, np.maximum(open_, close) * wick, np.minimum(open_, close) / wick, close, 100 + rng.random(n)]
    )
    timestamps = pd.bdate_range("2018-01-01", periods=n) if daily else pd.date_range("2018-01-01", periods=n, freq="h")
    return BarSeries(symbol, np.array(timestamps, dtype="datetime64[s]"), bars, daily, "test")


def warnings_of(series: BarSeries) -> str:
    return "; ".join(suspicions(series, SETTINGS))


def test_ordinary_bars_raise_no_suspicion() -> None:
    assert suspicions(walk("NAS100", 0), SETTINGS) == ()
    assert suspicions(walk("NAS100", 0, daily=False), SETTINGS) == ()


def test_a_feed_that_hardly_moves_for_hours_is_frozen_whatever_its_volume() -> None:
    series = walk("US30", 1, daily=False)
    bars = series.bars.copy()
    bars[100:130, :4] = bars[100, 3] + np.array([0, 0.1, 0, 0.1])
    bars[100:130, 4] = 1e6
    frozen = BarSeries("US30", series.timestamps, bars, False, "test")
    assert "suspected frozen feed: 30 bars in 1 stretches between 2018-01-05 04:00" in warnings_of(frozen)


def test_a_long_hole_is_a_gap_and_a_holiday_weekend_is_none() -> None:
    series = walk("US30", 2)
    keep = np.ones(len(series), dtype=bool)
    keep[50] = False  # one day
    assert "gap" not in warnings_of(BarSeries("US30", series.timestamps[keep], series.bars[keep], True, "test"))
    keep[100:140] = False
    text = warnings_of(BarSeries("US30", series.timestamps[keep], series.bars[keep], True, "test"))
    assert "1 gap without bars, longest 59 days" in text


def test_an_unfinished_last_bar_is_pointed_out() -> None:
    series = walk("EURUSD", 3)
    bars = series.bars.copy()
    bars[-1, 4] = 10
    assert "the last bar (2019-12-27) may be unfinished: volume 10 where" in warnings_of(
        BarSeries("EURUSD", series.timestamps, bars, True, "test")
    )


def test_an_hourly_bar_that_carries_the_days_range_is_pointed_out() -> None:
    series = walk("EURUSD", 4, n=2400, daily=False)
    bars = series.bars.copy()
    for day in range(100):
        rows = slice(24 * day, 24 * day + 24)
        bars[24 * day, 1], bars[24 * day, 2] = series.bars[rows, 1].max(), series.bars[rows, 2].min()
    assert "the day's high and low, which is the future" in warnings_of(
        BarSeries("EURUSD", series.timestamps, bars, False, "test")
    )


def test_missing_volume_is_pointed_out_once_it_matters() -> None:
    series = walk("EURUSD", 5)
    bars = series.bars.copy()
    bars[:50, 4] = np.nan
    assert warnings_of(BarSeries("EURUSD", series.timestamps, bars, True, "test")) == ""
    bars[:200, 4] = np.nan
    assert "volume missing on 38%" in warnings_of(BarSeries("EURUSD", series.timestamps, bars, True, "test"))


def with_stale_opens(series: BarSeries, share: float, seed: int = 9) -> BarSeries:
    """Opens pulled to the previous close, leaving `share` of the gap."""
    bars = series.bars.copy()
    bars[1:, 0] = bars[:-1, 3] + share * (bars[1:, 0] - bars[:-1, 3])
    bars[:, 1] = np.maximum(bars[:, 1], bars[:, 0])
    bars[:, 2] = np.minimum(bars[:, 2], bars[:, 0])
    return BarSeries(series.symbol, series.timestamps, bars, True, "test")


def test_an_open_that_repeats_the_close_is_stale() -> None:
    stale = with_stale_opens(walk("NAS100", 6), share=0.0)
    assert "suspected stale opens in 2018 (100% repeat the previous close)" in warnings_of(stale)


def test_a_rounded_stale_open_is_betrayed_by_the_gap_of_a_peer() -> None:
    peer = walk("US30", 7)
    honest = BarSeries("NAS100", peer.timestamps, peer.bars * 3, True, "test")
    stale = with_stale_opens(honest, share=0.1)
    fair = describe(align([peer, honest], SETTINGS), SETTINGS)
    assert all(not one.suspected_stale_years for one in fair.instruments)
    suspect = {one.symbol: one for one in describe(align([peer, stale], SETTINGS), SETTINGS).instruments}
    assert list(suspect["NAS100"].suspected_stale_years) == [2018, 2019]
    assert "US30's gap predicts open-to-close" in suspect["NAS100"].suspected_stale_years[2018]
    assert "consider symbols.NAS100.stale_opens_until=2019-12-31" in "; ".join(suspect["NAS100"].warnings)
    assert not suspect["US30"].suspected_stale_years


def test_the_report_is_plain_data_and_fits_a_terminal() -> None:
    oil = walk("WTIUSD", 8)
    bars = oil.bars.copy()
    bars[300, :4] = [10, 11, -40, -37]
    market = align([walk("EURUSD", 9), BarSeries("WTIUSD", oil.timestamps[20:], bars[20:], True, "test")], SETTINGS)
    report = describe(market, SETTINGS)
    assert report.rows == 520
    assert report.common_rows == 500
    assert report.bars_per_year == pytest.approx(market.bars_per_year)
    wti = report.instruments[1]
    assert (wti.rows, wti.non_positive, wti.volume_proxy, wti.missing_frac) == (500, 1, True, 0)
    assert json.loads(json.dumps(report.to_dict()))["instruments"][1]["symbol"] == "WTIUSD"
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report.render())
    shown = console.export_text()
    assert "520 daily rows, 2018-01-01 .. 2019-12-27" in shown
    assert "1 bars with a non-positive price, first 2019-02-25" in shown
