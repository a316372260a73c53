"""The PPO learner of the desk: stock in its state and loss, its own in how it reads and steps.

What differs from RLlib's, and why:

- it reads columns (`fragments`) and values them itself: standardised over real decisions only, discounted by time;
- an epoch is one pass over *each module's own* rows. RLlib's iterator goes on until the module with the most rows is
  through, and a controller that decides every five bars is then trained five times as often as asked for;
- learning rates follow bars, and are set before the update that they are for;
- one backward pass per minibatch for all modules, then per module: clip, step. A module whose gradient is not finite
  skips that step and says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from mtquant_rllib.training.fragments import Fragment, advantages, by_module, standardised
from mtquant_rllib.training.seeding import mixed, pin_torch, seed_torch

logger = logging.getLogger(__name__)

BARS = "bars"
SHUFFLE, DROPOUT = 1, 2
"""Streams of randomness of an update, apart from the runners'."""


class ModuleEpochs:
    """Minibatches of `n_epochs` shuffled passes over each module's own rows.

    A pass of n rows is cut into about n / size equal parts. Modules step side by side; one that is through is left out.
    """

    def __init__(self, batch: MultiAgentBatch, n_epochs: int, size: int, rng: np.random.Generator) -> None:
        self._batch = batch
        self._parts = {
            module: [
                torch.from_numpy(part)
                for _ in range(n_epochs)
                for part in np.array_split(rng.permutation(len(rows)), max(1, round(len(rows) / size)))
            ]
            for module, rows in batch.policy_batches.items()
        }

    def __iter__(self) -> Iterator[MultiAgentBatch]:
        for step in range(max(len(parts) for parts in self._parts.values())):
            rows = {
                module: SampleBatch({key: column[parts[step].to(column.device)] for key, column in batch.items()})
                for module, batch in self._batch.policy_batches.items()
                if step < len(parts := self._parts[module])
            }
            yield MultiAgentBatch(rows, max(len(batch) for batch in rows.values()))


