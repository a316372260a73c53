"""What critics are shown is what the environment makes of an action."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtquant_rllib.agents.groups import map_numbers
from mtquant_rllib.config import Settings
from mtquant_rllib.env.decisions import instrument_decision, meta_decision, specialist_decision
from mtquant_rllib.policies.action_maps import apply_action_map


@pytest.fixture(scope="module")
def raw() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1.2, (4000, 10))


def made(kind: str, raw: np.ndarray, settings: Settings) -> np.ndarray:
    return apply_action_map(kind, torch.from_numpy(raw), map_numbers(settings)).numpy()


def test_critics_see_the_allocations_that_the_desk_makes(settings: Settings, raw: np.ndarray) -> None:
    allocation, appetite = meta_decision(raw[:, :4], settings.desk.decision)
    seen = made("allocation", raw[:, :4], settings)
    np.testing.assert_allclose(seen[:, :3], allocation, atol=1e-12)
    np.testing.assert_allclose((seen[:, 3] + 1) / 2, appetite, atol=1e-12)
    assert (allocation == 0).any()
    assert (allocation == settings.desk.decision.allocation_cap).any()
    assert (appetite == 0).any()


def test_critics_see_intents_and_confidence(settings: Settings, raw: np.ndarray) -> None:
    intent, confidence = specialist_decision(raw, settings.desk.decision)
    seen = made("views", raw, settings)
    np.testing.assert_allclose(seen[:, :-1], intent, atol=1e-12)
    np.testing.assert_allclose((seen[:, -1] + 1) / 2, confidence, atol=1e-12)


def test_critics_see_signal_urgency_and_stop_as_far_as_their_bounds(settings: Settings, raw: np.ndarray) -> None:
    config = settings.desk.decision
    signal, urgency, stop = instrument_decision(raw[:, :3], config)
    seen = made("bounded", raw[:, :3], settings)
    np.testing.assert_allclose(seen[:, 0], signal)
    np.testing.assert_allclose((seen[:, 1] + 1) / 2, urgency)
    np.testing.assert_allclose(
        config.stop_atr_min + (config.stop_atr_max - config.stop_atr_min) * (seen[:, 2] + 1) / 2, stop
    )


def test_no_gradient_flows_where_the_environment_would_not_answer(settings: Settings) -> None:
    numbers = map_numbers(settings)
    beyond = torch.tensor([[1.5, 0.3, -2.0]], requires_grad=True)
    apply_action_map("bounded", beyond, numbers).sum().backward()
    assert beyond.grad is not None
    assert beyond.grad.tolist() == [[0.0, 1.0, 0.0]]
    # The first domain lies above its cap: a little more of it is cash.
    capped = torch.tensor([[0.9, -0.5, -0.5, 0.0]], requires_grad=True)
    allocations = apply_action_map("allocation", capped, numbers)
    assert allocations[0, 0] == settings.desk.decision.allocation_cap
    assert torch.autograd.grad(allocations[0, 0], capped)[0].abs().max() == 0


def test_two_portfolios_of_the_same_weights_are_one_to_the_critics(settings: Settings) -> None:
    shifted = np.array([[0.1, 0.2, 0.3, 0.0], [0.3, 0.4, 0.5, 0.0]])
    one, other = made("allocation", shifted, settings)
    np.testing.assert_allclose(one, other, atol=1e-12)
