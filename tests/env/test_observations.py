"""What agents see: named blocks that add up, inside the Box, finite on any bar."""

from __future__ import annotations

import numpy as np
import pytest

from mtquant_rllib.agents.groups import group_of
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.messages import allocation_messages, performance_reports
from mtquant_rllib.env.observations.spaces import spaces
from mtquant_rllib.env.risk_layer import RiskLayer
from mtquant_rllib.features import layout


def desk_on(settings, data, n_envs, setup=None, seed=0, bars=60):
    setup = setup or EpisodeSetup(ends_on_halt=False)
    desk = Desk(settings, data.execution, data.features, n_envs, setup, RiskLayer(settings, n_envs, setup))
    rng = np.random.default_rng(seed)
    draws = []
    for env in range(n_envs):
        segment = data.segments[int(rng.integers(len(data.segments)))]
        start = int(rng.integers(segment.start, segment.stop - bars - 1))
        draws.append(EpisodeDraw(start, start + bars, 0.3, env % 2))
    desk.reset(np.arange(n_envs), draws)
    return desk, rng


def random_bar(desk, rng):
    """A bar of random decisions; every agent's observation on the way, (B, ...)."""
    seen, n = {}, desk.n_envs
    if desk.setup.domain is None:
        seen["meta_controller"] = desk.observe_meta()
        desk.decide_meta(rng.uniform(-1, 1, (n, 4)))
    for d, domain in enumerate(desk.universe.domains):
        if desk.setup.domain in (None, d):
            seen[domain.specialist] = desk.observe_specialist(d)
            desk.decide_specialist(d, rng.uniform(-1, 1, (n, 3 * len(domain.symbols) + 1)))
    instruments = desk.observe_instruments()
    desk.decide_instruments(rng.uniform(-1, 1, (n, 8, 3)))
    for i, symbol in enumerate(desk.universe.symbols):
        seen[symbol] = instruments[:, i]
    result = desk.advance()
    return seen, result


def test_widths_are_sums_of_blocks(settings):
    assert layout.BLOCK.widths == {"price": 15, "volume": 10, "technical": 15, "momentum": 10}
    meta = layout.meta_layout(settings.universe, settings.desk.observation.returns_days)
    assert meta.widths == {"portfolio": 32, "correlation": 28, "specialists": 9, "macro": 5}
    assert meta.width == 74
    domains = [layout.domain_layout(domain, settings) for domain in settings.universe.domains]
    assert [own.width for own in domains] == [8, 6, 7]
    observation, action = spaces(settings)
    assert observation["meta_controller"].shape == (74,)
    assert observation["EURUSD"].shape == (50 + 11,)
    for domain, own, n in zip(settings.universe.domains, (8, 6, 7), (3, 2, 3)):
        assert observation[domain.specialist].shape == (own + 50 * n + 10,)
        assert action[domain.specialist].shape == (3 * n + 1,)
    assert action["meta_controller"].shape == (4,)
    assert action["US30"].shape == (3,)
    assert [group_of(settings, agent).observation.width for agent in settings.universe.agent_ids] == [
        observation[agent].shape[0] for agent in settings.universe.agent_ids
    ]


@pytest.mark.parametrize("market", ["calm", "rough", "real"])
def test_every_observation_of_thousands_of_random_bars_is_finite_and_in_its_box(settings, market, request):
    data = request.getfixturevalue(market)
    boxes, _ = spaces(settings)
    desk, rng = desk_on(settings, data, 40)
    for _ in range(60):
        seen, result = random_bar(desk, rng)
        for agent, vectors in seen.items():
            box = boxes[agent]
            assert vectors.dtype == box.dtype
            assert vectors.shape[1:] == box.shape
            assert np.isfinite(vectors).all(), agent
            assert (np.abs(vectors) <= box.high[0]).all(), agent
        assert np.isfinite(result.rewards).all()
        desk.finish(np.flatnonzero(result.terminated | result.truncated))


