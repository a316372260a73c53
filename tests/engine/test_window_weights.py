"""Softmin weights of windows: by pencil, as a gradient of the soft minimum, over several learners, in the learner."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from learners import TIMES, built, parameters

from mtquant_rllib.config.sections.training import WindowSoftminConfig
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.engine.learning.ppo.learner import BatchedLearner
from mtquant_rllib.engine.learning.ppo.window_weights import EFFECTIVE_WINDOWS, Windows, softmin_weights
from mtquant_rllib.engine.sampling.runner import BatchedEnvRunner
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.curriculum.phases import expect_trainable

ADVANTAGE = 4


def windows(sharpes: list[float], rows: list[int]) -> Windows:
    return Windows(
        of_row=np.repeat(np.arange(len(rows)), rows),
        sharpe_ann=np.array(sharpes),
        rows=np.array(rows, dtype=np.float64),
        bars=np.array(rows, dtype=np.float64),
    )


def alone(own: np.ndarray) -> np.ndarray:
    return own


def config(temperature: float, min_bars: int = 1) -> WindowSoftminConfig:
    return WindowSoftminConfig.model_construct(temperature=temperature, min_bars=min_bars)


def test_the_score_of_a_window_is_the_annual_sharpe_ratio_of_its_rewards() -> None:
    # Two windows: rewards 3 and 1 (mean 2, deviation 1) that last a bar each, and -1, 0, 1, -4 that last five.
    keys = np.array([7, 7, 2, 2, 2, 2])
    rewards, bars = np.array([3.0, 1.0, -1.0, 0.0, 1.0, -4.0]), np.array([1, 1, 5, 5, 5, 5])
    found = Windows.of(keys, rewards, bars, 250.0)
    slow = rewards[2:]
    np.testing.assert_allclose(found.sharpe_ann, [slow.mean() / slow.std() * math.sqrt(50), 2 * math.sqrt(250)])
    np.testing.assert_array_equal(found.of_row, [1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(found.rows, [4, 2])
    np.testing.assert_array_equal(found.bars, [20, 2])
    assert Windows.of(np.zeros(3), np.full(3, 0.5), np.ones(3), 250.0).sharpe_ann[0] == 0.0


def test_weights_by_pencil() -> None:
    # Sharpe ratios 1 and -1 at temperature 2: e^-.5 and e^.5, over their mean. The worse one weighs e times as much.
    weights, effective = softmin_weights(windows([1.0, -1.0], [3, 3]), config(2.0), alone)
    np.testing.assert_allclose(weights, [2 / (1 + math.e)] * 3 + [2 * math.e / (1 + math.e)] * 3)
    assert effective == pytest.approx((1 + math.e) ** 2 / (2 * (1 + math.e**2)))


def test_at_an_infinite_temperature_every_weight_is_one() -> None:
    weights, effective = softmin_weights(windows([5.0, -9.0, 0.3], [2, 4, 1]), config(math.inf), alone)
    np.testing.assert_array_equal(weights, np.ones(7))
    assert effective == 1.0


def test_a_window_that_is_too_short_to_judge_keeps_its_weight() -> None:
    some = windows([-300.0, 1.0, -1.0], [2, 5, 5])
    weights, _ = softmin_weights(some, config(1.0, min_bars=5), alone)
    np.testing.assert_array_equal(weights[:2], [1, 1])
    np.testing.assert_allclose(weights[2:], softmin_weights(windows([1.0, -1.0], [5, 5]), config(1.0), alone)[0])
    none, effective = softmin_weights(some, config(1.0, min_bars=9), alone)
    np.testing.assert_array_equal(none, np.ones(12))
    assert math.isnan(effective)


def test_weights_are_the_gradient_of_the_soft_minimum() -> None:
    sharpes, rows, temperature = np.array([0.4, -1.3, 2.2]), np.array([6, 2, 4]), 0.7

    def soft_minimum(scores: np.ndarray) -> float:
        return float(-temperature * np.log((rows * np.exp(-scores / temperature)).sum()))

    weights, _ = softmin_weights(windows(list(sharpes), list(rows)), config(temperature), alone)
    for k, first in enumerate(np.cumsum([0, *rows])[:-1]):
        step = np.eye(3)[k] * 1e-6
        slope = (soft_minimum(sharpes + step) - soft_minimum(sharpes - step)) / 2e-6
        assert weights[first] * rows[k] / rows.sum() == pytest.approx(slope, rel=1e-6)


@pytest.mark.slow
@hypothesis_settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-40, 40), st.integers(1, 30)), min_size=1, max_size=8),
    st.floats(0.05, 1000),
)
def test_weights_are_one_on_average_and_greater_where_it_goes_worse(
    drawn: list[tuple[float, int]], temperature: float
) -> None:
    sharpes, rows = ([one[part] for one in drawn] for part in (0, 1))
    some = windows(sharpes, rows)
    weights, effective = softmin_weights(some, config(temperature), alone)
    assert weights.mean() == pytest.approx(1.0)
    assert 0 < effective <= 1 + 1e-12
    each = weights[np.cumsum([0, *rows])[:-1]]
    assert (np.diff(each[np.argsort(sharpes)]) <= 1e-12).all()


def test_several_learners_weigh_as_one_does() -> None:
    """Each has some of the windows, one of them none; sums are taken over all of them together."""
    parts = [windows([0.5, -2.0], [3, 4]), windows([], []), windows([1.5], [5])]
    whole, effective = softmin_weights(windows([0.5, -2.0, 1.5], [3, 4, 5]), config(0.8), alone)
    barrier, held, found = threading.Barrier(3), [np.zeros(0)] * 3, [None] * 3

    def learner(rank: int) -> None:
        def total(own: np.ndarray) -> np.ndarray:
            held[rank] = own
            barrier.wait()
            together = sum(held)
            barrier.wait()
            return together

        found[rank] = softmin_weights(parts[rank], config(0.8), total)

    threads = [threading.Thread(target=learner, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(np.concatenate([weights for weights, _ in found]), whole)
    assert [share for _, share in found] == pytest.approx([effective] * 3)


# -- in the learner


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "name", "overrides"), [(3, "desk", ()), (1, "forex", ("networks.sharing=domain",))])
def test_the_learner_multiplies_the_advantages_of_each_window_and_nothing_else(
    make_config: Any, phase: int, name: str, overrides: tuple[str, ...]
) -> None:
    softmin = "recipe.window_softmin={temperature: 3, min_bars: 10}"
    trials = {
        key: make_config(phase, name, *overrides, *more) for key, more in (("plain", ()), ("softmin", (softmin,)))
    }
    runner = BatchedEnvRunner(config=trials["plain"], worker_index=0)
    fragments = runner.sample(num_timesteps=160)
    learners = {key: built(BatchedLearner, trial, runner) for key, trial in trials.items()}
    learners["softmin"].set_state(learners["plain"].get_state())
    plain, weighted = (learner._gather(fragments).module_columns for learner in learners.values())
    assert plain.keys() == weighted.keys()
    moved = set()
    for module, columns in plain.items():
        assert len(columns) == len(weighted[module])
        for number, (before, after) in enumerate(zip(columns, weighted[module])):
            assert before.dtype == after.dtype
            if number != ADVANTAGE:
                np.testing.assert_array_equal(before, after)
        before, after = columns[ADVANTAGE][:, 0], weighted[module][ADVANTAGE][:, 0]
        ratio = after[np.abs(before) > 1e-3] / before[np.abs(before) > 1e-3]
        assert (ratio > 0).all()
        # Four environments, and with shared modules several agents in each.
        assert len(np.unique(ratio.round(4))) <= 4 * 3
        if np.ptp(ratio) > 0.01:
            moved.add(module)
    assert moved, "no window differed from another"


@pytest.mark.slow
def test_with_a_great_temperature_an_update_is_the_plain_one_and_its_effect_is_logged(make_config: Any) -> None:
    hot = "recipe.window_softmin={temperature: 1000, min_bars: 2}"
    cold = "recipe.window_softmin={temperature: 0.5, min_bars: 2}"
    trials = [make_config(3, "desk", "meta_controller.dropout=0.0", *more) for more in ((), (hot,), (cold,))]
    runner = BatchedEnvRunner(config=trials[0], worker_index=0)
    (fragment,) = runner.sample(num_timesteps=160)
    learners = [built(BatchedLearner, trial, runner) for trial in trials]
    for learner in learners[1:]:
        learner.set_state(learners[0].get_state())
    logged = [learner.update(episodes=[fragment], timesteps=TIMES, num_epochs=1) for learner in learners]
    plain, like_it, other = (np.concatenate([a.ravel() for a in parameters(one).values()]) for one in learners)
    # Adam's first step takes a gradient's sign: the few that are nearly zero may turn.
    apart = np.abs(plain - other).mean()
    assert apart > 1e-6
    assert np.abs(plain - like_it).mean() < 0.1 * apart
    assert EFFECTIVE_WINDOWS not in logged[0]["EURUSD"]
    shares = [results["EURUSD"][EFFECTIVE_WINDOWS].peek() for results in logged[1:]]
    assert shares[0] > 0.99
    assert shares[1] < 0.9


# -- what cannot be asked for


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["recipe.algorithms=[ppo, ppo, sac]"], "temperature = 2 with SAC in phase 3: expected null"),
        (["resources.engine=rllib"], "temperature = 2 with resources.engine = 'rllib': expected null"),
    ],
)
def test_sac_and_rllibs_own_learner_are_refused(overrides: list[str], said: str) -> None:
    settings = Settings.load(overrides=["recipe.window_softmin.temperature=2", *overrides])
    with pytest.raises(ConfigError, match=said):
        expect_trainable(settings, 3)


def test_a_temperature_has_bounds() -> None:
    assert Settings.load().recipe.window_softmin.temperature is None
    for wrong in ("0", "-1", "1001", ".inf"):
        with pytest.raises(ConfigError, match=r"window_softmin\.temperature"):
            Settings.load(overrides=[f"recipe.window_softmin.temperature={wrong}"])
