"""One stack's whole PPO update: its rows, minibatches, gradient clipping and optimiser steps.

Modules share no parameters, so neither do stacks: each goes through its own minibatches independently, and several may
do so in threads with the same result, bit for bit, as one after the other.

Shape suffixes: S modules of a stack, R rows, B rows of a minibatch, C columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mtquant_rllib.config.sections.training import LearnerConfig
from mtquant_rllib.engine.learning.backprop import backprop_for
from mtquant_rllib.engine.learning.distributed import SumGroup
from mtquant_rllib.engine.learning.divergence import Divergence, StepCounts, parameter_divergence
from mtquant_rllib.engine.learning.ppo.objective import PPOObjective
from mtquant_rllib.engine.learning.reference_kl import reference_kl_coeff
from mtquant_rllib.engine.learning.schedules import DEFAULT
from mtquant_rllib.engine.learning.stacks import ModuleStack, StackedAdam
from mtquant_rllib.policies.attention.losses import NO_LABEL

Columns = Sequence[np.ndarray]
"""Of one module: observation, raw action, old `[mean | log deviation]`, old log-probability, advantage, value target,
and where the module has auxiliary losses the regime labels; each (rows, width)."""


@dataclass
class UpdateMetrics:
    """Metrics of one module's update.

    terms, auxiliary_losses
        Means over the last epoch: of `loss.ppo_terms`, and of the policy's auxiliary losses.
    gradient_norm
        Of the last step, before clipping.
    steps
        Steps taken, and those skipped because the gradient was not finite.
    divergence
        Of the parameters after the update.
    """

    terms: dict[str, float] = field(default_factory=dict)
    auxiliary_losses: dict[str, float] = field(default_factory=dict)
    gradient_norm: float = math.nan
    steps: StepCounts = field(default_factory=StepCounts)
    divergence: Divergence = Divergence.NONE


class StackLearner:
    """Updates one stack.

    Parameters
    ----------
    optimizers
        RLlib's optimiser of each module.
    coefficients
        Those of `ppo_loss` but for the reference policy's, and `grad_clip` (infinity for none), (S, 1) each.
    group
        Of the learners that have the other rows.
    """

    def __init__(
        self,
        stack: ModuleStack,
        optimizers: Mapping[str, torch.optim.Adam],
        coefficients: Mapping[str, Tensor],
        group: SumGroup,
        options: LearnerConfig,
    ) -> None:
        self.stack, self._group = stack, group
        self.optimizer = StackedAdam(stack, [optimizers[name] for name in stack.names])
        self.coefficients: dict[str, Tensor] = dict(coefficients)
        self.backprop = backprop_for(stack, options)
        self._reference = stack.network.policy.reference
        if self._reference is not None:
            kl_coeff = torch.full((len(stack.names), 1), reference_kl_coeff(stack.common), device=stack.device)
            self.coefficients["reference_kl_coeff"] = kl_coeff
        self._has_auxiliary_losses = bool(stack.network.policy.has_auxiliary_losses)

    def load(self) -> None:
        """Take over parameters, rates and moments from the modules."""
        self.stack.load()
        self.optimizer.load()

    def store(self, metrics: Mapping[str, UpdateMetrics], max_parameter_abs: float) -> None:
        """Copy parameters and moments back into the modules. A module whose parameters have diverged keeps those that
        it had before the update."""
        sound = []
        for member, divergence in enumerate(parameter_divergence(self.stack.weight_RP, max_parameter_abs)):
            if divergence is Divergence.NONE:
                sound.append(member)
            elif self.stack.names[member] in metrics:
                metrics[self.stack.names[member]].divergence = divergence
        self.stack.store(sound)
        self.optimizer.store(sound)

    def padded_batch(self, module_columns: Sequence[Columns | None]) -> tuple[Tensor, list[int]]:
        """All columns side by side, (S, R, C), so that a minibatch is one gather, and their widths.

        Modules with fewer rows than the longest end in zeros; columns that a module lacks are zeros.
        """
        observation, actions = self.stack.widths
        widths = [observation, actions, 2 * actions, 1, 1, 1, *([1] if self._has_auxiliary_losses else [])]
        starts = np.cumsum([0, *widths])
        # A row of zeros where another learner has them all, for minibatches to point at.
        longest = max((len(columns[0]) for columns in module_columns if columns is not None), default=1)
        out = np.zeros((len(module_columns), longest, sum(widths)), dtype=np.float32)
        if self._has_auxiliary_losses:
            out[..., -1] = NO_LABEL
        single = np.zeros(1, dtype=np.int64)
        for columns, padding, rows in zip(module_columns, self.stack.column_maps, out):
            positions = (
                padding.observation,
                padding.actions,
                np.concatenate((padding.actions, actions + padding.actions)),
                *[single] * (len(widths) - 3),
            )
            for column, start, position in zip(columns or (), starts, positions):
                rows[: len(column), start + position] = column
        return torch.from_numpy(out).to(self.stack.weight_RP.device), widths

    def learn(
        self,
        module_columns: Sequence[Columns | None],
        starts: Sequence[int],
        minibatches: Sequence[Sequence[np.ndarray]],
        n_epochs: int,
        seed: int,
    ) -> dict[str, UpdateMetrics]:
        """Step through the minibatches; the metrics of every module that had some.

        Parameters
        ----------
        module_columns
            Of each module, None where it has no rows here.
        starts
            Number of each module's first row here, among those of all learners.
        minibatches
            Row numbers of each module's minibatches, `n_epochs` epochs after each other, counted over all learners.
        seed
            Of dropout.
        """
        metrics = {name: UpdateMetrics() for name, own in zip(self.stack.names, minibatches) if own}
        if not metrics:
            return {}
        batch_SRC, widths = self.padded_batch(module_columns)
        flat, n_rows = batch_SRC.flatten(0, 1), batch_SRC.shape[1]
        mask = self.stack.action_mask_S1A
        self.backprop.seed(seed)
        term_sums, auxiliary_losses = [], []
        # Modules step together; one that has no minibatches left is not stepped.
        for step in range(max(map(len, minibatches))):
            active = [step < len(own) for own in minibatches]
            everywhere = [own[step] if step < len(own) else _NO_ROWS for own in minibatches]
            here = [
                rows[(start <= rows) & (rows < start + len(columns[0]))] - start if columns is not None else _NO_ROWS
                for rows, start, columns in zip(everywhere, starts, module_columns)
            ]
            index, weight = _minibatch(here, [len(rows) for rows in everywhere], n_rows)
            index_SB, weight_SB = (torch.from_numpy(array).to(flat.device) for array in (index, weight))
            minibatch = flat.index_select(0, index_SB.flatten()).unflatten(0, index_SB.shape)
            obs, *columns = minibatch.split(widths, dim=-1)
            labels = columns.pop() if self._has_auxiliary_losses else None
            outputs = self.backprop.forward(obs, labels, weight_SB.sum())
            reference = None if self._reference is None else self._reference(obs)
            objective = PPOObjective(columns, weight_SB, self.coefficients, mask, reference)
            self.backprop.backward(objective)
            self._group.sum(self.stack.grad_RP)
            last_epoch = [len(own) - len(own) // n_epochs <= step < len(own) for own in minibatches]
            if any(last_epoch):
                terms = objective.terms(*outputs)
                sums = (torch.stack([*terms.values()]) * weight_SB).sum(-1)
                counted = torch.tensor(last_epoch).to(sums)
                term_sums.append(torch.cat((sums * counted, counted[None])))
                auxiliary_losses.append(self.backprop.auxiliary_losses)
            self._step(active, metrics)
        total = torch.stack(term_sums).sum(0)
        total = torch.cat((self._group.sum(total[:-1]), total[-1:]))
        for name, (*own, steps) in zip(self.stack.names, total.T.tolist()):
            if steps:
                metrics[name].terms = {key: item / steps for key, item in zip(terms, own)}
        if self._has_auxiliary_losses:
            means = torch.stack([torch.stack([*losses.values()]) for losses in auxiliary_losses]).mean(0)
            metrics[self.stack.names[0]].auxiliary_losses = dict(
                zip(auxiliary_losses[0], self._group.sum(means).tolist())
            )
        return metrics

    def _step(self, active: Sequence[bool], metrics: Mapping[str, UpdateMetrics]) -> None:
        norm_S1 = self.stack.clip(self.coefficients["grad_clip"])
        steps = list(active)
        for member, norm in enumerate(norm_S1[:, 0].tolist()):
            if active[member]:
                own = metrics[self.stack.names[member]]
                own.gradient_norm = norm
                steps[member] = math.isfinite(norm)
                own.steps.count(DEFAULT, skipped=not steps[member])
        self.optimizer.step(steps)


_NO_ROWS = np.zeros(0, dtype=np.int64)


def _minibatch(rows: Sequence[np.ndarray], sizes: Sequence[int], n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the flat batch, int64 (S, B), and their weights in the mean over their module's minibatch of so many
    rows, float32 (S, B); weight 0 is padding."""
    longest = max(1, *(len(own) for own in rows))
    index = np.zeros((len(rows), longest), dtype=np.int64)
    weight = np.zeros((len(rows), longest), dtype=np.float32)
    for member, (own, size) in enumerate(zip(rows, sizes)):
        index[member, : len(own)] = own + member * n_rows
        weight[member, : len(own)] = 1.0 / max(size, 1)
    return index, weight


def minibatch_indices(count: int, n_epochs: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Row numbers of the minibatches of `n_epochs` shuffled epochs over `count` rows, each cut into about count / size
    equal parts. A single part is not shuffled."""
    if not count:
        return []
    n_parts = max(1, round(count / size))
    if n_parts == 1:
        return [np.arange(count)] * n_epochs
    return [part for _ in range(n_epochs) for part in np.array_split(rng.permutation(count), n_parts)]
