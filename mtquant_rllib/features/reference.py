"""What the reference policy holds: a mix of simple books as one conviction for each instrument.

A conviction of 1 is a long position of the instrument's whole share of risk, at equal allocations and full appetite;
-1 is a short one. What the desk makes of it (size, urgency, costs, risk rules) is the desk's affair, as with any
agent's action. Books, with moves and deviations of the instrument's own bars:

    momentum              sign of the move over `momentum_days` (Moskowitz, Ooi and Pedersen 2012)
    trend_ensemble        mean over `trend_days` of the move in units of its deviation, each clipped to [-1, 1]
                          (Hurst, Ooi and Pedersen 2017, average of horizons; clipped as in Baz et al. 2015)
    inverse_volatility    long, the same stand-alone risk in every instrument
    long_risk_premia      long, the instruments of `premia`; nothing else
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.reference import ReferenceConfig
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.extensions import code_hash, extension
from mtquant_rllib.features import indicators as ind
from mtquant_rllib.features.own_bars import OwnBars

ENTRY_POINTS = "mtquant_rllib.references"
"""Group of the entry points by which an installed package offers books by name."""


@dataclass(frozen=True)
class ReferenceInputs:
    """What a reference book reads of one instrument.

    risk_share
        Its share of the desk's risk at equal allocations, as a multiple of the smallest instrument's share.
    """

    config: ReferenceConfig
    symbol: str
    risk_share: float
    own_bars: OwnBars


def _momentum(inputs: ReferenceInputs) -> np.ndarray:
    return np.sign(_move(inputs.own_bars, inputs.config.momentum_days))


def _trend_ensemble(inputs: ReferenceInputs) -> np.ndarray:
    """Horizons that history is still too short for are left out of the mean."""
    moves = [np.clip(_move(inputs.own_bars, days), -1.0, 1.0) for days in inputs.config.trend_days]
    known = [~np.isnan(move) for move in moves]
    total = np.stack([np.nan_to_num(move) for move in moves]).sum(axis=0)
    return ind.ratio(total, np.stack(known).sum(axis=0).astype(np.float64))


def _inverse_volatility(inputs: ReferenceInputs) -> np.ndarray:
    return np.full(inputs.own_bars.shape, 1.0 / inputs.risk_share)


def _long_risk_premia(inputs: ReferenceInputs) -> np.ndarray:
    return np.full(inputs.own_bars.shape, float(inputs.symbol in inputs.config.premia))


BOOKS: dict[str, Callable[[ReferenceInputs], np.ndarray]] = {
    "momentum": _momentum,
    "trend_ensemble": _trend_ensemble,
    "inverse_volatility": _inverse_volatility,
    "long_risk_premia": _long_risk_premia,
}
"""Name -> conviction (k, m) on the own bars; NaN where it is not known yet."""


def reference_columns(settings: Settings, symbol: str, own_bars: OwnBars) -> np.ndarray:
    """The columns of `layout.REFERENCE`, (k, m, 2): 0 before the first conviction.

    Raises
    ------
    ConfigError
        When a book cannot be found, fails, or returns another shape.
    """
    universe = settings.universe
    sizes = [len(domain.symbols) for domain in universe.domains]
    own_size = sizes[universe.domain_of[universe.symbols.index(symbol)]]
    inputs = ReferenceInputs(settings.reference, symbol, max(sizes) / own_size, own_bars)
    mix = [(weight, _book(name)(inputs)) for name, weight in settings.reference.book.items()]
    conviction = np.clip(np.nan_to_num(np.sum([weight * book for weight, book in mix], axis=0)), -1.0, 1.0)
    return np.stack([conviction, view_of(conviction, settings.desk.decision.logit_scale)], axis=-1)


def book_code(config: ReferenceConfig) -> dict[str, str]:
    """Hash of the file that each book of one's own stands in, by its name: a changed one makes another table."""
    own = [name for name in config.book if config.exists and name not in BOOKS]
    return {name: code_hash(extension("reference.book", name, ENTRY_POINTS)) for name in own}


def view_of(intent: np.ndarray, logit_scale: float) -> np.ndarray:
    """The raw action x in [-1, 1] with which (buy, hold, sell) = (x, 0, -x) gives the intent, as far as bounds let it:
    the inverse of `agents.action_maps.views`, P(buy) - P(sell) = intent, a quadratic equation in exp(logit_scale * x).
    """
    size = np.abs(intent)
    root = np.sqrt(size**2 + 4.0 * (1.0 - size**2))
    with np.errstate(divide="ignore"):
        power = np.log((size + root) / (2.0 * (1.0 - size)))
    return np.sign(intent) * np.minimum(power / logit_scale, 1.0)


def _move(own_bars: OwnBars, days: int) -> np.ndarray:
    """Return over so many trading days in units of its deviation, (k, m); NaN in too young a history."""
    bars = np.maximum(np.round(days * own_bars.bars_per_day[:, 0]), 1).astype(np.int64)
    rows = np.arange(len(bars))
    known = (rows >= bars)[:, None]
    before = np.maximum(rows - bars, 0)
    move = ind.ratio(own_bars.cum - own_bars.cum[before], own_bars.s * np.sqrt(bars)[:, None])
    return np.where(known, move, np.nan)


def _book(name: str) -> Callable[[ReferenceInputs], np.ndarray]:
    if name in BOOKS:
        return BOOKS[name]
    try:
        compute = extension("reference.book", name, ENTRY_POINTS)
    except ConfigError as error:
        raise ConfigError(f"reference.book: no book {name!r}; there are {', '.join(BOOKS)} ({error})") from error
    if not callable(compute):
        raise ConfigError(f"reference.book: {name} is no function")

    def checked(inputs: ReferenceInputs) -> np.ndarray:
        try:
            values = np.asarray(compute(inputs.own_bars), dtype=np.float64)
        except Exception as error:
            # A function of one's own may raise whatever it likes.
            raise ConfigError(f"reference.book: {name} fails: {type(error).__name__}: {error}") from error
        if values.shape != inputs.own_bars.shape:
            raise ConfigError(
                f"reference.book: {name} returns an array of shape {values.shape}; expected one number "
                f"a bar and history, {inputs.own_bars.shape}"
            )
        return values

    return checked
