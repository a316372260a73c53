"""Instruments that begin in the middle of a history: the others do not wait for them, and they are traded once they are
known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw, draw_episode
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.env.risk_layer import RiskLayer
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.features.building import build_features
from mtquant_rllib.features.cohorts import ListingCohorts
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.market.synthetic import synthesise
from mtquant_rllib.portfolio.execution_data import TRADABLE

SETTINGS = Settings.load()
GOLD = SETTINGS.universe.symbols.index("XAUUSD")
FIRST_BAR = 500


@pytest.fixture(scope="module")
def whole() -> MarketData:
    (market,) = synthesise(SETTINGS, n_paths=1, n_years=5, seed=1, variant="default").markets
    return market


def beginning_late(market: MarketData, instrument: int, first_bar: int) -> MarketData:
    bars, valid = market.bars.copy(), market.valid.copy()
    valid[:first_bar, instrument] = False
    bars[:first_bar, instrument] = np.nan
    return replace(market, bars=bars, valid=valid)


@pytest.fixture(scope="module")
def data(whole: MarketData) -> DeskData:
    return DeskData.of(SETTINGS, [beginning_late(whole, GOLD, FIRST_BAR)])


def test_instruments_of_one_month_arrive_together() -> None:
    valid = np.ones((200, 2, 4), dtype=bool)
    valid[:15, :, 1] = False
    valid[:100, 0, 2] = False
    valid[:120, 1, 2] = False
    cohorts = ListingCohorts.find(valid)
    assert cohorts.of.tolist() == [0, 0, 1, 0]
    assert [members.tolist() for members in cohorts.members] == [[0, 1, 3], [0, 1, 2, 3]]
    assert cohorts.since_the_first([0, 3])
    assert not cohorts.since_the_first([0, 2])


def test_the_others_are_traded_from_where_they_would_be_without_it(whole: MarketData, data: DeskData) -> None:
    together = DeskData.of(SETTINGS, [whole])
    others = [i for i in range(8) if i != GOLD]
    assert {data.features.warm_from[i] for i in others} == set(together.features.warm_from)
    # The block speaks from the 251st own bar.
    assert data.features.warm_from[GOLD] == FIRST_BAR + 250
    rows = slice(data.features.warmup, None)
    np.testing.assert_array_equal(data.features.block[rows, others], together.features.block[rows, others])
    assert not data.features.block[: FIRST_BAR + 250, GOLD].any()


def test_before_it_arrives_the_desk_is_that_of_the_others(whole: MarketData, data: DeskData) -> None:
    symbols = [symbol for symbol in SETTINGS.universe.symbols if symbol != "XAUUSD"]
    fewer = Settings.load(overrides=[f"market.instruments=[{', '.join(symbols)}]"])
    columns = [i for i in range(8) if i != GOLD]
    rest = replace(
        whole,
        symbols=tuple(symbols),
        bars=whole.bars[:, columns],
        valid=whole.valid[:, columns],
        stale_open=whole.stale_open[:, columns],
        volume_proxy=whole.volume_proxy[columns],
    )
    without = build_features(fewer, [rest], None)
    before = slice(data.features.warmup, FIRST_BAR)
    matrix = np.zeros((8, 8), dtype=np.int64)
    matrix[np.triu_indices(8)] = np.arange(36)
    pairs = matrix[np.ix_(columns, columns)][np.triu_indices(7)]
    np.testing.assert_array_equal(data.features.covariance[before][:, pairs], without.covariance[before])
    gold = np.setdiff1d(np.arange(36), pairs)
    assert not data.features.covariance[before][:, gold].any()
    np.testing.assert_array_equal(data.features.regime[before], without.regime[before])
    np.testing.assert_array_equal(data.features.correlation_shift[before], without.correlation_shift[before])


def test_once_everybody_is_known_nothing_of_the_history_before_is_left(whole: MarketData, data: DeskData) -> None:
    """Moments over all are those of the common rows alone; what came before filled rows that had no value."""
    common = whole.rows(FIRST_BAR, len(whole))
    alone = build_features(SETTINGS, [common], None)
    for row in (FIRST_BAR + 250, len(whole) - 1):
        np.testing.assert_allclose(data.features.correlation[row], alone.correlation[row - FIRST_BAR], atol=1e-5)


def test_nothing_of_it_is_held_before_it_is_known(data: DeskData) -> None:
    first = data.features.warm_from[GOLD]
    assert not data.execution.flags[:first, TRADABLE, GOLD].any()
    assert data.execution.flags[first:, TRADABLE, GOLD].mean() > 0.9
    setup = EpisodeSetup(ends_on_halt=False)
    desk = Desk(SETTINGS, data.execution, data.features, 1, setup, RiskLayer(SETTINGS, 1, setup))
    desk.reset(np.array([0]), [EpisodeDraw(first - 30, first + 30, 0.0, 0)])
    rng, held = np.random.default_rng(0), []
    for _ in range(60):
        for level in desk.levels:
            level.decide(np.sign(rng.uniform(-1, 1, (1, level.n_acting, level.n_actions))))
        assert (desk.state.row[0] >= first) or abs(desk.propose()[0, GOLD]) < 1e-6
        desk.advance()
        held.append(bool(desk.book.units[0, GOLD]))
    assert not any(held[:30])
    assert any(held[30:])


def test_its_own_episodes_begin_where_it_is_traded(data: DeskData) -> None:
    domain = SETTINGS.universe.domains.index(SETTINGS.universe.domain_named("commodities"))
    choices = data.instrument_segments(SETTINGS, domain)
    draws = [draw_episode(0, 0, 0, episode, choices, 100, (0.1, 0.4)) for episode in range(200)]
    own = SETTINGS.universe.domain_slices[domain]
    for draw in draws:
        assert draw.start >= data.features.warm_from[own][draw.active_instrument]
    assert {draw.active_instrument for draw in draws} == {0, 1}
    short = replace(data, segments=(replace(data.segments[0], stop=FIRST_BAR),))
    assert {one.instrument for one in short.instrument_segments(SETTINGS, domain)} == {1}
    with pytest.raises(MarketDataError, match="forex: none of its instruments is traded"):
        replace(data, segments=(replace(data.segments[0], start=0, stop=100),)).instrument_segments(SETTINGS, 0)
