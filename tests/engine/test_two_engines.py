"""Both engines from the same seeds with deterministic actions: the same observations, rewards, books and returns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from learners import seen_in

from mtquant_rllib.engine.rllib_reference import RLlibEnvRunner
from mtquant_rllib.engine.sampling.runner import BatchedEnvRunner
from mtquant_rllib.universe import META

N_ENVS = 4


def share_weights(source: Any, target: Any) -> None:
    """Lively ones: fresh policies hardly trade."""
    rng = np.random.default_rng(0)
    state = source.module.get_state()
    for module in state.values():
        for name, array in module.items():
            if name.startswith("policy.") and name.endswith("weight"):
                module[name] = np.asarray(array) + rng.normal(0, 0.3, np.shape(array)).astype(np.float32)
    for runner in (source, target):
        runner.module.set_state(state)


def rows_of(level: Any, seen: np.ndarray, module: str) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Closed decisions of a module, with what each saw (R, n, F) and earned until the next or the end."""
    number, rows = level.modules.index(module), []
    n_rows, n_envs = level.due.shape
    order = np.cumsum(level.due.ravel()).reshape(level.due.shape) - 1
    ended = level.terminated | level.truncated
    for env in range(n_envs):
        for t in np.flatnonzero(level.due[:, env]):
            row, earned, closed = int(order[t, env]), np.zeros(level.rewards.shape[2]), False
            for later in range(t, n_rows):
                if later > t and level.due[later, env]:
                    closed = True
                    break
                earned += level.rewards[later, env]
                if ended[later, env]:
                    closed = True
                    break
            if closed or level.bootstrap_due[env]:
                for slot in np.flatnonzero(level.module_index[row] == number):
                    rows.append((seen[row, slot], level.actions[row, slot].copy(), earned[slot]))
    return rows


def as_set(rows: list[tuple[np.ndarray, np.ndarray, float]]) -> np.ndarray:
    """Rows in an order of their own: engines list them differently."""
    table = np.array([np.concatenate((obs, action, [reward])) for obs, action, reward in rows])
    return table[np.lexsort(np.round(table[:, ::-1].T, 3))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "name", "overrides"),
    [
        (3, "desk", ()),
        (2, "desk", ("desk.decision.specialists_every_bars=2",)),
        (1, "forex", ()),
        (1, "desk", ("networks.sharing=all",)),
    ],
)
def test_both_engines_see_do_and_earn_the_same(
    make_config: Any, phase: int, name: str, overrides: tuple[str, ...]
) -> None:
    config = make_config(phase, name, *overrides)
    config.multi_agent(policies_to_train=None)
    batched = BatchedEnvRunner(config=config, worker_index=0)
    stock = RLlibEnvRunner(config=make_config(phase, name, "resources.engine=rllib", *overrides), worker_index=0)
    share_weights(batched, stock)
    modules = sorted(batched.module.keys())
    columns: dict[str, list[Any]] = {module: [] for module in modules}
    episodes: dict[str, list[Any]] = {module: [] for module in modules}
    # Odd numbers of bars: some environments wait, and decisions are held over the cut.
    for bars in (101, 3, 62, 1, 33):
        (fragment,) = batched.sample(num_timesteps=bars, explore=False)
        assert fragment.bars == bars
        for level in fragment.levels:
            seen, _, _ = seen_in(batched, level)
            for module in level.modules:
                columns[module] += rows_of(level, seen, module)
        before = stock.bars_sampled
        chunks = stock.sample(num_timesteps=bars, explore=False)
        assert stock.bars_sampled - before == bars
        for episode in chunks:
            for own in episode.agent_episodes.values():
                rows = zip(own.get_observations()[:-1], own.get_actions(), own.get_rewards())
                episodes[own.module_id] += [(np.array(o), np.array(a), r) for o, a, r in rows]

    for env in range(N_ENVS):
        turn_by_turn = stock.env.envs[env].unwrapped
        assert turn_by_turn.bars_done == batched.env.bars_done[env]
        part = next(part for part in batched.env.domain_envs if part.playing[env])
        theirs = turn_by_turn.env._now.desk if hasattr(turn_by_turn.env, "_now") else turn_by_turn.env.desk
        for attribute in ("units", "stop", "entry", "equity"):
            mine = getattr(part.desk.book, attribute)[env]
            np.testing.assert_allclose(mine, getattr(theirs.book, attribute)[0], rtol=1e-6, err_msg=attribute)
        np.testing.assert_allclose(part.desk.state.record.total[env], theirs.state.record.total[0], atol=1e-7)
    assert batched.env.settings.desk.decision.meta_every_bars > 1, "decisions are held over cuts"
    for module in modules:
        mine, theirs = as_set(columns[module]), as_set(episodes[module])
        # RLlib keeps the last decisions of each cut for its next call.
        assert 0 <= len(mine) - len(theirs) <= 3 * N_ENVS, module
        assert len(theirs) > (2 if module == META else 20)
        nearest = np.abs(theirs[:, None] - mine[None]).max(axis=-1).min(axis=1)
        assert nearest.max() < 1e-4, (module, nearest.max())
    mine, theirs = batched.get_metrics(), stock.get_metrics()
    assert mine["num_env_steps_sampled"].peek() == theirs["num_env_steps_sampled"].peek() == 200
    for figure in ("episode_return_mean", "episode_return_max"):
        assert mine[figure].peek() == pytest.approx(theirs[figure].peek(), rel=1e-5), figure
