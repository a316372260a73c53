"""One stack of modules that learn by SAC side by side: policies, twin critics, targets and alphas as rows.

A step is Algorithm 1 of Haarnoja et al. 2018: critics, then the policy against the critics just stepped, alpha, and
the targets. Rows of modules that have nothing to learn from yet rest, their targets too.

The rows are what is learned. The modules and their optimisers are brought up to date when somebody asks for them, which
is far less often than a step is taken.

Shape suffixes: S modules, T = 2 twins, B rows, F observation, A actions, W executed actions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtquant_rllib.agents.action_maps import ACTION_MAPS
from mtquant_rllib.config.training import LearnerConfig
from mtquant_rllib.engine.learning import sac_loss
from mtquant_rllib.engine.learning.critic_pass import CriticPass
from mtquant_rllib.engine.learning.distributed import Part, Peers
from mtquant_rllib.engine.learning.divergence import Divergence, Steps, measured
from mtquant_rllib.engine.learning.manual_backward import Tables
from mtquant_rllib.engine.learning.passes import AutogradPolicy, PlainPolicy, is_plain, warn_of_idle_options
from mtquant_rllib.engine.learning.stacks import Alike, RowOptimizer, Rows
from mtquant_rllib.engine.randomness import mixed
from mtquant_rllib.engine.replay.replay import Batch
from mtquant_rllib.policies.action_maps import executed
from mtquant_rllib.policies.critics import TWINS, Entropy, build_critic, critic_columns, target_entropy
from mtquant_rllib.policies.networks import GaussianPolicy
from mtquant_rllib.policies.registry import build_policy

ACTOR, ALPHA = "actor", "alpha"
CRITICS = tuple(f"critic_{twin}" for twin in range(TWINS))
OPTIMIZERS = (ACTOR, *CRITICS, ALPHA)
"""Names of a module's optimisers."""

_PER_MODULE = (-1, TWINS)

Figures = dict[str, Tensor]
"""Name -> (S,)."""


