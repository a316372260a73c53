"""Circuit breakers where they act: on that open's fills, on the next open's, on the episode."""

from __future__ import annotations

import numpy as np
import pytest
from markets import stage

from mtquant_rllib.config import Settings
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.env.risk_layer import RiskLayer
from mtquant_rllib.env.trading import StepResult
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.risk.rules import Proposal

ROW = 270
FLAT = (1.0, 1.0, 1.0, 1.0)
FAR = 1e9
"""A stop that no price reaches."""


class Play:
    """A desk at `ROW` that holds `book` once the first bar, on which nothing happens, is over."""

    def __init__(self, settings, shown, book, *, ends_on_halt=False, bars=40):
        market = stage(settings, ROW, {symbol: [FLAT, *bars_] for symbol, bars_ in shown.items()})
        self.symbols = settings.universe.symbols
        data = DeskData.of(settings, [market])
        setup = EpisodeSetup(ends_on_halt=ends_on_halt)
        self.risk = RiskLayer(settings, 1, setup)
        self.desk = Desk(settings, data.execution, data.features, 1, setup, self.risk)
        self.desk.reset(np.array([0]), [EpisodeDraw(ROW, ROW + bars, 0.0, 0)])
        self.bar(book)

    def bar(self, book) -> StepResult:
        """One bar with these proposed weights; the others are kept as they are."""
        desk = self.desk
        desk.state.stop_atr[:] = FAR
        weights = desk.weight.copy()
        for symbol, weight in book.items():
            weights[0, self.symbols.index(symbol)] = weight
        return desk.advance_with_weights(weights)

    def units(self, symbol: str) -> float:
        return float(self.desk.book.units[0, self.symbols.index(symbol)])

    @property
    def fired(self) -> list[int]:
        return self.risk.breakers.n_triggers[0].tolist()


def gap(multiple: float) -> tuple[float, float, float, float]:
    return (multiple,) * 4


def slide(multiple: float) -> tuple[float, float, float, float]:
    return (1.0, 1.0, multiple, multiple)


def test_level_1_at_the_open_halves_the_positions_at_that_open(settings):
    """Half of what they were at the open, wherever the bar goes from there."""
    play = Play(settings, {"NAS100": [(0.91, 1.1, 0.91, 1.1)]}, {"NAS100": 0.6, "EURUSD": 0.3})
    nas, euro = play.units("NAS100"), play.units("EURUSD")
    play.bar({})
    assert play.fired == [1, 0, 0, 0]
    lot = 0.1
    assert 0.5 * nas - lot < play.units("NAS100") <= 0.5 * nas
    assert 0.5 * euro - 1000 <= play.units("EURUSD") <= 0.5 * euro
    before = play.units("NAS100")
    play.bar({"NAS100": 0.6})
    assert play.units("NAS100") > 1.1 * before, "the cap lasts for one bar's fills"
    assert play.fired == [1, 0, 0, 0], "once per crossing"


def test_level_1_at_the_close_halves_at_the_next_open(settings):
    play = Play(settings, {"NAS100": [slide(0.91), FLAT]}, {"NAS100": 0.6})
    nas = play.units("NAS100")
    play.bar({})
    assert play.fired == [1, 0, 0, 0]
    assert play.units("NAS100") == nas
    play.bar({"NAS100": 0.6})
    assert 0.5 * nas - 0.1 < play.units("NAS100") <= 0.5 * nas
    play.bar({"NAS100": 0.6})
    assert play.units("NAS100") > 0.5 * nas


