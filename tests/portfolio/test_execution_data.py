"""Execution data: what a row of time says about money, on bars small enough to check by eye."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.portfolio import execution_data as channel
from mtquant_rllib.portfolio.execution_data import ExecutionData

SETTINGS = Settings.load()
SYMBOLS = SETTINGS.universe.symbols
N = len(SYMBOLS)
PRICES = np.array([1.1, 1.3, 110.0, 1800.0, 60.0, 3000.0, 8000.0, 25000.0])


def market(n_rows=8, start="2019-01-07", step=None, **change) -> MarketData:
    """Every bar the same: open and close at the price, high 1% above, low 1% below. 2019-01-07 is a Monday."""
    ohlc = PRICES[:, None] * np.array([1.0, 1.01, 0.99, 1.0])
    bars = np.concatenate((np.broadcast_to(ohlc, (n_rows, N, 4)), np.ones((n_rows, N, 1))), axis=2).copy()
    if step is None:
        timestamps = np.busday_offset(start, np.arange(n_rows), roll="forward").astype("datetime64[s]")
    else:
        timestamps = np.datetime64(start, "s") + np.arange(n_rows) * np.timedelta64(step, "s")
    whole = MarketData(
        symbols=SYMBOLS,
        timestamps=timestamps,
        bars=bars,
        valid=np.ones((n_rows, N), dtype=bool),
        macro=np.tile([2.0, 2.5], (n_rows, 1)),
        macro_columns=("rate_3m", "rate_2y"),
        stale_open=np.zeros((n_rows, N), dtype=bool),
        volume_proxy=np.zeros(N, dtype=bool),
        daily=step is None,
    )
    return replace(whole, **change)


def of(symbol: str) -> int:
    return SYMBOLS.index(symbol)


def test_a_masked_bar_repeats_the_last_good_close_and_cannot_be_traded():
    plain = market()
    valid = plain.valid.copy()
    valid[3:5, of("EURUSD")] = False
    bars = plain.bars.copy()
    bars[2, of("EURUSD"), 3] = 1.2
    bars[~valid] = np.nan
    execution = ExecutionData.build(SETTINGS, [replace(plain, bars=bars, valid=valid)])
    for row in (3, 4):
        money = execution.money[row, :, of("EURUSD")]
        for name in (channel.PREVIOUS, channel.FILL, channel.TOP, channel.BOTTOM, channel.LAST):
            assert money[name] == 1.2
        assert not execution.flags[row, channel.TRADABLE, of("EURUSD")]
    assert execution.money[5, channel.PREVIOUS, of("EURUSD")] == 1.2
    assert np.isfinite(execution.money).all()


def test_before_its_first_bar_an_instrument_has_no_price_and_its_first_bar_fills_nothing():
    plain = market()
    valid = plain.valid.copy()
    valid[:3, of("XAUUSD")] = False
    bars = plain.bars.copy()
    bars[~valid] = np.nan
    flags = ExecutionData.build(SETTINGS, [replace(plain, bars=bars, valid=valid)]).flags[:, :, of("XAUUSD")]
    assert not flags[:4, channel.TRADABLE].any(), "nobody can have decided at a price"
    assert flags[4:, channel.TRADABLE].all()


def test_a_stale_open_is_replaced_by_the_close():
    plain = market()
    stale, bars = plain.stale_open.copy(), plain.bars.copy()
    stale[4, of("SPX500")] = True
    bars[4, of("SPX500"), 3] = 3020.0
    execution = ExecutionData.build(SETTINGS, [replace(plain, bars=bars, stale_open=stale)])
    assert execution.money[4, channel.FILL, of("SPX500")] == 3020.0
    assert execution.flags[4, channel.FILLS_AT_CLOSE, of("SPX500")]


def test_a_dollar_earned_in_yen_is_converted_at_the_bars_own_rate():
    plain = market()
    bars = plain.bars.copy()
    bars[4, of("USDJPY"), :4] = [111.0, 113.0, 110.0, 112.0]
    money = ExecutionData.build(SETTINGS, [replace(plain, bars=bars)]).money[4]
    assert money[channel.FX_FILL, of("USDJPY")] == 1 / 111
    assert money[channel.FX_LAST, of("USDJPY")] == 1 / 112
    assert (np.delete(money[[channel.FX_FILL, channel.FX_LAST]], of("USDJPY"), axis=1) == 1).all()


def test_a_currency_that_nothing_converts_is_refused():
    row = SETTINGS.symbols["USDJPY"].model_copy(update={"base": "EUR"})
    settings = SETTINGS.model_copy(update={"symbols": {**SETTINGS.symbols, "USDJPY": row}})
    settings.__dict__.pop("instruments", None)
    with pytest.raises(ConfigError, match="no traded instrument converts JPY to USD"):
        ExecutionData.build(settings, [market()])


@pytest.mark.parametrize(("gap", "opens"), [(0.069, True), (0.0701, False), (-0.0701, False)])
def test_an_open_outside_the_band_refuses_openings(gap, opens):
    """NAS100's band is 7%."""
    plain = market()
    bars = plain.bars.copy()
    bars[4, of("NAS100"), :4] *= 1 + gap
    flags = ExecutionData.build(SETTINGS, [replace(plain, bars=bars)]).flags
    assert flags[4, channel.OPENING_ALLOWED, of("NAS100")] == opens
    assert flags[4, channel.TRADABLE, of("NAS100")], "closing is always possible"
    assert flags[4, channel.OPENING_ALLOWED].sum() == N - 1 + opens


