"""From what a policy puts out to a raw action: noise where a module explores, and its probability."""

from __future__ import annotations

import numpy as np

from mtquant_rllib.engine.learning.ppo_loss import HALF_LOG_TWO_PI


class Draw:
    """Raw actions from distribution inputs, with noise where a module explores."""

    def __init__(self, rng: np.random.Generator, explore: bool, random_actions: bool) -> None:
        self._rng, self._explore, self._random = rng, explore, random_actions

    def __call__(self, inputs: np.ndarray, exploring: np.ndarray, least: np.ndarray | None) -> np.ndarray:
        """inputs (B, n, 2A), whether each seat explores, (B, n) or of a shape that broadcasts to it, and where there is
        one the smallest deviation of each environment, (B,)."""
        width = inputs.shape[-1] // 2
        mean = inputs[..., :width]
        if self._random:
            return self._rng.uniform(-1.0, 1.0, mean.shape).astype(np.float32)
        if not self._explore or not exploring.any():
            return mean
        noise = self._rng.standard_normal(mean.shape, dtype=np.float32)
        deviation = np.exp(inputs[..., width:])
        if least is not None:
            deviation = np.maximum(deviation, least[:, None, None])
        return mean + deviation * noise * exploring[..., None]


def log_probs(actions: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Of raw actions (..., A) under diagonal Gaussians (..., 2A), summed over actions, (...). From the rounded
    action and not from the noise: this is what the learner will recompute."""
    width = actions.shape[-1]
    mean, log_std = inputs[..., :width], inputs[..., width:]
    z = (actions - mean) * np.exp(-log_std)
    return -(0.5 * z * z + log_std + np.float32(HALF_LOG_TWO_PI)).sum(axis=-1)
