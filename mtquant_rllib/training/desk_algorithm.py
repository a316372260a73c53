"""What the desk adds to an RLlib algorithm: it counts bars, validates itself and can be handed a start.

It stops being asked for bars when its budget is used up: the last batch is as large as what is left. Where the recipe
has patience, it ends once so many validations in a row have brought no new best.

What a Tune trial needs to know stands in `config.desk`, a plain dictionary (see `DeskConfig`): paths in it are
relative to the run's folder, which processes find in the environment variable `MTQUANT_RUN`. So a run that was moved
restores where it is now.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_LEARNER_GROUP, COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.typing import StateDict

from mtquant_rllib.engine.bar_schedule import BARS
from mtquant_rllib.engine.dealing import Harvest
from mtquant_rllib.engine.randomness import pin_torch
from mtquant_rllib.engine.seats import SEATS, STANDING, Sampled
from mtquant_rllib.errors import RunError
from mtquant_rllib.training import states
from mtquant_rllib.training.averaging import WeightAverage

RUN_FOLDER = "MTQUANT_RUN"
BARS_LIFETIME = "bars_sampled_lifetime"
VALIDATION = "validation"
SHARPE = "sharpe"
AVERAGED_SHARPE = "averaged_sharpe"
DESK = "desk"
LAST = "last"
GAVE_UP = "gave_up"
"""Key of a result: whether the trial ended before its budget, because validation no longer improved."""

Validator = Callable[[Mapping[str, states.ModuleState]], Mapping[str, float]]
"""Module states in, unshaped figures of a deterministic rollout out; `sharpe`, net and annualised, decides."""


def run_folder() -> Path:
    try:
        return Path(os.environ[RUN_FOLDER])
    except KeyError:
        raise RunError(f"the environment variable {RUN_FOLDER} does not name the run's folder") from None


def at_bars(bars: int) -> str:
    """Folder name of the module states after so many bars."""
    return f"bars_{bars:09d}"


class DeskConfig(AlgorithmConfig):
    """`desk`, a dictionary of what the desk adds to a configuration of RLlib's.

    folder
        Where the trial's module states are kept, relative to the run's.
    budget_bars, validations, patience, learning_rate_final_frac, batch_size_final_factor, explore_frozen,
    average_updates
        As in the recipe.
    learner
        `LearnerConfig` as a dictionary.
    learning_rates
        Of each module, at the start of the budget, as its learner reads them. RLlib's per-module overrides would do the
        same, but each copies the copies made before it: with twelve modules a checkpoint then has 130 MB of
        configuration.
    make_validator, validator_args
        From which a `Validator` is made; None for none.
    start
        Folder of module states to begin with, relative to the run's; modules it does not hold begin fresh.
    best_from_start
        Whether the states it starts from compete for "best on validation".
    learner_threads, bars_per_update
        PPO: more than one lets the learner's stacks run side by side, with the same result; bars of one update.
    sigma_floor_by_regime
        SAC: smallest deviation while collecting, in the order of `Regime`.
    """

    desk: dict[str, Any]


class DeskAlgorithm(Algorithm):
    """See the module's docstring. Subclasses say what an iteration is."""

    keeps_episodes = False
    """Whether a checkpoint holds episodes in progress, so that a restored run goes on in the middle of them."""

    harvest: type[Harvest] = Harvest
    """How several learners get what was sampled."""

    # Always there once `setup` has run; RLlib declares them optional.
    config: Any
    env_runner_group: Any
    learner_group: Any
    metrics: Any

    def setup(self, config: Any) -> None:
        pin_torch()
        self.bars_sampled = 0
        self.best: dict[str, Any] = {}
        self._seats: dict[int, dict[str, Any]] = {}
        self._report: dict[str, float] = {}
        self._validation_s = 0.0
        self._fruitless = 0
        super().setup(config)
        desk = self.config.desk
        self._average = WeightAverage(desk["average_updates"])
        make = desk["make_validator"]
        self._validate: Validator | None = make(**desk["validator_args"]) if make else None
        if desk["start"] is not None:
            self.load_modules(states.read(run_folder() / desk["start"]))
        self._started = False

    def __repr__(self) -> str:
        """RLlib's reads the configuration, which is not there yet when building it fails, and hides why."""
        return type(self).__name__

    # module states

    def module_states(self) -> dict[str, dict[str, np.ndarray]]:
        """Every module's full state (policy and value), as arrays."""
        part = f"{COMPONENT_LEARNER_GROUP}/{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"
        modules = self.learner_group.get_state(components=part.split("/", 1)[1])[COMPONENT_LEARNER][COMPONENT_RL_MODULE]
        return {module: states.as_arrays(state) for module, state in modules.items()}

    def load_modules(self, modules: Mapping[str, states.ModuleState]) -> None:
        """Put states into learner and runners, and nothing else: optimisers start fresh."""
        group = self.learner_group.get_state(components=f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}")
        fresh = group[COMPONENT_LEARNER][COMPONENT_RL_MODULE]
        modules = {
            name: states.carried_over(state, fresh[name], name in self._learning())
            for name, state in modules.items()
            if name in fresh
        }
        part = {COMPONENT_LEARNER: {COMPONENT_RL_MODULE: dict(modules)}}
        self.set_state({COMPONENT_LEARNER_GROUP: part})

    def learn_from(self, harvest: list[Sampled], **how: Any) -> None:
        """Let the learner learn from what was sampled, and the runners know."""
        bars = sum(part.bars for part in harvest)
        results = self.learner_group.update(
            training_data=self.harvest(episodes=[sample for part in harvest for sample in part.samples]),
            timesteps={BARS: self.bars_sampled, NUM_ENV_STEPS_SAMPLED_LIFETIME: self.bars_sampled + bars},
            **how,
        )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        self.env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group,
            policies=[module for module in results[0] if module in self._learning()],
            inference_only=True,
        )
        self.bars_sampled += bars

    @property
    def bars_left(self) -> int:
        return int(self.config.desk["budget_bars"]) - self.bars_sampled

    def _learning(self) -> list[str]:
        return list(self.config.policies_to_train or self.config.policies)

    def _sample(self, wanted: int) -> list[Sampled]:
        """Exactly `wanted` bars, in equal shares; fewer when a runner was lost, whose share is then not made up."""
        group = self.env_runner_group
        if not group.num_remote_env_runners():
            harvest = [group.local_env_runner.sample_bars(wanted)]
        else:
            runners = sorted(group.healthy_env_runner_ids())
            share, rest = divmod(wanted, max(len(runners), 1))
            # What is left over goes round.
            turns = {index: (position - self.bars_sampled) % len(runners) for position, index in enumerate(runners)}
            asked = {index: share + (turn < rest) for index, turn in turns.items()}
            harvest = group.foreach_env_runner(
                lambda runner: runner.sample_bars(asked.get(runner.worker_index, 0)),
                local_env_runner=False,
                remote_worker_ids=runners,
                timeout_seconds=self.config.sample_timeout_s,
            )
        if not harvest:
            return []
        self.metrics.aggregate([part.metrics for part in harvest], key=ENV_RUNNER_RESULTS)
        for part in harvest:
            self._seats[part.seats["runner"]] = part.seats
        return harvest

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """A restarted runner goes on where the lost one stood, instead of replaying its episodes."""
        restored = super().restore_env_runners(env_runner_group)
        if restored and env_runner_group is self.env_runner_group:
            self._seat_runners(restored)
        return restored

    def _seat_runners(self, only: list[int] | None = None) -> None:
        seats, group = self._seats, self.env_runner_group
        if not group.num_remote_env_runners():
            if (own := seats.get(self.env_runner.worker_index)) is not None:
                self.env_runner.set_state({SEATS: own})
            return
        self.env_runner_group.foreach_env_runner(
            lambda runner: runner.set_state(
                {SEATS: seats[runner.worker_index]} if runner.worker_index in seats else {}
            ),
            local_env_runner=False,
            remote_worker_ids=only,
        )

    # one iteration

    def step(self) -> dict[str, Any]:
        self._validation_s = 0.0
        if not self._started:
            self._started = True
            if self.bars_sampled == 0:
                self.validate_now()
        desk, before = self.config.desk, self.bars_sampled
        self._speed = {"sample_s": math.nan, "learn_s": math.nan, "bars": 0}
        began = time.perf_counter()
        results = super().step()
        if self.bars_sampled > before and self.config.desk["average_updates"] is not None:
            learning = self._learning()
            self._average.take_in({name: own for name, own in self.module_states().items() if name in learning})
        seconds = time.perf_counter() - began
        every = desk["budget_bars"] / desk["validations"]
        finished = self.bars_left <= 0
        if int(self.bars_sampled / every) > int(before / every) or finished:
            self.validate_now()
        patience = desk["patience"]
        gave_up = patience is not None and self._fruitless >= patience
        if finished or gave_up:
            states.write(run_folder() / desk["folder"] / LAST, self.module_states(), bars=self.bars_sampled)
        bars = self._speed["bars"]
        results["done"], results[GAVE_UP] = finished or gave_up, gave_up and not finished
        results[BARS_LIFETIME] = results["timesteps_total"] = self.bars_sampled
        results["bars_budget"] = desk["budget_bars"]
        results["bars_per_s"] = bars / seconds
        results["sampling_bars_per_s"] = bars / max(self._speed["sample_s"], 1e-9)
        results["learning_s"] = self._speed["learn_s"]
        results["validation_s"] = self._validation_s
        results["seconds_left"] = self.bars_left / max(bars, 1) * (seconds + self._validation_s)
        results[VALIDATION] = dict(self._report)
        results["best"] = {key: self.best.get(key, math.nan) for key in (SHARPE, "bars")}
        return results

    def validate_now(self) -> None:
        """Validate the present policies, and their average along the way; keep the better when none before was."""
        if self._validate is None:
            return
        began = time.perf_counter()
        present = self.module_states()
        averaged = self._average.of(present)
        judged = []
        for modules in (present, averaged):
            if modules is not None:
                report = {key: float(value) for key, value in self._validate(modules).items()}
                judged.append((report, modules))
        self._report = {**judged[0][0], "bars": float(self.bars_sampled)}
        if averaged is not None:
            self._report[AVERAGED_SHARPE] = judged[1][0][SHARPE]
        self._validation_s += time.perf_counter() - began
        if self.bars_sampled == 0 and not self.config.desk["best_from_start"]:
            return
        self._fruitless += 1
        report, modules = max(judged, key=lambda candidate: candidate[0][SHARPE])
        if not self.best or report[SHARPE] > self.best[SHARPE]:
            self._fruitless = 0
            self.best = {SHARPE: report[SHARPE], "bars": self.bars_sampled}
            folder = run_folder() / self.config.desk["folder"] / at_bars(self.bars_sampled)
            states.write(folder, modules, **self.best)

    # checkpoints

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> StateDict:
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(DESK, components, not_components):
            state[DESK] = {
                "bars_sampled": self.bars_sampled,
                "best": self.best,
                "report": self._report,
                "fruitless": self._fruitless,
                "seats": self._seats_now(),
                "average": self._average.get_state(),
            }
        return state

    def _seats_now(self) -> dict[int, dict[str, Any]]:
        """Where each runner stands, and where checkpoints hold them its episodes in progress."""
        group = self.env_runner_group
        if not self.keeps_episodes or group is None or not self._seats:
            return self._seats
        if not group.num_remote_env_runners():
            standing = {self.env_runner.worker_index: self.env_runner.standing()}
        else:
            found = group.foreach_env_runner(
                lambda runner: (runner.worker_index, runner.standing()), local_env_runner=False
            )
            standing = dict(found)
        return {index: {**seats, STANDING: standing.get(index)} for index, seats in self._seats.items()}

    def set_state(self, state: StateDict) -> None:
        super().set_state(state)
        if DESK in state:
            self.bars_sampled = state[DESK]["bars_sampled"]
            self.best = state[DESK]["best"]
            self._report = state[DESK]["report"]
            self._fruitless = state[DESK]["fruitless"]
            self._seats = state[DESK]["seats"]
            self._average.set_state(state[DESK]["average"])
            self._seat_runners()
