"""What every learner of the desk adds to RLlib's: learning rates scheduled by bars, and dropout seeded by the run's
seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.rllib.core import COMPONENT_OPTIMIZER
from ray.rllib.core.learner.torch.torch_learner import TorchLearner

from mtquant_rllib.config.trial import TrialConfig
from mtquant_rllib.engine.learning.eager_adam import EagerAdam
from mtquant_rllib.engine.randomness import DROPOUT, make_torch_deterministic, seed_torch
from mtquant_rllib.engine.rllib_seeding import seeding_without_compiler

BARS = "bars"
"""Key of `timesteps`: bars sampled before those of this update."""
DEFAULT = "default_optimizer"
"""RLlib's name for a module's only optimiser."""


def kind_of(optimizer: str) -> str:
    """`actor`, `critic` or `alpha`, by the name of one of SAC's optimisers: both critics have one rate."""
    return optimizer.partition("_")[0]


class ScheduledLearner(TorchLearner):
    """A learner whose rates and batch size follow the budget: `trial` holds the budget, the initial rates and how both
    change."""

    # Always there once built; RLlib declares them optional, and does not know ours.
    config: Any
    _module: Any

    def __init__(self, **kwargs: Any) -> None:
        with seeding_without_compiler():
            super().__init__(**kwargs)

    def build(self) -> None:
        self.trial: TrialConfig = self.config.trial
        make_torch_deterministic()
        super().build()

    def initial_rate(self, module_id: str, optimizer: str) -> float:
        """The module's rate at the start of the budget."""
        rates = self.trial.learning_rates[module_id]
        return rates if isinstance(rates, float) else float(getattr(rates, kind_of(optimizer)))

    def rate_setting(self, optimizer: str) -> str:
        """Name of RLlib's setting for this optimiser's rate: `lr`, `actor_lr`, `critic_lr` (both critics) or
        `alpha_lr`."""
        return "lr" if optimizer == DEFAULT else f"{kind_of(optimizer)}_lr"

    def starting_rate(self, module_id: str, optimizer: str) -> float:
        """The rate at the start of the budget: the module's override in RLlib's config, or `initial_rate` scaled by how
        much RLlib's own rate setting was changed since."""
        name = self.rate_setting(optimizer)
        own = self.config.algorithm_config_overrides_per_module.get(module_id, {})
        if name in own:
            return float(own[name])
        now = getattr(self.config, name)
        then = self.trial.base_rates.get(name, now)
        return self.initial_rate(module_id, optimizer) * (now / then)

    def register_adam(self, module_id: str, name: str, params: Sequence[Any], eps: float) -> None:
        fused = all(param.device.type in ("cpu", "cuda") for param in params)
        rate = self.starting_rate(module_id, name)
        optimizer = EagerAdam(params, lr=rate, eps=eps, fused=fused)
        self.register_optimizer(
            module_id=module_id, optimizer_name=name, optimizer=optimizer, params=params, lr_or_lr_schedule=rate
        )
        # RLlib's scheduler would overwrite the rate after every update; here it is set before each update.
        self._optimizer_lr_schedules.pop(optimizer, None)

    def set_state(self, state: dict[str, Any]) -> None:
        """Load a state. Which modules learn stays as configured: RLlib's state would override a changed
        configuration."""
        state = {key: part for key, part in state.items() if key != "should_module_be_updated"}
        if COMPONENT_OPTIMIZER in state:
            # Modules have SAC's optimisers only while they learn.
            own = super().get_state(components=COMPONENT_OPTIMIZER)[COMPONENT_OPTIMIZER]
            optimizers = state[COMPONENT_OPTIMIZER].items()
            state[COMPONENT_OPTIMIZER] = {name: part for name, part in optimizers if name in own}
        super().set_state(state)

    def budget_fraction_done(self) -> float:
        """Fraction of the budget that was sampled before this update, in [0, 1]."""
        return min(self._bars / self.trial.budget_bars, 1.0)

    def batch_size_now(self, initial: int) -> int:
        """Rows of a minibatch at this point of the budget."""
        return round(initial * (1.0 + (self.trial.batch_size_final_factor - 1.0) * self.budget_fraction_done()))

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().before_gradient_based_update(timesteps=timesteps)
        self._bars = int(timesteps[BARS])
        seed_torch(self.config.seed or 0, self._bars, DROPOUT)
        final = self.trial.learning_rate_final_frac
        share = final + (1.0 - final) * (1.0 - self.budget_fraction_done())
        for module_id in list(self.module.keys()):
            for full_name, optimizer in self.get_optimizers_for_module(module_id):
                name = full_name.removeprefix(f"{module_id}_")
                self._set_optimizer_lr(optimizer, lr=self.starting_rate(module_id, name) * share)