class DeskLearner(PPOTorchLearner):
    """See the module's docstring. `config.desk` names the schedule: budget_bars and learning_rate_final_frac."""

    # Always there once built; RLlib declares it optional, and does not know ours.
    config: Any
    _module: Any

    def build(self) -> None:
        pin_torch()
        super().build()

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        module = self._module[module_id]
        params = self.get_parameters(module)
        fused = all(param.device.type in ("cpu", "cuda") for param in params)
        rate = self.config.desk["learning_rates"][module_id]
        optimizer = torch.optim.Adam(params, lr=rate, eps=1e-5, fused=fused)
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=params, lr_or_lr_schedule=rate)
        # RLlib's scheduler counts turns and would set its own rate after every update.
        self._optimizer_lr_schedules.pop(optimizer, None)

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().before_gradient_based_update(timesteps=timesteps)
        self._bars = int(timesteps[BARS])
        desk = self.config.desk
        left = 1.0 - min(self._bars / desk["budget_bars"], 1.0)
        share = desk["learning_rate_final_frac"] + (1.0 - desk["learning_rate_final_frac"]) * left
        for module_id in list(self.module.keys()):
            rate = desk["learning_rates"][module_id] * share
            for _, optimizer in self.get_optimizers_for_module(module_id):
                self._set_optimizer_lr(optimizer, lr=rate)

    def _make_batch_if_necessary(self, training_data: Any) -> MultiAgentBatch:
        fragments: list[Fragment] = training_data.episodes
        config = self.config
        rows = {}
        for name, trajectories in by_module(fragments).items():
            module = self._module[name]
            module.eval()
            seen = np.concatenate([trajectory.observations for trajectory in trajectories])
            with torch.no_grad():
                values = module.compute_values({Columns.OBS: torch.from_numpy(seen).to(self._device)}).cpu().numpy()
            advantage, target = advantages(trajectories, values, config.gamma, config.lambda_)
            columns = {
                Columns.OBS: np.concatenate([trajectory.observations[:-1] for trajectory in trajectories]),
                Columns.ACTIONS: np.concatenate([trajectory.actions for trajectory in trajectories]),
                Columns.ACTION_DIST_INPUTS: np.concatenate([trajectory.logits for trajectory in trajectories]),
                Columns.ACTION_LOGP: np.concatenate([trajectory.log_probs for trajectory in trajectories]),
                Postprocessing.ADVANTAGES: standardised(advantage),
                Postprocessing.VALUE_TARGETS: target,
            }
            rows[name] = SampleBatch({key: torch.from_numpy(col).to(self._device) for key, col in columns.items()})
        return MultiAgentBatch(rows, sum(fragment.bars for fragment in fragments))

    def _create_iterator_if_necessary(
        self, *, training_data: Any, num_epochs: int = 1, minibatch_size: int | None = None, **kwargs: Any
    ) -> ModuleEpochs:
        seed = self.config.seed or 0
        seed_torch(seed, self._bars, DROPOUT)
        batch = self._make_batch_if_necessary(training_data)
        rng = np.random.default_rng(mixed(seed, self._bars, SHUFFLE))
        self._losses: dict[str, list[torch.Tensor]] = {}
        return ModuleEpochs(batch, num_epochs, minibatch_size or len(batch), rng)

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> torch.Tensor:
        """Clipped surrogate, clipped squared value error, entropy bonus (Schulman et al. 2017)."""
        module = self._module[module_id].unwrapped()
        now = module.get_train_action_dist_cls().from_logits(fwd_out[Columns.ACTION_DIST_INPUTS])
        ratio = torch.exp(now.logp(batch[Columns.ACTIONS]) - batch[Columns.ACTION_LOGP])
        advantage = batch[Postprocessing.ADVANTAGES]
        clipped = torch.clamp(ratio, 1 - config.clip_param, 1 + config.clip_param)
        policy_loss = -torch.min(advantage * ratio, advantage * clipped).mean()
        value = module.compute_values(batch, embeddings=fwd_out.get(Columns.EMBEDDINGS))
        value_error = (value - batch[Postprocessing.VALUE_TARGETS]) ** 2
        value_loss = torch.clamp(value_error, 0, config.vf_clip_param).mean()
        entropy = now.entropy().mean()
        with torch.no_grad():
            self._losses.setdefault(module_id, []).append(
                torch.stack([policy_loss, value_loss, entropy, (ratio - 1 - ratio.log()).mean()])
            )
        return policy_loss + config.vf_loss_coeff * value_loss - config.entropy_coeff * entropy

    def _update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, Any, Any]:
        fwd_out = self.module.forward_train(batch)
        losses = self.compute_losses(fwd_out=fwd_out, batch=batch)
        for module_id in losses:
            for _, optimizer in self.get_optimizers_for_module(module_id):
                optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        limit = self.config.grad_clip
        for module_id in losses:
            norm = torch.nn.utils.clip_grad_norm_(self.get_parameters(self.module[module_id]), limit, foreach=True)
            if not torch.isfinite(norm):
                logger.warning("%s: gradient is not finite at bar %d; this step is skipped", module_id, self._bars)
                continue
            for _, optimizer in self.get_optimizers_for_module(module_id):
                optimizer.step()
        return fwd_out, losses, {}

    def _log_metrics(self, batch: MultiAgentBatch) -> None:
        """Counting each minibatch is left out: the algorithm counts bars, once an update."""

    def _log_steps_trained_metrics(self, batch: MultiAgentBatch) -> None:
        pass

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Means over the update's minibatches, one entry per module."""
        names = (POLICY_LOSS_KEY, VF_LOSS_KEY, ENTROPY_KEY, "kl")
        for module_id, losses in self._losses.items():
            for name, value in zip(names, torch.stack(losses).mean(0).tolist()):
                self.metrics.log_value((module_id, name), value, window=1)
            for _, optimizer in self.get_optimizers_for_module(module_id):
                self.metrics.log_value((module_id, "learning_rate"), self._get_optimizer_lr(optimizer), window=1)
        self._losses = {}
