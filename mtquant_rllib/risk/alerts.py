"""Alerts: a losing position, a losing day, a shift of correlations.

Agents observe them as one number, people see a line. They change no position; stops and breakers do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.sections.risk import AlertsConfig

_TOP_LEVEL = 5.0
"""An alert counts 1, breaker level b counts 1 + b; level 4 is the top."""


@dataclass(frozen=True)
class Alerts:
    """The active alerts: position bool (B, n), day bool (B,), correlation bool (B,)."""

    position: np.ndarray
    day: np.ndarray
    correlation: np.ndarray

    def level(self, breaker_level: np.ndarray) -> np.ndarray:
        """How serious it is for each instrument, in [0, 1], shape (B, n).

        0 quiet, .2 an alert, .4 / .6 / .8 / 1 breaker level 1 to 4. `breaker_level` int (B,).
        """
        whole_book = np.where(breaker_level > 0, breaker_level + 1, self.day | self.correlation)
        return np.maximum(whole_book[:, None], self.position) / _TOP_LEVEL


def alerts(
    position_return: np.ndarray, day_return: np.ndarray, correlation_shift: np.ndarray, config: AlertsConfig
) -> Alerts:
    """The alerts that are active now.

    Parameters
    ----------
    position_return
        Open P&L over entry value of each position, signed, (B, n); NaN or 0 without one.
    day_return
        Equity over the day's start, less 1, (B,).
    correlation_shift
        |mean pairwise correlation of 20 bars - that of 100|, (B,).
    """
    return Alerts(
        position=position_return <= -config.position_loss_frac,
        day=day_return <= -config.day_loss_frac,
        correlation=correlation_shift > config.correlation_shift,
    )
