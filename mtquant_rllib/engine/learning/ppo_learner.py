"""PPO on columns: RLlib's learner in its state, loss and metrics; stacks and one fused step in its arithmetic.

What differs from RLlib's, and why:

- it reads columns (`columns`) and values them itself: standardised over real decisions only, discounted by time;
- an epoch is one pass over *each module's own* rows. RLlib's iterator goes on until the module with the most rows is
  through, and a controller that decides every five bars is then trained five times as often as asked for;
- modules of one kind are one stack: one forward and backward pass, one norm and one optimiser step for all;
- modules share nothing, so a stack goes through its whole update without waiting for another (`ppo_stack`), and
  several do so at a time where there are CPUs for it, with the same result;
- modules that do not learn are not computed;
- several learners cut the minibatches that one would and add up their gradients (`distributed`): what is learned does
  not depend on their number, but for rounding and dropout;
- a module whose gradient is not finite skips that step and says so; one that diverges keeps what it had (`divergence`).
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
from mtquant_rllib.engine.columns import Fragment, LevelColumns, advantages, observed
from mtquant_rllib.engine.learning.bar_schedule import DEFAULT, FollowsBars
from mtquant_rllib.engine.learning.coefficients import KeepsCoefficients
from mtquant_rllib.engine.learning.distributed import JoinedLearner
from mtquant_rllib.engine.learning.divergence import DivergenceWatch
from mtquant_rllib.engine.learning.ppo_stack import Figures, StackLearner, passes
from mtquant_rllib.engine.learning.stacks import Stack, stacked
from mtquant_rllib.engine.randomness import DROPOUT, SHUFFLE, generator, mixed
from mtquant_rllib.env.market_source import open_market
from mtquant_rllib.env.observation_reconstruction import ObservationReconstruction

GRADIENT_NORM = "gradients_default_optimizer_global_norm"
SMALLEST_DEVIATION = 1e-4
"""Of advantages, under which they count as constant."""


class BarSchedule(KeepsCoefficients, FollowsBars, PPOTorchLearner):
    """What both engines' PPO learners add to RLlib's."""

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        self.register_adam(module_id, DEFAULT, self.get_parameters(self._module[module_id]), 1e-5)


class _Update(dict[str, bool]):
    """A whole update, as the one batch of RLlib's loop: which modules have rows, each one's columns here, and how many
    rows each has with every learner, (learners,)."""

    tables: dict[str, list[np.ndarray]]
    counts: dict[str, np.ndarray]
    n_epochs: int
    minibatch_size: int | None

    @property
    def policy_batches(self) -> _Update:
        return self


class BatchedLearner(JoinedLearner, BarSchedule):
    """See the module's docstring."""

    def build(self) -> None:
        super().build()
        learning = {
            name: self._module[name] for name in list(self.module.keys()) if self.should_module_be_updated(name)
        }
        for name, module in learning.items():
            if not hasattr(module, "policy") or not hasattr(module, "value"):
                raise TypeError(f"module {name}: the batched engine learns modules with a `policy` and a `value` trunk")
        if self.config.grad_clip is not None and self.config.grad_clip_by != "global_norm":
            raise ValueError(f"grad_clip_by = {self.config.grad_clip_by!r}: the batched engine clips by 'global_norm'")
        keepers: dict[str, Any] = {name: self.get_optimizers_for_module(name)[0][1] for name in learning}
        options = self.trial.learner
        self._watch = DivergenceWatch(learning, options, tells=self._peers.rank == 0)
        environment = EnvironmentConfig.of(self.config.env_config)
        self._settings = environment.settings
        self._features = open_market(environment).features
        self._recalls: dict[tuple[tuple[str, ...], int | None], ObservationReconstruction] = {}
        self._learners = [
            StackLearner(stack, keepers, self._knobs_of(stack), self._peers.channel(), options)
            for stack in stacked(learning)
        ]

    def _knobs_of(self, stack: Stack) -> dict[str, Tensor]:
        """Numbers of the loss, (S, 1), each module's own."""
        configs = [self.config.get_config_for_module(name) for name in stack.names]
        names = ("clip_param", "vf_clip_param", "vf_loss_coeff")
        columns = {name: [float(getattr(config, name)) for config in configs] for name in names}
        columns["grad_clip"] = [float("inf") if config.grad_clip is None else config.grad_clip for config in configs]
        return {name: torch.tensor(column, device=self._device)[:, None] for name, column in columns.items()}

    # -- from columns to rows -----------------------------------------------------------------------------------------

    def _create_iterator_if_necessary(
        self, *, training_data: Any, num_epochs: int = 1, minibatch_size: int | None = None, **kwargs: Any
    ) -> Iterator[_Update]:
        fragments: list[Fragment] = training_data.episodes
        update = self._gathered(fragments)
        update.n_epochs, update.minibatch_size = num_epochs, minibatch_size
        self._count_trained(sum(fragment.bars for fragment in fragments), update.tables, num_epochs)
        return iter([update])

    def _gathered(self, fragments: Sequence[Fragment]) -> _Update:
        """Columns of every module that has rows (`ppo_stack.Columns`), with advantages and value targets.

        Rows stand environment after environment, so that those of several learners are one's cut into pieces.
        """
        parts: dict[str, list[list[np.ndarray]]] = {
            name: [] for learner in self._learners for name in learner.stack.names
        }
        first = 0
        for fragment in fragments:
            for level in fragment.levels:
                seen = observed(level, self._recall(level))
                advantage, target, known = self._valued(level, seen, parts)
                owners = np.broadcast_to(first + np.nonzero(level.due)[1][:, None], level.seats.shape)
                columns = [seen[0], level.actions, level.inputs, level.log_probs, advantage, target]
                if level.regimes is not None:
                    labels = level.regimes[level.due].astype(np.float32)
                    columns.append(np.broadcast_to(labels[:, None], level.seats.shape))
                for number, name in enumerate(level.modules):
                    kept = (level.seats == number) & known[:, None]
                    if name in parts and kept.any():
                        rows = [column[kept] for column in (*columns, owners)]
                        parts[name].append([column if column.ndim == 2 else column[:, None] for column in rows])
            first += fragment.environments
        tables = {}
        for name, own in parts.items():
            if own:
                *merged, owner = (np.concatenate(column) for column in zip(*own))
                order = np.argsort(owner[:, 0], kind="stable")
                tables[name] = [column[order] for column in merged]
        counts = self._peers.counts([len(tables[name][0]) if name in tables else 0 for name in parts], self._device)
        update = _Update({name: count > 0 for name, count in zip(parts, counts.sum(0))})
        update.tables, update.counts = tables, dict(zip(parts, counts.T))
        self._standardise(tables, update.counts)
        return update

    def _standardise(self, tables: Mapping[str, list[np.ndarray]], counts: Mapping[str, np.ndarray]) -> None:
        """Advantages of each module as (x - mean) / deviation over all learners' rows; a constant becomes zeros."""
        present = [name for name, own in counts.items() if own.sum()]
        rows = np.array([counts[name].sum() for name in present])
        columns = [tables[name][_ADVANTAGE].astype(np.float64) if name in tables else np.zeros(0) for name in present]

        def mean(parts: Sequence[np.ndarray]) -> np.ndarray:
            sums = torch.tensor([part.sum() for part in parts], dtype=torch.float64, device=self._device)
            return self._common.sum(sums).cpu().numpy() / rows

        centred = [column - middle for column, middle in zip(columns, mean(columns))]
        deviations = np.sqrt(mean([column**2 for column in centred]))
        for name, column, deviation in zip(present, centred, deviations):
            if name in tables:
                tables[name][_ADVANTAGE] = (column / max(deviation, SMALLEST_DEVIATION)).astype(np.float32)

    def _recall(self, level: LevelColumns) -> ObservationReconstruction:
        key = (level.agents, level.domain)
        if key not in self._recalls:
            self._recalls[key] = ObservationReconstruction(self._settings, self._features, *key)
        return self._recalls[key]

    def _valued(
        self, level: LevelColumns, seen: Sequence[np.ndarray], learning: Container[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        all_seats = (level.seats, level.final_seats, level.bootstrap_seats)
        values = [np.zeros(seats.shape, dtype=np.float32) for seats in all_seats]
        for number, name in enumerate(level.modules):
            if name not in learning:
                continue
            module = self._module[name]
            for observations, seats, out in zip(seen, all_seats, values):
                mine = seats == number
                if mine.any():
                    chosen = torch.from_numpy(observations[mine]).to(self._device)
                    with torch.no_grad():
                        out[mine] = module.compute_values({Columns.OBS: chosen}).cpu().numpy()
        rows, final, bootstrap = values
        return advantages(level, rows, final, bootstrap, self.config.gamma, self.config.lambda_)

    # -- learning -----------------------------------------------------------------------------------------------------

    def _update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, Any, Any]:
        """Let every stack go through its minibatches, side by side where there are CPUs for it."""
        assert isinstance(batch, _Update)
        rng = generator(self.config.seed or 0, self._bars, SHUFFLE)
        jobs = []
        for number, learner in enumerate(self._learners):
            learner.knobs |= self._schedules(learner)
            tables = [batch.tables.get(name) for name in learner.stack.names]
            totals = [int(batch.counts[name].sum()) for name in learner.stack.names]
            starts = [int(batch.counts[name][: self._peers.rank].sum()) for name in learner.stack.names]
            size = None if batch.minibatch_size is None else self.grown(batch.minibatch_size)
            parts = [passes(n, batch.n_epochs, size or n, rng) for n in totals]
            seed = mixed(self.config.seed or 0, self._bars, DROPOUT, number, *self._own_stream())
            jobs.append((learner, tables, starts, parts, seed))

        def work(job: tuple[StackLearner, Any, Any, Any, int]) -> dict[str, Figures]:
            learner, tables, starts, parts, seed = job
            learner.load()
            figures = learner.learn(tables, starts, parts, batch.n_epochs, seed)
            learner.store(figures, self._watch.max_parameter_abs)
            return figures

        beside = [job for job in jobs if job[0].network.draws_its_own] if self.trial.learner_threads > 1 else []
        self._figures: dict[str, Figures] = {}
        with ThreadPoolExecutor(max(len(beside), 1)) as pool:
            running = [pool.submit(work, job) for job in beside]
            for job in jobs:
                if not any(job is other for other in beside):
                    self._figures |= work(job)
            for future in running:
                self._figures |= future.result()
        for name, figures in self._figures.items():
            self._watch.note(name, figures.steps, figures.found, self._bars)
        return None, {}, {}

    def _own_stream(self) -> tuple[int, ...]:
        """Learners drop out units of their own."""
        return (self._peers.rank,) if self._peers.rank else ()

    def _schedules(self, learner: StackLearner) -> dict[str, Tensor]:
        """What moves between updates, (S, 1) each."""
        names = learner.stack.names
        entropy = [self.entropy_coeff_schedulers_per_module[name].get_current_value() for name in names]
        moving = {"entropy_coeff": torch.tensor(entropy, device=self._device)[:, None]}
        if self.config.use_kl_loss:
            coefficients: list[Any] = [self.curr_kl_coeffs_per_module[name] for name in names]
            moving["kl_coeff"] = torch.stack(coefficients)[:, None]
        return moving

    # -- metrics ------------------------------------------------------------------------------------------------------

    def _set_slicing_by_batch_id(self, batch: Any, *, value: bool) -> Any:
        return batch

    def _log_metrics(self, batch: Any) -> None:
        """Counting each minibatch is left out: bars are counted once an update."""

    def _log_steps_trained_metrics(self, batch: Any) -> None:
        pass

    def _count_trained(self, bars: int, tables: Mapping[str, Sequence[np.ndarray]], n_epochs: int) -> None:
        log = self.metrics.log_value
        for name, columns in tables.items():
            for owner in (name, ALL_MODULES):
                log((owner, NUM_MODULE_STEPS_TRAINED), len(columns[0]) * n_epochs, reduce="sum")
                log((owner, NUM_MODULE_STEPS_TRAINED_LIFETIME), len(columns[0]) * n_epochs, reduce="lifetime_sum")
        log((ALL_MODULES, NUM_ENV_STEPS_TRAINED), bars, reduce="sum")
        log((ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME), bars, reduce="lifetime_sum")

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """RLlib's metrics of each module, as means over its last pass."""
        for learner in self._learners:
            for member, name in enumerate(learner.stack.names):
                if name not in self._figures or not self._figures[name].means:
                    continue
                figures, knobs = self._figures[name], learner.knobs
                mean = figures.means
                variance = mean["target_square"] - mean["target"] ** 2
                unexplained = mean["value_error"] - mean["error"] ** 2
                loss = knobs["vf_loss_coeff"][member].item() * mean["value_loss"] - mean["surrogate"]
                if "kl_coeff" in knobs:
                    loss += knobs["kl_coeff"][member].item() * mean["kl"]
                loss += sum(figures.lessons.values())
                shown = {
                    POLICY_LOSS_KEY: -mean["surrogate"],
                    VF_LOSS_KEY: mean["value_loss"],
                    LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY: mean["value_error"],
                    LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY: max(-1.0, 1.0 - unexplained / max(variance, 1e-12)),
                    ENTROPY_KEY: mean["entropy"],
                    LEARNER_RESULTS_KL_KEY: mean["kl"],
                    self.TOTAL_LOSS_KEY: loss - knobs["entropy_coeff"][member].item() * mean["entropy"],
                    GRADIENT_NORM: figures.gradient_norm,
                    **figures.lessons,
                }
                for key, figure in shown.items():
                    self.metrics.log_value((name, key), figure, window=1)
        self._watch.log(self.metrics)
        super().after_gradient_based_update(timesteps=timesteps)


_ADVANTAGE = 4
"""Of `ppo_stack.Columns`."""
