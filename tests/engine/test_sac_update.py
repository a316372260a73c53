"""The SAC learner between runner and state: exact restores, frozen modules, and policies that carry over."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core import COMPONENT_OPTIMIZER, COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from mtquant_rllib.engine.learning.ppo.learner import BatchedLearner
from mtquant_rllib.engine.learning.sac.learner import REPLAY_STATE, SACLearner
from mtquant_rllib.engine.sampling.runner import BatchedEnvRunner
from mtquant_rllib.engine.sampling.runner_base import COUNTERS, SNAPSHOT
from mtquant_rllib.features.regimes import Regime
from mtquant_rllib.training.records.module_states import as_arrays, carried_over
from mtquant_rllib.universe import META

SMALL = (
    "recipe.algorithms=[sac, sac, sac]",
    "sac.critic.hidden=[16, 16]",
    "sac.batch_size=32",
    "sac.replay_bars=400",
)
PRIORITISED = "sac.priorities={power: 0.6, weight_power_start: 0.4, weight_power_final: 1.0, epsilon: 0.001}"
ATTENTION = (
    "networks.names={meta: attention}",
    "networks.attention={width: 16, heads: 2, policy_heads: {hidden: 8}}",
)


class Pair:
    """A runner and a learner that learn from each other."""

    def __init__(self, config: Any) -> None:
        self.runner = BatchedEnvRunner(config=config, worker_index=0)
        spec = config.get_multi_rl_module_spec(env=None, spaces=self.runner.get_spaces())
        self.learner = SACLearner(config=config, module_spec=spec)
        self.learner.build()
        self.bars = 0
        self.show()

    def show(self) -> None:
        state = self.learner.get_state(components=COMPONENT_RL_MODULE, inference_only=True)
        self.runner.set_state({COMPONENT_RL_MODULE: state[COMPONENT_RL_MODULE]})

    def go_on(self, rounds: int, bars: int = 20, steps: int = 10) -> None:
        for _ in range(rounds):
            fragments = self.runner.sample(num_timesteps=bars)
            times = {"bars": self.bars, NUM_ENV_STEPS_SAMPLED_LIFETIME: self.bars + bars}
            self.learner.update(episodes=fragments, timesteps=times, n_steps=steps)
            self.bars += bars
            self.show()

    def state(self) -> dict[str, Any]:
        counters = {**self.runner.counters(), SNAPSHOT: self.runner.snapshot()}
        return {"learner": self.learner.get_state(), "counters": counters, "bars": self.bars}

    def restore(self, state: dict[str, Any]) -> None:
        self.learner.set_state(state["learner"])
        self.show()
        self.runner.set_state({COUNTERS: state["counters"]})
        self.bars = state["bars"]


def unlike(mine: Any, theirs: Any, path: str = "") -> list[str]:
    """Where two nested states differ, to the bit; running averages of metrics aside."""
    if "metrics" in path:
        return []
    if isinstance(theirs, dict):
        if mine.keys() != theirs.keys():
            return [path]
        return [found for key in theirs for found in unlike(mine[key], theirs[key], f"{path}/{key}")]
    if isinstance(theirs, list | tuple):
        return [
            found for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) for found in unlike(a, b, f"{path}/{i}")
        ]
    if theirs is None or isinstance(theirs, str):
        return [] if mine == theirs else [path]
    return [] if np.asarray(mine).tobytes() == np.asarray(theirs).tobytes() else [path]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "name", "overrides"),
    [
        (3, "desk", ()),
        (3, "desk", (PRIORITISED, "sac.n_steps=3", *ATTENTION)),
        (1, "forex", ()),
        (2, "desk", ()),
    ],
)
def test_a_restored_pair_takes_the_next_hundred_steps_to_the_bit(
    make_config: Any, phase: int, name: str, overrides: tuple[str, ...]
) -> None:
    """Weights, optimisers, targets, alphas, replay, its generator, and episodes cut in the middle."""
    config = make_config(phase, name, *SMALL, *overrides)
    first = Pair(config)
    first.go_on(6)
    kept = pickle.dumps(first.state())
    first.go_on(10)
    again = Pair(config)
    again.restore(pickle.loads(kept))
    again.go_on(10)
    assert first.learner.gradient_steps == 160
    assert unlike(again.state(), first.state()) == []
    learned = set(config.policies_to_train)
    optimisers = first.state()["learner"][COMPONENT_OPTIMIZER]
    assert {entry["module_id"] for entry in optimisers.values()} == learned
    assert len(optimisers) == 4 * len(learned)


@pytest.mark.slow
def test_a_part_of_a_state_leaves_the_rest_as_it_is_now(make_config: Any) -> None:
    pair = Pair(make_config(1, "forex", *SMALL))
    pair.go_on(2)
    before = pair.learner.get_state()
    pair.learner.set_state({COMPONENT_OPTIMIZER: before[COMPONENT_OPTIMIZER]})
    assert unlike(pair.learner.get_state(), before) == []
    pair.go_on(1)
    assert unlike(pair.learner.get_state()[COMPONENT_RL_MODULE], before[COMPONENT_RL_MODULE]) != []


@pytest.mark.slow
def test_frozen_modules_have_no_critics_are_not_remembered_and_do_not_change(make_config: Any) -> None:
    pair = Pair(make_config(2, "desk", *SMALL))
    before = pair.learner.get_state()[COMPONENT_RL_MODULE]
    pair.go_on(8)
    state = pair.learner.get_state()
    after = state[COMPONENT_RL_MODULE]
    changed = {module for module in after if unlike(after[module], before[module])}
    assert changed == {META}
    assert not any(key.startswith("critics.") for key in after["EURUSD"])
    assert [storage["agents"] for storage in state[REPLAY_STATE]["storages"]] == [(META,)]


@pytest.mark.slow
def test_nothing_is_learned_before_it_is_asked_for(make_config: Any) -> None:
    pair = Pair(make_config(1, "forex", *SMALL))
    before = pair.learner.get_state()[COMPONENT_RL_MODULE]
    pair.go_on(2, steps=0)
    assert unlike(pair.learner.get_state()[COMPONENT_RL_MODULE], before) == []
    assert pair.learner.replay.has("EURUSD")


@pytest.mark.slow
def test_a_policy_carries_over_from_ppo_to_sac_and_back_with_a_fresh_deviation(make_config: Any) -> None:
    sac, ppo_config = Pair(make_config(1, "forex", *SMALL)), make_config(1, "forex")
    spec = ppo_config.get_multi_rl_module_spec(env=None, spaces=sac.runner.get_spaces())
    ppo = BatchedLearner(config=ppo_config, module_spec=spec)
    ppo.build()
    sac.go_on(4)
    obs = torch.randn(5, sac.learner.module["EURUSD"].policy.shape.observation)
    for giver, taker in ((sac.learner, ppo), (ppo, sac.learner)):
        given = {name: as_arrays(state) for name, state in giver.get_state()[COMPONENT_RL_MODULE].items()}
        fresh = {name: as_arrays(state) for name, state in taker.get_state()[COMPONENT_RL_MODULE].items()}
        taken = {name: carried_over(state, fresh[name], True) for name, state in given.items()}
        taker.set_state({COMPONENT_RL_MODULE: taken})
        for name in ("EURUSD", "forex_specialist"):
            before, after = giver.module[name].policy, taker.module[name].policy
            own = torch.randn(5, before.shape.observation) if name != "EURUSD" else obs
            assert torch.equal(before.mean(own), after.mean(own))
            assert after.rho.detach().numpy().tobytes() == fresh[name]["policy.rho"].tobytes()
            assert not np.array_equal(after.log_std().detach(), before.log_std().detach())
        frozen = carried_over(given["EURUSD"], fresh["EURUSD"], False)
        assert np.array_equal(frozen["policy.rho"], given["EURUSD"]["policy.rho"])
    sac.go_on(1)
    again = carried_over(given["EURUSD"], given["EURUSD"], True)
    assert again.keys() == given["EURUSD"].keys(), "within one algorithm everything carries over"


@pytest.mark.slow
def test_the_regimes_floor_holds_while_collecting_and_not_in_evaluation(make_config: Any) -> None:
    """With a policy that is nearly certain, what is left of noise is the floor of the bar's regime."""
    config = make_config(1, "forex", *SMALL, "sac.initial_std=0.0511", "sac.min_std=0.051")
    runner = BatchedEnvRunner(config=config, worker_index=0)
    floors = np.array([0.15, 0.25, 0.30, 0.10])
    assert config.trial.sac.min_std_by_regime.in_order == tuple(floors[[int(r) for r in Regime]])
    assert [r.name for r in Regime] == ["BULL", "BEAR", "VOLATILE", "SIDEWAYS"]
    spread: dict[int, list[np.ndarray]] = {}
    for _ in range(6):
        (fragment,) = runner.sample(num_timesteps=400)
        level = fragment.levels[-1]
        regimes = runner.env.domain_envs[0].desk.features.regime[level.market_rows[np.nonzero(level.due)]]
        noise = (level.actions - level.action_dist_inputs[..., :3])[:, 0]
        for regime in np.unique(regimes):
            spread.setdefault(int(regime), []).append(noise[regimes == regime])
    checked = 0
    for regime, parts in spread.items():
        noise = np.concatenate(parts)
        if len(noise) > 200:
            checked += 1
            assert noise.std() == pytest.approx(floors[regime], rel=0.08)
    assert checked >= 2
    (fragment,) = runner.sample(num_timesteps=40, explore=False)
    level = fragment.levels[-1]
    assert np.array_equal(level.actions, level.action_dist_inputs[..., :3])


@pytest.mark.slow
def test_rounds_of_fewer_bars_than_environments_reach_all_of_them_in_turn(make_config: Any) -> None:
    """Also where a checkpoint lies between."""
    config = make_config(3, "desk", *SMALL)
    pair = Pair(config)
    pair.go_on(5, bars=3, steps=1)
    assert pair.runner.env.bars_done.tolist() == [4, 4, 4, 3]
    kept = pickle.dumps(pair.state())
    pair.go_on(6, bars=1, steps=1)
    assert pair.runner.env.bars_done.tolist() == [6, 5, 5, 5]
    again = Pair(config)
    again.restore(pickle.loads(kept))
    again.go_on(6, bars=1, steps=1)
    assert unlike(again.state(), pair.state()) == []
