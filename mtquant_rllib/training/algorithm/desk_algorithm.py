"""What PPO and SAC on the desk share: a budget in bars, validation, early stopping, a start from given weights.

It stops being asked for bars when its budget is used up: the last batch is as large as what is left. Where the recipe
has patience, it ends once so many validations in a row have brought no new best.

Its configuration (`algorithm_config.DeskAlgorithmConfig`) names no place but the market's: a checkpoint that was copied
elsewhere is trained on where it lies, and what it writes lands in the algorithm's own `logdir`. A trial of a run sets
`module_folder` and `run_folder` to the run's instead.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_LEARNER_GROUP, COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.typing import StateDict

from mtquant_rllib.config.trial import TrialConfig
from mtquant_rllib.engine.learning.divergence import diverged_modules
from mtquant_rllib.engine.learning.schedules import BARS
from mtquant_rllib.engine.learning.sharding import ShardedBatch
from mtquant_rllib.engine.process_use import ProcessUse, process_use
from mtquant_rllib.engine.randomness import make_torch_deterministic
from mtquant_rllib.engine.rllib_seeding import seeding_without_compiler
from mtquant_rllib.engine.sampling.runner_base import COUNTERS, SNAPSHOT, SampleResult
from mtquant_rllib.errors import DivergedPolicyError, EnvironmentFailed
from mtquant_rllib.training.algorithm.remote_sampling import POLL_S, reassigned_counters, sample_remotely
from mtquant_rllib.training.algorithm.utilization import Utilization, cpus_held, learner_use
from mtquant_rllib.training.algorithm.validation import make_validator
from mtquant_rllib.training.algorithm.weight_average import WeightAverage
from mtquant_rllib.training.curriculum.phases import LAST, at_bars
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.module_states import ModuleState
from mtquant_rllib.training.result_keys import (
    AVERAGED_SHARPE,
    BARS_LIFETIME,
    EARLY_STOPPED,
    ENV_FAULTS,
    FAILURE,
    SHARPE,
    SYSTEM,
    VALIDATION,
)
from mtquant_rllib.training.session.ray_internals import learners_reducing_by
from mtquant_rllib.training.storage.retries import with_retries

DESK = "desk"
"""Key of what the desk adds to an algorithm's state."""


