"""A ledger of one account in plain Python: every rule of a bar as told to a clerk, instrument by instrument.

It shares no code with the desk: from the package it knows the settings and the raw bars only. Average true range and
daily volatility are given, as they are features. Nights, rates, bands, lots, stops and conversions it works out itself.
Daily bars.
"""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

from mtquant_rllib.config import Settings
from mtquant_rllib.market.bars import MarketData

OPEN, HIGH, LOW, CLOSE = range(4)
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class Ledger:
    """One account that begins at row `start`. Lists are over instruments; None is "no price yet" or "no stop"."""

    def __init__(self, settings: Settings, market: MarketData, atr, sigma_day, start: int) -> None:
        self.settings = settings
        self.rows = list(settings.instruments)
        self.n = len(self.rows)
        self.bars = market.bars.tolist()
        self.valid = market.valid.tolist()
        self.stale = market.stale_open.tolist()
        self.dates = [dt.date.fromisoformat(str(timestamp)[:10]) for timestamp in market.timestamps]
        self.macro = {name: market.macro[:, k].tolist() for k, name in enumerate(market.macro_columns)}
        self.atr, self.sigma_day = atr.tolist(), sigma_day.tolist()
        self.t = start
        self.last: list[Any] = [None] * self.n
        self.last_row = [-1] * self.n
        for t in range(start + 1):
            self._remember(t)
        self.equity = settings.desk.account.start_equity_ccy
        self.units = [0.0] * self.n
        self.stop: list[Any] = [None] * self.n
        self.pnl = [0.0] * self.n
        self.cost = [0.0] * self.n
        self.financing = [0.0] * self.n

    # -- what is known ------------------------------------------------------------------------------------------------

    def _remember(self, t: int) -> None:
        for i in range(self.n):
            if self.valid[t][i]:
                self.last[i], self.last_row[i] = self.bars[t][i][CLOSE], t

    def fx(self, i: int, price: float) -> float:
        """Dollars for one unit of the quote currency when the instrument's own price is `price`."""
        return 1.0 / price if self.rows[i].quote == "JPY" else 1.0

    def value(self, i: int) -> float:
        """Dollars for one unit at the last good close."""
        price = self.last[i]
        return price * self.fx(i, price)

    def weights(self) -> list[float]:
        return [self.units[i] * self.value(i) / self.equity for i in range(self.n)]

    def whole_lots(self, i: int, units: float) -> float:
        """Toward zero; a hair under a whole number of lots is that number."""
        size = self.rows[i].contract * self.rows[i].lot_step
        lots = units / size
        nearest = round(lots)
        return (nearest if abs(lots - nearest) < 1e-7 else math.trunc(lots)) * size

    def short_rate(self, t: int) -> float:
        """Per cent: the bill, or the note while there is no bill; the last one published."""
        for row in range(t, -1, -1):
            for name in ("rate_3m", "rate_2y"):
                if name in self.macro and not math.isnan(self.macro[name][row]):
                    return self.macro[name][row]
        return 0.0

    def foreign_rate(self, currency: str, t: int) -> float:
        table = self.settings.policy_rates[currency]
        years = [year for year in sorted(table) if year <= self.dates[t].year - 1]
        return table[years[-1]] if years else table[min(table)]

    def base_rate(self, i: int, t: int) -> float:
        row = self.rows[i]
        if row.financing.kind == "fx":
            rate = {"USD": self.short_rate(t)}
            for currency in (row.base, row.quote):
                if currency != "USD":
                    rate[currency] = self.foreign_rate(currency, t)
            return rate[row.quote] - rate[row.base]
        if row.financing.kind == "spot":
            return self.short_rate(t)
        if row.financing.kind == "index":
            return self.short_rate(t) - row.financing.dividend_pct
        return -row.financing.roll_yield_pct

    def nights(self, i: int, t: int) -> int:
        """17:00 New York instants of Monday to Friday between the closes of rows t and t + 1."""
        count, day = 0, self.dates[t]
        while day < self.dates[t + 1]:
            name = WEEKDAYS[day.weekday()]
            if name not in ("Sat", "Sun"):
                count += 3 if name == self.rows[i].triple_day else 1
            day += dt.timedelta(days=1)
        return count

    # -- a bar --------------------------------------------------------------------------------------------------------

    def orders(self, weights: list[float]) -> list[float]:
        """Target units of weights decided at the close of the row."""
        targets = []
        for i in range(self.n):
            if self.value(i) > 0 and self.equity > 0:
                targets.append(self.whole_lots(i, weights[i] * self.equity / self.value(i)))
            else:
                # No weight can be aimed at: it says how much of the position may stay.
                now = self.weights()[i]
                share = min(max(weights[i] / now, 0.0), 1.0) if now != 0 else 0.0
                targets.append(self.whole_lots(i, self.units[i] * share))
        return targets

    def bar(self, targets: list[float], stop_atr: list[float], checked: bool = False) -> None:
        """From the close of row t to that of row t + 1. `checked`: the targets have been through the opening checks."""
        t = self.t
        self.pnl, self.cost, self.financing = [0.0] * self.n, [0.0] * self.n, [0.0] * self.n
        for i in range(self.n):
            self._trail(i, stop_atr[i])
            self._night(i)
            if self.valid[t + 1][i] and self.last_row[i] >= 0:
                if self.stale[t + 1][i]:
                    self._bar_without_open(i, targets[i], stop_atr[i], checked)
                else:
                    self._bar_with_open(i, targets[i], stop_atr[i], checked)
        self.equity += sum(self.pnl) - sum(self.cost) - sum(self.financing)
        self.t += 1
        self._remember(self.t)

    def _trail(self, i: int, k: float) -> None:
        if self.units[i] == 0:
            return
        close, distance, old = self.last[i], k * self.atr[self.t][i], self.stop[i]
        if self.units[i] > 0:
            self.stop[i] = max(old, close - distance)
        else:
            self.stop[i] = min(old, close + distance)

    def _night(self, i: int) -> None:
        base = self.base_rate(i, self.t)
        markup = self.rows[i].financing.markup_pct
        rate = base + markup if self.units[i] > 0 else -base + markup
        notional = abs(self.units[i] * self.value(i))
        day_count = self.settings.desk.account.day_count
        self.financing[i] += notional * rate / 100 * self.nights(i, self.t) / day_count

    def _bar_with_open(self, i: int, target: float, k: float, checked: bool) -> None:
        open_, high, low, close = self.bars[self.t + 1][i][:4]
        previous = self.last[i]
        self.pnl[i] += self.units[i] * (open_ - previous) * self.fx(i, open_)
        target = self._stop_out(i, target, open_, open_, open_, open_)
        self._trade(i, target if checked else self._opening_checks(i, target, open_), open_, k)
        if self._is_beyond(i, high, low):
            level = self.stop[i]
            self.pnl[i] += self.units[i] * (level - open_) * self.fx(i, close)
            self._exit(i, level, close)
        else:
            self.pnl[i] += self.units[i] * (close - open_) * self.fx(i, close)

    def _bar_without_open(self, i: int, target: float, k: float, checked: bool) -> None:
        _, high, low, close = self.bars[self.t + 1][i][:4]
        previous = self.last[i]
        if self._is_beyond(i, high, low):
            level = self.stop[i]
            # Wholly beyond the stop: it opened there, but at what price is not known.
            price = level if low <= level <= high else close
            self.pnl[i] += self.units[i] * (price - previous) * self.fx(i, close)
            target = self._stop_out(i, target, price, close, high, low)
        else:
            self.pnl[i] += self.units[i] * (close - previous) * self.fx(i, close)
        self._trade(i, target if checked else self._opening_checks(i, target, close), close, k)

    def _is_beyond(self, i: int, high: float, low: float) -> bool:
        if self.units[i] == 0:
            return False
        return low <= self.stop[i] if self.units[i] > 0 else high >= self.stop[i]

    def _stop_out(self, i: int, target: float, price: float, fx_price: float, high: float, low: float) -> float:
        """Take the position out if the stop is reached, and cancel an order on its side; returns the target left."""
        if not self._is_beyond(i, high, low):
            return target
        side = self.units[i]
        self._exit(i, price, fx_price)
        return 0.0 if target * side > 0 else target

    def _exit(self, i: int, price: float, fx_price: float) -> None:
        self._charge(i, abs(self.units[i] * price) * self.fx(i, fx_price))
        self.units[i], self.stop[i] = 0.0, None

    def _opening_checks(self, i: int, target: float, price: float) -> float:
        """A leg that opens or enlarges needs positive prices and a fill within the band; closing legs always pass."""
        previous, age = self.last[i], self.t + 1 - self.last_row[i]
        band = self.rows[i].band_pct / 100
        refused = previous <= 0 or price <= 0
        if age <= self.settings.desk.fill.band_reference_max_age_bars and abs(price - previous) > band * abs(previous):
            refused = True
        if not refused:
            return target
        if target * self.units[i] <= 0:
            return 0.0
        return math.copysign(min(abs(target), abs(self.units[i])), target)

    def _trade(self, i: int, target: float, price: float, k: float) -> None:
        old = self.units[i]
        if target != old:
            self._charge(i, abs(target - old) * abs(price) * self.fx(i, price))
        self.units[i] = target
        if target == 0:
            self.stop[i] = None
        elif old * target <= 0:
            distance = k * self.atr[self.t][i]
            self.stop[i] = price - distance if target > 0 else price + distance

    def _charge(self, i: int, notional: float) -> None:
        row, cost = self.rows[i], self.settings.desk.cost
        fraction = (row.spread_bps / 2 + row.commission_bps + row.slippage_bps) / 1e4
        share = notional / row.adv_ccy
        if share > cost.impact_free_adv_share:
            fraction += cost.impact_coefficient * self.sigma_day[self.t][i] * math.sqrt(share)
        self.cost[i] += notional * fraction
