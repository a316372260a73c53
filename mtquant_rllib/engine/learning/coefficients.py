"""Coefficients of PPO's loss that move from update to update, as part of a learner's state.

RLlib's learner keeps them as attributes and leaves them out of its checkpoints: the first update after a restore is
then made with the initial ones.
"""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.ppo.ppo_learner import PPOLearner
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

COEFFICIENTS = "coefficients"


class KeepsCoefficients(PPOLearner):
    """State under `COEFFICIENTS`: of each module the KL coefficient and what it began with, and the timestep to which
    schedules of the entropy coefficient were moved.

    A configuration that was changed since is followed: where it begins with another KL coefficient than the state's
    began with, that one is used.
    """

    # Always there once built; RLlib declares them optional.
    config: Any
    module: Any
    _moved_to = 0

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().after_gradient_based_update(timesteps=timesteps)
        self._moved_to = int(timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0))

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(COEFFICIENTS, components, not_components):
            kl = {name: (self._first_kl(name), float(now)) for name, now in self.curr_kl_coeffs_per_module.items()}
            state[COEFFICIENTS] = {"kl": kl, "moved_to": self._moved_to}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if COEFFICIENTS not in state:
            return
        for name, (first, now) in state[COEFFICIENTS]["kl"].items():
            if name in self.module and first == self._first_kl(name):
                coefficient: Any = self.curr_kl_coeffs_per_module[name]
                coefficient.data.fill_(now)
        self._moved_to = state[COEFFICIENTS]["moved_to"]
        if self._moved_to:
            for name in list(self.module.keys()):
                self.entropy_coeff_schedulers_per_module[name].update(timestep=self._moved_to)

    def _first_kl(self, name: str) -> float:
        return float(self.config.get_config_for_module(name).kl_coeff)
