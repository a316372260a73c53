"""Raw actions sampled from a policy's distribution, and their log-probabilities."""

from __future__ import annotations

import numpy as np

from mtquant_rllib.policies.networks import HALF_LOG_TWO_PI


class ActionSampler:
    """Samples raw actions from `[mean | log deviation]`; the mean where a module does not explore."""

    def __init__(self, rng: np.random.Generator, explore: bool, random_actions: bool) -> None:
        self._rng, self._explore, self._random = rng, explore, random_actions

    def __call__(self, inputs: np.ndarray, exploring: np.ndarray, min_std: np.ndarray | None) -> np.ndarray:
        """Raw actions (B, n, A) from inputs (B, n, 2A). exploring: bool (B, n), or of a shape that broadcasts to it.
        min_std: the smallest deviation of each environment, (B,), or None."""
        width = inputs.shape[-1] // 2
        mean = inputs[..., :width]
        if self._random:
            return self._rng.uniform(-1.0, 1.0, mean.shape).astype(np.float32)
        if not self._explore or not exploring.any():
            return mean
        noise = self._rng.standard_normal(mean.shape, dtype=np.float32)
        deviation = np.exp(inputs[..., width:])
        if min_std is not None:
            deviation = np.maximum(deviation, min_std[:, None, None])
        return mean + deviation * noise * exploring[..., None]


def log_probs(actions: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Log-probabilities of raw actions (..., A) under diagonal Gaussians (..., 2A), (...). Computed from the rounded
    action and not from the noise, as the learner will do."""
    width = actions.shape[-1]
    mean, log_std = inputs[..., :width], inputs[..., width:]
    z = (actions - mean) * np.exp(-log_std)
    return -(0.5 * z * z + log_std + np.float32(HALF_LOG_TWO_PI)).sum(axis=-1)
