"""What every learner of the desk adds to RLlib's: rates that follow bars, and randomness that follows the seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ray.rllib.core import COMPONENT_OPTIMIZER
from ray.rllib.core.learner.torch.torch_learner import TorchLearner

from mtquant_rllib.config.trial import TrialConfig
from mtquant_rllib.engine.randomness import DROPOUT, pin_torch, seed_torch

BARS = "bars"
"""Key of `timesteps`: bars sampled before this update's."""
DEFAULT = "default_optimizer"
"""RLlib's name of a module's only optimiser."""


def kind_of(optimizer: str) -> str:
    """`actor`, `critic` or `alpha`, by the name of one of SAC's optimisers: both critics have one rate."""
    return optimizer.partition("_")[0]


class FollowsBars(TorchLearner):
    """`trial` has the schedule: the budget, the rates at its start, how they and minibatches change over it."""

    # Always there once built; RLlib declares them optional, and does not know ours.
    config: Any
    _module: Any

    def build(self) -> None:
        self.trial: TrialConfig = self.config.trial
        pin_torch()
        super().build()

    def first_rate(self, module_id: str, optimizer: str) -> float:
        """Rate at the start of the budget, as given to the module."""
        rates = self.trial.learning_rates[module_id]
        return rates if isinstance(rates, float) else float(getattr(rates, kind_of(optimizer)))

    def rate_setting(self, optimizer: str) -> str:
        """RLlib's setting that is this optimiser's rate."""
        return "lr" if optimizer == DEFAULT else f"{kind_of(optimizer)}_lr"

    def starting_rate(self, module_id: str, optimizer: str) -> float:
        """Rate at the start of the budget: the module's own override, or the rate given to it, in proportion to how
        much RLlib's setting was changed since."""
        name = self.rate_setting(optimizer)
        own = self.config.algorithm_config_overrides_per_module.get(module_id, {})
        if name in own:
            return float(own[name])
        now = getattr(self.config, name)
        then = self.trial.base_rates.get(name, now)
        return self.first_rate(module_id, optimizer) * (now / then)

    def register_adam(self, module_id: str, name: str, params: Sequence[Any], eps: float) -> None:
        fused = all(param.device.type in ("cpu", "cuda") for param in params)
        rate = self.starting_rate(module_id, name)
        optimizer = torch.optim.Adam(params, lr=rate, eps=eps, fused=fused)
        self.register_optimizer(
            module_id=module_id, optimizer_name=name, optimizer=optimizer, params=params, lr_or_lr_schedule=rate
        )
        # RLlib's scheduler would set its own rate after every update; ours is set before the update that it is for.
        self._optimizer_lr_schedules.pop(optimizer, None)

    def set_state(self, state: dict[str, Any]) -> None:
        """RLlib's, but that the configuration says which modules learn: RLlib's state would overrule a changed one."""
        state = {key: part for key, part in state.items() if key != "should_module_be_updated"}
        if COMPONENT_OPTIMIZER in state:
            # SAC's modules have optimisers while they learn.
            own = super().get_state(components=COMPONENT_OPTIMIZER)[COMPONENT_OPTIMIZER]
            optimizers = state[COMPONENT_OPTIMIZER].items()
            state[COMPONENT_OPTIMIZER] = {name: part for name, part in optimizers if name in own}
        super().set_state(state)

    def budget_done(self) -> float:
        """Share of the budget that was sampled before this update, in [0, 1]."""
        return min(self._bars / self.trial.budget_bars, 1.0)

    def grown(self, rows: int) -> int:
        """A minibatch's rows by now, of so many at the start."""
        return round(rows * (1.0 + (self.trial.batch_size_final_factor - 1.0) * self.budget_done()))

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().before_gradient_based_update(timesteps=timesteps)
        self._bars = int(timesteps[BARS])
        seed_torch(self.config.seed or 0, self._bars, DROPOUT)
        final = self.trial.learning_rate_final_frac
        share = final + (1.0 - final) * (1.0 - self.budget_done())
        for module_id in list(self.module.keys()):
            for full_name, optimizer in self.get_optimizers_for_module(module_id):
                name = full_name.removeprefix(f"{module_id}_")
                self._set_optimizer_lr(optimizer, lr=self.starting_rate(module_id, name) * share)
