"""What somebody who knows RLlib's runner expects of this one: callbacks, evaluation, random actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils.metrics import EPISODE_RETURN_MAX, EPISODE_RETURN_MEAN, EPISODE_RETURN_MIN, NUM_EPISODES

from mtquant_rllib.engine.sampling.runner import REGIMES, BatchedEnvRunner
from mtquant_rllib.features.regimes import Regime

SEEN: list[tuple[Any, ...]] = []


class Listener(RLlibCallback):
    def on_episode_start(self, *, episode: Any, env_index: int, **kwargs: Any) -> None:
        episode.custom_data["steps"] = 0
        SEEN.append(("start", episode.id_, env_index))

    def on_episode_step(self, *, episode: Any, **kwargs: Any) -> None:
        episode.custom_data["steps"] += 1

    def on_episode_end(self, *, episode: Any, env_index: int, metrics_logger: Any, **kwargs: Any) -> None:
        assert episode.is_done
        metrics_logger.log_value("my_steps", episode.custom_data["steps"])
        SEEN.append(("end", episode.id_, len(episode), episode.get_return()))


@pytest.fixture
def config(make_config: Any) -> Any:
    SEEN.clear()
    return make_config(3, "desk")


@pytest.mark.slow
def test_episode_callbacks_are_called_with_what_an_episode_was(config: Any) -> None:
    functions: list[str] = []
    config.callbacks(Listener, on_episode_end=lambda *, episode, **kwargs: functions.append(episode.id_))
    runner = BatchedEnvRunner(config=config, worker_index=0)
    runner.sample(num_timesteps=4 * 50)
    started = [entry for entry in SEEN if entry[0] == "start"]
    ended = [entry for entry in SEEN if entry[0] == "end"]
    # Four environments, episodes of 20 bars: two are over in each, the third is under way.
    assert len(started) == 12
    assert len(ended) == 8
    assert len({entry[1] for entry in started}) == 12, "every episode has an id of its own"
    assert functions == [entry[1] for entry in ended]
    assert all(length == 20 for _, _, length, _ in ended)
    metrics = runner.get_metrics()
    assert metrics["my_steps"].peek() == 20
    assert metrics[NUM_EPISODES].peek() == 8
    assert metrics[EPISODE_RETURN_MEAN].peek() == pytest.approx(np.mean([entry[3] for entry in ended]))


@pytest.mark.slow
def test_nobody_who_listens_changes_what_is_sampled(config: Any, make_config: Any) -> None:
    plain = BatchedEnvRunner(config=make_config(3, "desk"), worker_index=0)
    config.callbacks(Listener)
    heard = BatchedEnvRunner(config=config, worker_index=0)
    (one,), (other,) = plain.sample(num_timesteps=100), heard.sample(num_timesteps=100)
    for mine, theirs in zip(one.levels, other.levels):
        assert np.array_equal(mine.private, theirs.private)
        assert np.array_equal(mine.rewards, theirs.rewards)


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "trial"), [(3, "desk"), (1, "forex")])
def test_of_many_episodes_that_end_together_the_statistics_are_those_of_all(
    phase: int, trial: str, make_config: Any
) -> None:
    """Four end at once, more than a window of two holds; who listens has each of them logged."""
    logged = []
    for listener in (None, Listener):
        config = make_config(phase, trial).reporting(metrics_num_episodes_for_smoothing=2)
        if listener is not None:
            config.callbacks(listener)
        runner = BatchedEnvRunner(config=config, worker_index=0)
        runner.sample(num_timesteps=4 * 50)
        metrics = runner.get_metrics()
        kinds = (EPISODE_RETURN_MEAN, EPISODE_RETURN_MIN, EPISODE_RETURN_MAX, NUM_EPISODES)
        logged.append(
            [metrics[kind].peek() for kind in kinds]
            + [(agent, stats.peek()) for agent, stats in sorted(metrics["agent_episode_returns_mean"].items())]
        )
    assert logged[0] == logged[1]
    assert logged[0][3] == 8


@pytest.mark.slow
def test_an_evaluation_runner_plays_whole_episodes_of_its_own(config: Any) -> None:
    training = BatchedEnvRunner(config=config, worker_index=0)
    (fragment,) = training.sample(num_timesteps=40)
    evaluation = config.copy(copy_frozen=False)
    evaluation.in_evaluation = True
    runner = BatchedEnvRunner(config=evaluation, worker_index=0)
    returns = []
    for _ in range(2):
        (played,) = runner.sample(num_episodes=4)
        assert played.bars == 4 * 20
        assert not played.levels, "nothing is kept of episodes that nobody learns from"
        returns.append(runner.get_metrics()[EPISODE_RETURN_MEAN].peek())
    assert returns[0] != returns[1], "episodes go on, they are not repeated"
    (own,) = runner.sample(num_timesteps=40, explore=False)
    assert not np.array_equal(own.levels[0].private, fragment.levels[0].private)
    assert np.array_equal(
        own.levels[0].actions, own.levels[0].action_dist_inputs[..., : own.levels[0].actions.shape[-1]]
    )


@pytest.mark.slow
def test_random_actions_are_uniform_over_the_box(config: Any) -> None:
    runner = BatchedEnvRunner(config=config, worker_index=0)
    (fragment,) = runner.sample(num_timesteps=400, random_actions=True)
    actions = np.concatenate([level.actions.ravel() for level in fragment.levels])
    assert np.abs(actions).max() <= 1.0
    assert actions.mean() == pytest.approx(0.0, abs=0.02)
    assert actions.std() == pytest.approx(1 / np.sqrt(3), abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "name"), [(3, "desk"), (1, "desk")])
def test_regimes_of_the_bars_sampled_are_metrics(make_config: Any, phase: int, name: str) -> None:
    """Counted once more bar by bar, within episodes."""
    overrides = ("networks.sharing=all",) if phase == 1 else ()
    runner = BatchedEnvRunner(config=make_config(phase, name, *overrides), worker_index=0)
    labels, sure, changes, pairs = [], [], 0, 0
    last: dict[int, int] = {}
    features = [part.desk.features for part in runner.env.domain_envs]
    play = runner._step_bar

    def watched(row: int, asked: np.ndarray, draw: Any, marks: Any) -> int:
        nonlocal changes, pairs
        before = [(part.playing & asked, part.desk.state.row.copy()) for part in runner.env.domain_envs]
        begun = runner.env.episodes_begun.copy()
        ended = play(row, asked, draw, marks)
        for (playing, rows), own in zip(before, features):
            for env in np.flatnonzero(playing):
                label = int(own.regime[rows[env]])
                labels.append(label)
                sure.append(float(own.regime_confidence[rows[env]]))
                if env in last:
                    pairs, changes = pairs + 1, changes + (last[env] != label)
                last[env] = label
        for env in np.flatnonzero(runner.env.episodes_begun != begun):
            last.pop(int(env), None)
        return ended

    runner._step_bar = watched  # type: ignore[method-assign]
    runner.sample(num_timesteps=4 * 70 + 2)
    logged = {key: value.peek() for key, value in runner.get_metrics()[REGIMES].items()}
    assert len(labels) == 4 * 70 + 2
    for regime in Regime:
        assert logged[f"share_{regime.name.lower()}"] == pytest.approx(np.mean(np.array(labels) == regime))
    assert logged["confidence"] == pytest.approx(np.mean(sure), rel=1e-5)
    assert logged["changes_per_bar"] == pytest.approx(changes / pairs)
    assert changes > 0
