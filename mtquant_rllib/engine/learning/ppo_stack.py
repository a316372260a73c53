"""One stack's whole update: its rows, its minibatches, its clipping and its optimiser.

Modules share nothing, so neither do stacks: each goes through its own minibatches without waiting for another, and
several may do so at a time with the same result, bit for bit, as one after the other.

Shape suffixes: S modules of a stack, R rows, B rows of a minibatch, C columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mtquant_rllib.config.training import LearnerConfig
from mtquant_rllib.engine.learning.bar_schedule import DEFAULT
from mtquant_rllib.engine.learning.distributed import Channel
from mtquant_rllib.engine.learning.divergence import Divergence, Steps, measured
from mtquant_rllib.engine.learning.passes import pass_for
from mtquant_rllib.engine.learning.ppo_loss import TALLIED, ppo_gradients
from mtquant_rllib.engine.learning.stacks import RowOptimizer, Stack
from mtquant_rllib.policies.attention_losses import NO_LABEL

Columns = Sequence[np.ndarray]
"""Of one module: observation, raw action, old `[mean | log deviation]`, old log-probability, advantage, value target,
and of one that is taught what regimes are their labels; each (rows, width)."""


@dataclass
class Figures:
    """What one module's update showed: means over its last pass (`loss.TALLIED`, and lessons: losses beside the agent's
    own), the gradient's norm at its last step, its steps with those skipped because it was not finite, and what its
    parameters are after the last."""

    means: dict[str, float] = field(default_factory=dict)
    lessons: dict[str, float] = field(default_factory=dict)
    gradient_norm: float = math.nan
    steps: Steps = field(default_factory=Steps)
    found: Divergence = Divergence.NONE


class StackLearner:
    """See the module's docstring. `knobs`: numbers of the loss, (S, 1) each, and `grad_clip`, infinity for none;
    `channel`: to the learners that have the other rows."""

    def __init__(
        self,
        stack: Stack,
        keepers: Mapping[str, torch.optim.Adam],
        knobs: Mapping[str, Tensor],
        channel: Channel,
        options: LearnerConfig,
    ) -> None:
        self.stack, self._channel = stack, channel
        self.optimizer = RowOptimizer(stack, [keepers[name] for name in stack.names])
        self.knobs: dict[str, Tensor] = {**knobs, "real": stack.real_S1A}
        self.network = pass_for(stack, options)
        self._teaches = bool(stack.network.policy.teaches)

    def load(self) -> None:
        """Take over parameters, rates and moments from the modules."""
        self.stack.load()
        self.optimizer.load()

    def store(self, figures: Mapping[str, Figures], max_parameter_abs: float) -> None:
        """Hand parameters and moments back to the modules, but those that cannot be any policy's: such a module keeps
        what it had before the update."""
        sound = []
        for member, found in enumerate(measured(self.stack.weight_RP, max_parameter_abs)):
            if found is Divergence.NONE:
                sound.append(member)
            elif self.stack.names[member] in figures:
                figures[self.stack.names[member]].found = found
        self.stack.store(sound)
        self.optimizer.store(sound)

    def table(self, tables: Sequence[Columns | None]) -> tuple[Tensor, list[int]]:
        """All columns beside each other, (S, R, C), so that a minibatch is one gather, and the widths they have.

        Modules with fewer rows than the longest end in zeros; columns that a module lacks are zeros.
        """
        observation, actions = self.stack.widths
        widths = [observation, actions, 2 * actions, 1, 1, 1, *([1] if self._teaches else [])]
        starts = np.cumsum([0, *widths])
        # A row of zeros where another learner has them all, for minibatches to point at.
        longest = max((len(columns[0]) for columns in tables if columns is not None), default=1)
        out = np.zeros((len(tables), longest, sum(widths)), dtype=np.float32)
        if self._teaches:
            out[..., -1] = NO_LABEL
        one = np.zeros(1, dtype=np.int64)
        for columns, fit, mine in zip(tables, self.stack.fits, out):
            places = (
                fit.observation,
                fit.actions,
                np.concatenate((fit.actions, actions + fit.actions)),
                *[one] * (len(widths) - 3),
            )
            for column, start, place in zip(columns or (), starts, places):
                mine[: len(column), start + place] = column
        return torch.from_numpy(out).to(self.stack.weight_RP.device), widths

    def learn(
        self,
        tables: Sequence[Columns | None],
        starts: Sequence[int],
        parts: Sequence[Sequence[np.ndarray]],
        n_epochs: int,
        seed: int,
    ) -> dict[str, Figures]:
        """Step through the minibatches; the figures of every module that had some.

        Parameters
        ----------
        tables
            Of each module, None where it has no rows here.
        starts
            Number of each module's first row here, among those of all learners.
        parts
            Row numbers of each module's minibatches, `n_epochs` passes after each other, counted over all learners.
        seed
            Of dropout.
        """
        figures = {name: Figures() for name, own in zip(self.stack.names, parts) if own}
        if not figures:
            return {}
        table_SRC, widths = self.table(tables)
        flat, n_rows = table_SRC.flatten(0, 1), table_SRC.shape[1]
        self.network.seed(seed)
        tallies, lessons = [], []
        # Modules step side by side; one that is through rests.
        for step in range(max(map(len, parts))):
            active = [step < len(own) for own in parts]
            whole = [own[step] if step < len(own) else _NOTHING for own in parts]
            here = [
                mine[(start <= mine) & (mine < start + len(columns[0]))] - start if columns is not None else _NOTHING
                for mine, start, columns in zip(whole, starts, tables)
            ]
            index, weight = _minibatch(here, [len(mine) for mine in whole], n_rows)
            telling = [len(own) - len(own) // n_epochs <= step < len(own) for own in parts]
            index_SB, weight_SB = (torch.from_numpy(array).to(flat.device) for array in (index, weight))
            minibatch = flat.index_select(0, index_SB.flatten()).unflatten(0, index_SB.shape)
            obs, *columns = minibatch.split(widths, dim=-1)
            labels = columns.pop() if self._teaches else None
            gradients, tally = ppo_gradients(
                self.network.forward(obs, labels, weight_SB.sum()), columns, weight_SB, self.knobs, tell=any(telling)
            )
            self.network.backward(*gradients)
            self._channel.sum(self.stack.grad_RP)
            if tally is not None:
                told = torch.tensor(telling).to(tally)
                tallies.append(torch.cat((tally * told, told[None])))
                lessons.append(self.network.lessons)
            self._step(active, figures)
        total = torch.stack(tallies).sum(0)
        sums, steps = total[:-1], total[-1:]
        self._tell(torch.cat((self._channel.sum(sums), steps)), figures)
        if self._teaches:
            means = torch.stack([torch.stack([*step.values()]) for step in lessons]).mean(0)
            figures[self.stack.names[0]].lessons = dict(zip(lessons[0], self._channel.sum(means).tolist()))
        return figures

    def _step(self, active: Sequence[bool], figures: Mapping[str, Figures]) -> None:
        norm_S1 = self.stack.clip(self.knobs["grad_clip"])
        steps = list(active)
        for member, norm in enumerate(norm_S1[:, 0].tolist()):
            if active[member]:
                mine = figures[self.stack.names[member]]
                mine.gradient_norm = norm
                steps[member] = math.isfinite(norm)
                mine.steps.note(DEFAULT, skipped=not steps[member])
        self.optimizer.step(steps)

    def _tell(self, total: Tensor, figures: Mapping[str, Figures]) -> None:
        for name, (*sums, steps) in zip(self.stack.names, total.T.tolist()):
            if steps:
                figures[name].means = {key: item / steps for key, item in zip(TALLIED, sums)}


_NOTHING = np.zeros(0, dtype=np.int64)


def _minibatch(mine: Sequence[np.ndarray], sizes: Sequence[int], n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the flat table and their weights in the mean over their module's minibatch of so many rows, (S, B) each;
    weight 0 fills up."""
    longest = max(1, *(len(part) for part in mine))
    index = np.zeros((len(mine), longest), dtype=np.int64)
    weight = np.zeros((len(mine), longest), dtype=np.float32)
    for member, (part, size) in enumerate(zip(mine, sizes)):
        index[member, : len(part)] = part + member * n_rows
        weight[member, : len(part)] = 1.0 / max(size, 1)
    return index, weight


def passes(count: int, n_epochs: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Row numbers of the minibatches of `n_epochs` shuffled passes over `count` rows, each cut into about count / size
    equal parts. One part needs no order."""
    if not count:
        return []
    n_parts = max(1, round(count / size))
    if n_parts == 1:
        return [np.arange(count)] * n_epochs
    return [part for _ in range(n_epochs) for part in np.array_split(rng.permutation(count), n_parts)]
