"""Single bars by hand: the order in which the rules of a bar apply."""

from __future__ import annotations

import numpy as np
import pytest
from markets import stage

from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.portfolio import execution_data as channel

ROW = 270
FLAT = (1.0, 1.0, 1.0, 1.0)


class Play:
    """A desk without limits on a stage where only `symbol` moves: bars as multiples of its close at `ROW`."""

    def __init__(self, settings, symbol, bars):
        self.i = settings.universe.symbols.index(symbol)
        data = DeskData.of(settings, [stage(settings, ROW, {symbol: bars})])
        self.desk = Desk(settings, data.execution, data.features, 1, EpisodeSetup())
        self.desk.reset(np.array([0]), [EpisodeDraw(ROW, ROW + 30, 0.0, 0)])
        self.price = self.desk.market.close[0, self.i]

    def bar(self, weight, stop=1e6):
        """One bar at this weight (None: as it is), the stop `stop` times the price of the beginning away."""
        desk = self.desk
        desk.state.stop_atr = np.full((1, 8), stop * self.price / desk.market.atr[0, self.i])
        weights = desk.weight.copy()
        if weight is not None:
            weights[0, self.i] = weight
        desk.advance_with_weights(weights)
        return self.units

    @property
    def units(self):
        return float(self.desk.book.units[0, self.i])

    @property
    def stop(self):
        return float(self.desk.book.stop[0, self.i]) / self.price

    @property
    def pnl(self):
        return float(self.desk.book.pnl_ccy[0, self.i])


def test_an_order_fills_at_the_open_and_earns_the_day(settings):
    play = Play(settings, "NAS100", [(1.01, 1.03, 1.0, 1.02)])
    units = play.bar(0.4)
    assert play.pnl == pytest.approx(units * 0.01 * play.price), "not the gap"
    assert play.desk.book.entry[0, play.i] == pytest.approx(1.01 * play.price)


def test_a_new_positions_stop_hangs_on_its_fill_and_can_be_hit_on_that_bar(settings):
    play = Play(settings, "NAS100", [(1.01, 1.01, 0.97, 1.0)])
    assert play.bar(0.4, stop=0.03) == 0
    units = -play.pnl / (0.03 * play.price)
    assert units * play.price == pytest.approx(40_000, rel=0.01)


def test_the_stop_trails_the_close_and_not_the_high(settings):
    play = Play(settings, "NAS100", [FLAT, (1.0, 1.2, 1.0, 1.05), (1.05, 1.05, 1.04, 1.05), (1.05, 1.05, 1.03, 1.05)])
    play.bar(0.4, stop=0.03)
    assert play.stop == pytest.approx(0.97)
    play.bar(None, stop=0.03)
    assert play.stop == pytest.approx(0.97), "the level of this bar was fixed at the close before it"
    play.bar(None, stop=0.03)
    assert play.stop == pytest.approx(1.02)
    assert play.units > 0
    play.bar(None, stop=0.5)
    assert play.stop == pytest.approx(1.02), "never loosened"


@pytest.mark.slow
def test_an_addition_does_not_loosen_the_stop_and_a_flip_resets_it(settings):
    play = Play(settings, "NAS100", [FLAT, FLAT, (1.02, 1.02, 1.02, 1.02), (1.02, 1.02, 1.02, 1.02)])
    play.bar(0.2, stop=0.03)
    play.bar(0.4, stop=0.2)
    assert play.stop == pytest.approx(0.97)
    play.bar(-0.2, stop=0.05)
    assert play.units < 0
    assert play.stop == pytest.approx(1.07)


def test_an_open_beyond_the_stop_is_out_at_the_open_and_cancels_orders_on_its_side(settings):
    play = Play(settings, "NAS100", [FLAT, (0.95, 1.0, 0.95, 1.0)])
    units = play.bar(0.4, stop=0.03)
    assert play.bar(0.6, stop=0.03) == 0
    assert play.pnl == pytest.approx(-0.05 * units * play.price), "not the stop, which it jumped"


def test_an_order_to_the_other_side_survives_the_stop(settings):
    play = Play(settings, "NAS100", [FLAT, (0.95, 0.95, 0.9, 0.92)])
    long = play.bar(0.4, stop=0.03)
    short = play.bar(-0.2, stop=0.5)
    assert short < 0
    assert play.pnl == pytest.approx((-0.05 * long - 0.03 * short) * play.price)


def test_orders_fill_before_the_stop_inside_the_bar(settings):
    """Sold down at the open, the rest is stopped on the way down."""
    play = Play(settings, "NAS100", [FLAT, (1.0, 1.0, 0.9, 0.95)])
    play.bar(0.4, stop=0.03)
    assert play.bar(0.1, stop=0.03) == 0
    left = -play.pnl / (0.03 * play.price) * play.price
    assert left == pytest.approx(10_000, rel=0.05)
    # Sold 30,000 at the open and 10,000 at the stop.
    assert play.desk.book.traded_ccy[0, play.i] == pytest.approx(40_000 - left + 0.97 * left, rel=0.02)


def test_a_stopped_side_can_be_taken_again_at_the_next_open(settings):
    play = Play(settings, "NAS100", [FLAT, (0.95, 0.95, 0.95, 0.95), (0.95, 0.95, 0.95, 0.95)])
    play.bar(0.4, stop=0.03)
    assert play.bar(0.4, stop=0.03) == 0
    assert play.bar(0.4, stop=0.03) > 0


def test_a_flip_outside_the_band_closes_and_does_not_open(settings):
    play = Play(settings, "NAS100", [FLAT, (1.1, 1.1, 1.1, 1.1)])
    play.bar(0.4)
    assert play.bar(-0.4) == 0


def test_a_reduction_outside_the_band_goes_through_and_an_addition_does_not(settings):
    play = Play(settings, "NAS100", [FLAT, (1.1,) * 4, (1.25,) * 4])
    units = play.bar(0.4)
    assert play.bar(0.6) == units
    assert 0 < play.bar(0.2) < units


def test_a_long_dollar_yen_earns_its_dollar_notional_at_the_bars_own_rates(settings):
    """Gap and day are settled at their own rates: (P1 - P0) / P1 each."""
    play = Play(settings, "USDJPY", [FLAT, (1.01, 1.02, 1.01, 1.02)])
    units = play.bar(0.5)
    assert units == pytest.approx(50_000, abs=1000)
    play.bar(None)
    assert play.pnl == pytest.approx(units * (0.01 / 1.01 + 0.01 / 1.02))


def test_the_night_is_paid_on_the_old_book(settings):
    """What is sold at the open has been held through the night; what is bought there has not."""
    play = Play(settings, "XAUUSD", [FLAT] * 6)
    play.bar(0.5)
    assert play.desk.book.financing_ccy[0, play.i] == 0
    value = play.units * play.price
    play.bar(0.0)
    assert play.units == 0
    execution = play.desk.execution.money[ROW + 2]
    assert play.desk.book.financing_ccy[0, play.i] == pytest.approx(value * execution[channel.LONG_FINANCING, play.i])
    play.bar(0.0)
    assert play.desk.book.financing_ccy[0, play.i] == 0
