"""Rewards by the textbook and by hand."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.training import Reward
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.rewards import terms as rewards
from mtquant_rllib.env.risk_layer import RiskLayer

SETTINGS = Settings.load()
CONFIG = SETTINGS.rewards.differential_sharpe
ONE = np.array([0])


def textbook(z, a, b, eta=1 / 252):
    """Moody & Saffell: the derivative of the moving Sharpe ratio, then the moving averages take the return in."""
    d_a, d_b = z - a, z * z - b
    value = (b * d_a - a * d_b / 2) / max(b - a * a, 0.25) ** 1.5
    return float(np.clip(value, -10, 10)), a + eta * d_a, b + eta * d_b


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=60))
def test_the_differential_sharpe_ratio_is_the_textbook_recursion(stream):
    sharpe = rewards.DifferentialSharpe(1, 1, CONFIG)
    a, b = 0.0, 1.0
    for z in stream:
        wanted, a, b = textbook(z, a, b)
        assert sharpe.step(np.array([[z]]))[0, 0] == pytest.approx(wanted, rel=1e-12, abs=1e-12)
        assert sharpe.mean[0, 0] == pytest.approx(a, abs=1e-12)
        assert sharpe.square[0, 0] == pytest.approx(b)


def test_the_first_reward_is_the_return_itself():
    """At A = 0 and B = 1 the ratio's derivative is 1: a one-sigma bar earns 1, and nothing explodes."""
    first = rewards.DifferentialSharpe(1, 3, CONFIG).step(np.array([[1.0, -0.5, 228.0]]))
    np.testing.assert_allclose(first, [[1.0, -0.5, 10.0]])


def test_the_sum_of_rewards_follows_the_sharpe_ratio():
    """The differentials add up to the change of the moving Sharpe ratio, times 1 / eta, to first order."""
    rng = np.random.default_rng(0)
    sharpe = rewards.DifferentialSharpe(1, 1, CONFIG)
    total = sum(sharpe.step(np.array([[z]]))[0, 0] for z in rng.normal(0.1, 1.0, 400))
    ratio = sharpe.mean[0, 0] / np.sqrt(sharpe.square[0, 0] - sharpe.mean[0, 0] ** 2)
    assert total / 252 == pytest.approx(ratio, abs=0.03)


def test_only_a_new_maximum_of_the_drawdown_counts():
    """100, 90, 95, 85.5, 110, 100: the maximum is 10% after one fall, 14.5% after the second; the third is less."""
    values = np.array([100, 90, 95, 85.5, 110, 100])
    drawdown = rewards.MaximumDrawdown(1, 1)
    increments = [drawdown.step(np.array([[r]]))[0, 0] for r in values[1:] / values[:-1] - 1]
    np.testing.assert_allclose(increments, [0.10, 0.0, 0.045, 0.0, 0.0], atol=1e-12)
    assert drawdown.maximum[0, 0] == pytest.approx(0.145)
    assert drawdown.current[0, 0] == pytest.approx(1 - 100 / 110)


def test_only_the_loss_beyond_the_forecast_counts():
    excess = rewards.var_excess(np.array([-0.03, -0.01, 0.05]), np.array([0.02, 0.02, 0.02]))
    np.testing.assert_allclose(excess, [0.01, 0.0, 0.0])


def play(settings, data, setup, bars, draw=None, limited=True):
    """Random decisions; yields the desk and its result after each bar."""
    rng = np.random.default_rng(0)
    start = data.segments[0].start
    desk = Desk(settings, data.execution, data.features, 1, setup, RiskLayer(settings, 1, setup) if limited else None)
    desk.reset(ONE, [draw or EpisodeDraw(start, start + bars, 0.0, 0)])
    for _ in range(bars):
        if setup.domain is None and desk.meta_is_due[0]:
            desk.decide_meta(rng.uniform(-1, 1, (1, 4)))
        for d, domain in enumerate(desk.universe.domains):
            if setup.domain in (None, d):
                desk.decide_specialist(d, rng.uniform(-1, 1, (1, 3 * len(domain.symbols) + 1)))
        desk.decide_instruments(rng.uniform(-1, 1, (1, 8, 3)))
        yield desk, desk.advance()


