"""A desk's instruments in a broker's terms: its names, its lots, its smallest order and its trading hours."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from mtquant_rllib.errors import ConfigError
from mtquant_rllib.serving.execution.brokers.broker import BrokerError
from mtquant_rllib.serving.orders import lot_steps

if TYPE_CHECKING:
    from mtquant_rllib.config import Settings
    from mtquant_rllib.config.sections.instruments import SessionConfig

NEW_YORK = ZoneInfo("America/New_York")
_SUNDAY, _FRIDAY, _SATURDAY = 6, 4, 5


@dataclass(frozen=True)
class BrokerInstrument:
    """One instrument at one broker.

    Attributes
    ----------
    symbol, name
        The desk's name, and the broker's.
    desk_lot_step
        Smallest fraction of a lot of the desk.
    units_per_step, lots_per_step
        Units of the base, and lots of the broker, in one lot step of the desk: exact, as a quotient of whole numbers.
    granule_steps
        The desk's lot steps in the smallest step of the broker.
    min_steps
        The desk's lot steps in the smallest order that the broker takes: a multiple of `granule_steps`.
    session
        The broker's hours, New York time.
    """

    symbol: str
    name: str
    desk_lot_step: float
    units_per_step: tuple[int, int]
    lots_per_step: tuple[int, int]
    granule_steps: int
    min_steps: int
    session: SessionConfig

    def broker_lots(self, steps: int) -> float:
        """The broker's lots of so many lot steps of the desk; signed."""
        over, under = self.lots_per_step
        return steps * over / under

    def desk_steps(self, lots: float) -> int:
        """The desk's lot steps of so many lots of the broker; signed.

        Raises
        ------
        BrokerError
            When they are no whole number of steps.
        """
        over, under = self.lots_per_step
        steps = lots * under / over
        if not math.isfinite(steps):
            raise BrokerError(f"{self.name}: lots = {lots}: expected a finite number")
        return lot_steps(steps, 1.0, what=f"{self.name}: lots")

    def order_steps(self, lots: float) -> int:
        """The desk's lot steps of so many lots of the desk."""
        return lot_steps(lots, self.desk_lot_step)

    def units(self, steps: int) -> float:
        """Units of the base in so many lot steps of the desk."""
        over, under = self.units_per_step
        return steps * over / under

    def is_open(self, instant: dt.datetime) -> bool:
        """Whether the broker trades it at this instant. The week opens on Sunday at the session's open and ends on
        Friday at its close; an open that is no earlier than the close belongs to the evening before."""
        there = instant.astimezone(NEW_YORK)
        now, day = f"{there:%H:%M}", there.weekday()
        opens, closes = self.session.open, self.session.close
        overnight = opens >= closes
        if day == _SATURDAY or (day == _SUNDAY and not (overnight and now >= opens)):
            return False
        if day == _FRIDAY and now >= closes:
            return False
        return now >= opens or now < closes if overnight else opens <= now < closes


def every_brokers_instruments(settings: Settings) -> dict[str, dict[str, BrokerInstrument]]:
    """broker -> symbol -> instrument; raises as `broker_instruments`."""
    return {broker: broker_instruments(settings, broker) for broker in settings.serving.brokers}


def broker_instruments(settings: Settings, broker: str) -> dict[str, BrokerInstrument]:
    """symbol -> instrument, of those that a broker of `serving.brokers` offers; what its row does not say is the
    desk's.

    Raises
    ------
    ConfigError
        When the broker's step is no whole multiple of the desk's, or two instruments have one name there.
    """
    rows, found = settings.serving.brokers[broker].symbols, {}
    for symbol in settings.universe.symbols:
        desk, row = settings.symbols[symbol], rows.get(symbol)
        if symbol in rows and row is None:
            continue
        path = f"serving.brokers.{broker}.symbols.{symbol}"
        contract = _exact(desk.contract if row is None or row.contract is None else row.contract)
        step = _exact(desk.lot_step if row is None or row.lot_step is None else row.lot_step) * contract
        smallest = step if row is None or row.min_lot is None else _exact(row.min_lot) * contract
        desk_step = _exact(desk.contract) * _exact(desk.lot_step)
        granule, minimum = step / desk_step, smallest / step
        if granule.denominator != 1 or minimum.denominator != 1:
            raise ConfigError(
                f"{path}: a lot step of {float(step):g} units and a smallest order of {float(smallest):g}: expected a "
                f"whole multiple of symbols.{symbol}'s {float(desk_step):g} units, and of the step"
            )
        found[symbol] = BrokerInstrument(
            symbol,
            symbol if row is None or row.name is None else row.name,
            desk.lot_step,
            desk_step.as_integer_ratio(),
            (desk_step / contract).as_integer_ratio(),
            int(granule),
            int(granule * minimum),
            desk.session if row is None or row.session is None else row.session,
        )
    names = [one.name for one in found.values()]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"serving.brokers.{broker}.symbols: {repeated[0]} is the name of two instruments")
    return found


def _exact(number: float) -> Fraction:
    """The decimal fraction that the number is written as."""
    return Fraction(repr(number))
