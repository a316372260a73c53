"""What is kept of an observation is enough: put together again it is the same, byte for byte. And a desk that is
put back in the middle of its episodes goes on as if nothing had happened."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from learners import seen_in

from mtquant_rllib.engine.sampling.rollout_buffer import GroupSampler
from mtquant_rllib.engine.sampling.runner import BatchedEnvRunner
from mtquant_rllib.engine.sampling.runner_base import COUNTERS, SNAPSHOT

PHASES = [
    (3, "desk", ("desk.observation.feature_means={cmf: 0.6, breadth: 0.2}",)),
    (2, "desk", ("desk.decision.specialists_every_bars=2",)),
    (1, "forex", ("desk.observation.feature_means={cmf: 0.6, off_high60: 0.3, carry: -0.4}",)),
    (1, "desk", ("networks.sharing=all",)),
    (3, "desk", ("features.others_lag_bars=1", "desk.observation.feature_means={breadth: 0.2, carry: -0.4}")),
]


class Watching(BatchedEnvRunner):
    """Keeps whole what its levels show: `decisions` by (level, bar), `cut` and `last` by level."""

    def watch(self) -> None:
        self.decisions: dict[tuple[int, int], np.ndarray] = {}
        self.cut: dict[int, list[np.ndarray]] = {}
        self.last: dict[int, np.ndarray] = {}
        for sampler in self.samplers():
            sampler.level = replace(sampler.level, observe=partial(self._shown, id(sampler), sampler.level.observe))

    def samplers(self) -> list[GroupSampler]:
        return [sampler for samplers in self._samplers for sampler in samplers]

    def _shown(self, sampler: int, observe: Any) -> np.ndarray:
        self.last[sampler] = observe().copy()
        return self.last[sampler]

    def _decide(self, sampler: GroupSampler, row: int, acting: np.ndarray, draw: Any) -> np.ndarray | None:
        seen = super()._decide(sampler, row, acting, draw)
        if seen is not None:
            self.decisions[id(sampler), row] = seen
        return seen

    def _reward(self, samplers: list[GroupSampler], row: int, rewards: np.ndarray, truncated: np.ndarray) -> None:
        super()._reward(samplers, row, rewards, truncated)
        if truncated.any():
            for sampler in samplers:
                self.cut.setdefault(id(sampler), []).append(self.last[id(sampler)][truncated])


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "name", "overrides"), PHASES)
def test_observations_put_together_again_are_what_was_seen(
    make_config: Any, phase: int, name: str, overrides: tuple[str, ...]
) -> None:
    config = make_config(phase, name, *overrides)
    config.multi_agent(policies_to_train=None)
    runner = Watching(config=config, worker_index=0)
    cut_off = 0
    for bars in (101, 3, 62):
        runner.watch()
        held = {id(sampler): sampler.pending for sampler in runner.samplers()}
        (fragment,) = runner.sample(num_timesteps=bars)
        for sampler, level in zip(runner.samplers(), fragment.levels, strict=True):
            decisions, final, bootstrap = seen_in(runner, level)
            for (bar, env), again in zip(np.argwhere(level.due), decisions, strict=True):
                if bar:
                    seen = runner.decisions[id(sampler), bar][env]
                    assert again.tobytes() == seen.tobytes(), level.agents
                else:
                    assert again[:, sampler.level.state_columns].tobytes() == held[id(sampler)].private[env].tobytes()
            shown = runner.cut.get(id(sampler), [np.zeros((0, *final.shape[1:]), np.float32)])
            assert final.tobytes() == np.concatenate(shown).tobytes()
            cut_off += len(final)
            due = level.bootstrap_due
            assert bootstrap[due].tobytes() == runner.last[id(sampler)][due].tobytes()
            assert level.private.shape[2] < decisions.shape[2] / 1.5
    assert cut_off > 0


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "name", "overrides"), PHASES)
def test_a_runner_put_back_goes_on_as_if_nothing_had_happened(
    make_config: Any, phase: int, name: str, overrides: tuple[str, ...]
) -> None:
    config = make_config(phase, name, *overrides)
    config.multi_agent(policies_to_train=None)
    first = BatchedEnvRunner(config=config, worker_index=0)
    first.sample(num_timesteps=93)
    state = pickle.dumps({**first.counters(), SNAPSHOT: first.snapshot()})
    weights = first.module.get_state()
    again = BatchedEnvRunner(config=config, worker_index=0)
    again.module.set_state(weights)
    again.set_state({COUNTERS: pickle.loads(state)})
    for bars in (14, 61):
        (mine,), (theirs,) = again.sample(num_timesteps=bars), first.sample(num_timesteps=bars)
        for own, other in zip(mine.levels, theirs.levels, strict=True):
            for column, item in vars(other).items():
                assert np.array_equal(getattr(own, column), item), (other.agents, column)
