"""The reference policy: an untrained desk is the book that the settings name, and departures have a price."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from markets import smooth

from mtquant_rllib.agents.action_maps import NUMPY, views
from mtquant_rllib.agents.groups import agent_groups
from mtquant_rllib.config import Settings
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.env.state.risk_scale import RiskScale
from mtquant_rllib.evaluation.backtest.reference import ReferencePlayer
from mtquant_rllib.evaluation.backtest.rollout import PolicyPlayer, play, whole
from mtquant_rllib.features.building import build_features
from mtquant_rllib.features.reference import view_of
from mtquant_rllib.policies.actor import DeskActor
from mtquant_rllib.policies.initial_weights import initial_states
from mtquant_rllib.portfolio.execution_data import ExecutionData

NETWORKS = {
    "plain": [],
    "attention": [
        "networks.names={meta: attention, specialist: attention, instrument: attention}",
        "networks.attention.width=16",
        "networks.attention.heads=2",
    ],
}
BOOKS = ["momentum", "trend_ensemble", "inverse_volatility", "long_risk_premia"]


def settings_with(book: str, *overrides: str) -> Settings:
    return Settings.load(overrides=["reference.where=always", f"reference.book={book}", *overrides])


def act(desk: Desk, actor: DeskActor) -> None:
    """The decisions of all levels."""
    for level in desk.levels:
        seen = level.observe() if level.n_acting > 1 else level.observe()[:, 0]
        level.decide(actor.act(level.group.name, seen).reshape(1, level.n_acting, -1))


def test_a_specialist_says_any_intent_that_its_bounds_let_it_say() -> None:
    intent = np.linspace(-1.0, 1.0, 41)
    raw = view_of(intent, 3.0)
    actions = np.stack([raw, np.zeros_like(raw), -raw, np.zeros_like(raw)], axis=-1)
    said = views(actions, {"logit_scale": 3.0}, NUMPY)[:, 0]
    reachable = np.abs(intent) <= said.max()
    np.testing.assert_allclose(said[reachable], intent[reachable], atol=1e-12)
    assert np.abs(said - intent).max() < 0.06


@pytest.mark.slow
@pytest.mark.parametrize("networks", NETWORKS)
@pytest.mark.parametrize("book", BOOKS)
def test_an_untrained_desk_holds_the_reference_book(book: str, networks: str) -> None:
    """Each conviction that the levels arrive at together is the reference's, at equal allocations and full appetite."""
    settings = settings_with(book, *NETWORKS[networks])
    market = smooth(settings)
    features, execution = build_features(settings, market, None), ExecutionData.build(settings, market)
    desk = Desk(settings, execution, features, 1, EpisodeSetup())
    desk.reset(np.array([0]), [EpisodeDraw(features.warmup, features.warmup + 30, 0.0, 0)])
    actor = DeskActor(settings, initial_states(settings))
    column = agent_groups(settings)[-1].observation.column("reference")
    for _ in range(20):
        act(desk, actor)
        reference = features.block[desk.state.row[0], :, column]
        np.testing.assert_allclose(desk.state.signal[0], reference, atol=1e-6)
        np.testing.assert_allclose(desk.state.intent[0], np.clip(reference, -0.95, 0.95), atol=0.01)
        np.testing.assert_allclose(desk.state.allocation[0], 1 / 3, atol=1e-6)
        assert desk.state.appetite[0] == 1.0
        np.testing.assert_allclose(desk.state.urgency[0], settings.reference.urgency, atol=1e-6)
        desk.advance()


def test_without_a_reference_nothing_is_added() -> None:
    plain, none = Settings.load(), settings_with("momentum", "reference.where=never")
    assert agent_groups(none) == agent_groups(plain)
    torch.manual_seed(0)
    assert all(group.network.reference == () for group in agent_groups(plain))


@pytest.mark.slow
def test_a_scaled_desk_runs_at_the_volatility_that_is_asked_for() -> None:
    """Whatever the size of its convictions, from the second month on; half the appetite is half of it."""
    found = {}
    for weight, appetite in ((1.0, 1.0), (0.25, 1.0), (1.0, 0.5)):
        settings = settings_with(
            f"{{long_risk_premia: {weight}}}",
            "desk.decision.risk_scale={where: always, largest: 20, target_ann: 0.08}",
            f"networks.initial_appetite={appetite}",
        )
        market = smooth(settings, n_years=6)
        features, execution = build_features(settings, market, None), ExecutionData.build(settings, market)
        desk = Desk(settings, execution, features, 1, EpisodeSetup())
        rows = range(features.warmup, len(features) - 1)
        desk.reset(np.array([0]), [EpisodeDraw(rows.start, rows.stop, 0.0, 0)])
        actor = DeskActor(settings, initial_states(settings))
        returns = []
        for _ in rows:
            act(desk, actor)
            returns.append(desk.advance().portfolio_return[0])
        found[weight, appetite] = np.std(returns[40:]) * np.sqrt(execution.bars_per_year)
    assert found[1.0, 1.0] == pytest.approx(0.08, rel=0.2)
    assert found[0.25, 1.0] == pytest.approx(found[1.0, 1.0], rel=0.05)
    # Lots are rounded towards zero: a small book is smaller yet.
    assert found[1.0, 0.5] == pytest.approx(found[1.0, 1.0] / 2, rel=0.15)


def test_the_scale_follows_from_the_bars_before_alone() -> None:
    """So that more conviction or appetite at a bar is more exposure, on any bar."""
    scale = RiskScale(2, Settings.load().desk.decision.risk_scale.model_copy(update={"half_life_days": 1.0}), 1.0)
    np.testing.assert_array_equal(scale.current(), [1.0, 1.0])
    scale.step(np.array([0.05**2, 0.0]))
    np.testing.assert_allclose(scale.current(), [2.0, 4.0])
    scale.step(np.array([0.2**2, 0.0]))
    # Half-life of a day: weights 1/2 and 1/4 of the sum 3/4.
    expected = 0.1 / np.sqrt((0.25 * 0.05**2 + 0.5 * 0.2**2) / 0.75)
    np.testing.assert_allclose(scale.current(), [expected, 4.0])
    scale.reset(np.array([0]))
    np.testing.assert_allclose(scale.current(), [1.0, 4.0])


@pytest.mark.slow
@pytest.mark.parametrize("book", BOOKS)
def test_an_untrained_desk_earns_what_the_references_own_book_earns(book: str) -> None:
    """Bar for bar, but for what actions cannot say: a specialist's view stops short of full conviction."""
    settings = settings_with(book, "desk.decision.risk_scale.where=always")
    data = DeskData.of(settings, smooth(settings, n_years=4))
    players = (PolicyPlayer(DeskActor(settings, initial_states(settings))), ReferencePlayer(settings))
    desk, own = (play(settings, data, player, whole(data.segments), name="book") for player in players)
    weights = [record.weights[0, 30:].ravel() for record in (desk, own)]
    assert np.corrcoef(*weights)[0, 1] > 0.98
    returns = [np.diff(np.log(record.equity_ccy[0])) for record in (desk, own)]
    assert np.corrcoef(*returns)[0, 1] > 0.98
    assert np.std(returns[0]) == pytest.approx(np.std(returns[1]), rel=0.05)
