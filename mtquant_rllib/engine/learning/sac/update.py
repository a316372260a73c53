"""One stack of modules that learn by SAC: policies, twin critics, target critics and alphas as rows.

A step is Algorithm 1 of Haarnoja et al. 2018: critics, then the policy against the critics just stepped, alpha, and the
targets. Modules without a batch are not stepped, nor are their targets.

Between calls of `load` and `store` the rows are the truth; modules and optimisers are brought up to date when a state
is asked for, which is far less often than a step is taken.

Shape suffixes: S modules, T = 2 twin critics, B rows, F observation, A actions, W executed actions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtquant_rllib.agents.action_maps import ACTION_MAPS
from mtquant_rllib.config.sections.training import LearnerConfig
from mtquant_rllib.engine.learning.backprop import AutogradPolicyBackprop, warn_of_unused_options
from mtquant_rllib.engine.learning.distributed import LearnerRanks, Shard
from mtquant_rllib.engine.learning.divergence import Divergence, StepCounts, parameter_divergence
from mtquant_rllib.engine.learning.fast_path import loss_gradients
from mtquant_rllib.engine.learning.fast_path.critics import CriticBackprop, CriticValues
from mtquant_rllib.engine.learning.fast_path.layers import ParameterViews
from mtquant_rllib.engine.learning.fast_path.policies import ManualPolicyBackprop, has_fast_path
from mtquant_rllib.engine.learning.reference_kl import REFERENCE_KL, reference_kl, reference_kl_coeff
from mtquant_rllib.engine.learning.sac import loss as sac_loss
from mtquant_rllib.engine.learning.sac.actor_objective import ActorObjective
from mtquant_rllib.engine.learning.stacks import StackableModules, StackedAdam, StackedParameters
from mtquant_rllib.engine.randomness import derived_seed
from mtquant_rllib.engine.replay.replay import Batch
from mtquant_rllib.policies.action_maps import apply_action_map
from mtquant_rllib.policies.critics import TWINS, Entropy, build_critic, critic_columns, target_entropy
from mtquant_rllib.policies.networks import GaussianPolicy
from mtquant_rllib.policies.registry import build_policy

ACTOR, ALPHA = "actor", "alpha"
CRITICS = tuple(f"critic_{twin}" for twin in range(TWINS))
OPTIMIZERS = (ACTOR, *CRITICS, ALPHA)
"""Names of a module's optimisers."""

_PER_MODULE = (-1, TWINS)

Metrics = dict[str, Tensor]
"""Name -> values of the modules, (S,)."""


