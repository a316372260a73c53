"""PPO that counts bars, validates itself and can be handed a start.

`DeskPPO` is RLlib's PPO with the desk's runner and learner. One iteration is one update. It stops being asked for bars
when its budget is used up: the last batch is as large as what is left.

What a Tune trial needs to know stands in `config.desk`, a plain dictionary (see `DeskPPOConfig.trial`): paths in it are
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
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_LEARNER_GROUP, COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.typing import StateDict

from mtquant_rllib.engine.learner import BARS, BatchedLearner
from mtquant_rllib.engine.randomness import pin_torch
from mtquant_rllib.engine.runner import BatchedEnvRunner
from mtquant_rllib.engine.seats import SEATS, Sampled
from mtquant_rllib.engine.stock import StockEnvRunner, StockLearner
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

ENGINES: dict[str, tuple[type, type]] = {
    "batched": (BatchedEnvRunner, BatchedLearner),
    "stock": (StockEnvRunner, StockLearner),
}
"""Runner and learner of each engine."""

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


class DeskPPOConfig(PPOConfig):
    """PPOConfig plus `desk`, a dictionary of what the desk adds."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or DeskPPO)
        self.engine("batched")
        self.desk: dict[str, Any] = {}

    def engine(self, name: str) -> DeskPPOConfig:
        """Which engine samples and learns: `batched`, or `stock` for RLlib's own. Before `trial`."""
        self._engine = name
        return self.env_runners(env_runner_cls=ENGINES[name][0])

    def trial(
        self,
        *,
        folder: str,
        budget_bars: int,
        bars_per_update: int,
        validations: int,
        learning_rates: Mapping[str, float],
        learning_rate_final_frac: float,
        explore_frozen: bool,
        average_updates: int | None = None,
        learner_threads: int = 1,
        make_validator: Callable[..., Validator] | None = None,
        validator_args: Mapping[str, Any] | None = None,
        start: str | None = None,
        best_from_start: bool = False,
    ) -> DeskPPOConfig:
        """What one trial is for.

        folder
            Where its module states are kept, relative to the run's.
        learning_rates
            Of each module, at the start of the budget. RLlib's per-module overrides would do the same, but each copies
            the copies made before it: with twelve modules a checkpoint then has 130 MB of configuration.
        average_updates
            Updates over which weights are averaged; the average is validated beside the weights. None averages nothing.
        learner_threads
            More than one lets the learner's stacks run side by side; the result is the same.
        start
            Folder of module states to begin with, relative to the run's; modules it does not hold begin fresh.
        best_from_start
            Whether the states it starts from compete for "best on validation".
        """
        self.desk = {
            "folder": folder,
            "budget_bars": budget_bars,
            "bars_per_update": bars_per_update,
            "validations": validations,
            "learning_rates": dict(learning_rates),
            "learning_rate_final_frac": learning_rate_final_frac,
            "explore_frozen": explore_frozen,
            "average_updates": average_updates,
            "learner_threads": learner_threads,
            "make_validator": make_validator,
            "validator_args": dict(validator_args or {}),
            "start": start,
            "best_from_start": best_from_start,
        }
        return self

    def get_default_learner_class(self) -> type:
        return ENGINES[self._engine][1]

    def validate(self) -> None:
        if self.num_learners > 1 and self._engine == "batched":
            raise RunError(f"num_learners = {self.num_learners}: expected 0 or 1; columns are not split among learners")
        super().validate()


class DeskPPO(PPO):
    """See the module's docstring."""

    # Always there once `setup` has run; RLlib declares them optional.
    config: Any
    env_runner_group: Any
    learner_group: Any
    metrics: Any

    @classmethod
    def get_default_config(cls) -> DeskPPOConfig:
        return DeskPPOConfig()

    def setup(self, config: Any) -> None:
        pin_torch()
        self.bars_sampled = 0
        self.best: dict[str, Any] = {}
        self._seats: dict[int, dict[str, Any]] = {}
        self._report: dict[str, float] = {}
        self._validation_s = 0.0
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
        part = {COMPONENT_LEARNER: {COMPONENT_RL_MODULE: dict(modules)}}
        self.set_state({COMPONENT_LEARNER_GROUP: part})

    # one update

    def training_step(self) -> None:
        desk = self.config.desk
        wanted = min(desk["bars_per_update"], desk["budget_bars"] - self.bars_sampled)
        if wanted <= 0:
            return
        began = time.perf_counter()
        harvest = self._sample(wanted)
        sampled = time.perf_counter()
        bars = sum(part.bars for part in harvest)
        if not bars:
            return
        results = self.learner_group.update(
            episodes=[sample for part in harvest for sample in part.samples],
            timesteps={BARS: self.bars_sampled, NUM_ENV_STEPS_SAMPLED_LIFETIME: self.bars_sampled + bars},
            num_epochs=self.config.num_epochs,
            minibatch_size=self.config.minibatch_size,
            shuffle_batch_per_epoch=self.config.shuffle_batch_per_epoch,
        )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        self.env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group,
            policies=[module for module in results[0] if module in self._learning()],
            inference_only=True,
        )
        self.bars_sampled += bars
        self._average.take_in({name: state for name, state in self.module_states().items() if name in self._learning()})
        self._speed = {"sample_s": sampled - began, "learn_s": time.perf_counter() - sampled, "bars": bars}

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
            asked = {index: share + (position < rest) for position, index in enumerate(runners)}
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
        seconds = time.perf_counter() - began
        every = desk["budget_bars"] / desk["validations"]
        finished = self.bars_sampled >= desk["budget_bars"]
        if int(self.bars_sampled / every) > int(before / every) or finished:
            self.validate_now()
        if finished:
            states.write(run_folder() / desk["folder"] / LAST, self.module_states(), bars=self.bars_sampled)
        bars = self._speed["bars"]
        results["done"] = finished
        results[BARS_LIFETIME] = results["timesteps_total"] = self.bars_sampled
        results["bars_budget"] = desk["budget_bars"]
        results["bars_per_s"] = bars / seconds
        results["sampling_bars_per_s"] = bars / max(self._speed["sample_s"], 1e-9)
        results["learning_s"] = self._speed["learn_s"]
        results["validation_s"] = self._validation_s
        results["seconds_left"] = (
            (desk["budget_bars"] - self.bars_sampled) / max(bars, 1) * (seconds + self._validation_s)
        )
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
        report, modules = max(judged, key=lambda candidate: candidate[0][SHARPE])
        if not self.best or report[SHARPE] > self.best[SHARPE]:
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
                "seats": self._seats,
                "average": self._average.get_state(),
            }
        return state

    def set_state(self, state: StateDict) -> None:
        super().set_state(state)
        if DESK in state:
            self.bars_sampled = state[DESK]["bars_sampled"]
            self.best = state[DESK]["best"]
            self._report = state[DESK]["report"]
            self._seats = state[DESK]["seats"]
            self._average.set_state(state[DESK]["average"])
            self._seat_runners()
