"""Importance of groups of columns for decisions, and whether attention agrees with it.

Attention *received* (how much the other groups attend to a group) and attention *rollout* (the same through all layers)
are read off the network's weights. *Occlusion* measures the effect: how far the output moves without a group's columns.
Attention is shown with its `faithfulness`, its rank agreement with occlusion. (Rows of attention sum to 1, so that only
an average over the groups that attend carries information.)

Any function from observations to outputs can be occluded. Shapes: B rows, L layers,
H heads, G groups, F columns, A outputs; attention is (B, L, H, G, G) from the group that attends to the one attended
to, as `RegimeOutput.attention_BLHGG`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
from scipy import stats

from mtquant_rllib.config.sections.evaluation import BootstrapConfig
from mtquant_rllib.evaluation.statistics.block_length import bootstrapped_mean
from mtquant_rllib.evaluation.statistics.bootstrap import Interval, percentile_interval

Predict = Callable[[np.ndarray], np.ndarray]
Ranking = Literal["spearman", "kendall"]

ROUNDING = 1e-9


def attention_received(attention: np.ndarray, layer: int | None = None, head: int | None = None) -> np.ndarray:
    """(B, G), rows sum to 1: attention that a group gets, as the mean over readers and over the layers and heads that
    are not chosen."""
    chosen = attention if layer is None else attention[:, layer : layer + 1 or None]
    chosen = chosen if head is None else chosen[:, :, head : head + 1 or None]
    received: np.ndarray = chosen.mean(axis=(1, 2, 3))
    return received


def attention_rollout(attention: np.ndarray) -> np.ndarray:
    """(B, G), rows sum to 1: how much of each group's token arrives in the pooled features, if a layer passes on half
    of what it had and half of what it read (Abnar and Zuidema 2020, "Quantifying attention flow in transformers").

        A_l = (mean over heads + identity) / 2,    rollout = mean over rows of A_L ... A_2 A_1
    """
    layers = 0.5 * (attention.mean(axis=2) + np.eye(attention.shape[-1], dtype=attention.dtype))
    flow = layers[:, 0]
    for number in range(1, layers.shape[1]):
        flow = layers[:, number] @ flow
    rollout: np.ndarray = flow.mean(axis=1)
    return rollout


def occlusion(
    predict: Predict,
    obs: np.ndarray,
    groups: Mapping[str, slice],
    rng: np.random.Generator | None = None,
    draws: int = 1,
) -> np.ndarray:
    """How far the output moves without a group's columns: mean |change| over the outputs, (B, G).

    Parameters
    ----------
    predict
        (B, F) -> (B, A).
    groups
        Name -> columns, as `Layout.slices`.
    rng
        Without it a group's columns become their means over the batch; with it they come from other rows, the same
        row for all of them, and the change is the mean over `draws` shufflings. The means can be a combination that
        never occurs; other rows keep a group's columns consistent among themselves.
    """
    before = predict(obs)
    changes = np.zeros((len(obs), len(groups)))
    for g, columns in enumerate(groups.values()):
        for _ in range(1 if rng is None else draws):
            without = obs.copy()
            without[:, columns] = (
                obs[:, columns].mean(axis=0) if rng is None else obs[rng.permutation(len(obs)), columns]
            )
            changes[:, g] += np.abs(predict(without) - before).mean(axis=-1)
    return changes / (1 if rng is None else draws)


def rank_agreement(importance: np.ndarray, effect: np.ndarray, ranking: Ranking) -> np.ndarray:
    """Rank correlation of the groups, row by row: (B, G), (B, G) -> (B,) in [-1, 1].

    Spearman's rho, or Kendall's tau-b. A row whose importance or effect is the same for all groups ranks nothing and
    agrees with nothing: 0.
    """
    if ranking == "spearman":
        a, b = stats.rankdata(importance, axis=1), stats.rankdata(effect, axis=1)
        a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    else:
        first, second = np.triu_indices(importance.shape[1], 1)
        a, b = np.sign(importance[:, first] - importance[:, second]), np.sign(effect[:, first] - effect[:, second])
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    together = (a * b).sum(axis=1)
    return np.divide(together, scale, out=np.zeros(len(scale)), where=scale > 0)


@dataclass(frozen=True)
class Faithfulness:
    """Agreement of an importance with occlusion, beside that of random importances.

    A random importance is this one with its groups renamed, *one renaming for all rows*: it varies from row to row just
    as much and keeps its runs in time, and knows nothing. Renaming every row anew would not do: an importance that
    hardly changes is right or wrong in all rows at once, and its agreement lies far outside what so many independent
    guesses can reach, be it by knowledge or by luck.

    agreement
        Mean over rows, with an interval over blocks of time (`block_length`); 1 ranks the groups as occlusion does, 0
        is chance, -1 the reverse. Where only one of four groups matters, finding it and ranking the rest by chance
        gives .6.
    random
        Agreement over the renamings: mean, and the interval that holds that share of them.
    p_value
        Share of the renamings, the given names among them, that agree at least as well. With G groups it is at least
        1 / G!: with three no order can be told from luck at 5%, with four only the best of 24 can.
    """

    agreement: Interval
    random: Interval
    p_value: float
    ranking: Ranking
    n_rows: int

    @property
    def beats_chance(self) -> bool:
        """Whether it agrees in the bars that were drawn as in others like them, and better than renamed ones do. That
        says nothing of how well it agrees."""
        return self.agreement.lower > 0 and self.p_value <= 1 - self.agreement.confidence


def faithfulness(
    importance: np.ndarray,
    effect: np.ndarray,
    config: BootstrapConfig,
    rng: np.random.Generator,
    ranking: Ranking = "spearman",
    bars_per_row: float = 1.0,
) -> Faithfulness:
    """Score an importance (B, G) against the effect of occlusion (B, G), rows in order of time.

    bars_per_row: bars from one row to the next.
    """
    if importance.shape != effect.shape or importance.ndim != 2:
        raise ValueError(f"importance {importance.shape} and effect {effect.shape}: expected the same (B, G)")
    rows = rank_agreement(importance, effect, ranking)
    renamed = np.array(
        [
            rank_agreement(importance[:, order], effect, ranking).mean()
            for order in _orders(importance.shape[1], config.resamples, rng)
        ]
    )
    return Faithfulness(
        agreement=bootstrapped_mean(rows, config, rng, bars_per_row),
        random=percentile_interval(renamed.mean(), renamed, config),
        p_value=float(np.mean(renamed >= rows.mean() - ROUNDING)),
        ranking=ranking,
        n_rows=len(rows),
    )


def _orders(n_groups: int, at_most: int, rng: np.random.Generator) -> np.ndarray:
    """Orders of the groups, (N, G): all of them, or the given one and a sample where they are too many."""
    if math.factorial(n_groups) <= at_most:
        return np.array(list(permutations(range(n_groups))))
    given = np.arange(n_groups)
    return np.vstack([given, rng.permuted(np.tile(given, (at_most - 1, 1)), axis=1)])
