"""Looking into one agent: the same answers as when the desk acts, and what an attention policy says besides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mtquant_rllib.agents.groups import INSTRUMENTS
from mtquant_rllib.config import Settings
from mtquant_rllib.env import decisions
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.evaluation.explain.importance import occlusion
from mtquant_rllib.features.regimes import Regime
from mtquant_rllib.policies.actor import DeskActor
from mtquant_rllib.policies.attention.regime_network import Fallback
from mtquant_rllib.policies.introspection import AgentView, AttentionReadout
from mtquant_rllib.policies.registry import build_policy, network_configs
from mtquant_rllib.universe import ALLOCATOR, META

SMALL = [
    "networks.last_layer_scale=1.0",
    "networks.attention.width=16",
    "networks.attention.heads=2",
    "networks.names.meta=attention",
    "networks.sharing=domain",
]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings.load(overrides=SMALL)


@pytest.fixture(scope="module")
def states(settings: Settings) -> dict[str, dict[str, Any]]:
    torch.manual_seed(0)
    configs = network_configs(settings)
    return {
        name: {f"policy.{key}": value.numpy() for key, value in build_policy(config).state_dict().items()}
        for name, config in configs.items()
    }


def observations(view: AgentView, rows: int) -> np.ndarray:
    width = max(columns.stop for columns in view.groups.values())
    return np.random.default_rng(1).normal(size=(rows, width)).astype(np.float32)


def test_a_view_answers_what_the_desks_actor_plays(settings: Settings, states: dict[str, dict[str, Any]]) -> None:
    actor = DeskActor(settings, states)
    meta, forex, oil = (
        AgentView(settings, agent, states) for agent in ("meta_controller", "forex_specialist", "WTIUSD")
    )
    obs = observations(meta, 5)
    np.testing.assert_allclose(meta.actions(obs), actor.act(META, obs), atol=1e-6)
    obs = observations(forex, 5)
    np.testing.assert_allclose(forex.actions(obs), actor.act(settings.universe.specialists[0], obs), atol=1e-6)
    obs = observations(oil, 5)
    everyone = np.repeat(obs[:, None], settings.universe.n_instruments, axis=1)
    np.testing.assert_allclose(oil.actions(obs), actor.act(INSTRUMENTS, everyone)[:, 4], atol=1e-6)


def test_decisions_are_what_the_environment_makes_of_the_actions(
    settings: Settings, states: dict[str, dict[str, Any]]
) -> None:
    meta = AgentView(settings, "meta_controller", states)
    obs = observations(meta, 7)
    allocation, appetite = decisions.meta_decision(meta.actions(obs), settings.desk.decision)
    made = meta.executed(obs)
    np.testing.assert_allclose(made[:, :-1], allocation, atol=1e-6)
    np.testing.assert_allclose((made[:, -1] + 1) / 2, appetite, atol=1e-6)
    assert meta.gives == "allocations and risk appetite"


def allocator(*overrides: str) -> AgentView:
    settings = Settings.load("allocator.yaml", [*SMALL[:3], *overrides])
    torch.manual_seed(0)
    (config,) = network_configs(settings).values()
    policy = build_policy(config)
    if policy.skip is not None:
        torch.nn.init.normal_(policy.skip.line.weight, std=0.1)
    state = {f"policy.{key}": value.numpy() for key, value in policy.state_dict().items()}
    return AgentView(settings, ALLOCATOR, {ALLOCATOR: state})


def test_a_group_that_moves_all_logits_alike_moves_no_weight_and_has_no_effect() -> None:
    """On the logits themselves it would look like the one that matters."""
    view = allocator()
    rng = np.random.default_rng(3)
    together, apart = rng.normal(size=(1, 2, 400))[0]

    def actions(obs: np.ndarray) -> np.ndarray:
        return np.clip(0.3 * obs[:, :1] + 0.1 * obs[:, 1:2] * np.array([-1, 0, 1, 0.5, -0.5]), -1, 1).astype(np.float32)

    groups = {"all": slice(0, 1), "one": slice(1, 2)}
    obs = np.column_stack((together, apart)).astype(np.float32)
    view.actions = actions  # type: ignore[method-assign]
    on_logits = occlusion(view.actions, obs, groups, np.random.default_rng(0), 4).mean(axis=0)
    on_weights = occlusion(view.executed, obs, groups, np.random.default_rng(0), 4).mean(axis=0)
    assert on_logits[0] > 2 * on_logits[1]
    assert on_weights[1] > 5 * on_weights[0]


def test_the_share_of_the_line_beside_the_network_is_told() -> None:
    view, rows = (
        allocator("networks.attention.linear_skip=true"),
        np.random.default_rng(4).normal(size=(500, 50)).astype(np.float32),
    )
    share = view.linear_skip_share(rows)
    assert share is not None
    assert 0.05 < share < 0.95
    with torch.no_grad():
        for name, parameter in view._policy.named_parameters():
            if name.startswith("network.heads"):
                parameter.zero_()
    assert view.linear_skip_share(rows) == pytest.approx(1.0)
    assert allocator().linear_skip_share(rows) is None


def test_many_rows_are_asked_in_parts_and_answered_in_order(settings: Settings, states: dict[str, Any]) -> None:
    view = AgentView(settings, "meta_controller", states)
    obs = observations(view, 2100)
    whole, alone = view.attention_readout(obs), view.attention_readout(obs[2050:2060])
    assert whole.attention.shape == (2100, 2, 2, 4, 4)
    np.testing.assert_allclose(whole.attention[2050:2060], alone.attention, atol=1e-6)
    np.testing.assert_allclose(whole.probabilities.sum(axis=1), 1, atol=1e-5)


def test_only_attention_policies_attend(settings: Settings, states: dict[str, Any]) -> None:
    assert AgentView(settings, "meta_controller", states).has_attention
    assert not AgentView(settings, "EURUSD", states).has_attention


def test_a_strange_agent_a_missing_state_and_one_that_does_not_fit_are_refused(
    settings: Settings, states: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="no agent 'GOLD'; there are meta_controller"):
        AgentView(settings, "GOLD", states)
    with pytest.raises(RunError, match="no state of forex_instruments"):
        AgentView(settings, "EURUSD", {"meta_controller": states["meta_controller"]})
    with pytest.raises(RunError, match="does not fit"):
        AgentView(settings, "EURUSD", {"forex_instruments": states["meta_controller"]})


def test_figures_of_a_look_are_counted_with_a_pencil() -> None:
    attention = np.zeros((4, 1, 1, 4, 4), dtype=np.float32)
    attention[..., 0] = 1  # everyone reads the first group
    probabilities = np.array([[0.7, 0.1, 0.1, 0.1]] * 3 + [[0.1, 0.1, 0.3, 0.5]], dtype=np.float32)
    fallback = np.array([Fallback.NONE, Fallback.UNSURE, Fallback.NONE, Fallback.NONE], dtype=np.int8)
    labels = np.array([Regime.BULL, Regime.BEAR, -1, Regime.SIDEWAYS])
    figures = AttentionReadout(attention, probabilities, fallback).metrics(labels)
    assert figures["attention_focus"] == 1
    assert figures["attention_entropy"] == pytest.approx(0)
    assert figures["classifier_confidence"] == pytest.approx(0.65)
    assert (figures["classifier_share_bull"], figures["classifier_share_sideways"]) == (0.75, 0.25)
    assert (figures["fallback_unsure"], figures["fallback_equal"]) == (0.25, 0)
    assert figures["classifier_agreement"] == pytest.approx(2 / 3), "a row without a label is nobody's mistake"
    assert "classifier_transitions" not in figures
    # Believed: bull, bull, bull, sideways. In one history that is one change of three; in two of two it is one of two.
    for env, share in (([0, 0, 0, 0], 1 / 3), ([0, 0, 1, 1], 1 / 2), ([0, 0, 0, 1], 0)):
        readout = AttentionReadout(attention, probabilities, fallback)
        assert readout.metrics(env=np.array(env))["classifier_transitions"] == pytest.approx(share)
