"""Types of the risk engine: its input, its output, and the interface of custom rules."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mtquant_rllib.errors import MtquantError
from mtquant_rllib.risk.past_returns import PastReturns


class RiskInputError(MtquantError):
    """A proposal the engine cannot judge: NaN or infinite weights, covariances or correlations."""


class RuleId(IntEnum):
    """Which rule set the smallest bound on a position. Custom rules follow from `CUSTOM` on."""

    NONE = 0
    RESTRICTION = 1
    PRICE_BAND = 2
    OPENING = 3
    ADV = 4
    CAPITAL = 5
    CONCENTRATION = 6
    SECTOR = 7
    CORRELATION = 8
    VAR = 9
    GROSS = 10
    MARGIN = 11
    BREAKER = 12
    JOINT = 13
    UNTRADABLE = 14
    CUSTOM = 64


@dataclass(slots=True)
class Proposal:
    """What B desks want to hold next, and what the engine needs to judge it.

    Attributes
    ----------
    proposed, current
        Signed weights, float64 (B, n).
    tradable
        bool (B, n): the instrument has a bar to fill on. Others stay at `current` and count in every measure.
    covariance
        Packed upper triangle with diagonal of the covariance of daily simple returns, float64 (B, n(n+1)/2).
    correlation
        Packed upper triangle without diagonal, float (B, n(n-1)/2).
    equity
        In account currency, including open P&L, (B,). At or below zero nothing may be increased.
    price_band_ok, opening_allowed
        bool (B, n): where False, the opening leg is refused. None for all True.
    cap_abs, no_increase, flatten, var_limit_scale
        See `BreakerLimits`. None where breakers are quiet.
    past
        Past returns of the B environments, for a historical `risk.var_method`; None where it is another.
    """

    proposed: np.ndarray
    current: np.ndarray
    tradable: np.ndarray
    covariance: np.ndarray
    correlation: np.ndarray
    equity: np.ndarray
    price_band_ok: np.ndarray | None = None
    opening_allowed: np.ndarray | None = None
    cap_abs: np.ndarray | None = None
    no_increase: np.ndarray | None = None
    flatten: np.ndarray | None = None
    var_limit_scale: np.ndarray | None = None
    past: PastReturns | None = None

    def rows(self, index: np.ndarray) -> Proposal:
        """The proposal of some environments, copied."""
        taken: dict[str, Any] = {}
        for name in Proposal.__slots__:
            array = getattr(self, name)
            taken[name] = None if array is None else array[index]
        return Proposal(**taken)


@dataclass(frozen=True)
class RiskEdit:
    """One instrument whose executed weight differs from the proposed one, and why.

    `measure` is what the binding rule measured on the proposal, `limit` what it accepts, both in the rule's own unit
    (NaN where a rule is yes or no).
    """

    instrument: str
    proposed: float
    executed: float
    rule: str
    measure: float
    limit: float


@runtime_checkable
class Rule(Protocol):
    """A custom rule. Register it with `PortfolioRiskManager.add_rule`.

    name
        Appears in edits and reports.
    limit
        Largest measure it accepts.
    """

    name: str
    limit: float

    def measure(self, weights: np.ndarray, proposal: Proposal) -> np.ndarray:
        """The rule's measure of the books (R, n), (R,). `proposal` holds the same R environments."""
        ...

    def repair(self, weights: np.ndarray, proposal: Proposal) -> np.ndarray:
        """Factors (R, n) in [0, 1] for books that exceed the limit. Values outside are clipped."""
        ...