@pytest.mark.parametrize(("missing", "refused"), [(0, True), (2, True), (3, False), (4, False)])
def test_a_reference_older_than_three_bars_is_no_reference(missing, refused):
    """With two bars missing the reference is three bars old and still stands; with three it is older."""
    plain = market(12)
    valid, bars = plain.valid.copy(), plain.bars.copy()
    valid[5 : 5 + missing, of("NAS100")] = False
    bars[5 + missing :, of("NAS100"), :4] *= 1.5
    bars[~valid] = np.nan
    flags = ExecutionData.build(SETTINGS, [replace(plain, bars=bars, valid=valid)]).flags
    assert flags[5 + missing, channel.OPENING_ALLOWED, of("NAS100")] != refused


def test_nothing_is_opened_on_a_price_that_is_not_positive_nor_on_the_bar_after_it():
    plain = market()
    bars = plain.bars.copy()
    bars[4, of("WTIUSD"), 2:4] = -37.0
    flags = ExecutionData.build(SETTINGS, [replace(plain, bars=bars)]).flags[:, :, of("WTIUSD")]
    assert flags[:, channel.TRADABLE][1:].all()
    # The open of row 4 was an ordinary one; at row 5 the last close is below zero.
    assert flags[4, channel.OPENING_ALLOWED]
    assert not flags[5, channel.OPENING_ALLOWED]


def test_nothing_is_opened_after_a_price_below_zero_however_long_ago_it_was():
    """Its age makes it no reference for the band, but it is still the last price there was."""
    plain = market(12)
    valid, bars = plain.valid.copy(), plain.bars.copy()
    bars[4, of("WTIUSD"), 2:4] = -37.0
    valid[5:9, of("WTIUSD")] = False
    bars[~valid] = np.nan
    flags = ExecutionData.build(SETTINGS, [replace(plain, bars=bars, valid=valid)]).flags[:, :, of("WTIUSD")]
    assert flags[9, channel.TRADABLE]
    assert not flags[9, channel.OPENING_ALLOWED]
    assert flags[10, channel.OPENING_ALLOWED]


def test_nothing_is_opened_at_a_price_below_zero_without_a_reference_to_refuse_it():
    plain = market(12)
    valid, bars = plain.valid.copy(), plain.bars.copy()
    valid[5:9, of("WTIUSD")] = False
    bars[9, of("WTIUSD"), [0, 2]] = -5.0
    bars[~valid] = np.nan
    flags = ExecutionData.build(SETTINGS, [replace(plain, bars=bars, valid=valid)]).flags[:, :, of("WTIUSD")]
    assert flags[9, channel.TRADABLE]
    assert not flags[9, channel.OPENING_ALLOWED]


