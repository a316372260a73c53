"""The stated cost is the measured one."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mtquant_rllib.config import Settings
from mtquant_rllib.policies.attention.cost import attention_cost
from mtquant_rllib.policies.attention.regime_network import RegimeNetwork
from mtquant_rllib.policies.networks import GroupedShape
from mtquant_rllib.policies.registry import count_parameters

DOCUMENT = GroupedShape((("price", 15), ("volume", 10), ("technical", 15), ("momentum", 10)), actions=5)
SEVEN = GroupedShape(tuple((f"group{g}", 3 + g) for g in range(7)), actions=2)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [DOCUMENT, SEVEN])
@pytest.mark.parametrize(
    "more", [(), ("layers=3", "feedforward=100"), ("width=64", "heads=4", "classifier.hidden=[9]")]
)
def test_parameters_and_multiply_adds_are_those_stated(shape, more):
    config = Settings.load(overrides=[f"networks.attention.{line}" for line in more]).networks.attention
    network, costs = RegimeNetwork(shape, config, 0.01), attention_cost(shape, config)
    assert sum(cost.parameters for cost in costs.values()) == count_parameters(network)
    rows = 3
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(rows, shape.observation), need_weights=True)
    counted = counter.get_total_flops() / 2 / rows
    # Besides: the mixture, four products per action.
    assert sum(cost.multiply_adds for cost in costs.values()) == pytest.approx(counted, abs=4 * shape.actions)


def test_mixing_four_groups_is_less_than_one_percent_of_the_documents_network():
    costs = attention_cost(DOCUMENT, Settings.load().networks.attention)
    total = sum(cost.multiply_adds for cost in costs.values())
    assert sum(cost.parameters for cost in costs.values()) == 816_349
    assert costs["attention_mixing"].multiply_adds / total < 0.01