class SACStack(Alike):
    """See the module's docstring.

    Parameters
    ----------
    keepers
        Optimisers of each module by the names in `OPTIMIZERS`.
    tau, grad_clip, action_penalty
        As in `SACConfig`.
    options
        How policies that have no closed form are run. Critics have one.
    peers
        The learners that have the other rows of a batch.
    """

    def __init__(
        self,
        names: Sequence[str],
        modules: Sequence[Any],
        keepers: Mapping[str, Mapping[str, torch.optim.Adam]],
        *,
        tau: float,
        grad_clip: float,
        action_penalty: float,
        options: LearnerConfig,
        peers: Peers | None = None,
    ) -> None:
        super().__init__(names, modules)
        self._peers = peers or Peers(1)
        self._channel = self._peers.channel()
        self._tau, self._grad_clip, self._action_penalty = tau, grad_clip, action_penalty
        self._action_map, self._map_numbers = self.common["sac"]["action_map"], self.common["sac"]["map_numbers"]
        action_map = ACTION_MAPS[self._action_map]
        own_widths = [len(own.actions) for own in self.fits]
        places = [action_map.columns(width, self.widths[1]) for width in own_widths]
        self._executed_S1W = torch.zeros(len(self.names), 1, action_map.width(self.widths[1]), device=self.device)
        for real, place in zip(self._executed_S1W, places):
            real[:, place] = 1.0
        entropies = [[target_entropy(width)] for width in own_widths]
        self.target_entropy_S1 = torch.tensor(entropies, device=self.device)

        with torch.random.fork_rng(devices=[]):
            policy, critic, target = build_policy(self.common), build_critic(self.common), build_critic(self.common)
        self.share_out(policy)
        policies = [
            {f"policy.{name}": parameter for name, parameter in module.policy.named_parameters()}
            for module in self.modules
        ]
        self.actors = Rows(nn.ModuleDict({"policy": policy}), policies, [own.parameters for own in self.fits])
        read = [
            critic_columns(own.observation, place, self.common)
            for own, place in zip(self.fits, places)
            for _ in range(TWINS)
        ]
        twins = [[dict(twin.named_parameters()) for twin in module.critics.online] for module in self.modules]
        slow = [[dict(twin.named_parameters()) for twin in module.critics.target] for module in self.modules]
        self.critics = Rows(critic, [one for pair in twins for one in pair], read)
        self.targets = Rows(target, [one for pair in slow for one in pair], read)
        self.alphas = Rows(Entropy(1.0), [dict(module.critics.entropy.named_parameters()) for module in self.modules])
        self._optimizers = {
            ACTOR: RowOptimizer(self.actors, [keepers[name][ACTOR] for name in self.names]),
            "critic": RowOptimizer(self.critics, [keepers[name][twin] for name in self.names for twin in CRITICS]),
            ALPHA: RowOptimizer(self.alphas, [keepers[name][ALPHA] for name in self.names]),
        }
        self._policy: GaussianPolicy = policy
        self._teaches = policy.teaches
        plain = is_plain(policy, self.device) and not self._teaches
        warn_of_idle_options(self.names, options, plain=plain, network=policy)
        self._act: PlainPolicy | AutogradPolicy
        self._act = PlainPolicy(policy, Tables(self.actors)) if plain else AutogradPolicy(policy, self.actors, options)
        self._critic_pass, self._target_pass = CriticPass(self.critics), CriticPass(self.targets)
        self._slope_penalty = self.common["sac"]["critic"]["slope_penalty"]
        self._rows = (self.actors, self.critics, self.targets, self.alphas)
        self._good = [torch.zeros_like(rows.weight_RP) for rows in self._rows]
        self.steps = {name: Steps() for name in self.names}

    # -- state --------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Take over everything from modules and optimisers."""
        for rows, good in zip(self._rows, self._good):
            rows.load()
            good.copy_(rows.weight_RP)
        for optimizer in self._optimizers.values():
            optimizer.load()

    @torch.no_grad()
    def closed(self, max_parameter_abs: float) -> dict[str, tuple[Steps, Divergence]]:
        """End an update: the steps of each module, and what its parameters are. Those that cannot be any policy's are
        what they were before it, with optimisers that begin again."""
        found = dict.fromkeys(self.names, Divergence.NONE)
        for rows in self._rows:
            per_module = len(rows) // len(self.names)
            for row, own in enumerate(measured(rows.weight_RP, max_parameter_abs)):
                name = self.names[row // per_module]
                found[name] = found[name] or own
        for member, name in enumerate(self.names):
            if found[name] is not Divergence.NONE:
                self._go_back(member)
        for rows, good in zip(self._rows, self._good):
            good.copy_(rows.weight_RP)
        steps, self.steps = self.steps, {name: Steps() for name in self.names}
        return {name: (steps[name], found[name]) for name in self.names}

    def _go_back(self, member: int) -> None:
        """Undo a module's update."""
        for rows, good in zip(self._rows, self._good):
            per_module = len(rows) // len(self.names)
            mine = slice(member * per_module, (member + 1) * per_module)
            rows.weight_RP[mine] = good[mine]
        for optimizer in self._optimizers.values():
            per_module = len(optimizer) // len(self.names)
            for row in range(member * per_module, (member + 1) * per_module):
                optimizer.forget(row)

    def load_rates(self) -> None:
        for optimizer in self._optimizers.values():
            optimizer.load_rates()

    def store(self, policies_only: bool) -> None:
        """Hand what was learned back to modules and optimisers."""
        self.actors.store()
        if not policies_only:
            for rows in self._rows[1:]:
                rows.store()
            for optimizer in self._optimizers.values():
                optimizer.store()

    # -- a step -------------------------------------------------------------------------------------------------------

    def step(
        self, batches: Sequence[Batch | None], seed: int, *, tell: bool, part: Part | None = None
    ) -> tuple[Figures, Tensor]:
        """One gradient step of every module that has a batch.

        seed: of the actions drawn for the losses and of dropout; part: which rows of the minibatch these are, without
        it all. Returns figures where asked for, and the mean size of both critics' errors on each row here, (S, B).
        """
        obs, after, action, reward, discount, weight, regime = self._columns(batches)
        active = [batch is not None for batch in batches]
        part = part or self._peers.part(obs.shape[1])
        self._seed(seed)
        alpha_S1 = self.alphas.weight_RP.exp()

        mean, log_std = self._act.forward(after, learns=False)
        next_action, next_log_prob = sac_loss.drawn(mean, log_std, _noise(mean, part), self.real_S1A)
        next_value = self._value(self._target_pass, _twice(after), self._executed(next_action))
        target = sac_loss.critic_target(reward, discount, next_value, next_log_prob, alpha_S1)
        obs_RBF = _twice(obs)
        value = self._value(self._critic_pass, obs_RBF, self._executed(action))
        shares = weight / weight.shape[1]
        self._critic_pass.backward(sac_loss.critic_gradient(value, target, shares).flatten(0, 1), self._ridge(batches))
        critic_norm = self._descend("critic", self.critics, part, [own for own in active for _ in CRITICS])

        mean, log_std = self._act.forward(obs)
        noise = _noise(mean, part)
        new_action, log_prob = sac_loss.drawn(mean, log_std, noise, self.real_S1A)
        new_value, by_action = self._value_and_slope(obs_RBF, new_action)
        by_mean, by_log_std = sac_loss.actor_gradients(by_action, log_std, noise, alpha_S1, self.real_S1A)
        by_mean += sac_loss.penalty_gradient(mean, self._action_penalty, self.real_S1A)
        if self._peers.rank:
            # Learners drop out units of their own.
            self._seed(mixed(seed, self._peers.rank))
        lessons = self._act.lessons(obs, regime) if isinstance(self._act, AutogradPolicy) and self._teaches else {}
        self._act.backward(by_mean, by_log_std, torch.stack([*lessons.values()]).sum() if lessons else None)
        actor_norm = self._descend(ACTOR, self.actors, part, active)

        by_alpha_S1 = sac_loss.alpha_gradient(log_prob, alpha_S1, self.target_entropy_S1)
        self.alphas.grad_RP.copy_(self._joined(by_alpha_S1, part))
        self._optimizers[ALPHA].step(self._sound(ALPHA, self.alphas.grad_RP, active))
        self._follow(active)

        error_STB = (value - target.unsqueeze(1)).abs()
        figures: Figures = {}
        if tell:
            means = {
                "critic_loss": sac_loss.critic_loss(value, target, shares).mean(1),
                "policy_loss": sac_loss.actor_loss(new_value, log_prob, alpha_S1),
                "alpha_loss": sac_loss.alpha_loss(log_prob, alpha_S1, self.target_entropy_S1),
                "entropy": sac_loss.entropy(log_std, self.real_S1A),
                "value_mean": value.mean((1, 2)),
                "error_mean": error_STB.mean((1, 2)),
                **{name: loss.detach()[None] for name, loss in lessons.items()},
            }
            figures = {
                **dict(zip(means, self._joined(torch.stack([*means.values()]), part))),
                "alpha": alpha_S1[:, 0],
                "actor_gradient_norm": actor_norm[:, 0],
                "critic_gradient_norm": critic_norm.view(-1, TWINS).amax(1),
            }
        return figures, error_STB.mean(1)

    def _columns(self, batches: Sequence[Batch | None]) -> list[Tensor]:
        """The batches beside each other: observation, after (S, B, F), action (S, B, A), reward, discount, weight and
        regime (S, B); zeros for a module that has none, and in columns that it lacks."""
        n_rows = max(len(batch.reward) for batch in batches if batch is not None)
        n_modules, (width, actions) = len(batches), self.widths
        tables = [np.zeros((n_modules, n_rows, size), np.float32) for size in (width, width, actions)]
        singles = [np.zeros((n_modules, n_rows), np.float32) for _ in range(3)]
        regime = np.zeros((n_modules, n_rows), np.int64)
        for member, (batch, own) in enumerate(zip(batches, self.fits)):
            if batch is None:
                continue
            for table, column, place in zip(
                tables,
                (batch.observation, batch.after, batch.action),
                (own.observation, own.observation, own.actions),
            ):
                if len(place) == table.shape[2]:
                    table[member] = column
                else:
                    table[member][:, place] = column
            for single, column in zip(singles, (batch.reward, batch.discount, batch.weight)):
                single[member] = column
            regime[member] = batch.regime
        return [torch.from_numpy(array).to(self.device) for array in (*tables, *singles, regime)]

    def _ridge(self, batches: Sequence[Batch | None]) -> Tensor | None:
        """Of each critic, (S T,): a penalty on the sum over all decisions, shared out to each as their loss is."""
        if not self._slope_penalty:
            return None
        share = [0.0 if batch is None else self._slope_penalty / batch.remembered for batch in batches]
        return torch.tensor(share, device=self.device).repeat_interleave(TWINS)

    def _executed(self, action_SBA: Tensor) -> Tensor:
        """What the environment makes of raw actions, (S, B, W); 0 in columns that a module lacks."""
        return executed(self._action_map, action_SBA, self._map_numbers) * self._executed_S1W

    def _value(self, critics: CriticPass, obs_RBF: Tensor, executed_SBW: Tensor) -> Tensor:
        """What both critics of each module say, (S, T, B)."""
        return critics.forward(obs_RBF, _twice(executed_SBW)).unflatten(0, _PER_MODULE)

    def _value_and_slope(self, obs_RBF: Tensor, action_SBA: Tensor) -> tuple[Tensor, Tensor]:
        """Values of raw actions (S, T, B), and the gradient of the smaller one by the raw action, (S, B, A)."""
        action_SBA = action_SBA.detach().requires_grad_()
        executed_SBW = self._executed(action_SBA)
        value_STB = self._value(self._critic_pass, obs_RBF, executed_SBW.detach())
        by_value = sac_loss.smaller(value_STB).flatten(0, 1)
        slope_RBW = self._critic_pass.by_action(by_value)
        slope_SBW = slope_RBW.unflatten(0, _PER_MODULE).sum(1)
        (slope_SBA,) = torch.autograd.grad(executed_SBW, action_SBA, slope_SBW)
        return value_STB, slope_SBA

    def _seed(self, seed: int) -> None:
        if self.device.type == "cpu":
            # `torch.manual_seed` looks for other devices too, which takes longer than what is drawn.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def _joined(self, means: Tensor, part: Part) -> Tensor:
        """Means over the rows here, replaced by those over all learners' rows."""
        return self._channel.sum(means.mul_(part.share)) if self._peers.size > 1 else means

    def _descend(self, name: str, rows: Rows, part: Part, active: Sequence[bool]) -> Tensor:
        """A clipped step down the gradients; their norms before the clip, (R, 1)."""
        self._joined(rows.grad_RP, part)
        norm_R1 = rows.clip(self._grad_clip)
        self._optimizers[name].step(self._sound(name, norm_R1, active))
        return norm_R1

    def _sound(self, optimizer: str, norm_R1: Tensor, active: Sequence[bool]) -> list[bool]:
        """Rows to step; one whose gradient is not finite is skipped, and counted."""
        steps = list(active)
        per_module = len(steps) // len(self.names)
        for row, norm in enumerate(norm_R1[:, 0].tolist()):
            if steps[row]:
                steps[row] = math.isfinite(norm)
                self.steps[self.names[row // per_module]].note(optimizer, skipped=not steps[row])
        return steps

    @torch.no_grad()
    def _follow(self, active: Sequence[bool]) -> None:
        """Targets move by tau towards their critics."""
        slow, fast = self.targets.weight_RP, self.critics.weight_RP
        if all(active):
            slow.lerp_(fast, self._tau)
            return
        rows = torch.tensor(active, device=self.device).repeat_interleave(TWINS)
        slow[rows] = slow[rows].lerp(fast[rows], self._tau)


def _twice(x_SBK: Tensor) -> Tensor:
    """Each module's rows once for each of its critics, (S T, B, K)."""
    return x_SBK.repeat_interleave(TWINS, dim=0)


def _noise(like_SBA: Tensor, part: Part) -> Tensor:
    """Standard normal numbers for the rows here, among those of the whole batch."""
    n_modules, _, n_actions = like_SBA.shape
    return torch.randn(n_modules, part.total, n_actions, dtype=like_SBA.dtype, device=like_SBA.device)[:, part.rows]