def test_nights_of_a_week_by_hand():
    """Row t pays for the nights since row t - 1. Monday to Friday is one night each, the triple day three, the weekend
    none, so a week pays for seven: the triple day is Friday for indices and oil, Wednesday for currencies and gold."""
    execution = ExecutionData.build(SETTINGS, [market(8)])
    euro, index = of("EURUSD"), of("SPX500")
    rate = 2.0 + 2.5 - SETTINGS.symbols["SPX500"].financing.dividend_pct
    per_night = rate / 100 / 365
    # Mon, Tue, Wed, Thu, Fri, Mon, Tue, Wed: row 5 is the Monday after the weekend.
    nights = [0, 1, 1, 1, 1, 3, 1, 1]
    np.testing.assert_allclose(execution.money[:, channel.LONG_FINANCING, index], np.array(nights) * per_night)
    one = execution.money[1, channel.LONG_FINANCING, euro]
    np.testing.assert_allclose(execution.money[:, channel.LONG_FINANCING, euro] / one, [0, 1, 1, 3, 1, 1, 1, 1])


def test_a_long_pays_the_rate_and_the_markup_a_short_earns_the_rate_and_pays_the_markup():
    execution = ExecutionData.build(SETTINGS, [market(8)])
    row = 2
    long, short = (
        execution.money[row, channel.LONG_FINANCING] * 36500,
        execution.money[row, channel.SHORT_FINANCING] * 36500,
    )
    gold, oil, euro, yen = of("XAUUSD"), of("WTIUSD"), of("EURUSD"), of("USDJPY")
    np.testing.assert_allclose([long[gold], short[gold]], [2.0 + 1.5, -2.0 + 1.5])
    np.testing.assert_allclose([long[oil], short[oil]], [2.5, 2.5])
    policy = {currency: table[2018] for currency, table in SETTINGS.policy_rates.items() if 2018 in table}
    # The quote currency is borrowed, the base currency is held; foreign rates are last year's end's.
    np.testing.assert_allclose([long[euro], short[euro]], [2.0 - policy["EUR"] + 0.75, policy["EUR"] - 2.0 + 0.75])
    np.testing.assert_allclose([long[yen], short[yen]], [policy["JPY"] - 2.0 + 0.75, 2.0 - policy["JPY"] + 0.75])


def test_a_night_is_paid_at_the_rate_known_before_it():
    plain = market(6)
    macro = plain.macro.copy()
    macro[3:, 0] = 5.0
    long = (
        ExecutionData.build(SETTINGS, [replace(plain, macro=macro)]).money[:, channel.LONG_FINANCING, of("XAUUSD")]
        * 36500
    )
    assert long[2] == pytest.approx(3.5)
    assert long[3] == pytest.approx(3 * 3.5), "Wednesday night, decided on Wednesday"
    assert long[4] == pytest.approx(6.5)


@pytest.mark.parametrize(("start", "rollover_utc"), [("2019-01-08", 22), ("2019-07-09", 21)])
def test_hours_pay_at_five_in_new_york_and_their_spread_widens_there(start, rollover_utc):
    execution = ExecutionData.build(SETTINGS, [market(24, start=start, step=3600)])
    hours = (execution.timestamps - execution.timestamps.astype("datetime64[D]")) // np.timedelta64(3600, "s")
    paid = execution.money[:, channel.LONG_FINANCING, of("XAUUSD")] != 0
    assert hours[paid].astype(int).tolist() == [rollover_utc]
    row = SETTINGS.symbols["XAUUSD"]
    cost = execution.money[:, channel.COST, of("XAUUSD")] * 1e4
    fees = row.commission_bps + row.slippage_bps
    wide = hours.astype(int) == rollover_utc
    np.testing.assert_allclose(cost[wide], 3 * row.spread_bps / 2 + fees)
    np.testing.assert_allclose(cost[~wide], row.spread_bps / 2 + fees)
    changes = hours[1:][np.diff(execution.day) != 0].astype(int)
    assert changes.tolist() == [rollover_utc]


def test_paths_are_stacked_one_after_the_other(tmp_path):
    first, second = market(6), market(6)
    bars = second.bars * 2
    execution = ExecutionData.build(SETTINGS, [first, replace(second, bars=bars)])
    assert (execution.n_paths, execution.rows_per_path) == (2, 6)
    np.testing.assert_allclose(execution.money[6:, channel.LAST], 2 * execution.money[:6, channel.LAST])
    np.testing.assert_allclose(
        execution.money[6, channel.PREVIOUS], 2 * PRICES, err_msg="not the other path's last close"
    )
    execution.save(tmp_path)
    again = ExecutionData.open(tmp_path)
    np.testing.assert_array_equal(again.money, execution.money)
    np.testing.assert_array_equal(again.flags, execution.flags)
    assert again.bars_per_year == execution.bars_per_year
    assert not again.money.flags.writeable
