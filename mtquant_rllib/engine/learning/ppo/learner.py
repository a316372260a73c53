"""PPO on fragments: RLlib's learner in its state, loss and metrics, with stacked modules and closed-form gradients.

What differs from RLlib's, and why:

- it reads `columns.Fragment`s and computes advantages itself, discounted by time and standardised over decisions only;
- an epoch is one pass over *each module's own* rows. RLlib's iterator goes on until the module with the most rows is
  through, so that a controller that decides every five bars is trained five times as often as asked for;
- modules of one kind are one stack: one forward and backward pass, one norm and one optimiser step for all;
- stacks share nothing, so each goes through its whole update independently (`update`), in threads where there are
  CPUs for it, with the same result;
- frozen modules are not computed;
- several learners cut the minibatches that one would and sum their gradients (`distributed`): the result does not
  depend on their number, except for rounding and dropout;
- a step whose gradient is not finite is skipped and counted; a module that diverges keeps its old parameters
  (`divergence`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.ppo.ppo import (
    LEARNER_RESULTS_KL_KEY,
    LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY,
    LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY,
)
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import ALL_MODULES
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
)
from torch import Tensor

from mtquant_rllib.config.environment import EnvironmentConfig
from mtquant_rllib.config.sections.training import WindowSoftminConfig
from mtquant_rllib.engine.fragments import (
    Fragment,
    LevelColumns,
    advantages,
    decision_outcomes,
    reconstruct_observations,
)
from mtquant_rllib.engine.learning.distributed import DistributedLearner
from mtquant_rllib.engine.learning.divergence import DivergenceWatch
from mtquant_rllib.engine.learning.ppo.coefficients import CoefficientState
from mtquant_rllib.engine.learning.ppo.loss import ppo_loss
from mtquant_rllib.engine.learning.ppo.update import StackLearner, UpdateMetrics, minibatch_indices
from mtquant_rllib.engine.learning.ppo.window_weights import EFFECTIVE_WINDOWS, Windows, softmin_weights
from mtquant_rllib.engine.learning.reference_kl import REFERENCE_KL
from mtquant_rllib.engine.learning.schedules import DEFAULT, ScheduledLearner
from mtquant_rllib.engine.learning.stacks import ModuleStack, module_stacks
from mtquant_rllib.engine.randomness import DROPOUT, SHUFFLE, derived_seed, generator
from mtquant_rllib.env.observations.reconstruction import ObservationReconstruction
from mtquant_rllib.env.prepared.source import open_market

GRADIENT_NORM = "gradients_default_optimizer_global_norm"
SMALLEST_DEVIATION = 1e-4
"""Standard deviation of advantages below which they count as constant."""


class ScheduledPPOLearner(CoefficientState, ScheduledLearner, PPOTorchLearner):
    """What both engines' PPO learners add to RLlib's."""

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        self.register_adam(module_id, DEFAULT, self.get_parameters(self._module[module_id]), 1e-5)


class _UpdateBatch(dict[str, bool]):
    """A whole update as the single batch of RLlib's loop: module -> whether it has rows.

    module_columns
        Rows of each module here (`update.Columns`).
    counts
        Rows of each module with every learner, (learners,).
    """

    module_columns: dict[str, list[np.ndarray]]
    counts: dict[str, np.ndarray]
    n_epochs: int
    minibatch_size: int | None

    @property
    def policy_batches(self) -> _UpdateBatch:
        return self


class BatchedLearner(DistributedLearner, ScheduledPPOLearner):
    """The batched engine's PPO learner; see the module's docstring."""

    def build(self) -> None:
        super().build()
        learning = {
            name: self._module[name] for name in list(self.module.keys()) if self.should_module_be_updated(name)
        }
        for name, module in learning.items():
            if not hasattr(module, "policy") or not hasattr(module, "value"):
                raise TypeError(
                    f"module {name}: the batched engine learns modules with a `policy` and a `value` network"
                )
        if self.config.grad_clip is not None and self.config.grad_clip_by != "global_norm":
            raise ValueError(f"grad_clip_by = {self.config.grad_clip_by!r}: the batched engine clips by 'global_norm'")
        optimizers: dict[str, Any] = {name: self.get_optimizers_for_module(name)[0][1] for name in learning}
        options = self.trial.learner
        self._watch = DivergenceWatch(learning, options, counts_skipped=self._ranks.rank == 0)
        environment = EnvironmentConfig.of(self.config.env_config)
        self._settings = environment.settings
        market = open_market(environment)
        self._features, self._bars_per_year = market.features, market.execution.bars_per_year
        self._window_metrics: dict[str, float] = {}
        self._reconstructions: dict[tuple[tuple[str, ...], int | None], ObservationReconstruction] = {}
        self._learners = [
            StackLearner(stack, optimizers, self._coefficients_of(stack), self._ranks.new_group(), options)
            for stack in module_stacks(learning)
        ]

    def _coefficients_of(self, stack: ModuleStack) -> dict[str, Tensor]:
        """Coefficients of the loss that do not change between updates, (S, 1) each."""
        configs = [self.config.get_config_for_module(name) for name in stack.names]
        names = ("clip_param", "vf_clip_param", "vf_loss_coeff")
        columns = {name: [float(getattr(config, name)) for config in configs] for name in names}
        columns["grad_clip"] = [float("inf") if config.grad_clip is None else config.grad_clip for config in configs]
        return {name: torch.tensor(column, device=self._device)[:, None] for name, column in columns.items()}

    # -- from fragments to rows ---------------------------------------------------------------------------------------

    def _create_iterator_if_necessary(
        self, *, training_data: Any, num_epochs: int = 1, minibatch_size: int | None = None, **kwargs: Any
    ) -> Iterator[_UpdateBatch]:
        fragments: list[Fragment] = training_data.episodes
        update = self._gather(fragments)
        update.n_epochs, update.minibatch_size = num_epochs, minibatch_size
        self._count_trained(sum(fragment.bars for fragment in fragments), update.module_columns, num_epochs)
        return iter([update])

    def _gather(self, fragments: Sequence[Fragment]) -> _UpdateBatch:
        """The rows of every module, with advantages and value targets.

        Rows are ordered by environment, so that the rows of several learners, one after the other, are those of one.
        """
        parts: dict[str, list[list[np.ndarray]]] = {
            name: [] for learner in self._learners for name in learner.stack.names
        }
        first, softmin = 0, self.trial.window_softmin
        for fragment in fragments:
            widest = max((level.rewards.shape[2] for level in fragment.levels), default=0)
            for number_of_level, level in enumerate(fragment.levels):
                observations = reconstruct_observations(level, self._reconstruction(level))
                advantage, target, complete = self._advantages(level, observations, parts)
                env = np.broadcast_to(first + np.nonzero(level.due)[1][:, None], level.module_index.shape)
                columns = [observations[0], level.actions, level.action_dist_inputs, level.log_probs, advantage, target]
                if level.regimes is not None:
                    labels = level.regimes[level.due].astype(np.float32)
                    columns.append(np.broadcast_to(labels[:, None], level.module_index.shape))
                if softmin is not None:
                    outcomes = decision_outcomes(level)
                    bars = np.broadcast_to(outcomes.bars[:, None], level.module_index.shape)
                    slot = number_of_level * widest + np.arange(level.rewards.shape[2])
                    columns += [outcomes.rewards, bars, np.broadcast_to(slot, level.module_index.shape)]
                for number, name in enumerate(level.modules):
                    chosen = (level.module_index == number) & complete[:, None]
                    if name in parts and chosen.any():
                        rows = [column[chosen] for column in (*columns, env)]
                        parts[name].append([column if column.ndim == 2 else column[:, None] for column in rows])
            first += fragment.environments
        module_columns: dict[str, list[np.ndarray]] = {}
        windows: dict[str, Windows] = {}
        for name, own in parts.items():
            if own:
                *merged, env = (np.concatenate(column) for column in zip(*own))
                order = np.argsort(env[:, 0], kind="stable")
                if softmin is not None:
                    *merged, rewards, bars, slot = merged
                    keys = env[:, 0] * (int(slot.max()) + 1) + slot[:, 0]
                    windows[name] = Windows.of(keys[order], rewards[order, 0], bars[order, 0], self._bars_per_year)
                module_columns[name] = [column[order] for column in merged]
        n_rows = [len(module_columns[name][0]) if name in module_columns else 0 for name in parts]
        counts = self._ranks.gather_counts(n_rows, self._device)
        update = _UpdateBatch({name: count > 0 for name, count in zip(parts, counts.sum(0))})
        update.module_columns, update.counts = module_columns, dict(zip(parts, counts.T))
        self._standardise(module_columns, update.counts)
        if softmin is not None:
            self._weigh(module_columns, windows, update.counts, softmin)
        return update

    def _weigh(
        self,
        module_columns: Mapping[str, list[np.ndarray]],
        windows: Mapping[str, Windows],
        counts: Mapping[str, np.ndarray],
        config: WindowSoftminConfig,
    ) -> None:
        """Multiply each module's advantages by the weights of their windows, in place."""

        def total(own: np.ndarray) -> np.ndarray:
            return self._group.sum(torch.tensor(own, dtype=torch.float64, device=self._device)).cpu().numpy()

        self._window_metrics = {}
        for name in (name for name, own in counts.items() if own.sum()):
            found = windows.get(name, _NO_WINDOWS)
            weights, self._window_metrics[name] = softmin_weights(found, config, total)
            if name in module_columns:
                weighted = module_columns[name][_ADVANTAGE] * weights[:, None]
                module_columns[name][_ADVANTAGE] = weighted.astype(np.float32)

    def _standardise(self, module_columns: Mapping[str, list[np.ndarray]], counts: Mapping[str, np.ndarray]) -> None:
        """Standardise each module's advantages over all learners' rows, in place; constant ones become zeros."""
        present = [name for name, own in counts.items() if own.sum()]
        rows = np.array([counts[name].sum() for name in present])
        columns = [
            module_columns[name][_ADVANTAGE].astype(np.float64) if name in module_columns else np.zeros(0)
            for name in present
        ]

        def mean(parts: Sequence[np.ndarray]) -> np.ndarray:
            sums = torch.tensor([part.sum() for part in parts], dtype=torch.float64, device=self._device)
            return self._group.sum(sums).cpu().numpy() / rows

        centred = [column - middle for column, middle in zip(columns, mean(columns))]
        deviations = np.sqrt(mean([column**2 for column in centred]))
        for name, column, deviation in zip(present, centred, deviations):
            if name in module_columns:
                module_columns[name][_ADVANTAGE] = (column / max(deviation, SMALLEST_DEVIATION)).astype(np.float32)

    def _reconstruction(self, level: LevelColumns) -> ObservationReconstruction:
        key = (level.agents, level.domain)
        if key not in self._reconstructions:
            self._reconstructions[key] = ObservationReconstruction(self._settings, self._features, *key)
        return self._reconstructions[key]

    def _advantages(
        self, level: LevelColumns, observations: Sequence[np.ndarray], learning: Container[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`columns.advantages` with the values of the learning modules."""
        module_indices = (level.module_index, level.final_module_index, level.bootstrap_module_index)
        values = [np.zeros(index.shape, dtype=np.float32) for index in module_indices]
        for number, name in enumerate(level.modules):
            if name not in learning:
                continue
            module = self._module[name]
            for obs, index, out in zip(observations, module_indices, values):
                own = index == number
                if own.any():
                    chosen = torch.from_numpy(obs[own]).to(self._device)
                    with torch.no_grad():
                        out[own] = module.compute_values({Columns.OBS: chosen}).cpu().numpy()
        rows, final, bootstrap = values
        return advantages(level, rows, final, bootstrap, self.config.gamma, self.config.lambda_)

    # -- learning -----------------------------------------------------------------------------------------------------

    def _update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, Any, Any]:
        """Let every stack go through its minibatches, in threads where there are CPUs for it."""
        assert isinstance(batch, _UpdateBatch)
        rng = generator(self.config.seed or 0, self._bars, SHUFFLE)
        jobs = []
        for number, learner in enumerate(self._learners):
            learner.coefficients |= self._schedules(learner)
            module_columns = [batch.module_columns.get(name) for name in learner.stack.names]
            totals = [int(batch.counts[name].sum()) for name in learner.stack.names]
            starts = [int(batch.counts[name][: self._ranks.rank].sum()) for name in learner.stack.names]
            size = None if batch.minibatch_size is None else self.batch_size_now(batch.minibatch_size)
            minibatches = [minibatch_indices(n, batch.n_epochs, size or n, rng) for n in totals]
            # Each learner drops out units of its own.
            rank = (self._ranks.rank,) if self._ranks.rank else ()
            seed = derived_seed(self.config.seed or 0, self._bars, DROPOUT, number, *rank)
            jobs.append((learner, module_columns, starts, minibatches, seed))

        def work(job: tuple[StackLearner, Any, Any, Any, int]) -> dict[str, UpdateMetrics]:
            learner, module_columns, starts, minibatches, seed = job
            learner.load()
            metrics = learner.learn(module_columns, starts, minibatches, batch.n_epochs, seed)
            learner.store(metrics, self._watch.max_parameter_abs)
            return metrics

        threads = self.trial.learner_threads > 1
        threaded = [threads and job[0].backprop.has_own_generator for job in jobs]
        self._update_metrics: dict[str, UpdateMetrics] = {}
        with ThreadPoolExecutor(max(sum(threaded), 1)) as pool:
            futures = [pool.submit(work, job) for job, apart in zip(jobs, threaded) if apart]
            for job, apart in zip(jobs, threaded):
                if not apart:
                    self._update_metrics |= work(job)
            for future in futures:
                self._update_metrics |= future.result()
        for name, metrics in self._update_metrics.items():
            self._watch.record(name, metrics.steps, metrics.divergence, self._bars)
        return None, {}, {}

    def _schedules(self, learner: StackLearner) -> dict[str, Tensor]:
        """Coefficients of the loss that change between updates, (S, 1) each."""
        names = learner.stack.names
        entropy = [self.entropy_coeff_schedulers_per_module[name].get_current_value() for name in names]
        current = {"entropy_coeff": torch.tensor(entropy, device=self._device)[:, None]}
        if self.config.use_kl_loss:
            kl: list[Any] = [self.curr_kl_coeffs_per_module[name] for name in names]
            current["kl_coeff"] = torch.stack(kl)[:, None]
        return current

    # -- metrics ------------------------------------------------------------------------------------------------------

    def _set_slicing_by_batch_id(self, batch: Any, *, value: bool) -> Any:
        return batch

    def _log_metrics(self, batch: Any) -> None:
        """Does nothing: bars are counted once an update, in `_count_trained`."""

    def _log_steps_trained_metrics(self, batch: Any) -> None:
        pass

    def _count_trained(self, bars: int, module_columns: Mapping[str, Sequence[np.ndarray]], n_epochs: int) -> None:
        log = self.metrics.log_value
        for name, columns in module_columns.items():
            for owner in (name, ALL_MODULES):
                log((owner, NUM_MODULE_STEPS_TRAINED), len(columns[0]) * n_epochs, reduce="sum")
                log((owner, NUM_MODULE_STEPS_TRAINED_LIFETIME), len(columns[0]) * n_epochs, reduce="lifetime_sum")
        log((ALL_MODULES, NUM_ENV_STEPS_TRAINED), bars, reduce="sum")
        log((ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME), bars, reduce="lifetime_sum")

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Log RLlib's metrics of each module, as means over its last epoch."""
        for learner in self._learners:
            for member, name in enumerate(learner.stack.names):
                metrics = self._update_metrics.get(name)
                if metrics is None or not metrics.terms:
                    continue
                mean, auxiliary = metrics.terms, metrics.auxiliary_losses
                coefficients = {key: column[member].item() for key, column in learner.coefficients.items()}
                variance = mean["target_square"] - mean["target"] ** 2
                unexplained = mean["value_error"] - mean["error"] ** 2
                logged = {
                    POLICY_LOSS_KEY: -mean["surrogate"],
                    VF_LOSS_KEY: mean["value_loss"],
                    LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY: mean["value_error"],
                    LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY: max(-1.0, 1.0 - unexplained / max(variance, 1e-12)),
                    ENTROPY_KEY: mean["entropy"],
                    LEARNER_RESULTS_KL_KEY: mean["kl"],
                    self.TOTAL_LOSS_KEY: ppo_loss(mean, coefficients, sum(auxiliary.values())),
                    GRADIENT_NORM: metrics.gradient_norm,
                    **({REFERENCE_KL: mean[REFERENCE_KL]} if REFERENCE_KL in mean else {}),
                    **({EFFECTIVE_WINDOWS: self._window_metrics[name]} if name in self._window_metrics else {}),
                    **auxiliary,
                }
                for key, value in logged.items():
                    self.metrics.log_value((name, key), value, window=1)
        self._watch.log(self.metrics)
        super().after_gradient_based_update(timesteps=timesteps)


_NO_WINDOWS = Windows(np.zeros(0, dtype=np.int64), *(np.zeros(0) for _ in range(3)))
_ADVANTAGE = 4
"""Position in `update.Columns`."""
