"""What replay keeps of an observation is enough: put together again it is the same, byte for byte. And a desk that is
put back in the middle of its episodes goes on as if nothing had happened."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtquant_rllib.engine.runner import BatchedEnvRunner
from mtquant_rllib.engine.seats import SEATS, STANDING
from mtquant_rllib.env.data import DeskData
from mtquant_rllib.env.recall import Recall

PHASES = [
    (3, "desk", ("desk.observation.centres={cmf: 0.6, breadth: 0.2}",)),
    (2, "desk", ("desk.decision.specialists_every_bars=2",)),
    (1, "forex", ("desk.observation.centres={cmf: 0.6, off_high60: 0.3, carry: -0.4}",)),
    (1, "desk", ("networks.sharing=all",)),
]


@pytest.mark.parametrize(("phase", "name", "overrides"), PHASES)
def test_observations_put_together_again_are_what_was_seen(
    make_config: Any, phase: int, name: str, overrides: tuple[str, ...]
) -> None:
    config = make_config(phase, name, *overrides)
    config.multi_agent(policies_to_train=None)
    runner = BatchedEnvRunner(config=config, worker_index=0)
    features = DeskData.open(Path(config.env_config["data"]), "train").features
    for bars in (101, 3, 62):
        (fragment,) = runner.sample(num_timesteps=bars)
        for level in fragment.levels:
            recall = Recall(runner.env.settings, features, level.agents, level.domain)
            t, env = np.nonzero(level.due)
            end_t, end_env = np.nonzero(level.truncated)
            due = np.flatnonzero(level.tail_due)
            looks = [
                (level.observations, level.market_rows[t, env], level.turns[t, env]),
                (level.final, level.market_rows[end_t, end_env] + 1, level.turns[end_t, end_env]),
                (level.tail[due], level.tail_rows[due], level.tail_turns[due]),
            ]
            for seen, rows, turns in looks:
                for seat in range(seen.shape[1]):
                    one_seat = seen.shape[1] == 1
                    agents = turns if one_seat and len(level.agents) > 1 else np.full(len(rows), seat)
                    again = recall(agents, rows, turns, seen[:, seat][:, recall.private])
                    assert again.tobytes() == np.ascontiguousarray(seen[:, seat]).tobytes(), level.agents
            assert len(recall.private) < level.observations.shape[2] / 1.5


@pytest.mark.parametrize(("phase", "name", "overrides"), PHASES)
def test_a_runner_put_back_goes_on_as_if_nothing_had_happened(
    make_config: Any, phase: int, name: str, overrides: tuple[str, ...]
) -> None:
    config = make_config(phase, name, *overrides)
    config.multi_agent(policies_to_train=None)
    first = BatchedEnvRunner(config=config, worker_index=0)
    first.sample(num_timesteps=93)
    state = pickle.dumps({**first.seats(), STANDING: first.standing()})
    weights = first.module.get_state()
    again = BatchedEnvRunner(config=config, worker_index=0)
    again.module.set_state(weights)
    again.set_state({SEATS: pickle.loads(state)})
    for bars in (14, 61):
        (mine,), (theirs,) = again.sample(num_timesteps=bars), first.sample(num_timesteps=bars)
        for own, other in zip(mine.levels, theirs.levels, strict=True):
            for column, item in vars(other).items():
                assert np.array_equal(getattr(own, column), item), (other.agents, column)
