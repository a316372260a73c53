"""One bar as a trading day: the night is paid, the open marked and limited, orders fill, stops run, the close is
marked.

Everything that happens to the book between two closes happens here, in that order, and nothing here decides anything.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from mtquant_rllib.portfolio import tape as channel
from mtquant_rllib.portfolio.costs import night_cost, trade_cost
from mtquant_rllib.risk import stops

if TYPE_CHECKING:
    from mtquant_rllib.env.trading import Trading


class Bar:
    """The next bar of B environments.

    Parameters
    ----------
    desk
        At the close before the bar.
    money, flags
        Rows of the tape, (B, 10, n) and (B, 3, n).

    Attributes
    ----------
    at_close
        bool (B, n): the open is not tradable, orders of this bar fill at its close.
    stopped
        bool (B, n): positions that a stop has taken out so far.
    """

    def __init__(self, desk: Trading, money: np.ndarray, flags: np.ndarray) -> None:
        self._desk = desk
        self._book = desk.book
        self._money = money
        self._has_bar = flags[:, channel.TRADABLE]
        self._openable = flags[:, channel.OPENING_ALLOWED]
        self.at_close = flags[:, channel.FILLS_AT_CLOSE]
        self.stopped = np.zeros_like(self.at_close)
        self.last_value = money[:, channel.LAST] * money[:, channel.FX_LAST]

    @property
    def tradable(self) -> np.ndarray:
        """Instruments that have this bar, bool (B, n)."""
        return self._has_bar

    def begin(self) -> None:
        """Fix the stops at the close before, and pay for the nights in between."""
        desk, book, money = self._desk, self._book, self._money
        book.begin_bar()
        book.stop = stops.trail(book.stop, np.sign(book.units), desk.close, desk.atr, desk.stop_atr)
        book.finance(
            night_cost(book.units, desk.unit_value, money[:, channel.LONG_FINANCING], money[:, channel.SHORT_FINANCING])
        )

    def open(self, wanted: np.ndarray) -> np.ndarray:
        """Mark the open, take out positions that opened beyond their stop, and limit what would fill.

        Takes and returns units, (B, n).
        """
        desk, book, money = self._desk, self._book, self._money
        units = book.units
        fill = money[:, channel.FILL]
        gap = np.where(self.at_close, 0.0, fill - money[:, channel.PREVIOUS])
        book.settle(units * gap * money[:, channel.FX_FILL])
        side = np.sign(units)
        hit = stops.open_stop_hit(book.stop, side, fill) & ~self.at_close & self._has_bar
        if hit.any():
            wanted = stops.without_reentry(wanted, side * hit)
            self._exit(hit, fill * money[:, channel.FX_FILL])
        rerun = hit.any(axis=1)
        if desk.oversight is not None:
            rerun |= desk.oversight.mark(book.equity, book.weights(self._open_value()), ~desk.parked)
        openable = self._openable | self.at_close
        held = book.units
        enlarges = np.abs(wanted) > np.where(wanted * held > 0, np.abs(held), 0.0)
        refused = ((wanted != held) & ~self._has_bar) | (enlarges & ~openable)
        rerun |= refused.any(axis=1)
        if rerun.any():
            wanted = self._limit_fills(wanted, openable, np.flatnonzero(rerun))
        return wanted

    def fill(self, wanted: np.ndarray) -> None:
        """Fill the orders: at the open, or at the close where the open is not tradable."""
        desk, book, money = self._desk, self._book, self._money
        if self.at_close.any():
            wanted = self._wait_for_the_close(wanted)
        price, fx = money[:, channel.FILL], money[:, channel.FX_FILL]
        self._charge(np.abs(wanted - book.units) * np.abs(price) * fx)
        book.stop = stops.after_fill(book.stop, book.units, wanted, price, desk.atr, desk.stop_atr)
        book.fill(wanted, price)

    def trade_to_the_close(self) -> None:
        """From the fill to the close, with stops inside the bar."""
        book, money = self._book, self._money
        side = np.sign(book.units)
        hit = stops.intrabar_stop_hit(book.stop, side, money[:, channel.TOP], money[:, channel.BOTTOM]) & ~self.at_close
        last = np.where(hit, book.stop, money[:, channel.LAST])
        moved = book.units * (last - money[:, channel.FILL]) * money[:, channel.FX_LAST]
        book.settle(np.where(self.at_close, 0.0, moved))
        if hit.any():
            self._exit(hit, np.where(hit, book.stop, 0.0) * money[:, channel.FX_LAST])
        book.bars_held += book.units != 0

    # -- the open -----------------------------------------------------------------------------------------------------

    def _open_value(self) -> np.ndarray:
        """Account currency per unit at the open, (B, n). Where the open is not tradable the last close is all that is
        known: the fill is at the close to come."""
        at_open = self._money[:, channel.FILL] * self._money[:, channel.FX_FILL]
        return np.where(self.at_close, self._desk.unit_value, at_open)

    def _limit_fills(self, wanted: np.ndarray, openable: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """Where not everything can fill as ordered, the rules run again over what would, which can only shrink it; and
        once more over what whole lots make of that."""
        wanted = wanted.copy()
        unit_value = self._open_value()
        for attempt in count():
            before = wanted[envs]
            allowed = self._limited_once(before, openable[envs], unit_value[envs], envs, attempt)
            moved = (allowed != before).any(axis=1)
            wanted[envs] = allowed
            envs = envs[moved]
            if not len(envs):
                break
        return wanted

    def _limited_once(
        self, wanted: np.ndarray, openable: np.ndarray, unit_value: np.ndarray, envs: np.ndarray, attempt: int
    ) -> np.ndarray:
        """Units of `envs` (R, n) that may fill, in whole lots; all arguments are theirs."""
        desk, book = self._desk, self._book
        held, has_bar = book.units[envs], self._has_bar[envs]
        closing = _closing_leg(wanted, held)
        if desk.oversight is None:
            allowed = np.where(openable, wanted, closing)
        else:
            # In debt the breakers flatten whatever the scale.
            to_weight = unit_value / np.where(book.equity[envs] > 0, book.equity[envs], 1.0)[:, None]
            base = wanted * to_weight
            limited = desk.oversight.limit_at_open(desk, envs, base, held * to_weight, has_bar, openable, attempt)
            share = np.clip(np.where(base != 0, limited / np.where(base != 0, base, 1.0), 1.0), 0.0, 1.0)
            # A price of zero gives no weight to limit: nothing may be opened there.
            allowed = np.where(base != 0, wanted * share, closing)
        return np.where(has_bar, book.whole_lots(allowed), held)

    # -- fills and exits ----------------------------------------------------------------------------------------------

    def _wait_for_the_close(self, wanted: np.ndarray) -> np.ndarray:
        """Carry positions whose orders fill at the close through the bar, with the stop they already had.

        Takes and returns units, (B, n).
        """
        book, money = self._book, self._money
        side = np.sign(book.units)
        low, high = money[:, channel.BOTTOM], money[:, channel.TOP]
        hit = stops.intrabar_stop_hit(book.stop, side, high, low) & self.at_close
        # A bar wholly beyond the stop opened there, at a price nobody knows: the exit is where any order of this bar
        # fills. The bar's own extreme would be a gift.
        jumped = side * (np.where(side > 0, high, low) - book.stop) < 0
        out = np.where(jumped, money[:, channel.FILL], book.stop)
        last = np.where(hit, out, money[:, channel.LAST])
        moved = book.units * (last - money[:, channel.PREVIOUS]) * money[:, channel.FX_LAST]
        book.settle(np.where(self.at_close, moved, 0.0))
        if hit.any():
            wanted = stops.without_reentry(wanted, side * hit)
            self._exit(hit, np.where(hit, out, 0.0) * money[:, channel.FX_LAST])
        return np.where(self.at_close & ~self._openable, _closing_leg(wanted, book.units), wanted)

    def _exit(self, hit: np.ndarray, unit_value: np.ndarray) -> None:
        """Charge and empty the positions that a stop took out, at a value per unit in account currency."""
        self._charge(np.where(hit, np.abs(self._book.units * unit_value), 0.0))
        self._book.flatten(hit)
        self.stopped |= hit

    def _charge(self, traded_ccy: np.ndarray) -> None:
        desk, cost = self._desk, self._desk.config.cost
        self._book.traded_ccy += traded_ccy
        self._book.charge(
            trade_cost(
                traded_ccy,
                self._money[:, channel.COST],
                desk.sigma_day,
                desk.adv_ccy,
                cost.impact_coefficient,
                cost.impact_free_adv_share,
            )
        )


def _closing_leg(wanted: np.ndarray, held: np.ndarray) -> np.ndarray:
    """What is left of an order when nothing may be opened: the way toward zero."""
    return np.where(wanted * held > 0, np.sign(held) * np.minimum(np.abs(wanted), np.abs(held)), 0.0)
