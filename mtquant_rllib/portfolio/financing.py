"""Overnight financing: the base rate of an instrument by its kind, before the broker's markup.

A kind is a function of a `FinancedInstrument`; one of one's own is named in `financing.kind` as `module:NAME`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.sections.instruments import InstrumentConfig
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.extensions import code_hash, extension
from mtquant_rllib.market.bars import CLOSE, MarketData
from mtquant_rllib.market.rates import policy_rate, short_rate

ENTRY_POINTS = "mtquant_rllib.financing"
"""Group of the entry points by which an installed package offers kinds by name."""


@dataclass(frozen=True)
class FinancedInstrument:
    """What a kind reads of one instrument: what is known at each of T rows.

    Attributes
    ----------
    symbol, config
        Its name and its row in the settings.
    timestamps
        datetime64 (T,): when each row's bar closes.
    """

    symbol: str
    config: InstrumentConfig
    timestamps: np.ndarray
    _settings: Settings
    _market: MarketData

    @property
    def close(self) -> np.ndarray:
        """Close in quote currency, (T,); NaN where the instrument has no bar."""
        i = self._market.symbols.index(self.symbol)
        return np.where(self._market.valid[:, i], self._market.bars[:, i, CLOSE], np.nan)

    def interest_rate(self, currency: str) -> np.ndarray:
        """(T,), per cent a year: the short rate of the macro file for the account's currency, else the policy rate."""
        if currency == self._settings.desk.account.currency:
            return short_rate(self._market, self._settings.desk.cost.short_rate_columns)
        return policy_rate(self._settings.policy_rates, currency, self.timestamps)

    def macro(self, name: str) -> np.ndarray:
        """A column of the macro file, (T,); NaN where it has no value yet.

        Raises
        ------
        ConfigError
            When the market has no such column.
        """
        there = self._market.macro_columns
        if name not in there:
            raise ConfigError(f"symbols.{self.symbol}.financing: no macro column {name!r}; there are {list(there)}")
        return self._market.macro[:, there.index(name)]


BaseRate = Callable[[FinancedInstrument], np.ndarray]
"""What a long pays before the markup, per cent a year of notional, (T,); a short earns it. Known at each row, paid for
the nights that follow."""


def _interest_differential(one: FinancedInstrument) -> np.ndarray:
    return one.interest_rate(one.config.quote) - one.interest_rate(one.config.base)


def _spot(one: FinancedInstrument) -> np.ndarray:
    return one.interest_rate(one.config.quote)


def _index(one: FinancedInstrument) -> np.ndarray:
    return one.interest_rate(one.config.quote) - one.config.financing.dividend_pct


def _commodity(one: FinancedInstrument) -> np.ndarray:
    """A long loses a negative roll yield: the price series jumps at each roll, the position does not."""
    return np.full(len(one.timestamps), -float(one.config.financing.roll_yield_pct))


KINDS: dict[str, BaseRate] = {
    "fx": _interest_differential,
    "spot": _spot,
    "index": _index,
    "commodity": _commodity,
}


def base_rates(settings: Settings, market: MarketData) -> np.ndarray:
    """Rate that a long pays before the markup, per cent a year, (T, n).

    Raises
    ------
    ConfigError
        When a kind cannot be found, fails, or returns another shape or a number that is not finite.
    """
    base = np.empty(market.valid.shape)
    for i, (symbol, row) in enumerate(zip(settings.universe.symbols, settings.instruments)):
        one = FinancedInstrument(symbol, row, market.timestamps, settings, market)
        base[:, i] = _computed(_kind(symbol, row.financing.kind), one)
    return base


def kind_code(settings: Settings) -> dict[str, str]:
    """Hash of the file that each kind of one's own stands in, by its name: a changed one prepares the market anew."""
    own = {row.financing.kind: s for s, row in zip(settings.universe.symbols, settings.instruments)}
    return {name: code_hash(_kind(symbol, name)) for name, symbol in sorted(own.items()) if name not in KINDS}


def _kind(symbol: str, name: str) -> BaseRate:
    if name in KINDS:
        return KINDS[name]
    setting = f"symbols.{symbol}.financing.kind"
    try:
        found: BaseRate = extension(setting, name, ENTRY_POINTS)
    except ConfigError as error:
        raise ConfigError(f"{setting}: no kind {name!r}; there are {', '.join(KINDS)} ({error})") from error
    if not callable(found):
        raise ConfigError(f"{setting}: {name} is no function")
    return found


def _computed(kind: BaseRate, one: FinancedInstrument) -> np.ndarray:
    if one.config.financing.kind in KINDS:
        return kind(one)
    setting = f"symbols.{one.symbol}.financing.kind: {one.config.financing.kind}"
    try:
        rate = np.asarray(kind(one), dtype=np.float64)
    except ConfigError:
        raise
    except Exception as error:
        # A function of one's own may raise whatever it likes.
        raise ConfigError(f"{setting} fails: {type(error).__name__}: {error}") from error
    if rate.shape != one.timestamps.shape:
        raise ConfigError(f"{setting} returns an array of shape {rate.shape}; expected {one.timestamps.shape}")
    if not np.isfinite(rate).all():
        raise ConfigError(f"{setting} returns a number that is not finite")
    return rate