def test_phase_1_rewards_by_hand(settings, calm):
    """An instrument's return over the deviation it was sized for; its specialist's book is that one instrument."""
    n_bars, allocation = 60, 0.24
    start = calm.segments[0].start
    draw = EpisodeDraw(start, start + n_bars, allocation, active_instrument=1)
    symbol = 6
    a, b, a_book, b_book = 0.0, 1.0, 0.0, 1.0
    per_year = calm.execution.bars_per_year_of[symbol]
    moved = 0
    equity = 100_000.0
    for desk, result in play(settings, calm, EpisodeSetup("differential_sharpe", 2), n_bars, draw):
        book = desk.book
        net = (book.pnl_ccy - book.cost_ccy - book.financing_ccy)[0]
        assert not np.delete(net, symbol).any(), "inactive instruments are flat"
        r, equity = net[symbol] / equity, book.equity[0]
        wanted, a, b = textbook(r / (allocation / 3 * 0.20 / np.sqrt(per_year)), a, b)
        assert result.rewards[0, 4 + symbol] == pytest.approx(wanted, rel=1e-9, abs=1e-9)
        z = r / (allocation / 3 * 0.20 / np.sqrt(calm.execution.bars_per_year))
        wanted, a_book, b_book = textbook(z, a_book, b_book)
        assert result.rewards[0, 3] == pytest.approx(wanted, rel=1e-9, abs=1e-9)
        moved += r != 0
        assert desk.state.appetite[0] == 1.0
    assert moved > 30
    # What makes the reward a function of the state is observed.
    seen = desk.observe_instruments()[0, symbol, -2:]
    np.testing.assert_allclose(seen, np.clip([a / 0.2, b - 1], -5, 5), rtol=1e-6)


def test_phase_2_rewards_the_portfolio_in_units_of_the_targets_volatility(settings, calm):
    a, b, equity = 0.0, 1.0, 100_000.0
    for desk, result in play(settings, calm, EpisodeSetup("differential_sharpe"), 40):
        r, equity = desk.book.equity[0] / equity - 1, desk.book.equity[0]
        wanted, a, b = textbook(r / (0.20 / np.sqrt(calm.execution.bars_per_year)), a, b)
        assert result.rewards[0, 0] == pytest.approx(wanted, rel=1e-7, abs=1e-9)


@pytest.mark.slow
def test_phase_3_rewards_by_hand(settings, rough):
    """Half the own book, half the desk: return less a fifth of any new maximum drawdown, less what risk had to change,
    and for the desk less a tenth of the loss beyond its VaR forecast."""
    sigma = 0.20 / np.sqrt(rough.execution.bars_per_year)
    domain_of = np.array(settings.universe.domain_of)
    value, peak, worst = np.ones(12), np.ones(12), np.zeros(12)
    before, excesses, edits_seen = 100_000.0, 0, 0
    for desk, result in play(settings, rough, EpisodeSetup(ends_on_halt=False), 250):
        book = desk.book
        of_instruments = (book.pnl_ccy - book.cost_ccy - book.financing_ccy)[0] / before
        of_domains = [of_instruments[domain_of == d].sum() for d in range(3)]
        returns = np.array([of_instruments.sum(), *of_domains, *of_instruments])
        before = book.equity[0]
        value *= 1 + returns
        peak = np.maximum(peak, value)
        drawdown = np.maximum(worst, 1 - value / peak)
        increment, worst = drawdown - worst, drawdown
        cut = np.where(desk.risk.rule != 0, np.abs(desk.proposed - desk.ordered), 0.0)[0]
        edits = np.array([cut.sum(), *(cut[domain_of == d].sum() for d in range(3)), *cut])
        own = (returns - 0.2 * increment - 1e-4 * edits) / sigma
        excess = max(0.0, -returns[0] - desk.risk.var_forecast()[0])
        own[0] -= 0.1 * excess / sigma
        np.testing.assert_allclose(result.rewards[0], 0.5 * own + 0.5 * own[0], rtol=1e-6, atol=1e-9)
        excesses += excess > 0
        edits_seen += edits[0] > 0
    assert excesses > 0
    assert edits_seen > 0


def test_a_loss_is_never_rewarded_and_a_gain_always_is(settings, calm):
    for desk, result in play(settings, calm, EpisodeSetup("differential_sharpe"), 30):
        if abs(desk.portfolio_return[0]) > 0.5 * desk.reward.sigma_target:
            assert np.sign(result.rewards[0, 0]) == np.sign(desk.portfolio_return[0])


