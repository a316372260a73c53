"""The changing coefficients of PPO's loss as part of a learner's state.

RLlib's learner leaves them out of its checkpoints, so that the first update after a restore would use the initial ones.
"""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.ppo.ppo_learner import PPOLearner
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

COEFFICIENTS = "coefficients"


class CoefficientState(PPOLearner):
    """A learner whose state holds, under `COEFFICIENTS`, each module's initial and current KL coefficient and the
    timestep of its entropy schedule.

    A state whose initial KL coefficient differs from the configuration's is of an older configuration: the new one's
    coefficient is used.
    """

    # Always there once built; RLlib declares them optional.
    config: Any
    module: Any
    _schedule_timestep = 0

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().after_gradient_based_update(timesteps=timesteps)
        self._schedule_timestep = int(timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0))

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(COEFFICIENTS, components, not_components):
            kl = {
                name: (self._initial_kl(name), float(current))
                for name, current in self.curr_kl_coeffs_per_module.items()
            }
            state[COEFFICIENTS] = {"kl": kl, "schedule_timestep": self._schedule_timestep}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if COEFFICIENTS not in state:
            return
        for name, (initial, current) in state[COEFFICIENTS]["kl"].items():
            if name in self.module and initial == self._initial_kl(name):
                coefficient: Any = self.curr_kl_coeffs_per_module[name]
                coefficient.data.fill_(current)
        self._schedule_timestep = state[COEFFICIENTS]["schedule_timestep"]
        if self._schedule_timestep:
            for name in list(self.module.keys()):
                self.entropy_coeff_schedulers_per_module[name].update(timestep=self._schedule_timestep)

    def _initial_kl(self, name: str) -> float:
        return float(self.config.get_config_for_module(name).kl_coeff)
