"""What a decision must be told of the account: `Portfolio` and `Position`.

A broker's statement has all of it. Where one tells less, the system reconstructs the rest from the bar's prices, and
says here how. A simulated account (`serving.simulated_account`) tells everything, and decisions are then those of an
evaluation to the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from mtquant_rllib.errors import MtquantError
from mtquant_rllib.portfolio.book import Book


@dataclass(frozen=True)
class Position:
    """One instrument's position at the close.

    Attributes
    ----------
    units
        Signed units of the base, whole lot steps; negative for a short.
    entry
        Average entry price in quote currency. None: the bar's fill price, averaged over additions.
    stop
        Level of the protective stop, quote currency. None: the level at which the last decision set it, trailed.
    bars_held
        Bars since the position was opened. None: counted by the system.
    """

    units: float
    entry: float | None = None
    stop: float | None = None
    bars_held: float | None = None

    def __post_init__(self) -> None:
        for name in ("units", "entry", "stop", "bars_held"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise MtquantError(f"position: {name} = {value}: expected a finite number")


@dataclass(frozen=True)
class BarResult:
    """What a bar has brought in one instrument, account currency: P&L of price, costs and financing. The latter two are
    positive when paid."""

    pnl_ccy: float
    cost_ccy: float
    financing_ccy: float


@dataclass(frozen=True)
class Portfolio:
    """The account at the close.

    Attributes
    ----------
    equity_ccy
        Equity with open P&L.
    currency
        Of the account: the settings' `desk.account.currency`.
    transfers_ccy
        Paid in since the last decision, less what was taken out. It is no result.
    results
        Of the bar just closed, by symbol; those that are left out brought nothing. None: the P&L of the positions at
        the bar's prices, and what else has changed equity as costs, shared by what was traded, or by what was held.
    breakers
        State of the circuit breakers, by the names of `risk.breakers.Breakers`, each of one account. None: the system
        marks them itself, at each close.
    """

    equity_ccy: float
    currency: str
    transfers_ccy: float = 0.0
    results: Mapping[str, BarResult] | None = None
    breakers: Mapping[str, np.ndarray] | None = None

    def __post_init__(self) -> None:
        for name in ("equity_ccy", "transfers_ccy"):
            if not math.isfinite(getattr(self, name)):
                raise MtquantError(f"portfolio: {name} = {getattr(self, name)}: expected a finite amount")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; a cap that is infinite is null."""
        return {
            "equity_ccy": self.equity_ccy,
            "currency": self.currency,
            "transfers_ccy": self.transfers_ccy,
            "results": None if self.results is None else {name: asdict(one) for name, one in self.results.items()},
            "breakers": None
            if self.breakers is None
            else {name: _finite_values(array) for name, array in self.breakers.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The portfolio that `to_dict` wrote. Raises MtquantError when it is none."""
        try:
            results, breakers = data["results"], data["breakers"]
            return cls(
                data["equity_ccy"],
                data["currency"],
                data["transfers_ccy"],
                None if results is None else {name: BarResult(**one) for name, one in results.items()},
                None if breakers is None else {name: _array(name, values) for name, values in breakers.items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise MtquantError(
                f"not a portfolio ({type(error).__name__}: {error}); expected what to_dict writes"
            ) from None


def _finite_values(array: np.ndarray) -> Any:
    if array.dtype.kind == "f":
        return [[None if math.isinf(one) else one for one in row] if array.ndim > 1 else row for row in array.tolist()]
    return array.tolist()


def _array(name: str, values: Sequence[Any]) -> np.ndarray:
    """The array of a field of `Breakers` from plain values, of the type that the field has."""
    if name in ("level", "latched"):
        return np.array(values, dtype=np.int8)
    if name in ("day_start_ccy", "cap_abs"):
        return np.array([[np.inf if one is None else one for one in row] if isinstance(row, list) else row
                         for row in values], dtype=np.float64)  # fmt: skip
    return np.array(values, dtype=np.int64)


Positions = Mapping[str, Position | float]
"""By symbol: a position, or its signed units. Instruments that are left out are flat."""


def units_of(positions: Positions, symbols: Sequence[str], lot_units: np.ndarray) -> np.ndarray:
    """Signed units, (n,), as whole lot steps.

    Raises
    ------
    MtquantError
        For an unknown symbol, or units that are no whole number of lot steps.
    """
    if unknown := [symbol for symbol in positions if symbol not in symbols]:
        raise MtquantError(f"positions: {', '.join(unknown)}: no such instrument; traded are {', '.join(symbols)}")
    units = np.zeros(len(symbols))
    for i, symbol in enumerate(symbols):
        held = positions.get(symbol, 0.0)
        own = held.units if isinstance(held, Position) else float(held)
        steps = own / lot_units[i]
        if not math.isfinite(steps) or abs(steps - round(steps)) > 1e-6 * max(1.0, abs(steps)):
            raise MtquantError(
                f"positions.{symbol}: {own} units: expected a whole number of lot steps of {lot_units[i]:g} units"
            )
        units[i] = round(steps) * lot_units[i]
    return units


def positions_of(book: Book, symbols: Sequence[str]) -> dict[str, Position]:
    """The open positions of a book of one account."""
    return {
        symbol: Position(
            float(book.units[0, i]),
            float(book.entry[0, i]),
            None if math.isnan(book.stop[0, i]) else float(book.stop[0, i]),
            float(book.bars_held[0, i]),
        )
        for i, symbol in enumerate(symbols)
        if book.units[0, i]
    }


def results_of(book: Book, symbols: Sequence[str]) -> dict[str, BarResult]:
    """What the last bar has brought to a book of one account."""
    parts = (book.pnl_ccy[0], book.cost_ccy[0], book.financing_ccy[0])
    return {
        symbol: BarResult(*(float(part[i]) for part in parts))
        for i, symbol in enumerate(symbols)
        if any(part[i] for part in parts)
    }
