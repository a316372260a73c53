"""The book: units held, their entry prices and stops, and the equity they add up to, for B accounts at once.

P&L is units times price difference, settled in account currency at every mark; there is no other way for equity to
change than through `pnl_ccy`, `cost_ccy` and `financing_ccy`, which the book itemises per instrument and bar. A price
may be zero or negative: it is then a loss or a gain like any other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.short_rows import row_any, row_sums
from mtquant_rllib.vector_state import VectorState

# Added to a quotient before it is cut to whole lots: a held position must survive its own round trip through weights.
_LOT_SLACK = 1e-7


@dataclass(init=False, eq=False)
class Book(VectorState):
    """Arrays of B accounts by n instruments.

    Attributes
    ----------
    units
        Signed units of the base, (B, n): whole lot steps.
    entry
        Average entry price of the open position in quote currency, (B, n); 0 when flat.
    stop
        Stop level in quote currency, (B, n); NaN when flat.
    bars_held
        Bars since the position was opened, (B, n).
    equity
        Account currency, (B,). Negative equity is a debt.
    pnl_ccy, cost_ccy, financing_ccy, traded_ccy
        Of the bar in progress, (B, n), and no state: a bar begins with zeros. Costs and financing are positive when
        paid; traded_ccy is the absolute notional.
    lot_units
        Units in the smallest step of a position, (n,).
    """

    units: np.ndarray
    entry: np.ndarray
    stop: np.ndarray
    bars_held: np.ndarray
    equity: np.ndarray

    def __init__(self, n_accounts: int, lot_units: np.ndarray, start_equity_ccy: float) -> None:
        shape = (n_accounts, len(lot_units))
        self.lot_units = lot_units
        self.start_equity_ccy = start_equity_ccy
        self.units = np.zeros(shape)
        self.entry = np.zeros(shape)
        self.stop = np.full(shape, np.nan)
        self.bars_held = np.zeros(shape)
        self.equity = np.full(n_accounts, start_equity_ccy)
        self.pnl_ccy = np.zeros(shape)
        self.cost_ccy = np.zeros(shape)
        self.financing_ccy = np.zeros(shape)
        self.traded_ccy = np.zeros(shape)

    def reset(self, accounts: np.ndarray) -> None:
        """Open the accounts with these indices afresh: cash only."""
        for array in (self.units, self.entry, self.bars_held):
            array[accounts] = 0.0
        self.stop[accounts] = np.nan
        self.equity[accounts] = self.start_equity_ccy

    def begin_bar(self) -> None:
        """Set the bar's P&L, costs, financing and turnover to zero."""
        self.pnl_ccy[:] = 0.0
        self.cost_ccy[:] = 0.0
        self.financing_ccy[:] = 0.0
        self.traded_ccy[:] = 0.0

    def whole_lots(self, units: np.ndarray) -> np.ndarray:
        """Units (..., n) cut to whole lot steps, toward zero."""
        lots = units / self.lot_units
        return np.trunc(lots + np.copysign(_LOT_SLACK, lots)) * self.lot_units

    def units_for(
        self, weight: np.ndarray, unit_value_ccy: np.ndarray, accounts: np.ndarray | None = None
    ) -> np.ndarray:
        """Whole lots of target weights (R, n) at values per unit (B, n), for all accounts or those with these indices.

        Where a value or the equity is not positive there are no weights to aim at: such a target is read as the share
        of the position that stays.
        """
        rows = slice(None) if accounts is None else accounts
        unit_value, equity = unit_value_ccy[rows], self.equity[rows]
        priced = (unit_value > 0) & (equity > 0)[:, None]
        units = weight * equity[:, None] / np.where(priced, unit_value, 1.0)
        if not priced.all():
            held = self.weights_of(self.units[rows], unit_value_ccy, accounts)
            share = np.where(held != 0, weight / np.where(held != 0, held, 1.0), 0.0)
            units = np.where(priced, units, self.units[rows] * np.clip(share, 0.0, 1.0))
        return self.whole_lots(units)

    def weights_of(
        self, units: np.ndarray, unit_value_ccy: np.ndarray, accounts: np.ndarray | None = None
    ) -> np.ndarray:
        """Signed weights of units (R, n) at values per unit (B, n), for all accounts or those with these indices; of
        one unit of equity where none is left."""
        rows = slice(None) if accounts is None else accounts
        solvent = np.where(self.equity[rows] > 0, self.equity[rows], 1.0)
        return units * unit_value_ccy[rows] / solvent[:, None]

    @property
    def is_flat(self) -> np.ndarray:
        """Accounts without a position, bool (B,)."""
        return ~row_any(self.units != 0)

    def weights(self, unit_value_ccy: np.ndarray) -> np.ndarray:
        """Signed weights (B, n) of what is held, at values per unit in account currency."""
        return self.weights_of(self.units, unit_value_ccy)

    def finance(self, amount_ccy: np.ndarray) -> None:
        """Pay overnight financing (B, n), account currency; negative is earned."""
        self.financing_ccy += amount_ccy
        self.equity -= row_sums(amount_ccy)

    def settle(self, amount_ccy: np.ndarray) -> None:
        """Credit the price P&L (B, n) of a part of the bar, account currency."""
        self.pnl_ccy += amount_ccy
        self.equity += row_sums(amount_ccy)

    def charge(self, amount_ccy: np.ndarray) -> None:
        """Pay costs of trading (B, n), account currency."""
        self.cost_ccy += amount_ccy
        self.equity -= row_sums(amount_ccy)

    def flatten(self, hit: np.ndarray) -> None:
        """Empty the positions marked in `hit` (B, n). Their P&L and cost are the caller's to settle."""
        for array in (self.units, self.entry, self.bars_held):
            np.copyto(array, 0.0, where=hit)
        np.copyto(self.stop, np.nan, where=hit)

    def fill(self, target_units: np.ndarray, price: np.ndarray) -> None:
        """Move to `target_units` at `price`: entry prices average over additions and start afresh on a flip. Stops
        are the caller's to set."""
        old = self.units
        if not (target_units != old).any():
            return
        fresh = (target_units != 0) & (old * target_units <= 0)
        enlarged = (np.abs(target_units) > np.abs(old)) & ~fresh
        if enlarged.any():
            mixed = (self.entry * old + price * (target_units - old)) / np.where(enlarged, target_units, 1.0)
            np.copyto(self.entry, mixed, where=enlarged)
        np.copyto(self.entry, price, where=fresh)
        gone = target_units == 0
        np.copyto(self.bars_held, 0.0, where=fresh | gone)
        np.copyto(self.entry, 0.0, where=gone)
        self.units = target_units.copy()


def closing_leg(wanted: np.ndarray, held: np.ndarray) -> np.ndarray:
    """What is left of an order when nothing may be opened: the way toward zero. Units of any one shape."""
    return np.where(wanted * held > 0, np.sign(held) * np.minimum(np.abs(wanted), np.abs(held)), 0.0)
