"""What is collected while a rollout plays is what the agents saw, when they decided, and changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from mtquant_rllib.env import decisions
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.evaluation.backtest import rollout
from mtquant_rllib.evaluation.explain.collect import ExplanationData, bars_per_row
from mtquant_rllib.evaluation.explain.decisions import DecisionLog
from mtquant_rllib.evaluation.explain.importance import attention_received
from mtquant_rllib.evaluation.regimes.figures import NO_REGIME
from mtquant_rllib.policies.introspection import AgentView
from mtquant_rllib.training.inspection.opened_policies import OpenedRun

pytestmark = pytest.mark.slow


def test_the_meta_controller_decides_every_few_bars_of_every_history(
    material: ExplanationData, opened: OpenedRun
) -> None:
    every = opened.settings.desk.decision.meta_every_bars
    for env, segment in enumerate(opened.data.segments):
        bars = material.decisions.bar[material.decisions.of_history(env)]
        np.testing.assert_array_equal(bars, np.arange(0, segment.stop - 1 - segment.start, every))


def test_labels_are_those_known_when_the_decision_was_taken(material: ExplanationData, opened: OpenedRun) -> None:
    regime = np.asarray(opened.data.features.regime)
    for env, segment in enumerate(opened.data.segments):
        count = segment.stop - 1 - segment.start
        np.testing.assert_array_equal(material.regime[env, :count], regime[segment.start : segment.stop - 1])
        assert (material.regime[env, count:] == NO_REGIME).all()
    kept = material.decisions
    np.testing.assert_array_equal(kept.regime, material.regime[kept.env, kept.bar])


@pytest.mark.parametrize("agent", ["meta_controller", "forex_specialist", "WTIUSD"])
def test_decisions_made_again_from_what_was_kept_are_those_that_the_desk_took(opened: OpenedRun, agent: str) -> None:
    log, config = DecisionLog(agent), opened.settings.desk.decision
    player = rollout.PolicyPlayer.of(opened.settings, opened.states, on_decision=log)
    start = opened.data.segments[0].start
    taken: dict[str, list[np.ndarray]] = {"meta_controller": [], "forex_specialist": [], "WTIUSD": []}

    def watch(desk: Desk) -> None:
        taken["meta_controller"].append(np.append(desk.state.allocation[0], desk.state.appetite[0]))
        taken["forex_specialist"].append(np.append(desk.state.intent[0, :3], desk.state.confidence[0, 0]))
        taken["WTIUSD"].append(np.array([desk.state.signal[0, 4], desk.state.urgency[0, 4], desk.state.stop_atr[0, 4]]))

    draws = [EpisodeDraw(start, start + 12, 0.0, 0)]
    rollout.play(opened.settings, opened.data, player, draws, name="desk", on_bar=watch)
    kept = log.decisions()
    raw = AgentView(opened.settings, agent, opened.states).actions(kept.obs)
    if agent == "WTIUSD":
        again = np.stack(decisions.instrument_decision(raw, config), axis=-1)
    elif agent == "forex_specialist":
        again = np.column_stack(decisions.specialist_decision(raw, config))
    else:
        again = np.column_stack(decisions.meta_decision(raw, config))
    np.testing.assert_allclose(again, np.array(taken[agent])[kept.bar], atol=1e-5)


def test_watching_changes_no_byte_of_the_record(material: ExplanationData, opened: OpenedRun) -> None:
    player = rollout.PolicyPlayer.of(opened.settings, opened.states)
    draws = rollout.whole(opened.data.segments)
    unwatched = rollout.play(opened.settings, opened.data, player, draws, name="desk")
    assert unwatched.equity_ccy.tobytes() == material.subject.equity_ccy.tobytes()
    assert unwatched.weights.tobytes() == material.subject.weights.tobytes()


def test_attention_is_collected_for_every_decision_and_its_rows_sum_to_one(material: ExplanationData) -> None:
    readout = material.readout
    assert readout is not None
    assert len(readout.attention) == len(material.decisions.obs)
    np.testing.assert_allclose(readout.attention.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(attention_received(readout.attention).sum(axis=1), 1, atol=1e-5)


def test_an_instrument_with_a_plain_network_has_occlusion_and_no_claims(plain: ExplanationData) -> None:
    assert plain.readout is None
    assert not plain.influence.claims
    assert plain.influence.groups == ("price", "volume", "technical", "momentum", "state")
    assert (plain.influence.effect.mean(axis=0) > 0).all()
    assert not any(name.startswith("attention") for name in plain.figures())


def test_figures_for_trackers_hold_attention_and_regimes(material: ExplanationData) -> None:
    figures = material.figures()
    assert {"attention_entropy", "attention_focus", "attention_diversity"} <= set(figures)
    assert {"regime_transitions", "regime_confidence", "classifier_agreement", "fallback_unsure"} <= set(figures)
    shares = [figures[f"regime_share_{name}"] for name in ("bull", "bear", "volatile", "sideways")]
    assert sum(shares) == pytest.approx(1)
    assert 0 < figures["attention_entropy"] <= 1


def test_blocks_of_decisions_know_how_many_bars_lie_between_them(material: ExplanationData, opened: OpenedRun) -> None:
    assert bars_per_row(np.array([0, 0, 0, 1, 1]), np.array([0, 5, 10, 0, 7])) == 5
    assert bars_per_row(np.array([0, 1]), np.array([3, 9])) == 1, "no history has two"
    kept = material.decisions
    assert bars_per_row(kept.env, kept.bar) == opened.settings.desk.decision.meta_every_bars
