"""From the risk that decisions ask for to the risk that the desk is to run at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.sections.desk import RiskScaleConfig
from mtquant_rllib.vector_state import VectorState


@dataclass(init=False, eq=False)
class RiskScale(VectorState):
    """A slow, causal factor on the sizes of B desks.

    A reward that does not see size leaves it where it began, and convictions of a tenth are a book of a tenth of the
    volatility that is asked for. So the book of the decisions, at full appetite, is brought to the target on average
    (volatility targeting: Moreira and Muir 2017; Harvey et al. 2018): the factor is the target over the root of an
    exponential average of its forecast variance, w'Sw of the weights decided and the daily covariance known then. It
    moves over months, so that a conviction still moves size from bar to bar; and at any bar it follows from the bars
    before alone, so that more conviction, allocation or appetite there is more exposure.

    Attributes
    ----------
    variance
        Weighted sum of the forecast annual variances, (B,), fractions of equity squared.
    weight
        Sum of their weights, below 1, (B,); 0 before the first bar.
    """

    variance: np.ndarray
    weight: np.ndarray

    def __init__(self, n_envs: int, config: RiskScaleConfig, bars_per_day: float) -> None:
        self.variance = np.zeros(n_envs)
        self.weight = np.zeros(n_envs)
        self._target, self._largest = config.target_ann, config.largest
        self._kept = 0.5 ** (1.0 / (config.half_life_days * bars_per_day))

    def reset(self, envs: np.ndarray) -> None:
        self.variance[envs] = 0.0
        self.weight[envs] = 0.0

    def current(self) -> np.ndarray:
        """The factor now, (B,): 1 before the first bar, then at most `largest`."""
        known = self.weight > 0
        volatility = np.sqrt(self.variance / np.where(known, self.weight, 1.0))
        factor = np.minimum(self._target / np.maximum(volatility, self._target / self._largest), self._largest)
        return np.where(known, factor, 1.0)

    def step(self, variance_ann: np.ndarray) -> None:
        """Take in the forecast annual variance of a bar's book, (B,), before it is scaled."""
        self.variance = self._kept * self.variance + (1.0 - self._kept) * variance_ann
        self.weight = self._kept * self.weight + (1.0 - self._kept)