def test_a_real_desk_sees_the_day_oil_closed_below_zero(settings, real, real_market):
    day = int(np.searchsorted(real_market.timestamps, np.datetime64("2020-04-20")))
    setup = EpisodeSetup(ends_on_halt=False)
    desk = Desk(settings, real.execution, real.features, 64, setup, RiskLayer(settings, 64, setup))
    rng = np.random.default_rng(0)
    desk.reset(np.arange(64), [EpisodeDraw(day - 10, day + 30, 0.0, 0)] * 64)
    for _ in range(40):
        seen, result = random_bar(desk, rng)
        assert all(np.isfinite(vectors).all() and (np.abs(vectors) <= 5).all() for vectors in seen.values())
        desk.finish(np.flatnonzero(result.terminated | result.truncated))


def test_off_turn_instruments_are_flat_and_masked_in_phase_1(settings, calm):
    desk, rng = desk_on(settings, calm, 4, EpisodeSetup("differential_sharpe", 1))
    part = settings.universe.domain_slices[1]
    for _ in range(20):
        seen, _ = random_bar(desk, rng)
        for env in range(4):
            active = part.start + env % 2
            for i, symbol in enumerate(settings.universe.symbols):
                if i == active:
                    assert seen[symbol][env, :50].any()
                else:
                    assert not seen[symbol][env].any(), symbol
                    assert desk.book.units[env, i] == 0
            blocks = seen["commodities_specialist"][env, 6 : 6 + 100].reshape(2, 50)
            assert blocks[env % 2].any()
            assert not blocks[1 - env % 2].any()
    assert (desk.state.allocation[:, 1] == 0.3).all()
    assert not desk.state.allocation[:, [0, 2]].any()


def test_each_level_sees_what_the_level_above_has_just_decided(settings, calm):
    desk, rng = desk_on(settings, calm, 3)
    for _ in range(3):
        random_bar(desk, rng)
    desk.reset(np.arange(3), [EpisodeDraw(300 + k, 400, 0.0, 0) for k in range(3)])
    desk.observe_meta()
    desk.decide_meta(np.array([[1.0, 0.2, 0.0, 0.5]] * 3))
    state = layout.specialist_layout(settings.universe.domains[0], settings)["state"]
    seen = desk.observe_specialist(0)[:, state]
    np.testing.assert_allclose(seen[:, 0], desk.state.allocation[:, 0] / 0.4 * 2 - 1, rtol=1e-6)
    np.testing.assert_allclose(seen[:, 1], 0.75 - 1, rtol=1e-6)
    desk.decide_specialist(0, np.array([[1.0, 0.0, -1.0] * 3 + [0.6]] * 3))
    own = layout.instrument_layout(settings)["state"]
    private = desk.observe_instruments()[:, :3, own]
    p = np.exp([3.0, 0.0, -3.0]) / np.exp([3.0, 0.0, -3.0]).sum()
    np.testing.assert_allclose(private[:, :, 0], p[0] - p[2], rtol=1e-6)
    np.testing.assert_allclose(private[:, :, 1], 0.8 * 2 - 1, rtol=1e-6)
    allocation = np.repeat(desk.state.allocation[:, :1] / 0.4 * 2 - 1, 3, axis=1)
    np.testing.assert_allclose(private[:, :, 2], allocation, rtol=1e-6)


