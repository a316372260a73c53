"""Circuit breakers on the loss of the day, as a state machine over arrays of environments.

Level 1 halves, level 2 stops increases and closes the riskiest positions, level 3 flattens and latches, level 4 allows
nothing but flattening until a new start. A crossing of several levels at once takes the actions of all of them, so that
a worse loss never asks for less.

The order of a bar, seen from the caller:

    start_day      at the first mark of a day, with the previous close after financing
    mark           at the open, before fills; what it triggers binds those fills (`limits`)
    after_fills    one bar of every cooldown is used up
    mark           at the close; what it triggers binds the next open

Within a day the level only rises, and each level fires once. While the cooldown of level 1 or 2 runs, that level does
not fire again (if the loss still stands when it has run out, it does); higher levels do. A new day resets the level,
not cooldowns and latches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.sections.risk import BreakersConfig
from mtquant_rllib.vector_state import VectorState

N_LEVELS = 4
_ROUNDING = 1e-12
"""Relative slack on equity, so that 90,000 of 100,000 is a loss of 10% in floating point too."""


@dataclass(frozen=True)
class BreakerLimits:
    """What breakers impose on the next fills; the fields of `Proposal` of the same names. None where no environment is
    affected.

    cap_abs
        Largest |weight|, float (B, n), inf where free.
    no_increase
        bool (B,): no leg that increases risk.
    flatten
        bool (B,): everything is closed.
    var_limit_scale
        float (B,): positions are closed until VaR is within this share of its limit; 1 where none are.
    """

    cap_abs: np.ndarray | None
    no_increase: np.ndarray | None
    flatten: np.ndarray | None
    var_limit_scale: np.ndarray | None


@dataclass(init=False, eq=False)
class Breakers(VectorState):
    """Breaker state of B environments.

    Attributes
    ----------
    day_start_ccy
        Equity at the start of the day, float (B,).
    level
        Highest level that has fired today, int8 (B,).
    latched
        3 or 4 while the desk is halted, else 0; int8 (B,).
    n_triggers
        How often each level has fired since the start, int64 (B, 4).
    n_releases
        How often a latch was lifted by a new day, int64 (B,).
    halved_bars, closing_bars
        Bars left of the cooldowns of levels 1 and 2, int64 (B,).
    cap_abs
        Largest |weight| that level 1 leaves, float (B, n); inf where free.
    """

    day_start_ccy: np.ndarray
    level: np.ndarray
    latched: np.ndarray
    n_triggers: np.ndarray
    n_releases: np.ndarray
    halved_bars: np.ndarray
    closing_bars: np.ndarray
    cap_abs: np.ndarray

    def __init__(self, config: BreakersConfig, equity_ccy: np.ndarray, n_instruments: int) -> None:
        n_envs = len(equity_ccy)
        self._config = config
        self._equity_share = 1 - np.array(config.thresholds)
        self.day_start_ccy = np.array(equity_ccy, dtype=np.float64)
        self.level = np.zeros(n_envs, dtype=np.int8)
        self.latched = np.zeros(n_envs, dtype=np.int8)
        self.n_triggers = np.zeros((n_envs, N_LEVELS), dtype=np.int64)
        self.n_releases = np.zeros(n_envs, dtype=np.int64)
        self.halved_bars = np.zeros(n_envs, dtype=np.int64)
        self.closing_bars = np.zeros(n_envs, dtype=np.int64)
        self.cap_abs = np.full((n_envs, n_instruments), np.inf)
        self._capped = False

    def restart(self, mask: np.ndarray, equity_ccy: np.ndarray) -> None:
        """Reset all breakers where `mask`, bool (B,), for a new episode or by hand after level 4, with start equities
        (B,)."""
        self.day_start_ccy[mask] = equity_ccy[mask]
        self.level[mask] = 0
        self.latched[mask] = 0
        self.n_triggers[mask] = 0
        self.n_releases[mask] = 0
        self.halved_bars[mask] = 0
        self.closing_bars[mask] = 0
        self.cap_abs[mask] = np.inf
        self.derive()

    def derive(self) -> None:
        self._capped = bool(np.isfinite(self.cap_abs).any())

    def reset_by_hand(self, mask: np.ndarray) -> None:
        """Lift the latch of level 3 where `mask`, bool (B,). Level 4 stays: it needs `restart`."""
        self.latched[mask & (self.latched == 3)] = 0

    def start_day(self, equity_ccy: np.ndarray, mask: np.ndarray, flat: np.ndarray | None = None) -> None:
        """Begin a day where `mask`: losses count from `equity_ccy`, the previous close after financing; level 0.

        flat
            bool (B,): books without positions. Given, latches are lifted where the book is flat (reset on the next
            day; a book whose flattening order has yet to fill keeps its latch). None: latches stay until reset by hand.
        """
        np.copyto(self.day_start_ccy, equity_ccy, where=mask)
        self.level[mask] = 0
        if flat is not None and self.latched.any():
            released = mask & flat & (self.latched > 0)
            self.latched[released] = 0
            self.n_releases += released

    def day_loss(self, equity_ccy: np.ndarray) -> np.ndarray:
        """Loss of the day so far, positive fraction of its start; 1 or more for a bankrupt account. (B,)."""
        start = self.day_start_ccy
        return np.where(start > 0, 1 - equity_ccy / np.where(start > 0, start, 1.0), 1.0)

    def mark(self, equity_ccy: np.ndarray, weights: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Evaluate the breakers at a mark.

        Parameters
        ----------
        equity_ccy
            Equity at this mark, (B,). At or below zero it is level 4.
        weights
            Signed weights at this mark, (B, n): level 1 halves from here.
        mask
            bool (B,): environments that have this mark; None for all.

        Returns
        -------
        int8 ndarray of shape (B,): the highest level that fires now, 0 for none.
        """
        fired = np.zeros(len(self.level), dtype=np.int8)
        # Few marks lose 5% of a day, so the common path is one comparison.
        threshold = self.day_start_ccy * (self._equity_share[0] * (1 + _ROUNDING))
        low = (equity_ccy <= threshold) | (equity_ccy <= 0)
        if mask is not None:
            low &= mask
        if not low.any():
            return fired
        rows = np.flatnonzero(low)
        equity, start = equity_ccy[rows], self.day_start_ccy[rows]
        reached = (equity[:, None] <= start[:, None] * self._equity_share * (1 + _ROUNDING)).sum(axis=1)
        reached = np.where((equity <= 0) | (start <= 0), N_LEVELS, reached)
        crossed = (reached[:, None] >= np.arange(1, N_LEVELS + 1)) & (
            self.level[rows, None] < np.arange(1, N_LEVELS + 1)
        )
        latched = self.latched[rows]
        crossed[:, 0] &= self.halved_bars[rows] == 0
        crossed[:, 1] &= self.closing_bars[rows] == 0
        crossed[:, 2] &= latched < 3
        crossed[:, 3] &= latched < 4
        highest = (crossed * np.arange(1, N_LEVELS + 1)).max(axis=1).astype(np.int8)
        fired[rows] = highest
        self.level[rows] = np.maximum(self.level[rows], highest)
        self.n_triggers[rows] += crossed
        halve, close = rows[crossed[:, 0]], rows[crossed[:, 1]]
        if len(halve):
            half = self._config.level_1_position_frac * np.abs(weights[halve])
            self.cap_abs[halve] = np.minimum(self.cap_abs[halve], half)
            self.halved_bars[halve] = self._config.level_1.cooldown_bars
            self._capped = True
        self.closing_bars[close] = self._config.level_2.cooldown_bars
        self.latched[rows] = np.maximum(latched, np.where(highest >= 3, highest, 0))
        return fired

    def limits(self) -> BreakerLimits:
        """The limits on the next fills. Arrays may be the state itself: do not write to them."""
        closing = self.closing_bars > 0
        any_closing = bool(closing.any())
        return BreakerLimits(
            cap_abs=self.cap_abs if self._capped else None,
            no_increase=closing if any_closing else None,
            flatten=self.latched > 0 if self.latched.any() else None,
            var_limit_scale=np.where(closing, self._config.level_2_var_frac, 1.0) if any_closing else None,
        )

    def after_fills(self, tradable: np.ndarray, mask: np.ndarray | None = None) -> None:
        """End the fills of a bar: cooldowns are reduced by a bar.

        A level-1 cap is lifted with its cooldown where the instrument could trade, bool (B, n); an instrument without a
        bar keeps its cap until it has one. mask: bool (B,), environments that had this bar; None for all.
        """
        ran = np.ones(len(self.level), dtype=bool) if mask is None else mask
        self.closing_bars -= (self.closing_bars > 0) & ran
        if self._capped:
            self.halved_bars -= (self.halved_bars > 0) & ran
            lifted = tradable & ((self.halved_bars == 0) & ran)[:, None]
            self.cap_abs[lifted] = np.inf
            self.derive()
