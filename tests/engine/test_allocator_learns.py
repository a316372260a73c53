"""The allocator through runner, replay and both learners: one agent, one phase, the same engine as the desk's."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from learners import seen_in
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from mtquant_rllib.config import Settings
from mtquant_rllib.engine.learning.ppo.learner import BatchedLearner
from mtquant_rllib.engine.learning.sac.learner import REPLAY_STATE, SACLearner
from mtquant_rllib.engine.sampling.runner import REWARD_TERMS, BatchedEnvRunner
from mtquant_rllib.env.decisions import allocator_weights
from mtquant_rllib.env.rewards.regime_aware import TERMS
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.policies.action_maps import apply_action_map
from mtquant_rllib.policies.critics import target_entropy
from mtquant_rllib.training.algorithm.building import build_config
from mtquant_rllib.training.curriculum.driver import train
from mtquant_rllib.training.curriculum.phases import plan_named, plan_phase
from mtquant_rllib.training.placement.planner import TrialResources
from mtquant_rllib.training.preparation import prepare
from mtquant_rllib.training.records.manifest import Manifest, TrialRecord
from mtquant_rllib.universe import ALLOCATOR

SMALL = [
    "embedded.train={paths: 2, years: 3}",
    "embedded.validation={paths: 1, years: 3}",
    "embedded.test={paths: 1, years: 3}",
    "desk.episode.bars=20",
    "recipe.environments=4",
    "sac.critic.hidden=[16, 16]",
    "sac.batch_size=32",
    "sac.replay_bars=400",
    "allocator.bars=1000",
    "allocator.hidden=[8]",
    "networks.attention={width: 16, heads: 2, policy_heads: {hidden: 8}}",
]

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def make() -> Make:
    """(algorithm, network, overrides...) -> configuration of the trial."""

    def of(algorithm: str, network: str, *overrides: str) -> Any:
        chosen = [f"allocator.algorithm={algorithm}", f"allocator.network={network}", *SMALL, *overrides]
        settings = Settings.load("allocator.yaml", chosen)
        manifest = Manifest.begin("allocator", settings, prepare(settings, None, None), 1.0, [1])
        manifest.phase(1).trials[ALLOCATOR] = TrialRecord(budget_bars=1000)
        return build_config(plan_named(settings, 1, ALLOCATOR), manifest, TrialResources(1.0, 1.0, 0.0))

    return of


def learner_of(config: Any, runner: BatchedEnvRunner, cls: type) -> Any:
    learner = cls(config=config, module_spec=config.get_multi_rl_module_spec(env=None, spaces=runner.get_spaces()))
    learner.build()
    return learner


def learn(learner: Any, runner: BatchedEnvRunner, bars_before: int, **how: Any) -> Any:
    fragments = runner.sample(num_timesteps=80)
    times = {"bars": bars_before, NUM_ENV_STEPS_SAMPLED_LIFETIME: bars_before + 80}
    learner.update(episodes=fragments, timesteps=times, **how)
    return fragments[0]


def weights_of(learner: Any) -> bytes:
    state = learner.get_state(components=COMPONENT_RL_MODULE)[COMPONENT_RL_MODULE]
    return b"".join(
        np.asarray(array).tobytes() for module in sorted(state) for _, array in sorted(state[module].items())
    )


def test_one_phase_one_trial_one_module() -> None:
    settings = Settings.load("allocator.yaml")
    (plan,) = plan_phase(settings, 1)
    assert (plan.name, plan.modules, plan.learning) == (ALLOCATOR, (ALLOCATOR,), (ALLOCATOR,))
    assert list(Manifest.begin("a", settings, _market(), 1.0, [1]).phases) == ["1"]


def _market() -> Any:
    from mtquant_rllib.training.records.manifest import MarketRecord

    return MarketRecord(kind="synthetic", data="nowhere")


@pytest.mark.slow
def test_a_second_phase_is_refused() -> None:
    with pytest.raises(RunError, match="phase 2"):
        train(Settings.load("allocator.yaml"), phase=2)


@pytest.mark.slow
def test_rllibs_own_engine_is_refused_aloud(make: Make) -> None:
    with pytest.raises(ConfigError, match="batched"):
        make("ppo", "plain", "resources.engine=rllib")


def test_an_asset_that_nobody_trades_is_refused() -> None:
    with pytest.raises(ConfigError, match="DOGE"):
        Settings.load("allocator.yaml", ["allocator.assets=[EURUSD, DOGEUSD]", "allocator.sixty_forty={EURUSD: 1.0}"])


def test_critics_see_the_weights_that_the_environment_makes(make: Make) -> None:
    config = make("sac", "plain")
    spec = config.rl_module_spec.rl_module_specs[ALLOCATOR].model_config["sac"]
    assert spec["action_map"] == "simplex"
    raw = np.random.default_rng(0).normal(scale=1.5, size=(64, 5)).astype(np.float32)
    seen = apply_action_map("simplex", torch.from_numpy(raw), spec["map_numbers"]).numpy()
    assert seen == pytest.approx(allocator_weights(raw, 3.0), abs=1e-6)
    assert target_entropy(5) == pytest.approx(-np.log(5))


def test_the_attention_networks_tokens_are_the_four_groups(make: Make) -> None:
    shape = make("sac", "attention").rl_module_spec.rl_module_specs[ALLOCATOR].model_config["shape"]
    assert shape["groups"] == [["price", 15], ["volume", 10], ["technical", 15], ["momentum", 10]]
    assert shape["actions"] == 5


@pytest.mark.slow
def test_the_runner_pays_what_the_core_pays_for_the_same_actions(make: Make) -> None:
    runner = BatchedEnvRunner(config=make("ppo", "plain"), worker_index=0)
    (fragment,) = runner.sample(num_timesteps=40)
    (level,) = fragment.levels
    seen, _, _ = seen_in(runner, level)
    again = BatchedEnvRunner(config=make("ppo", "plain"), worker_index=0).env
    again.start_over()
    core = again.domain_envs[0].desk
    for bar in range(10):
        assert np.array_equal(core.observe(), seen[4 * bar : 4 * bar + 4, 0])
        core.decide(level.actions[4 * bar : 4 * bar + 4, 0])
        assert core.advance().rewards == pytest.approx(level.rewards[bar + 1], abs=1e-6)


@pytest.mark.slow
def test_every_term_is_a_metric(make: Make) -> None:
    runner = BatchedEnvRunner(config=make("ppo", "plain"), worker_index=0)
    runner.sample(num_timesteps=80)
    assert set(runner.get_metrics()[REWARD_TERMS]) == set(TERMS)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["plain", "attention"])
def test_sac_learns_from_rows_that_the_replay_recalls(make: Make, network: str) -> None:
    config = make("sac", network)
    runner = BatchedEnvRunner(config=config, worker_index=0)
    learner = learner_of(config, runner, SACLearner)
    before = weights_of(learner)
    fragment = learn(learner, runner, 0, n_steps=5)
    assert learner.gradient_steps == 5
    assert weights_of(learner) != before
    drawn = learner.replay.sample([ALLOCATOR], 64)[ALLOCATOR]
    sampled = {row.tobytes() for row in seen_in(runner, fragment.levels[0])[0][:, 0]}
    assert all(row.tobytes() in sampled for row in drawn.observation)


@pytest.mark.slow
def test_a_restored_learner_goes_on_to_the_bit(make: Make) -> None:
    config = make("sac", "plain")
    runner = BatchedEnvRunner(config=config, worker_index=0)
    learner = learner_of(config, runner, SACLearner)
    learn(learner, runner, 0, n_steps=3)
    kept = pickle.loads(pickle.dumps(learner.get_state()))
    assert REPLAY_STATE in kept
    other = learner_of(config, runner, SACLearner)
    other.set_state(kept)
    fragments = runner.sample(num_timesteps=40)
    for one in (learner, other):
        one.update(episodes=fragments, timesteps={"bars": 80, NUM_ENV_STEPS_SAMPLED_LIFETIME: 120}, n_steps=4)
    assert weights_of(learner) == weights_of(other)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["plain", "attention"])
def test_ppo_learns_on_the_same_columns(make: Make, network: str) -> None:
    config = make("ppo", network)
    runner = BatchedEnvRunner(config=config, worker_index=0)
    learner = learner_of(config, runner, BatchedLearner)
    before = weights_of(learner)
    learn(learner, runner, 0, num_epochs=1, minibatch_size=40)
    assert weights_of(learner) != before