@pytest.mark.parametrize("reward", get_args(Reward))
def test_a_desk_without_any_capital_earns_numbers(calm, reward):
    """Also where the settings let shares and appetites go to zero without a snap."""
    settings = Settings.load(overrides=["desk.decision.dead_band=0"])
    start = calm.segments[0].start
    desk = Desk(
        settings, calm.execution, calm.features, 1, EpisodeSetup(reward), RiskLayer(settings, 1, EpisodeSetup(reward))
    )
    desk.reset(ONE, [EpisodeDraw(start, start + 30, 0.0, 0)])
    for bar in range(12):
        # Full appetite for a while, then none: the books wind down.
        desk.decide_meta(np.array([[1.0, -1.0, -1.0, 1.0 if bar < 5 else -1.0]]))
        desk.decide_instruments(np.full((1, 8, 3), 0.8))
        assert np.isfinite(desk.advance().rewards).all()
        assert np.isfinite(desk.state.sharpe.mean).all()


def test_a_days_loss_is_held_against_a_days_forecast_however_many_bars_it_has():
    """Two hours of -1.5% lose 2.9775% of the day, .9775% beyond its forecast of 2%; a recovery gives nothing back,
    and a further loss costs only what the day has not been charged; the next day begins with its own forecast."""
    excess = rewards.DayExcess(1)
    bars = [(-0.015, 0.02, True), (-0.015, 0.05, False), (0.01, 0.05, False), (-0.02, 0.0, False), (-0.03, 0.01, True)]
    charged = [excess.step(np.array([r]), np.array([f]), np.array([opens]))[0] for r, f, opens in bars]
    day = 1 - 0.985 * 0.985 * 1.01 * 0.98
    np.testing.assert_allclose(charged, [0, 0.009775, 0, day - 0.02 - 0.009775, 0.02], atol=1e-12)


def test_daily_bars_are_charged_exactly_as_bars():
    rng = np.random.default_rng(3)
    excess, always = rewards.DayExcess(4), np.ones(4, dtype=bool)
    for _ in range(50):
        returns, forecast = rng.normal(0, 0.02, 4), rng.uniform(0, 0.02, 4)
        assert (excess.step(returns, forecast, always) == rewards.var_excess(returns, forecast)).all()


def test_a_phase_names_its_reward_in_the_settings(calm):
    """The terms of the risk-adjusted reward are metrics wherever it is paid, and nowhere else."""
    overrides = ["recipe.rewards=[risk_adjusted, differential_sharpe, differential_sharpe]"]
    settings = Settings.load(overrides=overrides)
    start = calm.segments[0].start
    for phase, named in ((1, True), (2, False), (3, False)):
        setup = EpisodeSetup(settings.recipe.rewards[phase - 1])
        desk = Desk(settings, calm.execution, calm.features, 1, setup, RiskLayer(settings, 1, setup))
        desk.reset(ONE, [EpisodeDraw(start, start + 30, 0.3, 0)])
        desk.advance_with_weights(np.full((1, 8), 0.05))
        told = set(desk.reward.terms)
        assert told == ({"return", "drawdown", "edits", "var_excess"} if named else set())


def test_a_share_of_the_costs_is_kept_from_the_rewards_and_from_nothing_else(calm):
    """The risk-adjusted reward is linear in the returns: it rises by the forgiven costs in units of the target, each
    agent's own mixed with the portfolio's."""
    whole, half = (
        Settings.load(overrides=[f"rewards.cost_factor={share}", "rewards.drawdown=0"]) for share in (1, 0.5)
    )
    start, setup = calm.segments[0].start, EpisodeSetup()
    desks = [Desk(one, calm.execution, calm.features, 1, setup, RiskLayer(one, 1, setup)) for one in (whole, half)]
    for desk in desks:
        desk.reset(ONE, [EpisodeDraw(start, start + 30, 0.3, 0)])
    rng = np.random.default_rng(0)
    for _ in range(20):
        weights = rng.uniform(-0.1, 0.1, (1, 8))
        before = desks[0].book.equity.copy()
        one, other = (desk.advance_with_weights(weights.copy()) for desk in desks)
        np.testing.assert_array_equal(desks[0].book.equity, desks[1].book.equity)
        cost = desks[0].book.cost_ccy[0] / before
        assert cost.sum() > 0
        share = whole.rewards.team_share
        per_domain = [cost[part].sum() for part in whole.universe.domain_slices]
        forgiven = 0.5 * np.array([cost.sum(), *per_domain, *cost])
        mixed = (1 - share) * forgiven + share * forgiven[0]
        np.testing.assert_allclose(
            other.rewards[0] - one.rewards[0], mixed / desks[0].reward.sigma_target, rtol=1e-9, atol=1e-12
        )