class DeskAlgorithm(Algorithm):
    """See the module's docstring. Subclasses say what an iteration is."""

    batch_class: type[ShardedBatch] = ShardedBatch
    """How several learners get what was sampled."""

    # Always there once `setup` has run; RLlib declares them optional.
    config: Any
    env_runner_group: Any
    learner_group: Any
    metrics: Any

    def setup(self, config: Any) -> None:
        make_torch_deterministic()
        self.bars_sampled = 0
        self.best: dict[str, Any] = {}
        self._runner_states: dict[int, dict[str, Any]] = {}
        self.runners_prepared_by = uuid.uuid4().hex
        self._report: dict[str, float] = {}
        self._env_faults: list[str] = []
        self._validation_s = 0.0
        self._validations_without_improvement = 0
        with learners_reducing_by(gradient_backend(config.num_gpus_per_learner)), seeding_without_compiler():
            super().setup(config)
        self.trial: TrialConfig = self.config.trial
        self._average = WeightAverage(self.trial.ema_updates)
        self._validate = make_validator(self.config.env_config) if self.trial.validations else None
        self.module_folder = Path(self.logdir) / "modules"
        self.run_folder: Path | None = None
        self.storage_patience_s = 0.0
        self.finished = self.early_stopped = False
        self.failure: str | None = None
        self._started = False
        self._runner_use: dict[str, ProcessUse] = {}
        self._utilization = Utilization(cpus_held(self.config), self._uses())

    def __repr__(self) -> str:
        """RLlib's reads the configuration, which is not there yet when building it fails, and hides why."""
        return type(self).__name__

    # module states

    def module_states(self) -> dict[str, dict[str, np.ndarray]]:
        """Every module's full state (policy and value), as arrays."""
        part = f"{COMPONENT_LEARNER_GROUP}/{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"
        modules = self.learner_group.get_state(components=part.split("/", 1)[1])[COMPONENT_LEARNER][COMPONENT_RL_MODULE]
        return {module: module_states.as_arrays(state) for module, state in modules.items()}

    def load_modules(self, modules: Mapping[str, ModuleState]) -> None:
        """Put states into learner and runners, and nothing else: optimisers start fresh."""
        group = self.learner_group.get_state(components=f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}")
        fresh = group[COMPONENT_LEARNER][COMPONENT_RL_MODULE]
        modules = {
            name: module_states.carried_over(state, fresh[name], name in self._learning())
            for name, state in modules.items()
            if name in fresh
        }
        part = {COMPONENT_LEARNER: {COMPONENT_RL_MODULE: dict(modules)}}
        self.set_state({COMPONENT_LEARNER_GROUP: part})

    def learn_from(self, sampled: list[SampleResult], **how: Any) -> None:
        """Update the learner with samples, and the runners' weights."""
        bars = sum(part.bars for part in sampled)
        results = self.learner_group.update(
            training_data=self.batch_class(episodes=[sample for part in sampled for sample in part.samples]),
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
        return self.trial.budget_bars - self.bars_sampled

    def _learning(self) -> list[str]:
        return list(self.config.policies_to_train or self.config.policies)

    def _sample(self, wanted: int) -> list[SampleResult]:
        """Exactly `wanted` bars, in equal shares.

        A runner that is lost while it samples is started again where it stood before the call, and samples the same
        bars: what comes out does not depend on whether one was lost.

        Raises
        ------
        RunError
            When a lost runner does not come back within `config.env_runner_restore_timeout_s`.
        """
        group = self.env_runner_group
        if not group.num_remote_env_runners():
            sampled = [group.local_env_runner.sample_bars(wanted)]
        else:
            runners = list(range(1, group.num_remote_env_runners() + 1))
            share, rest = divmod(wanted, len(runners))
            # What is left over goes round.
            order = {index: (position - self.bars_sampled) % len(runners) for position, index in enumerate(runners)}
            asked = {index: share + (place < rest) for index, place in order.items()}
            sampled = sample_remotely(self, asked)
        self.metrics.aggregate([part.metrics for part in sampled], key=ENV_RUNNER_RESULTS)
        for part in sampled:
            self._env_faults += part.env_faults
            self._runner_states[part.counters["runner"]] = {**part.counters, SNAPSHOT: part.snapshot}
            if part.use is not None and group.num_remote_env_runners():
                self._runner_use[f"runner {part.counters['runner']}"] = part.use
        return sampled

    def _uses(self) -> dict[str, ProcessUse]:
        """CPU time and memory of the trial's processes so far: its own, learners, and runners by their last report."""
        learners = self._of_learners(learner_use)
        if not self.config.num_learners:
            return {"trial": learners[0], **self._runner_use}
        of_learners = {f"learner {number}": use for number, use in enumerate(learners)}
        return {"trial": process_use(), **self._runner_use, **of_learners}

    def _of_learners(self, function: Callable[[Any], Any]) -> list[Any]:
        """Results of a function on every learner.

        Raises
        ------
        RuntimeError
            When one was lost: RLlib would go on without it.
        """
        answers = list(self.learner_group.foreach_learner(function))
        there = [answer.get() for answer in answers if answer.ok]
        learners = max(self.config.num_learners, 1)
        if len(there) < learners:
            raise RuntimeError(f"{learners - len(there)} of {learners} learners were lost")
        return there

    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:
        """RLlib's, which never asks whether evaluation runners that it lost are back, and gives no figures where all
        are gone: they are restored before, and where none was there to play the evaluation is made again, for
        `config.env_runner_restore_timeout_s` at most."""
        group, began = self.eval_env_runner_group, time.monotonic()
        while True:
            if group is not None:
                self.restore_env_runners(group)
            results: dict[str, Any] = super().evaluate(parallel_train_future)
            late = time.monotonic() - began > self.config.env_runner_restore_timeout_s
            if ENV_RUNNER_RESULTS in results or group is None or late:
                return results
            time.sleep(POLL_S)

    def _place_runners(self) -> None:
        """Restore the runners' states, reassigned where their number has changed: the local one's now, those of
        remote ones before they sample."""
        group = self.env_runner_group
        n_remote = group.num_remote_env_runners()
        if self._runner_states:
            indices = list(range(1, n_remote + 1)) or [self.env_runner.worker_index]
            self._runner_states = reassigned_counters(
                indices, self.config.num_envs_per_env_runner, self._runner_states, self.bars_sampled
            )
        self.runners_prepared_by = uuid.uuid4().hex
        if not n_remote and (own := self._runner_states.get(self.env_runner.worker_index)) is not None:
            self.env_runner.set_state({COUNTERS: own})

    def prepare_runners(self, indices: list[int]) -> None:
        """Give remote runners the present weights and put them where they stood after their last call."""
        state, states, name = ray.put(self.env_runner.get_state()), self._runner_states, self.runners_prepared_by

        def prepare(runner: Any) -> None:
            runner.set_state(ray.get(state))
            if runner.worker_index in states:
                runner.set_state({COUNTERS: states[runner.worker_index]})
            runner.prepared_by = name

        self.env_runner_group.foreach_env_runner(prepare, local_env_runner=False, remote_worker_ids=indices)

    # one iteration

    def step(self) -> dict[str, Any]:
        self._validation_s = 0.0
        self._env_faults = []
        if not self._started:
            self._started = True
            if self.bars_sampled == 0:
                self.validate_now()
        trial, before = self.trial, self.bars_sampled
        self._speed = {"sample_s": math.nan, "learn_s": math.nan, "bars": 0}
        began = time.perf_counter()
        try:
            results = super().step()
        except (DivergedPolicyError, EnvironmentFailed) as error:
            return self._ended_by(str(error), {})
        if diverged := diverged_modules(results.get(LEARNER_RESULTS, {})):
            reasons = "; ".join(f"{module} has diverged: {reason}" for module, reason in diverged.items())
            return self._ended_by(f"{reasons}; a smaller learning rate may help", results)
        if self.bars_sampled > before and trial.ema_updates is not None:
            learning = self._learning()
            self._average.take_in({name: own for name, own in self.module_states().items() if name in learning})
        seconds = time.perf_counter() - began
        finished = self.bars_left <= 0
        if finished or self._validations_due(self.bars_sampled) > self._validations_due(before):
            self.validate_now()
        early_stopped = trial.patience is not None and self._validations_without_improvement >= trial.patience
        self.finished, self.early_stopped = finished or early_stopped, early_stopped and not finished
        if self.finished:
            self._keep(LAST, self.module_states(), bars=self.bars_sampled)
        results["done"], results[EARLY_STOPPED] = self.finished, self.early_stopped
        return self._reported(results, seconds)

    def _validations_due(self, bars: int) -> int:
        """Validations that should have been made after so many bars."""
        every = self.trial.budget_bars / max(self.trial.validations, 1)
        return int(bars / every)

    def _ended_by(self, why: str, results: dict[str, Any]) -> dict[str, Any]:
        """The last result of a trial that would end the same way if it were started again. Nothing of its state is
        kept: what it was before stands in its newest checkpoint, and its best policies where they were."""
        self.failure = f"{why} (bar {self.bars_sampled:,})"
        results["done"], results[EARLY_STOPPED], results[FAILURE] = True, False, self.failure
        return self._reported(results, math.nan)

    def _reported(self, results: dict[str, Any], seconds: float) -> dict[str, Any]:
        """A result with the desk's keys (`training.result_keys`)."""
        bars = self._speed["bars"]
        results[BARS_LIFETIME] = results["timesteps_total"] = self.bars_sampled
        results["bars_budget"] = self.trial.budget_bars
        results["bars_per_s"] = bars / seconds
        results["sampling_bars_per_s"] = bars / max(self._speed["sample_s"], 1e-9)
        results["sampling_s"] = self._speed["sample_s"]
        results["learning_s"] = self._speed["learn_s"]
        results["validation_s"] = self._validation_s
        results["seconds_left"] = self.bars_left / max(bars, 1) * (seconds + self._validation_s)
        results[SYSTEM] = self._utilization.take(self._uses())
        results[VALIDATION] = dict(self._report)
        if self._env_faults:
            results[ENV_FAULTS] = "; ".join(self._env_faults)
        results["best"] = {key: self.best.get(key, math.nan) for key in (SHARPE, "bars")}
        return results

    def validate_now(self) -> None:
        """Validate the present policies and their average; write the better one if it is the best so far, or the
        average where that is what is handed over."""
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
        if self.bars_sampled == 0 and not self.trial.best_from_start:
            return
        self._validations_without_improvement += 1
        newest = self.trial.use_final_ema
        report, modules = judged[-1] if newest else max(judged, key=lambda candidate: candidate[0][SHARPE])
        if newest or not self.best or report[SHARPE] > self.best[SHARPE]:
            self._validations_without_improvement = 0
            self.best = {SHARPE: report[SHARPE], "bars": self.bars_sampled}
            self._keep(at_bars(self.bars_sampled), modules, **self.best)

    def _keep(self, name: str, modules: Mapping[str, ModuleState], **notes: Any) -> None:
        """Write module states into the module folder."""
        folder = self.module_folder / name
        write = partial(module_states.write, folder, modules, run=self.run_folder, **notes)
        with_retries(write, f"{folder}", self.storage_patience_s)

    # checkpoints

    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        """RLlib's, which believes that all is written although a learner was lost meanwhile.

        Raises
        ------
        RuntimeError
            When a learner has died or could not write its part. It serves no more then, nor does this algorithm.
        """
        saved: str = super().save_to_path(path, **kwargs)
        try:
            self._of_learners(_nothing_of)
        except RuntimeError as error:
            raise RuntimeError(f"{error} while a checkpoint was written: it is not whole") from error
        return saved

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> StateDict:
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(DESK, components, not_components):
            state[DESK] = {
                "bars_sampled": self.bars_sampled,
                "best": self.best,
                "report": self._report,
                "validations_without_improvement": self._validations_without_improvement,
                "finished": (self.finished, self.early_stopped),
                "runners": self._runner_states,
                "average": self._average.get_state(),
            }
        return state

    def set_state(self, state: StateDict) -> None:
        super().set_state(state)
        if DESK in state:
            self.bars_sampled = state[DESK]["bars_sampled"]
            self.best = state[DESK]["best"]
            self._report = state[DESK]["report"]
            self._validations_without_improvement = state[DESK]["validations_without_improvement"]
            self.finished, self.early_stopped = state[DESK]["finished"]
            self._runner_states = state[DESK]["runners"]
            self._average.set_state(state[DESK]["average"])
            self._place_runners()


def _nothing_of(learner: Any) -> None:
    """Does nothing: a learner that is dead does not answer even this."""


def gradient_backend(gpus_per_learner: float) -> str:
    """Backend of the learners' all-reduce: NCCL where each has a GPU of its own."""
    return "nccl" if gpus_per_learner >= 1 and torch.distributed.is_nccl_available() else "gloo"


def summary(algorithm: DeskAlgorithm, result: Mapping[str, Any]) -> dict[str, Any]:
    """What the curriculum needs of a trial's last result, for a checkpoint's index: bars, whether it stopped early, and
    the best state so far; numbers alone."""
    best = {key: float(algorithm.best[key]) for key in (SHARPE, "bars") if key in algorithm.best}
    return {BARS_LIFETIME: algorithm.bars_sampled, EARLY_STOPPED: algorithm.early_stopped, "best": best}
