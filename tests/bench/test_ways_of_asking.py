"""Ways of asking a desk that no longer learns: what the bench says of them, and that a setting asks them of a desk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtquant_rllib.agents.groups import INSTRUMENTS
from mtquant_rllib.bench.inference import Sizes, bench_inference
from mtquant_rllib.commands.bench.networks import inference_lines
from mtquant_rllib.config import Settings
from mtquant_rllib.policies.actor import DeskActor
from mtquant_rllib.policies.inference import Bfloat16Linear, CachedPolicy, Int8Linear
from mtquant_rllib.policies.registry import build_policy, network_configs
from mtquant_rllib.training.preparation import prepare
from mtquant_rllib.universe import META

SMALL = (
    "embedded.train={paths: 1, years: 2}",
    "embedded.validation={paths: 1, years: 3}",
    "embedded.test={paths: 1, years: 2}",
    "networks.attention.width=64",
    "networks.attention.heads=2",
)


@pytest.fixture(scope="module", params=["default.yaml", "allocator.yaml"])
def figures(request: pytest.FixtureRequest) -> Any:
    settings = Settings.load(request.param, SMALL)
    data = Path(prepare(settings, None, None).data)
    return bench_inference(settings, data, Sizes(batches=(1, 32), repeats=1))


@pytest.mark.nightly
def test_cheaper_ways_move_answers_a_little_and_remembered_ones_not_at_all(figures: Any) -> None:
    for found in figures["networks"].values():
        agreement = found["agreement"]
        assert agreement["cached"]["largest_difference"] < 1e-4
        assert agreement["one by one"]["largest_difference"] < 1e-4
        assert 0 < agreement["bfloat16"]["mean_difference"] < agreement["int8"]["mean_difference"] < 0.05
        assert all(own["equal_choices"] > 0.9 for own in agreement.values())
        assert agreement["int8"]["mean_difference"] < agreement["int8"]["difference_of_99_percent"]
        assert agreement["int8"]["difference_of_99_percent"] <= agreement["int8"]["largest_difference"]
        assert found["weights_mb"]["int8"] < found["weights_mb"]["bfloat16"] < found["weights_mb"]["float32"]


@pytest.mark.nightly
def test_plain_networks_which_have_no_least_confidence_move_little_at_their_worst(figures: Any) -> None:
    assert figures["networks"]["plain"]["agreement"]["int8"]["largest_difference"] < 0.15


@pytest.mark.nightly
def test_asking_side_by_side_and_remembering_pay(figures: Any) -> None:
    attention = figures["networks"]["attention"]["decisions_per_s"]
    assert attention["float32"]["32"] > 2 * attention["float32"]["1"]
    assert attention["cached"]["32"] > attention["float32"]["32"]
    lines = list(inference_lines(figures))
    assert sum("networks: decisions of all its agents" in line for line in lines) == 2


def states_of(settings: Settings) -> dict[str, Any]:
    torch.manual_seed(0)
    configs = network_configs(settings)
    return {
        name: {f"policy.{key}": value for key, value in build_policy(config).state_dict().items()}
        for name, config in configs.items()
    }


@pytest.mark.parametrize(
    ("precision", "layer"), [("float32", None), ("bfloat16", Bfloat16Linear), ("int8", Int8Linear)]
)
def test_a_desk_asks_as_its_settings_say(precision: str, layer: type | None) -> None:
    plain = Settings.load(overrides=["networks.last_layer_scale=1.0"])
    settings = Settings.load(overrides=["networks.last_layer_scale=1.0", f"evaluation.inference.precision={precision}"])
    states = states_of(plain)
    actor, truth = (DeskActor(own, states) for own in (settings, plain))
    kinds = {type(module) for module in actor._policies[META][0].modules()}
    assert (layer in kinds) == (layer is not None)
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((64, 8, 61), np.float32)
    apart = np.abs(actor.act(INSTRUMENTS, obs) - truth.act(INSTRUMENTS, obs)).mean()
    assert apart == 0 if layer is None else 0 < apart < 0.03
    assert actor.weight_bytes() <= truth.weight_bytes()


def test_a_desk_remembers_where_it_is_asked_to_and_forgets_when_weights_change() -> None:
    overrides = ["networks.last_layer_scale=1.0", "networks.names.meta=attention", *SMALL[3:]]
    settings = Settings.load(overrides=[*overrides, "evaluation.inference.cached_rows=100"])
    states = states_of(settings)
    actor = DeskActor(settings, states)
    obs = np.random.default_rng(0).standard_normal((5, 74), np.float32)
    first, again = actor.act(META, obs), actor.act(META, obs[::-1].copy())
    np.testing.assert_array_equal(first, again[::-1])
    (asked,) = actor._policies[META]
    assert isinstance(asked, CachedPolicy)
    assert (asked.cache.hits, asked.cache.misses) == (5, 5)
    truth = DeskActor(Settings.load(overrides=overrides), states).act(META, obs)
    np.testing.assert_allclose(first, truth, atol=1e-5)
    noise = np.ones((5, 4), np.float32)
    assert not np.array_equal(actor.act(META, obs, noise), first), "samples are drawn around remembered means"
    other = {key: value + 0.1 for key, value in states[META].items()}
    actor.load({**states, META: other})
    assert not np.array_equal(actor.act(META, obs), first)
