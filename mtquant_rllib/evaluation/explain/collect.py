"""The data of an explanation: the records of the books, the regimes of their bars, and one agent's decisions.

Shapes: B histories, T bars, K decisions, F observation columns, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.evaluation.backtest import rollout
from mtquant_rllib.evaluation.backtest.baselines import weight_rules
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.explain.decisions import DecisionLog, Decisions
from mtquant_rllib.evaluation.explain.importance import (
    Faithfulness,
    attention_received,
    attention_rollout,
    faithfulness,
    occlusion,
)
from mtquant_rllib.evaluation.regimes.classifier import ClassifierScore, score_classifier
from mtquant_rllib.evaluation.regimes.figures import NO_REGIME, played_regimes, tracked_figures
from mtquant_rllib.policies.introspection import AgentView, AttentionReadout


@dataclass(frozen=True)
class Influence:
    """Importance of the groups of columns for a sample of decisions.

    gives
        What the executed actions are: `AgentView.gives`.
    effect
        (S, G): how far executed actions move without a group (`importance.occlusion`).
    claims, faith
        Of an attention policy: "received" and "rollout", each (S, G) with rows that sum to 1, and how well each ranks
        the groups as `effect` does. Empty for a plain one.
    regime
        int8 (S,).
    faithful_agreement
        As of `evaluation.explain`.
    linear_skip_share
        `AgentView.linear_skip_share` of these decisions.
    """

    groups: tuple[str, ...]
    gives: str
    effect: np.ndarray
    claims: Mapping[str, np.ndarray]
    faith: Mapping[str, Faithfulness]
    regime: np.ndarray
    faithful_agreement: float
    linear_skip_share: float | None = None


@dataclass(frozen=True)
class ExplanationData:
    """All data of the page and the pictures.

    records
        The desk first, then the baselines, on the same bars.
    regime, regime_confidence
        (B, T): the label known when the bar's decision was taken, `NO_REGIME` where the bar was not played.
    readout, classifier
        Attention at every decision, in order, and the score of the regime classifier; None for a plain network.
    """

    records: tuple[Record, ...]
    regime: np.ndarray
    regime_confidence: np.ndarray
    decisions: Decisions
    influence: Influence
    readout: AttentionReadout | None
    classifier: ClassifierScore | None

    @property
    def subject(self) -> Record:
        return self.records[0]

    @property
    def timestamps(self) -> np.ndarray:
        """datetime64[s] (T,) of the first history, the one that is drawn over time."""
        timestamps = self.subject.timestamps
        return timestamps if timestamps.ndim == 1 else timestamps[0]

    @property
    def length(self) -> int:
        """Bars that the first history was played."""
        return int((self.regime[0] != NO_REGIME).sum())

    def figures(self) -> dict[str, float]:
        """Flat figures of regimes and attention."""
        return tracked_figures(
            self.regime,
            self.regime_confidence,
            self.subject.bars_per_year,
            self.readout,
            self.decisions.regime,
            self.decisions.env,
        )


def collect(
    settings: Settings,
    data: DeskData,
    states: Mapping[str, Mapping[str, Any]],
    agent: str,
    *,
    equal_allocation: bool,
    facts: Mapping[str, Any],
) -> ExplanationData:
    """Play a split once by the policies and once by each baseline, and analyse one agent's decisions.

    equal_allocation: as of `PolicyPlayer`, for policies that have no meta-controller yet.
    """
    view, log = AgentView(settings, agent, states), DecisionLog(agent)
    draws = rollout.whole(data.segments)
    player = rollout.policy_player(settings, states, equal_allocation=equal_allocation, on_decision=log)
    records = [rollout.play(settings, data, player, draws, name=rollout.subject_of(settings), facts=facts)]
    decisions = log.decisions()
    closes = rollout.closes_of(data)
    for name, rule in weight_rules(settings).items():
        records.append(rollout.play(settings, data, rollout.RulePlayer(rule, closes), draws, name=name, facts=facts))
    regime, confidence = played_regimes(data, draws, records[0].played)
    readout = view.attention_readout(decisions.obs) if view.has_attention else None
    influence = measure_influence(settings, view, decisions, readout)
    classifier = None if readout is None else judge_classifier(settings, decisions, readout)
    return ExplanationData(tuple(records), regime, confidence, decisions, influence, readout, classifier)


def judge_classifier(settings: Settings, decisions: Decisions, readout: AttentionReadout) -> ClassifierScore:
    """The score of an attention policy's regime classifier."""
    return score_classifier(
        decisions.agent,
        readout.probabilities,
        decisions.regime,
        settings.evaluation.bootstrap,
        np.random.default_rng(settings.seed),
        bars_per_row(decisions.env, decisions.bar),
    )


def bars_per_row(env: np.ndarray, bar: np.ndarray) -> float:
    """Bars from one decision to the next of its history, the median; 1 where no history has two."""
    steps = np.diff(bar)[env[1:] == env[:-1]]
    return float(np.median(steps)) if len(steps) else 1.0


def measure_influence(
    settings: Settings, view: AgentView, decisions: Decisions, readout: AttentionReadout | None
) -> Influence:
    """Occlusion and attention on evenly spread decisions."""
    config = settings.evaluation
    count = len(decisions.obs)
    sample = np.unique(np.linspace(0, count - 1, min(config.explain.importance_rows, count)).round().astype(int))
    rng = np.random.default_rng(settings.seed)
    effect = occlusion(view.executed, decisions.obs[sample], view.groups, rng, config.explain.occlusion_draws)
    claims: dict[str, np.ndarray] = {}
    if readout is not None:
        attention = readout.attention[sample]
        claims = {"received": attention_received(attention), "rollout": attention_rollout(attention)}
    spacing = bars_per_row(decisions.env[sample], decisions.bar[sample])
    faith = {
        name: faithfulness(claim, effect, config.bootstrap, rng, bars_per_row=spacing) for name, claim in claims.items()
    }
    linear_skip_share = view.linear_skip_share(decisions.obs[sample])
    regime = decisions.regime[sample]
    least = config.explain.faithful_agreement
    return Influence(tuple(view.groups), view.gives, effect, claims, faith, regime, least, linear_skip_share)