def test_an_instruments_private_state_by_hand(settings, calm):
    desk, rng = desk_on(settings, calm, 8)
    for _ in range(25):
        random_bar(desk, rng)
    private = desk.observe_instruments()[:, :, layout.instrument_layout(settings)["state"]]
    book = desk.book
    held = book.units != 0
    assert held.any()
    for env, i in np.argwhere(held):
        side = np.sign(book.units[env, i])
        close, atr = desk.market.close[env, i], desk.market.atr[env, i]
        rate = 1 / close if settings.universe.symbols[i] == "USDJPY" else 1.0
        expected = [
            book.units[env, i] * close * rate / book.equity[env] / 0.25,
            side * (close - book.entry[env, i]) / atr / 3,
            book.bars_held[env, i] / 20,
            side * (close - book.stop[env, i]) / atr / 5,
        ]
        np.testing.assert_allclose(private[env, i, 4:8], np.clip(expected, -5, 5), rtol=1e-5, atol=1e-6)
    assert not private[~held][:, 4:8].any()


def test_the_meta_controllers_daily_returns_and_drawdown_are_those_of_the_equity(settings, calm):
    desk, rng = desk_on(settings, calm, 5, bars=50)
    equity = [desk.book.equity.copy()]
    for _ in range(40):
        random_bar(desk, rng)
        equity.append(desk.book.equity.copy())
    path = np.array(equity)
    returns = (path[1:] / path[:-1] - 1)[-30:].T
    seen = desk.observe_meta()
    per_year = np.sqrt(calm.execution.days_per_year)
    np.testing.assert_allclose(seen[:, :30], np.clip(returns * per_year / 0.2, -5, 5), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(seen[:, 30], np.clip(returns.std(axis=1, ddof=1) * per_year / 0.2 - 1, -5, 5), rtol=1e-4)
    np.testing.assert_allclose(seen[:, 31], (1 - path[-1] / path.max(axis=0)) * 5, rtol=1e-4, atol=1e-6)


def test_before_there_is_history_the_past_is_zero(settings, calm):
    desk, _ = desk_on(settings, calm, 2)
    meta = desk.observe_meta()
    assert not meta[:, :32].any()
    assert not meta[:, 60:66].any(), "Sharpe ratios and win rates"


def test_messages_say_what_is_observed(settings, calm):
    desk, rng = desk_on(settings, calm, 3)
    for _ in range(30):
        random_bar(desk, rng)
    universe = settings.universe
    sharpe, win = desk.state.record.sharpe_ann(desk.execution.bars_per_year), desk.state.record.win_rate()
    meta = desk.observe_meta()
    for message in performance_reports(universe, 0, sharpe, win, desk.close.utilisation, envs=[0, 1, 2]):
        d = universe.specialists.index(message.sender)
        seen = meta[message.env, 60 + d : 69 : 3]
        said = [message.sharpe_ann / 3, message.win_rate_frac * 2 - 1, message.utilisation * 2 - 1]
        np.testing.assert_allclose(seen, np.clip(said, -5, 5), rtol=1e-5, atol=1e-6)
    for message in allocation_messages(universe, 0, desk.state.allocation, desk.state.appetite, envs=[0, 1, 2]):
        d = universe.specialists.index(message.receiver)
        columns = layout.specialist_layout(universe.domains[d], settings)["state"]
        state = desk.observe_specialist(d)[message.env, columns]
        said = [message.allocation_frac / 0.4 * 2 - 1, message.risk_appetite - 1]
        np.testing.assert_allclose(state[:2], said, rtol=1e-6, atol=1e-6)


def test_track_records_are_the_statistics_of_the_last_sixty_bars(settings, calm):
    desk, rng = desk_on(settings, calm, 3, bars=90)
    books = []
    for _ in range(80):
        random_bar(desk, rng)
        net = (desk.instrument_return[:, part].sum(axis=1) for part in settings.universe.domain_slices)
        books.append(np.stack(list(net), axis=1))
    last = np.array(books)[-60:]
    expected = last.mean(axis=0) / last.std(axis=0) * np.sqrt(calm.execution.bars_per_year)
    np.testing.assert_allclose(desk.state.record.sharpe_ann(calm.execution.bars_per_year), expected, rtol=1e-8)
    np.testing.assert_allclose(desk.state.record.win_rate(), (last > 0).sum(axis=0) / (last != 0).sum(axis=0))
