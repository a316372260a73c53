"""What the replay remembers is what happened: rebuilt from fragments by hand, drawn with the frequencies it claims."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learners import seen_in
from scipy.stats import chisquare

from mtquant_rllib.config.sections.sac import PrioritiesConfig
from mtquant_rllib.engine.fragments import decision_outcomes
from mtquant_rllib.engine.replay.replay import Replay
from mtquant_rllib.engine.replay.storage import DECISION, LAST, STATE
from mtquant_rllib.engine.replay.sum_tree import SumTree
from mtquant_rllib.engine.sampling.runner import BatchedEnvRunner
from mtquant_rllib.engine.sampling.runner_base import COUNTERS
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.errors import RunError
from mtquant_rllib.universe import META

N_ENVS = 4
PRIORITIES = PrioritiesConfig(power=0.6, weight_power_start=0.4, weight_power_final=1.0, epsilon=1e-3)


@pytest.fixture
def desk(make_config: Any) -> Any:
    """(phase, name, overrides, replay settings) -> runner and replay."""

    def build(phase: int, name: str, *overrides: str, **how: Any) -> tuple[BatchedEnvRunner, Replay]:
        config = make_config(phase, name, *overrides)
        config.multi_agent(policies_to_train=None)
        runner = BatchedEnvRunner(config=config, worker_index=0)
        options = {"capacity_bars": 10_000, "n_steps": 1, "gamma": 0.9, "priorities": None, "seed": 5, **how}
        replay = Replay(
            runner.env.settings,
            DeskData.open(Path(config.env_config["data"]), "train").features,
            learning=frozenset(runner.module.keys()),
            module_of=lambda agent: config.policy_mapping_fn(agent, None),
            n_envs=N_ENVS,
            envs_per_runner=N_ENVS,
            **options,
        )
        return runner, replay

    return build


def drawn_of(replay: Replay, module: str, size: int, weight_power: float = 0.0) -> Any:
    return replay.sample([module], size, weight_power)[module]


def by_hand(
    runner: BatchedEnvRunner, fragments: list[Any], module: str, gamma: float, n_steps: int
) -> set[tuple[Any, ...]]:
    """Every return of a module's decisions, followed one by one through all fragments: (observation, action, reward,
    discount, next observation or None)."""
    chains: dict[Any, list[Any]] = {}
    found = set()

    def close(key: Any, after: bytes | None) -> None:
        chain = chains.pop(key, [])
        for start in range(len(chain)):
            steps = chain[start : start + n_steps]
            reward, bars = 0.0, 0
            for _, _, earned, held, _ in steps:
                reward += gamma**bars * earned
                bars += held
            last = start + n_steps >= len(chain)
            seen = after if last else chain[start + n_steps][0]
            discount = 0.0 if last and after is None else gamma**bars
            found.add((chain[start][0], chain[start][1], round(reward, 4), round(discount, 6), seen))

    for fragment in fragments:
        for number, level in enumerate(fragment.levels):
            if module not in level.modules:
                continue
            closed, (seen, final, _) = decision_outcomes(level), seen_in(runner, level)
            finals = np.cumsum(level.truncated.ravel()).reshape(level.truncated.shape) - 1
            for r, (t, env) in enumerate(zip(closed.t, closed.env)):
                for slot in range(level.module_index.shape[1]):
                    if level.modules[level.module_index[r, slot]] != module or not closed.complete[r]:
                        continue
                    key = (number, env, slot)
                    row = (seen[r, slot].tobytes(), level.actions[r, slot].tobytes())
                    chains.setdefault(key, []).append((*row, closed.rewards[r, slot], closed.bars[r], t))
                    if closed.ends[r]:
                        end = closed.until[r] - 1
                        cut = level.truncated[end, env]
                        close(key, final[finals[end, env], slot].tobytes() if cut else None)
    last = fragments[-1]
    for number, env, slot in list(chains):
        level = last.levels[number]
        seen, _, bootstrap = seen_in(runner, level)
        waiting = bootstrap[env, slot].tobytes() if level.bootstrap_due[env] else None
        if waiting is None:
            r = max(r for r, own in enumerate(np.argwhere(level.due)) if own[1] == env)
            waiting = seen[r, slot].tobytes()
        close((number, env, slot), waiting)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize(
    ("phase", "name", "module", "overrides"),
    [
        (3, "desk", META, ()),
        (3, "desk", "XAUUSD", ()),
        (3, "desk", "forex_specialist", ("desk.decision.specialists_every_bars=2",)),
        (1, "forex", "GBPUSD", ()),
        (1, "forex", "forex_specialist", ()),
        (1, "desk", "instruments", ("networks.sharing=all",)),
    ],
)
def test_what_is_drawn_is_what_happened(
    desk: Any, phase: int, name: str, module: str, overrides: tuple[str, ...], n_steps: int
) -> None:
    """Over cuts of odd lengths, decisions held over them, endings of both kinds, and returns of several decisions."""
    runner, replay = desk(phase, name, *overrides, n_steps=n_steps)
    present = list(runner.module.keys())
    if module not in present:
        module = next(own for own in present if own != META and "specialist" not in own)
    fragments = []
    for bars in (33, 7, 64, 1, 120, 4, 99):
        fragments += pickle.loads(pickle.dumps(runner.sample(num_timesteps=bars)))
        replay.add(fragments[-1:])
    expected = {(seen, did): rest for seen, did, *rest in by_hand(runner, fragments, module, 0.9, n_steps)}
    drawn = set()
    for _ in range(20):
        batch = drawn_of(replay, module, 400)
        for row in range(400):
            key = batch.observation[row].tobytes(), batch.action[row].tobytes()
            reward, discount, after = expected[key]
            assert batch.reward[row] == pytest.approx(reward, abs=1e-4)
            assert batch.discount[row] == pytest.approx(discount, abs=1e-5)
            assert after is None if batch.discount[row] == 0 else batch.next_observation[row].tobytes() == after
            drawn.add(key)
    assert len(expected) > 10
    assert drawn == expected.keys()


@pytest.mark.slow
def test_the_oldest_make_room_and_every_successor_stays_true(desk: Any) -> None:
    """A ring of 30 bars: after 400, only the last remain, each still followed by what followed it."""
    runner, replay = desk(3, "desk", capacity_bars=4 * 30)
    fragments = []
    for bars in (100, 100, 36, 164):
        fragments += pickle.loads(pickle.dumps(runner.sample(num_timesteps=bars)))
        replay.add(fragments[-1:])
    storage = replay._storages[runner.env.settings.universe.symbols]
    assert storage.n_slots == 31
    assert (storage.stored == (storage.kind.reshape(-1, 31) >= DECISION).sum(axis=1)).all()
    assert (storage.stored >= 27).all(), "an episode of 20 bars costs one slot for where it was cut off"
    expected = by_hand(runner, fragments, "EURUSD", 0.9, 1)
    after_of = {(seen, did): after for seen, did, _, _, after in expected}
    batch = drawn_of(replay, "EURUSD", 600)
    for row in range(600):
        truth = after_of[batch.observation[row].tobytes(), batch.action[row].tobytes()]
        if batch.discount[row] > 0:
            assert truth == batch.next_observation[row].tobytes()
    recent = {(seen.tobytes(), did.tobytes()) for seen, did in zip(batch.observation, batch.action)}
    old = by_hand(runner, fragments[:2], "EURUSD", 0.9, 1)
    assert not recent & {(seen, did) for seen, did, *_ in old}


@pytest.mark.slow
def test_a_runner_that_begins_elsewhere_leaves_what_waited_as_a_state(desk: Any) -> None:
    runner, replay = desk(3, "desk")
    replay.add(runner.sample(num_timesteps=20))
    storage = replay._storages[runner.env.settings.universe.symbols]
    waiting = storage.head.copy()
    runner.set_state({COUNTERS: runner.counters()})
    replay.add(runner.sample(num_timesteps=20))
    slots = np.arange(len(waiting)) * storage.n_slots + waiting
    assert (storage.kind[slots] == STATE).all()
    assert (storage.kind[slots - 1] == DECISION).all()
    assert (storage.successors(slots - 1) == slots).all()


@pytest.mark.slow
def test_uniform_draws_are_uniform(desk: Any) -> None:
    runner, replay = desk(3, "desk")
    replay.add(runner.sample(num_timesteps=203))
    counts = np.bincount(np.concatenate([drawn_of(replay, "EURUSD", 500).leaves for _ in range(100)]))
    drawn = counts[counts > 0]
    storage = replay._storages[runner.env.settings.universe.symbols]
    assert len(drawn) == storage.stored[:N_ENVS].sum() >= 195
    assert chisquare(drawn).pvalue > 1e-3


@pytest.mark.slow
def test_prioritised_draws_follow_their_priorities_and_weights_correct_for_them(desk: Any) -> None:
    runner, replay = desk(3, "desk", priorities=PRIORITIES)
    replay.add(runner.sample(num_timesteps=203))
    first = drawn_of(replay, "EURUSD", 2000)
    assert (first.weight == 1).all(), "nothing is known yet: all have the largest priority"
    leaves = np.unique(first.leaves)
    errors = np.random.default_rng(0).exponential(1.0, len(leaves))
    replay.update_priorities("EURUSD", leaves, errors)
    priority = (errors + PRIORITIES.epsilon) ** PRIORITIES.power
    batches = [drawn_of(replay, "EURUSD", 1000, 0.5) for _ in range(60)]
    drawn = np.concatenate([batch.leaves for batch in batches])
    counts = np.array([(drawn == leaf).sum() for leaf in leaves])
    assert counts.sum() == 60_000
    assert chisquare(counts, priority / priority.sum() * counts.sum()).pvalue > 1e-3
    # (N P)^-b over the largest of the batch, Schaul et al. 2016, section 3.4.
    chance = priority / priority.sum()
    for batch in batches[:5]:
        raw = (len(leaves) * chance[np.searchsorted(leaves, batch.leaves)]) ** -0.5
        np.testing.assert_allclose(batch.weight, raw / raw.max(), rtol=1e-5)
    replay.add(runner.sample(num_timesteps=40))
    streams = replay._streams["EURUSD"]
    fresh = np.setdiff1d(np.flatnonzero(streams.tree.leaves), leaves)
    assert len(fresh) >= 30
    assert (streams.tree.leaves[fresh] == streams.largest).all()
    assert streams.largest >= priority.max()


def test_a_sum_tree_finds_what_a_cumulative_sum_finds() -> None:
    rng = np.random.default_rng(1)
    tree, priorities = SumTree(37), np.zeros(37)
    for _ in range(20):
        leaves = rng.integers(37, size=9)
        new = rng.random(9) * (rng.random(9) > 0.3)
        tree.set(leaves, new)
        for leaf, priority in zip(leaves, new):
            priorities[leaf] = priority
        np.testing.assert_allclose(tree.leaves, priorities)
        sums = rng.random(200) * priorities.sum() * (1 - 1e-12)
        found = tree.find(sums)
        assert (priorities[found] > 0).all()
        np.testing.assert_array_equal(found, np.searchsorted(np.cumsum(priorities), sums, side="right"))
    assert tree.total == pytest.approx(priorities.sum())


@pytest.mark.slow
@pytest.mark.parametrize("priorities", [None, PRIORITIES])
def test_a_restored_replay_draws_what_the_lost_one_would_have(desk: Any, priorities: Any) -> None:
    runner, replay = desk(3, "desk", priorities=priorities, capacity_bars=120)
    replay.add(runner.sample(num_timesteps=250))
    drawn_of(replay, META, 100)
    if priorities is not None:
        batch = drawn_of(replay, "US30", 100)
        replay.update_priorities("US30", batch.leaves, np.linspace(0, 3, 100))
    state = pickle.loads(pickle.dumps(replay.get_state()))
    _, again = desk(3, "desk", priorities=priorities, capacity_bars=120)
    again.set_state(state)
    (more,) = runner.sample(num_timesteps=50)
    for one in (replay, again):
        one.add([more])
    for module in (META, "US30", "equity_specialist"):
        mine, theirs = drawn_of(again, module, 200, 0.5), drawn_of(replay, module, 200, 0.5)
        for name, column in vars(theirs).items():
            assert np.array_equal(getattr(mine, name), column), (module, name)


@pytest.mark.slow
def test_a_replay_of_another_size_is_refused(desk: Any) -> None:
    runner, replay = desk(3, "desk")
    replay.add(runner.sample(num_timesteps=20))
    _, other = desk(3, "desk", capacity_bars=500)
    with pytest.raises(RunError, match=r"2501 slots.*126"):
        other.set_state(replay.get_state())


@pytest.mark.slow
def test_a_hundred_thousand_bars_of_twelve_agents_fit_into_150_mb(desk: Any) -> None:
    """Measured on 4,000 bars, with the controller deciding on every one: the most that there can be."""
    runner, replay = desk(3, "desk", "desk.decision.meta_every_bars=1")
    bars = 0
    while bars < 4000:
        replay.add(runner.sample(num_timesteps=1000))
        bars += 1000
    per_bar = len(pickle.dumps(replay.get_state())) / bars
    assert per_bar * 100_000 < 110e6
    names = {name for storage in replay.get_state()["storages"] for name in storage}
    assert not any("block" in name or "observation" in name for name in names)


@pytest.mark.slow
def test_endings_are_told_apart(desk: Any) -> None:
    runner, replay = desk(3, "desk")
    (fragment,) = runner.sample(num_timesteps=200)
    level = fragment.levels[-1]
    t, env = np.argwhere(level.truncated)[0]
    level.truncated[t, env], level.terminated[t, env] = False, True
    number = np.argwhere(level.truncated | level.terminated).tolist().index([t, env])
    level.final = np.delete(level.final, number, axis=0)
    replay.add([fragment])
    storage = replay._storages[level.agents]
    assert (storage.kind == LAST).sum() == len(level.agents)
    last = np.flatnonzero(storage.kind == LAST)
    assert (storage.returns(last, 1, 0.9).discount == 0).all()
