"""The past returns of a historical VaR rule: which days they are, on full, holed and hourly bars, and that none is
later than its row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from test_moments import common_returns

from mtquant_rllib.config import Settings
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.env.prepared.rows import MarketRows
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.features.building import build_features, content_hash
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.risk.past_returns import PastReturns
from mtquant_rllib.risk.var import at_present_volatility

Walk = Callable[..., MarketData]
DAYS, AT_LEAST = 120, 60


def chosen(method: str = "historical", days: int = DAYS) -> Settings:
    numbers = [f"risk.var_methods.history_days={days}", f"risk.var_methods.history_min_days={AT_LEAST}"]
    return Settings.load(overrides=[f"risk.var_method={method}", *numbers])


def past_at(data: DeskData, row: int) -> PastReturns:
    past = MarketRows(data.execution, data.features).at(np.array([row])).past
    assert past is not None
    return past


def window(past: PastReturns) -> np.ndarray:
    """(S, n): the days of the one environment."""
    first, stop = past.days[0]
    return past.returns[first:stop] * (1.0 if past.scale is None else past.scale[0])


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_they_are_the_last_days_on_which_all_instruments_have_bars(walk: Walk, masked: bool) -> None:
    markets = [walk(500, seed=seed, masked=masked) for seed in (1, 2)]
    data = DeskData.of(chosen(), markets)
    for path, market in enumerate(markets):
        rows, returns = common_returns(market)
        for row in (400, 451, 499):
            known = returns[rows <= row][-DAYS:]
            np.testing.assert_allclose(window(past_at(data, 500 * path + row)), known, atol=1e-12)


def test_filtered_ones_are_scaled_from_their_days_volatility_to_the_next_days(walk: Walk) -> None:
    market = walk(500, seed=3)
    settings = chosen("historical_volatility_filtered")
    data = DeskData.of(settings, [market])
    rows, returns = common_returns(market)
    expected = at_present_volatility(returns[rows <= 450], settings.risk.var_methods.volatility_decay)
    # Beyond some days the decay has forgotten how each of the two began.
    np.testing.assert_allclose(window(past_at(data, 450)), expected[-DAYS:], rtol=1e-6, atol=1e-9)


def test_a_day_of_hours_counts_when_it_is_over(walk: Walk) -> None:
    market = walk(3000, seed=6, hourly=True)
    data = DeskData.of(chosen(), [market])
    days, counts = data.execution.day, data.features.past_days[:, 1]
    row = int(np.flatnonzero(days[1:] != days[:-1])[-3]) + 1
    assert counts[row] == counts[row - 1] + 1
    assert counts[row + 1] == counts[row], "the day that begins here is not over"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["historical", "historical_volatility_filtered"])
@pytest.mark.parametrize("t", [320, 400, 431])
def test_no_row_has_a_return_of_a_later_day(
    walk: Walk, scramble: Callable[..., MarketData], method: str, t: int
) -> None:
    market = walk(500, seed=4, masked=True)
    settings = chosen(method)
    before, after = (DeskData.of(settings, [one]) for one in (market, scramble(market, t, 6)))
    for row in range(before.features.warmup, t + 1):
        assert window(past_at(before, row)).tobytes() == window(past_at(after, row)).tobytes(), row
    assert window(past_at(before, 499)).tobytes() != window(past_at(after, 499)).tobytes()


def test_days_before_an_instrument_began_are_left_out_once_it_has_enough_of_its_own(walk: Walk) -> None:
    market = walk(900, seed=5)
    bars, valid = market.bars.copy(), market.valid.copy()
    valid[:300, 3], bars[:300, 3] = False, np.nan
    late = replace(market, bars=bars, valid=valid)
    data = DeskData.of(chosen(days=500), [late])
    table = data.features
    # Bars from row 300 on: the first return is that of row 301, and the sixtieth that of row 360.
    assert len(window(past_at(data, 359))) == 359
    assert (window(past_at(data, 359))[:300, 3] == 0).all()
    assert len(window(past_at(data, 360))) == 60
    assert (window(past_at(data, 360))[:, 3] != 0).all()
    assert table.warm_from[3] > 360
    assert table.warm_from[0] < 320


@pytest.mark.slow
def test_nothing_is_traded_before_there_are_enough_days(walk: Walk) -> None:
    market = walk(500, seed=1)
    early = build_features(chosen(), [market], None).warmup
    numbers = ["risk.var_methods.history_min_days=400", "risk.var_method=historical"]
    assert early < 400 == build_features(Settings.load(overrides=numbers), [market], None).warmup
    with pytest.raises(MarketDataError, match="past returns is not defined"):
        build_features(Settings.load(overrides=numbers), [market.rows(0, 390)], None)


@pytest.mark.slow
def test_a_market_without_them_is_what_it_was_and_each_choice_has_a_name_of_its_own(walk: Walk) -> None:
    market = walk(400, seed=1)
    default = build_features(Settings.load(), [market], None)
    assert default.past_returns is default.past_days is default.past_scale is None
    table = build_features(chosen(), [market], None)
    for name in ("block", "context", "sizing", "regime"):
        assert getattr(default, name).tobytes() == getattr(table, name).tobytes()
    lines = (
        [],
        ["risk.var_method=historical"],
        ["risk.var_method=historical_volatility_filtered"],
        ["risk.var_method=historical", "risk.var_methods.history_days=300"],
        ["risk.var_method=historical_volatility_filtered", "risk.var_methods.volatility_decay=0.97"],
    )
    assert len({content_hash(Settings.load(overrides=line), [market]) for line in lines}) == len(lines)
    same = (["risk.var_method=monte_carlo_normal"], ["risk.var_methods.history_days=300"], [])
    assert len({content_hash(Settings.load(overrides=line), [market]) for line in same}) == 1


@pytest.mark.slow
def test_they_travel_with_a_prepared_folder(walk: Walk, tmp_path) -> None:
    market = walk(400, seed=2)
    settings = chosen("historical_volatility_filtered")
    stored = build_features(settings, [market], tmp_path)
    memory = build_features(settings, [market], None)
    for name in ("past_returns", "past_days", "past_scale"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(memory, name))
