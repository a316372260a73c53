"""PPO on columns: RLlib's learner in its state, loss and metrics; stacks and one fused step in its arithmetic.

What differs from RLlib's, and why:

- it reads columns (`columns`) and values them itself: standardised over real decisions only, discounted by time;
- an epoch is one pass over *each module's own* rows. RLlib's iterator goes on until the module with the most rows is
  through, and a controller that decides every five bars is then trained five times as often as asked for;
- equally built modules are one stack: one forward and backward pass, one norm and one optimiser step for all;
- modules that do not learn are not computed;
- a module whose gradient is not finite skips that step and says so.

Shape suffixes: S modules of a stack, R rows, B rows of a minibatch, F observation width, A action width.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
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

from mtquant_rllib.engine.columns import Fragment, LevelColumns, advantages, standardised
from mtquant_rllib.engine.loss import TALLIED, ppo_gradients
from mtquant_rllib.engine.passes import pass_for
from mtquant_rllib.engine.randomness import DROPOUT, SHUFFLE, generator, pin_torch, seed_torch
from mtquant_rllib.engine.stacks import RowOptimizer, Stack, stacked

logger = logging.getLogger(__name__)

BARS = "bars"
GRADIENT_NORM = "gradients_default_optimizer_global_norm"


class BarSchedule(PPOTorchLearner):
    """What both engines' learners add to RLlib's: rates that follow bars, and dropout that follows the seed.

    `config.desk` names the schedule: learning_rates of each module, budget_bars and learning_rate_final_frac.
    """

    # Always there once built; RLlib declares them optional, and does not know ours.
    config: Any
    _module: Any

    def build(self) -> None:
        pin_torch()
        super().build()

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        params = self.get_parameters(self._module[module_id])
        fused = all(param.device.type in ("cpu", "cuda") for param in params)
        rate = self.config.desk["learning_rates"][module_id]
        optimizer = torch.optim.Adam(params, lr=rate, eps=1e-5, fused=fused)
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=params, lr_or_lr_schedule=rate)
        # RLlib's scheduler would set its own rate after every update; ours is set before the update that it is for.
        self._optimizer_lr_schedules.pop(optimizer, None)

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().before_gradient_based_update(timesteps=timesteps)
        self._bars = int(timesteps[BARS])
        seed_torch(self.config.seed or 0, self._bars, DROPOUT)
        desk = self.config.desk
        left = 1.0 - min(self._bars / desk["budget_bars"], 1.0)
        share = desk["learning_rate_final_frac"] + (1.0 - desk["learning_rate_final_frac"]) * left
        for module_id in list(self.module.keys()):
            for _, optimizer in self.get_optimizers_for_module(module_id):
                self._set_optimizer_lr(optimizer, lr=desk["learning_rates"][module_id] * share)


@dataclass
class Rows:
    """The learning rows of one stack, beside each other so that a minibatch is one gather.

    table_SRC: [observation | action | old inputs | old log-probability | advantage | value target], float32; modules
    with fewer rows than the stack's longest end in zeros. counts: rows of each module.
    """

    table_SRC: Tensor
    counts: list[int]
    widths: list[int]


@dataclass
class _Pick:
    """The part of a minibatch that one stack learns from.

    index_SB: rows of the stack's flat table; weight_SB: of each in the mean of its module; telling_S: which modules
    are in their last pass, whose figures are reported.
    """

    stack: int
    index_SB: Tensor
    weight_SB: Tensor
    telling_S: np.ndarray


class _Minibatch(dict[str, bool]):
    """Which modules step, and the rows of every stack that has some."""

    picks: list[_Pick]

    @property
    def policy_batches(self) -> _Minibatch:
        return self


class BatchedLearner(BarSchedule):
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
        self._stacks = stacked(learning)
        self._passes = [pass_for(stack) for stack in self._stacks]
        keepers: dict[str, Any] = {name: self.get_optimizers_for_module(name)[0][1] for name in learning}
        self._optimizer = RowOptimizer(self._stacks, keepers)
        self._knobs = [self._knobs_of(stack) for stack in self._stacks]

    def _knobs_of(self, stack: Stack) -> dict[str, Tensor]:
        """Numbers of the loss, (S, 1), each module's own."""
        configs = [self.config.get_config_for_module(name) for name in stack.names]
        names = ("clip_param", "vf_clip_param", "vf_loss_coeff")
        columns = {name: [float(getattr(config, name)) for config in configs] for name in names}
        columns["grad_clip"] = [float("inf") if config.grad_clip is None else config.grad_clip for config in configs]
        knobs = {name: torch.tensor(column, device=self._device)[:, None] for name, column in columns.items()}
        return {**knobs, "real": stack.real_S1A}

    # -- from columns to minibatches ----------------------------------------------------------------------------------

    def _create_iterator_if_necessary(
        self, *, training_data: Any, num_epochs: int = 1, minibatch_size: int | None = None, **kwargs: Any
    ) -> Iterator[_Minibatch]:
        fragments: list[Fragment] = training_data.episodes
        for stack in self._stacks:
            stack.load()
        self._rows = self._gathered(fragments)
        self._optimizer.load()
        self._tallies: list[list[Tensor]] = [[] for _ in self._stacks]
        self._norms: dict[str, float] = {}
        self._count_trained(sum(fragment.bars for fragment in fragments), num_epochs)
        for stack, knobs in zip(self._stacks, self._knobs):
            entropy = [self.entropy_coeff_schedulers_per_module[name].get_current_value() for name in stack.names]
            knobs["entropy_coeff"] = torch.tensor(entropy, device=self._device)[:, None]
            if self.config.use_kl_loss:
                coefficients: list[Any] = [self.curr_kl_coeffs_per_module[name] for name in stack.names]
                knobs["kl_coeff"] = torch.stack(coefficients)[:, None]
        rng = generator(self.config.seed or 0, self._bars, SHUFFLE)
        return self._minibatches(rng, num_epochs, minibatch_size)

    def _gathered(self, fragments: Sequence[Fragment]) -> list[Rows]:
        """Rows of every stack, with advantages and value targets."""
        parts: dict[str, list[list[np.ndarray]]] = {name: [] for stack in self._stacks for name in stack.names}
        for fragment in fragments:
            for level in fragment.levels:
                advantage, target, known = self._valued(level, parts)
                columns = (level.observations, level.actions, level.inputs, level.log_probs, advantage, target)
                for number, name in enumerate(level.modules):
                    if name in parts:
                        kept = (level.seats == number) & known[:, None]
                        rows = [column[kept] for column in columns]
                        parts[name].append([column if column.ndim == 2 else column[:, None] for column in rows])
        return [self._rows_of(stack, [parts[name] for name in stack.names]) for stack in self._stacks]

    def _valued(self, level: LevelColumns, learning: Container[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        seen = [(level.observations, level.seats), (level.final, level.final_seats), (level.tail, level.tail_seats)]
        values = [np.zeros(seats.shape, dtype=np.float32) for _, seats in seen]
        for number, name in enumerate(level.modules):
            if name not in learning:
                continue
            module = self._module[name]
            for (observations, seats), out in zip(seen, values):
                mine = seats == number
                if mine.any():
                    chosen = torch.from_numpy(observations[mine]).to(self._device)
                    with torch.no_grad():
                        out[mine] = module.compute_values({Columns.OBS: chosen}).cpu().numpy()
        rows, final, tail = values
        return advantages(level, rows, final, tail, self.config.gamma, self.config.lambda_)

    def _rows_of(self, stack: Stack, parts: list[list[list[np.ndarray]]]) -> Rows:
        observation, actions = stack.widths
        widths = [observation, actions, 2 * actions, 1, 1, 1]
        starts = np.cumsum([0, *widths])
        tables = []
        for own in parts:
            columns = [np.concatenate(column) for column in zip(*own)] or [np.zeros((0, width)) for width in widths]
            if len(columns[-2]):
                columns[-2] = standardised(columns[-2])
            tables.append(columns)
        counts = [len(columns[0]) for columns in tables]
        out = np.zeros((len(tables), max(counts), sum(widths)), dtype=np.float32)
        for columns, fit, mine in zip(tables, stack.fits, out):
            if not len(columns[0]):
                continue
            places = (fit.observation, fit.actions, np.concatenate((fit.actions, actions + fit.actions)), 0, 0, 0)
            for column, start, place in zip(columns, starts, places):
                mine[: len(column), start + np.atleast_1d(place)] = column
        return Rows(torch.from_numpy(out).to(self._device), counts, widths)

    def _minibatches(self, rng: np.random.Generator, n_epochs: int, size: int | None) -> Iterator[_Minibatch]:
        """`n_epochs` passes over each module's own rows, each in an order of its own.

        A pass of n rows is cut into about n / size equal parts. Modules step side by side; one that is through rests.
        """
        counts = {name: n for stack, rows in zip(self._stacks, self._rows) for name, n in zip(stack.names, rows.counts)}
        parts = {name: passes(count, n_epochs, size or count, rng) for name, count in counts.items()}
        # At least one, if an empty one: RLlib's update looks at its last minibatch.
        for step in range(max(1, *(len(own) for own in parts.values()))):
            batch = _Minibatch({name: step < len(own) for name, own in parts.items()})
            batch.picks = []
            for number, (stack, rows) in enumerate(zip(self._stacks, self._rows)):
                mine = [parts[name][step] if batch[name] else _NOTHING for name in stack.names]
                longest = max(len(part) for part in mine)
                if not longest:
                    continue
                index = np.zeros((len(mine), longest), dtype=np.int64)
                weight = np.zeros((len(mine), longest), dtype=np.float32)
                for member, part in enumerate(mine):
                    index[member, : len(part)] = part + member * rows.table_SRC.shape[1]
                    weight[member, : len(part)] = 1.0 / max(len(part), 1)
                n_told = [len(parts[name]) // n_epochs for name in stack.names]
                telling = [batch[name] and step >= len(parts[name]) - n for name, n in zip(stack.names, n_told)]
                rows_and_weights = (torch.from_numpy(array).to(self._device) for array in (index, weight))
                batch.picks.append(_Pick(number, *rows_and_weights, np.array(telling)))
            yield batch

    # -- one step -----------------------------------------------------------------------------------------------------

    def _update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, Any, Any]:
        assert isinstance(batch, _Minibatch)
        if not batch.picks:
            return None, {}, {}
        for pick in batch.picks:
            self._differentiate(pick)
        norms = []
        for pick in batch.picks:
            gradient, limit = self._stacks[pick.stack].grad_SP, self._knobs[pick.stack]["grad_clip"]
            norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            # As RLlib clips: by what is over the limit, a millionth of a unit early.
            gradient.mul_(limit.div(torch.maximum(norm + 1e-6, limit)).nan_to_num(1.0))
            norms.append(norm[:, 0])
        names = [name for pick in batch.picks for name in self._stacks[pick.stack].names]
        steps = dict.fromkeys(batch, False)
        for name, norm in zip(names, torch.cat(norms).tolist()):
            steps[name] = batch[name] and math.isfinite(norm)
            if batch[name]:
                self._norms[name] = norm
                if not steps[name]:
                    logger.warning("%s: gradient is not finite at bar %d; this step is skipped", name, self._bars)
        self._optimizer.step(steps)
        return None, {}, {}

    def _differentiate(self, pick: _Pick) -> None:
        """Fill the gradient rows of one stack for one minibatch."""
        rows, knobs, one_pass = self._rows[pick.stack], self._knobs[pick.stack], self._passes[pick.stack]
        table = rows.table_SRC.flatten(0, 1).index_select(0, pick.index_SB.flatten()).unflatten(0, pick.index_SB.shape)
        obs, *columns = table.split(rows.widths, dim=-1)
        tell = bool(pick.telling_S.any())
        gradients, tally = ppo_gradients(one_pass.forward(obs), tuple(columns), pick.weight_SB, knobs, tell=tell)  # type: ignore[arg-type]
        one_pass.backward(*gradients)
        if tally is not None:
            telling_S = torch.from_numpy(pick.telling_S).to(tally)
            self._tallies[pick.stack].append(torch.cat((tally * telling_S, telling_S[None])))

    # -- metrics ------------------------------------------------------------------------------------------------------

    def _set_slicing_by_batch_id(self, batch: Any, *, value: bool) -> Any:
        return batch

    def _log_metrics(self, batch: Any) -> None:
        """Counting each minibatch is left out: bars are counted once an update."""

    def _log_steps_trained_metrics(self, batch: Any) -> None:
        pass

    def _count_trained(self, bars: int, n_epochs: int) -> None:
        log = self.metrics.log_value
        for stack, rows in zip(self._stacks, self._rows):
            for name, count in zip(stack.names, rows.counts):
                for owner in (name, ALL_MODULES):
                    log((owner, NUM_MODULE_STEPS_TRAINED), count * n_epochs, reduce="sum")
                    log((owner, NUM_MODULE_STEPS_TRAINED_LIFETIME), count * n_epochs, reduce="lifetime_sum")
        log((ALL_MODULES, NUM_ENV_STEPS_TRAINED), bars, reduce="sum")
        log((ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME), bars, reduce="lifetime_sum")

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Hand back what was learned; RLlib's metrics of each module, as means over its last pass."""
        for stack in self._stacks:
            stack.store()
        self._optimizer.store()
        for stack, knobs, tallies in zip(self._stacks, self._knobs, self._tallies):
            if not tallies:
                continue
            total = torch.stack(tallies).sum(0).cpu()
            for name, column, k in zip(stack.names, total.T.tolist(), range(len(stack))):
                *sums, steps = column
                if not steps:
                    continue
                mean = dict(zip(TALLIED, (item / steps for item in sums)))
                variance = mean["target_square"] - mean["target"] ** 2
                unexplained = mean["value_error"] - mean["error"] ** 2
                loss = knobs["vf_loss_coeff"][k].item() * mean["value_loss"] - mean["surrogate"]
                figures = {
                    POLICY_LOSS_KEY: -mean["surrogate"],
                    VF_LOSS_KEY: mean["value_loss"],
                    LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY: mean["value_error"],
                    LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY: max(-1.0, 1.0 - unexplained / max(variance, 1e-12)),
                    ENTROPY_KEY: mean["entropy"],
                    LEARNER_RESULTS_KL_KEY: mean["kl"],
                    self.TOTAL_LOSS_KEY: loss - knobs["entropy_coeff"][k].item() * mean["entropy"],
                    GRADIENT_NORM: self._norms[name],
                }
                for key, figure in figures.items():
                    self.metrics.log_value((name, key), figure, window=1)
        super().after_gradient_based_update(timesteps=timesteps)


_NOTHING = np.zeros(0, dtype=np.int64)


def passes(count: int, n_epochs: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Row numbers of the minibatches of `n_epochs` shuffled passes over `count` rows. One part needs no order."""
    if not count:
        return []
    n_parts = max(1, round(count / size))
    if n_parts == 1:
        return [np.arange(count)] * n_epochs
    return [part for _ in range(n_epochs) for part in np.array_split(rng.permutation(count), n_parts)]