def test_level_2_allows_no_increase_for_three_bars_and_closes_until_var_is_half_its_limit(settings):
    play = Play(settings, {"NAS100": [gap(0.82)]}, {"NAS100": 0.6, "EURUSD": 0.2})
    desk = play.desk
    covariance = desk.market.covariance
    play.bar({"NAS100": 0.6, "XAUUSD": 0.2})
    assert play.fired == [1, 1, 0, 0]
    assert play.units("EURUSD") > 0
    weights = desk.weights_now()
    measured = play.risk.manager.measure(
        Proposal(weights, weights, np.ones_like(weights, bool), covariance, desk.market.correlation, desk.book.equity)
    )
    assert measured["var"][0] <= 0.5 * settings.portfolio_risk.max_portfolio_var
    gold = [play.units("XAUUSD")]
    for _ in range(3):
        play.bar({"XAUUSD": 0.2})
        gold.append(play.units("XAUUSD"))
    # The open of the trigger is the first of the three bars.
    assert gold[:3] == [0, 0, 0]
    assert gold[3] > 0


def test_level_2_at_the_close_closes_the_riskiest_at_the_next_open(settings):
    """Half of the index is still more than half of the VaR limit: it goes as a whole; the euro may stay."""
    play = Play(settings, {"NAS100": [slide(0.82)]}, {"NAS100": 0.6, "EURUSD": 0.2})
    play.bar({})
    assert play.fired == [1, 1, 0, 0]
    assert play.units("NAS100") > 0
    play.bar({})
    assert play.units("NAS100") == 0
    assert play.units("EURUSD") > 0


@pytest.mark.slow
def test_a_margin_call_closes_the_largest_user_as_a_whole(settings):
    """Short oil at 3.1 times its price has eaten all but a few per cent of equity. Breakers are out of the way here."""
    levels = [f"risk.breakers.level_{k}.loss_frac={0.95 + 0.01 * k}" for k in range(1, 5)]
    loose = [
        "portfolio_risk.max_portfolio_var=0.9",
        "portfolio_risk.max_sector_allocation=1",
    ]
    play = Play(Settings.load(overrides=levels + loose), {"WTIUSD": [slide(3.09)]}, {"WTIUSD": -0.45, "EURUSD": 0.02})
    play.bar({})
    equity = play.desk.book.equity[0]
    assert play.fired == [0, 0, 0, 0]
    assert play.units("WTIUSD") < 0
    used = abs(play.desk.weight[0, play.symbols.index("WTIUSD")]) * 0.10
    assert equity > 0
    assert used > 2, "equity under half of the margin in use"
    play.bar({})
    assert play.units("WTIUSD") == 0
    assert play.units("EURUSD") > 0


@pytest.mark.slow
def test_level_3_at_the_open_flattens_there_and_ends_a_training_episode(settings):
    play = Play(settings, {"NAS100": [gap(0.74)]}, {"NAS100": 0.6, "EURUSD": 0.3}, ends_on_halt=True)
    result = play.bar({"EURUSD": 0.5})
    assert play.fired == [1, 1, 1, 0]
    assert not play.desk.book.units.any()
    assert result.terminated[0]
    assert not result.truncated[0]


def test_level_3_at_the_close_ends_a_training_episode_after_the_flattening_fill(settings):
    play = Play(settings, {"NAS100": [slide(0.74), gap(0.73)]}, {"NAS100": 0.6}, ends_on_halt=True)
    first = play.bar({})
    assert play.fired == [1, 1, 1, 0]
    assert play.units("NAS100") > 0
    assert not first.terminated[0]
    equity = play.desk.book.equity[0]
    second = play.bar({"NAS100": 0.6})
    assert not play.desk.book.units.any()
    assert second.terminated[0]
    assert play.desk.book.equity[0] < equity, "the flattening fill is paid for"


def test_an_evaluation_carries_on_the_next_day_and_counts_it(settings):
    play = Play(settings, {"NAS100": [slide(0.74)]}, {"NAS100": 0.6})
    units = []
    for _ in range(5):
        result = play.bar({"NAS100": 0.6})
        assert not result.terminated[0]
        units.append(play.units("NAS100"))
    breakers = play.risk.breakers
    assert units[0] > 0
    assert units[1] == 0, "flattened at the open after the trigger"
    assert units[4] > 0, "trading again"
    assert breakers.n_releases[0] == 1
    assert breakers.latched[0] == 0