class SACStack(StackableModules):
    """See the module's docstring.

    Parameters
    ----------
    optimizers
        Optimisers of each module by the names in `OPTIMIZERS`.
    tau, grad_clip, action_penalty
        As in `SACConfig`.
    options
        For policies that run by autograd.
    ranks
        The learners that have the other rows of a batch; None for one learner.
    """

    def __init__(
        self,
        names: Sequence[str],
        modules: Sequence[Any],
        optimizers: Mapping[str, Mapping[str, torch.optim.Adam]],
        *,
        tau: float,
        grad_clip: float,
        action_penalty: float,
        options: LearnerConfig,
        ranks: LearnerRanks | None = None,
    ) -> None:
        super().__init__(names, modules)
        self._ranks = ranks or LearnerRanks(1)
        self._group = self._ranks.new_group()
        self._tau, self._grad_clip, self._action_penalty = tau, grad_clip, action_penalty
        self._action_map, self._map_numbers = self.common["sac"]["action_map"], self.common["sac"]["map_numbers"]
        action_map = ACTION_MAPS[self._action_map]
        n_actions = [len(columns.actions) for columns in self.column_maps]
        executed_columns = [action_map.columns(n, self.widths[1]) for n in n_actions]
        self._executed_mask_S1W = torch.zeros(len(self.names), 1, action_map.width(self.widths[1]), device=self.device)
        for mask, own in zip(self._executed_mask_S1W, executed_columns):
            mask[:, own] = 1.0
        entropies = [[target_entropy(n)] for n in n_actions]
        self.target_entropy_S1 = torch.tensor(entropies, device=self.device)

        with torch.random.fork_rng(devices=[]):
            policy, critic, target = build_policy(self.common), build_critic(self.common), build_critic(self.common)
        self.set_instrument_weights(policy)
        policies = [
            {f"policy.{name}": parameter for name, parameter in module.policy.named_parameters()}
            for module in self.modules
        ]
        self.actors = StackedParameters(
            nn.ModuleDict({"policy": policy}), policies, [columns.parameters for columns in self.column_maps]
        )
        maps = [
            critic_columns(columns.observation, own, self.common)
            for columns, own in zip(self.column_maps, executed_columns)
            for _ in range(TWINS)
        ]
        online = [dict(twin.named_parameters()) for module in self.modules for twin in module.critics.online]
        targets = [dict(twin.named_parameters()) for module in self.modules for twin in module.critics.target]
        self.critics = StackedParameters(critic, online, maps)
        self.targets = StackedParameters(target, targets, maps)
        self.alphas = StackedParameters(
            Entropy(1.0), [dict(module.critics.entropy.named_parameters()) for module in self.modules]
        )
        self._optimizers = {
            ACTOR: StackedAdam(self.actors, [optimizers[name][ACTOR] for name in self.names]),
            "critic": StackedAdam(self.critics, [optimizers[name][twin] for name in self.names for twin in CRITICS]),
            ALPHA: StackedAdam(self.alphas, [optimizers[name][ALPHA] for name in self.names]),
        }
        self._policy: GaussianPolicy = policy
        fast = has_fast_path(self.device, policy)
        warn_of_unused_options(self.names, options, fast=fast, network=policy)
        self._policy_backprop: ManualPolicyBackprop | AutogradPolicyBackprop = (
            ManualPolicyBackprop(policy, ParameterViews(self.actors))
            if fast
            else AutogradPolicyBackprop(policy, self.actors, options)
        )
        self._critic_backprop, self._target_backprop = CriticBackprop(self.critics), CriticBackprop(self.targets)
        self._reference_kl_coeff = reference_kl_coeff(self.common)
        self._slope_penalty = self.common["sac"]["critic"]["slope_penalty"]
        self._rows = (self.actors, self.critics, self.targets, self.alphas)
        self._before_update = [torch.zeros_like(rows.weight_RP) for rows in self._rows]
        self.steps = {name: StepCounts() for name in self.names}

    # -- state --------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Take over everything from modules and optimisers."""
        for rows, before in zip(self._rows, self._before_update):
            rows.load()
            before.copy_(rows.weight_RP)
        for optimizer in self._optimizers.values():
            optimizer.load()

    @torch.no_grad()
    def end_update(self, max_parameter_abs: float) -> dict[str, tuple[StepCounts, Divergence]]:
        """End an update: the steps of each module and its divergence. A module that has diverged gets back its
        parameters from before the update, and new optimisers."""
        found = dict.fromkeys(self.names, Divergence.NONE)
        for rows in self._rows:
            per_module = len(rows) // len(self.names)
            for row, own in enumerate(parameter_divergence(rows.weight_RP, max_parameter_abs)):
                name = self.names[row // per_module]
                found[name] = found[name] or own
        for member, name in enumerate(self.names):
            if found[name] is not Divergence.NONE:
                self._revert(member)
        for rows, before in zip(self._rows, self._before_update):
            before.copy_(rows.weight_RP)
        steps, self.steps = self.steps, {name: StepCounts() for name in self.names}
        return {name: (steps[name], found[name]) for name in self.names}

    def _revert(self, member: int) -> None:
        """Undo the update of a module."""
        for rows, before in zip(self._rows, self._before_update):
            per_module = len(rows) // len(self.names)
            own = slice(member * per_module, (member + 1) * per_module)
            rows.weight_RP[own] = before[own]
        for optimizer in self._optimizers.values():
            per_module = len(optimizer) // len(self.names)
            for row in range(member * per_module, (member + 1) * per_module):
                optimizer.reset(row)

    def load_rates(self) -> None:
        for optimizer in self._optimizers.values():
            optimizer.load_rates()

    def store(self, policies_only: bool) -> None:
        """Copy what was learned back into modules and optimisers."""
        self.actors.store()
        if not policies_only:
            for rows in self._rows[1:]:
                rows.store()
            for optimizer in self._optimizers.values():
                optimizer.store()

    # -- a step -------------------------------------------------------------------------------------------------------

    def step(
        self, batches: Sequence[Batch | None], seed: int, *, with_metrics: bool, shard: Shard | None = None
    ) -> tuple[Metrics, Tensor]:
        """One gradient step of every module that has a batch.

        seed: of the actions sampled for the losses, and of dropout. shard: which rows of the minibatch these are; None
        for all. Returns metrics, empty without `with_metrics`, and the mean absolute error of both critics on each row
        here, (S, B).
        """
        obs, next_obs, action, reward, discount, weight, regime = self._stacked_columns(batches)
        active = [batch is not None for batch in batches]
        shard = shard or self._ranks.shard(obs.shape[1])
        self._seed(seed)
        alpha_S1 = self.alphas.weight_RP.exp()

        mean, log_std = self._policy_backprop.forward(next_obs, learns=False)
        mask = self.action_mask_S1A
        next_action, next_log_prob = sac_loss.sampled_actions(mean, log_std, _noise(mean, shard), mask)
        next_value = self._value(self._target_backprop, _per_twin(next_obs), self._executed(next_action))
        target = sac_loss.critic_target(reward, discount, next_value, next_log_prob, alpha_S1)
        obs_RBF = _per_twin(obs)
        value = self._value(self._critic_backprop, obs_RBF, self._executed(action))
        row_weight = weight / weight.shape[1]
        by_value = loss_gradients.critic_gradient(value, target, row_weight).flatten(0, 1)
        self._critic_backprop.backward(by_value, self._slope_penalties(batches))
        critic_norm = self._clipped_step("critic", self.critics, shard, [own for own in active for _ in CRITICS])

        mean, log_std = self._policy_backprop.forward(obs)
        reference = None if self._policy.reference is None else self._policy.reference(obs)
        objective = ActorObjective(
            lambda action_SBA: self._values_of(obs_RBF, action_SBA),
            _noise(mean, shard),
            alpha_S1,
            mask,
            action_penalty=self._action_penalty,
            reference_SBA=reference,
            kl_coeff=self._reference_kl_coeff,
        )
        if self._ranks.rank:
            # Each learner drops out units of its own.
            self._seed(derived_seed(seed, self._ranks.rank))
        auxiliary: dict[str, Tensor] = {}
        if isinstance(self._policy_backprop, AutogradPolicyBackprop) and self._policy.has_auxiliary_losses:
            auxiliary = self._policy_backprop.auxiliary_losses(obs, regime)
        auxiliary_loss = torch.stack([*auxiliary.values()]).sum() if auxiliary else None
        self._policy_backprop.backward(objective, auxiliary_loss)
        new_value, log_prob = objective.value_STB, objective.log_prob_SB
        actor_norm = self._clipped_step(ACTOR, self.actors, shard, active)

        by_alpha_S1 = loss_gradients.alpha_gradient(log_prob, alpha_S1, self.target_entropy_S1)
        self.alphas.grad_RP.copy_(self._averaged(by_alpha_S1, shard))
        self._optimizers[ALPHA].step(self._finite_rows(ALPHA, self.alphas.grad_RP, active))
        self._update_targets(active)

        error_STB = (value - target.unsqueeze(1)).abs()
        metrics: Metrics = {}
        if with_metrics:
            means = {
                "critic_loss": sac_loss.critic_loss(value, target, row_weight).mean(1),
                "policy_loss": sac_loss.actor_loss(new_value, log_prob, alpha_S1),
                "alpha_loss": sac_loss.alpha_loss(log_prob, alpha_S1, self.target_entropy_S1),
                "entropy": sac_loss.entropy(log_std, mask),
                "qf_mean": value.mean((1, 2)),
                "td_error_mean": error_STB.mean((1, 2)),
                **{name: loss.detach()[None] for name, loss in auxiliary.items()},
                **({} if reference is None else {REFERENCE_KL: reference_kl(mean, log_std, reference, mask).mean(1)}),
            }
            metrics = {
                **dict(zip(means, self._averaged(torch.stack([*means.values()]), shard))),
                "alpha": alpha_S1[:, 0],
                "actor_gradient_norm": actor_norm[:, 0],
                "critic_gradient_norm": critic_norm.view(-1, TWINS).amax(1),
            }
        return metrics, error_STB.mean(1)

    def _stacked_columns(self, batches: Sequence[Batch | None]) -> list[Tensor]:
        """The batches stacked: observation and next one (S, B, F), action (S, B, A), reward, discount, weight and
        regime (S, B); zeros for a module without a batch, and in padding."""
        n_rows = max(len(batch.reward) for batch in batches if batch is not None)
        n_modules, (width, actions) = len(batches), self.widths
        arrays = [np.zeros((n_modules, n_rows, size), np.float32) for size in (width, width, actions)]
        singles = [np.zeros((n_modules, n_rows), np.float32) for _ in range(3)]
        regime = np.zeros((n_modules, n_rows), np.int64)
        for member, (batch, columns) in enumerate(zip(batches, self.column_maps)):
            if batch is None:
                continue
            for array, rows, own in zip(
                arrays,
                (batch.observation, batch.next_observation, batch.action),
                (columns.observation, columns.observation, columns.actions),
            ):
                if len(own) == array.shape[2]:
                    array[member] = rows
                else:
                    array[member][:, own] = rows
            for single, column in zip(singles, (batch.reward, batch.discount, batch.weight)):
                single[member] = column
            regime[member] = batch.regime
        return [torch.from_numpy(array).to(self.device) for array in (*arrays, *singles, regime)]

    def _slope_penalties(self, batches: Sequence[Batch | None]) -> Tensor | None:
        """lambda / N of each critic, (S T,); None where lambda is 0."""
        if not self._slope_penalty:
            return None
        penalties = [0.0 if batch is None else self._slope_penalty / batch.n_stored for batch in batches]
        return torch.tensor(penalties, device=self.device).repeat_interleave(TWINS)

    def _executed(self, action_SBA: Tensor) -> Tensor:
        """What the environment makes of raw actions, (S, B, W); 0 in padding."""
        return apply_action_map(self._action_map, action_SBA, self._map_numbers) * self._executed_mask_S1W

    def _value(self, critics: CriticBackprop, obs_RBF: Tensor, executed_SBW: Tensor) -> Tensor:
        """Values of both critics of each module, (S, T, B)."""
        return critics.forward(obs_RBF, _per_twin(executed_SBW)).unflatten(0, _PER_MODULE)

    def _values_of(self, obs_RBF: Tensor, action_SBA: Tensor) -> Tensor:
        """Values of raw actions, (S, T, B), differentiable in the actions alone."""
        executed_RBW = _per_twin(self._executed(action_SBA))
        value_RB: Tensor = CriticValues.apply(executed_RBW, obs_RBF, self._critic_backprop)
        return value_RB.unflatten(0, _PER_MODULE)

    def _seed(self, seed: int) -> None:
        if self.device.type == "cpu":
            # `torch.manual_seed` seeds every device, which takes longer than the sampling.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def _averaged(self, means: Tensor, shard: Shard) -> Tensor:
        """Replace means over the rows here by means over all learners' rows."""
        return self._group.sum(means.mul_(shard.fraction)) if self._ranks.size > 1 else means

    def _clipped_step(self, name: str, rows: StackedParameters, shard: Shard, active: Sequence[bool]) -> Tensor:
        """Take an optimiser step along the clipped gradients. Returns their norms before clipping, (R, 1)."""
        self._averaged(rows.grad_RP, shard)
        norm_R1 = rows.clip(self._grad_clip)
        self._optimizers[name].step(self._finite_rows(name, norm_R1, active))
        return norm_R1

    def _finite_rows(self, optimizer: str, norm_R1: Tensor, active: Sequence[bool]) -> list[bool]:
        """Rows to step: those of active modules whose gradient is finite. The others are counted as skipped."""
        steps = list(active)
        per_module = len(steps) // len(self.names)
        for row, norm in enumerate(norm_R1[:, 0].tolist()):
            if steps[row]:
                steps[row] = math.isfinite(norm)
                self.steps[self.names[row // per_module]].count(optimizer, skipped=not steps[row])
        return steps

    @torch.no_grad()
    def _update_targets(self, active: Sequence[bool]) -> None:
        """Move the target critics by tau towards the critics."""
        target, online = self.targets.weight_RP, self.critics.weight_RP
        if all(active):
            target.lerp_(online, self._tau)
            return
        rows = torch.tensor(active, device=self.device).repeat_interleave(TWINS)
        target[rows] = target[rows].lerp(online[rows], self._tau)


def _per_twin(x_SBK: Tensor) -> Tensor:
    """Repeat each module's rows for each of its critics, (S T, B, K)."""
    return x_SBK.repeat_interleave(TWINS, dim=0)


def _noise(like_SBA: Tensor, shard: Shard) -> Tensor:
    """Standard normal noise of the rows here, as drawn for the whole batch."""
    n_modules, _, n_actions = like_SBA.shape
    return torch.randn(n_modules, shard.total, n_actions, dtype=like_SBA.dtype, device=like_SBA.device)[:, shard.rows]
