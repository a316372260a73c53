"""Learning that goes wrong: broken batches pass, what stays broken is told, and parameters remain what they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from learners import built, parameters
from ray.rllib.core import COMPONENT_OPTIMIZER, COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from mtquant_rllib.engine.learning.divergence import (
    DIVERGED,
    REASON,
    SKIPPED_STEPS,
    SKIPPED_STEPS_LIFETIME,
    Divergence,
    diverged_modules,
)
from mtquant_rllib.engine.learning.ppo.learner import BatchedLearner
from mtquant_rllib.engine.learning.sac.learner import SACLearner
from mtquant_rllib.engine.sampling.runner import BatchedEnvRunner

SAC = ("recipe.algorithms=[sac, sac, sac]", "sac.critic.hidden=[16, 16]", "sac.batch_size=16", "sac.replay_bars=400")
PRIORITISED = "sac.priorities={power: 0.6, weight_power_start: 0.4, weight_power_final: 1.0, epsilon: 0.001}"
SKIPPED_IN_A_ROW = "learner.max_skipped_updates=3"


class Pupil:
    """A learner, the bars that it learns from, and what its metrics said after each update, by module."""

    def __init__(self, config: Any, *, sac: bool) -> None:
        self.sac = sac
        self.runner = BatchedEnvRunner(config=config, worker_index=0)
        self.learner = built(SACLearner if sac else BatchedLearner, config, self.runner)
        self.bars = 0
        self.said: dict[str, dict[str, Any]] = {}

    def update(self, poison: float | None = None, module: str | None = None) -> None:
        """One update on fresh bars. poison: a reward among those of a module, or of all."""
        (fragment,) = self.runner.sample(num_timesteps=80)
        for level in fragment.levels:
            if poison is not None and (module is None or module in level.modules):
                slot = slice(None) if module is None else level.modules.index(module)
                level.rewards[5:9, :, slot] = poison
        times = {"bars": self.bars, NUM_ENV_STEPS_SAMPLED_LIFETIME: self.bars + 80}
        how = {"n_steps": 4} if self.sac else {"num_epochs": 2, "minibatch_size": 64}
        results = self.learner.update(episodes=[fragment], timesteps=times, **how)
        self.bars += 80
        self.said = {
            name: {key: figures[key].peek(compile=True) for key in (SKIPPED_STEPS, DIVERGED, REASON)}
            | {SKIPPED_STEPS_LIFETIME: figures[SKIPPED_STEPS_LIFETIME].peek(compile=True)}
            for name, figures in results.items()
            if DIVERGED in figures
        }

    @property
    def diverged(self) -> set[str]:
        return {name for name, figures in self.said.items() if figures[DIVERGED]}

    def moments_are_finite(self) -> bool:
        state = self.learner.get_state(components=COMPONENT_OPTIMIZER)[COMPONENT_OPTIMIZER]
        return all(
            np.isfinite(np.asarray(array, dtype=np.float64)).all()
            for own in state.values()
            for held in own["state"]["state"].values()
            for array in held.values()
        )


@pytest.fixture(params=[False, True], ids=["ppo", "sac"])
def pupil_of(request: pytest.FixtureRequest, make_config: Any) -> Any:
    def make(*overrides: str) -> Pupil:
        config = make_config(3, "desk", *(SAC if request.param else ()), SKIPPED_IN_A_ROW, *overrides)
        return Pupil(config, sac=request.param)

    return make


@pytest.mark.slow
def test_of_healthy_updates_nothing_is_skipped(pupil_of: Any) -> None:
    pupil = pupil_of()
    pupil.update()
    assert len(pupil.said) == 12
    assert all(set(figures.values()) == {0} for figures in pupil.said.values())
    assert diverged_modules(pupil.said) == {}


@pytest.mark.slow
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_one_broken_batch_is_skipped_counted_and_over(make_config: Any, poison: float) -> None:
    pupil = Pupil(make_config(3, "desk", SKIPPED_IN_A_ROW), sac=False)
    pupil.update()
    before = parameters(pupil.learner)
    pupil.update(poison)
    assert all(figures[SKIPPED_STEPS] > 0 for figures in pupil.said.values())
    for name, array in parameters(pupil.learner).items():
        assert np.array_equal(array, before[name]), "nothing was learned of it"
    assert pupil.moments_are_finite()
    pupil.update()
    assert all(figures[SKIPPED_STEPS] == 0 for figures in pupil.said.values())
    assert not pupil.diverged
    assert any(not np.array_equal(array, before[name]) for name, array in parameters(pupil.learner).items())


@pytest.mark.slow
def test_one_module_without_sound_gradients_diverges_alone_after_so_many_updates_in_a_row(make_config: Any) -> None:
    pupil = Pupil(make_config(3, "desk", SKIPPED_IN_A_ROW), sac=False)
    for poison in (np.nan, np.nan, None, np.nan, np.nan):
        pupil.update(poison, "EURUSD")
        assert not pupil.diverged
    pupil.update(np.nan, "EURUSD")
    assert pupil.diverged == {"EURUSD"}
    assert pupil.said["EURUSD"][REASON] == Divergence.SKIPPED
    assert "learner.max_skipped_updates" in diverged_modules(pupil.said)["EURUSD"]
    assert all(figures[SKIPPED_STEPS] == 0 for name, figures in pupil.said.items() if name != "EURUSD")
    pupil.update()
    assert pupil.diverged == {"EURUSD"}, "it is said until somebody ends the trial"


@pytest.mark.slow
def test_a_memory_of_broken_rewards_neither_enters_the_critics_nor_the_priorities(make_config: Any) -> None:
    pupil = Pupil(make_config(3, "desk", *SAC, PRIORITISED, SKIPPED_IN_A_ROW), sac=True)
    pupil.update(np.nan)
    for _ in range(2):
        pupil.update()
    assert pupil.said["meta_controller"][SKIPPED_STEPS_LIFETIME] >= 0
    assert all(np.isfinite(array).all() for array in parameters(pupil.learner).values())
    assert pupil.moments_are_finite()
    state = pupil.learner.replay.get_state()
    assert all(np.isfinite(priorities).all() for priorities in state["priorities"].values())
    assert sum(figures[SKIPPED_STEPS] for figures in pupil.said.values()) > 0, "they are still drawn, and skipped"


@pytest.mark.slow
def test_a_rate_far_too_high_is_told_at_once_and_leaves_what_there_was(pupil_of: Any) -> None:
    rates = ("recipe.learning_rate=1", "sac.learning_rates={actor: 1, critic: 1, alpha: 1}")
    pupil = pupil_of(*rates, "recipe.phase_learning_rate_fracs=[1, 1, 100]", "learner.max_parameter_abs=10")
    before = parameters(pupil.learner)
    pupil.update()
    assert pupil.diverged == set(pupil.said)
    assert {figures[REASON] for figures in pupil.said.values()} <= {Divergence.TOO_LARGE, Divergence.NOT_FINITE}
    for _ in range(2):
        for name, array in parameters(pupil.learner).items():
            assert np.array_equal(array, before[name]), name
        assert pupil.moments_are_finite()
        pupil.update()


@pytest.mark.slow
def test_parameters_that_are_no_numbers_are_found_whoever_brought_them(pupil_of: Any) -> None:
    pupil = pupil_of()
    pupil.update()
    state = pupil.learner.get_state(components=COMPONENT_RL_MODULE)
    own = state[COMPONENT_RL_MODULE]["EURUSD"]
    name = next(key for key in own if key.startswith("policy."))
    own[name] = np.full_like(own[name], np.nan)
    pupil.learner.set_state({COMPONENT_RL_MODULE: state[COMPONENT_RL_MODULE]})
    pupil.update()
    assert pupil.diverged == {"EURUSD"}
    assert pupil.said["EURUSD"][REASON] == Divergence.NOT_FINITE
