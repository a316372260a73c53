"""The cost of a pass of the attention network, part by part, from the settings.

A actions, E token width, F columns, G groups, H attention heads, L layers, W feed-forward width, K hidden width of a
policy's head, R regimes.

    part                parameters                              multiply-adds a row
    embedding           F E + E + E^2 + E + G E                 G (F E + E^2)
    attention, linear   L (4 (E^2 + E) + 2 E)                   L 4 G E^2
    attention, mixing   0                                       L 2 G^2 E
    feed-forward        L (2 E W + W + 3 E)                     L 2 G E W
    classifier          sum (in + 1) out                        sum in out
    heads               (R + 1) ((E + 1) K + (K + 1) A)         (R + 1) (E K + K A)

Mixing is attention's G^2 term; with four groups it is less than 1% of the work. Attention weights take L H G^2 numbers
a row, where they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from mtquant_rllib.config.sections.attention import AttentionConfig
from mtquant_rllib.policies.attention.regime_network import N_REGIMES
from mtquant_rllib.policies.networks import GroupedShape


@dataclass(frozen=True)
class Cost:
    """Learned parameters, and multiply-adds of one row."""

    parameters: int
    multiply_adds: int


def attention_cost(shape: GroupedShape, config: AttentionConfig) -> dict[str, Cost]:
    """Part of a `RegimeNetwork` -> its cost; the sums over the parts are the network's."""
    columns, groups, width = shape.observation, len(shape.groups), config.width
    classifier = list(pairwise((width, *config.classifier.hidden, N_REGIMES)))
    hidden, heads = config.policy_heads.hidden, N_REGIMES + 1
    costs = {
        "embedding": Cost(
            columns * width + width + width**2 + width + groups * width, groups * (columns * width + width**2)
        ),
        "attention_linear": Cost(
            config.layers * (4 * (width**2 + width) + 2 * width), config.layers * 4 * groups * width**2
        ),
        "attention_mixing": Cost(0, config.layers * 2 * groups**2 * width),
        "classifier": Cost(sum((n + 1) * m for n, m in classifier), sum(n * m for n, m in classifier)),
        "heads": Cost(
            heads * ((width + 1) * hidden + (hidden + 1) * shape.actions),
            heads * (width * hidden + hidden * shape.actions),
        ),
    }
    if (wide := config.feedforward) is not None:
        costs["feedforward"] = Cost(
            config.layers * (2 * width * wide + wide + 3 * width), config.layers * 2 * groups * width * wide
        )
    return costs