def test_without_a_reset_an_evaluation_stays_flat(settings):
    settings = settings.model_copy(
        update={
            "desk": settings.desk.model_copy(
                update={"episode": settings.desk.episode.model_copy(update={"breaker_reset": "never"})}
            )
        }
    )
    play = Play(settings, {"NAS100": [slide(0.74)]}, {"NAS100": 0.6})
    for _ in range(6):
        play.bar({"NAS100": 0.6})
    assert play.units("NAS100") == 0
    assert play.risk.breakers.n_releases[0] == 0


def test_a_debt_at_the_open_is_closed_out_at_that_open_and_stays_on_record(settings):
    """Oil opens at minus 90 with equity gone, and is back at its old price by the close: nobody is left to see it."""
    play = Play(settings, {"WTIUSD": [(-1.5, 1.0, -1.5, 1.0)]}, {"WTIUSD": 0.7}, ends_on_halt=True)
    weight = play.desk.weights_now()[0, play.symbols.index("WTIUSD")]
    result = play.bar({})
    assert play.fired == [1, 1, 1, 1]
    assert not play.desk.book.units.any()
    assert play.desk.book.equity[0] == pytest.approx(100_000 * (1 - weight * 2.5), abs=300)
    assert play.desk.book.equity[0] < 0
    assert result.terminated[0]
    debt = play.desk.book.equity[0]
    play.desk.finish(np.array([0]))
    play.bar({})
    assert play.desk.book.equity[0] == debt
    assert play.desk.state.row[0] == ROW + 2


@pytest.mark.slow
def test_a_bankruptcy_at_the_close_terminates_with_the_debt(settings):
    play = Play(settings, {"WTIUSD": [(1.0, 1.0, -1.5, -1.5)]}, {"WTIUSD": 0.7})
    result = play.bar({})
    assert result.terminated[0]
    assert play.desk.book.equity[0] < 0
    assert result.portfolio_return[0] < -1
    assert np.isfinite(result.rewards).all()
    for agent_view in (play.desk.observe_meta(), play.desk.observe_instruments(), play.desk.observe_specialist(1)):
        assert np.isfinite(agent_view).all()


def test_no_money_follows_a_weight_that_is_no_number(settings):
    play = Play(settings, {}, {"NAS100": 0.3})
    with pytest.raises(MtquantError, match="NAS100 in environment 0"):
        play.bar({"NAS100": float("nan")})


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_equal_weights_through_the_day_oil_closed_below_zero(settings, real_market, real, training):
    """One eighth in each loses a third of everything on 2020-04-20: level 4, and out at the next open."""
    # Limits of VaR and correlation would have made the book smaller beforehand.
    limits = settings.portfolio_risk.model_copy(update={"max_portfolio_var": 0.5, "max_correlation_exposure": 1.0})
    settings = settings.model_copy(update={"portfolio_risk": limits})
    day = int(np.searchsorted(real_market.timestamps, np.datetime64("2020-04-20")))
    setup = EpisodeSetup(ends_on_halt=training)
    risk = RiskLayer(settings, 1, setup)
    desk = Desk(settings, real.execution, real.features, 1, setup, risk)
    desk.reset(np.array([0]), [EpisodeDraw(day - 2, day + 30, 0.0, 0)])
    equity, levels = [], []
    for _ in range(10):
        desk.state.stop_atr[:] = FAR
        result = desk.advance_with_weights(
            np.full((1, 8), 1 / 8) if desk.state.row[0] < day - 1 else desk.weight.copy()
        )
        equity.append(float(desk.book.equity[0]))
        levels.append(int(risk.breakers.latched[0]))
        if result.terminated[0]:
            break
    before, on_the_day = equity[0], equity[1]
    assert -0.45 < on_the_day / before - 1 < -0.30
    assert levels[1] == 4
    assert not desk.book.units.any()
    assert len(equity) == (3 if training else 10)
    assert risk.breakers.n_triggers[0].tolist() == [1, 1, 1, 1]
    if not training:
        assert risk.breakers.n_releases[0] == 1
