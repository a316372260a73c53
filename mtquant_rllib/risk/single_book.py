"""One book by names, for use without environments or training: positions as {symbol: weight}."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.risk.past_returns import PastReturns
from mtquant_rllib.risk.pretrade import Failure
from mtquant_rllib.risk.repair.packed import PackedIndex
from mtquant_rllib.risk.rules import Proposal
from mtquant_rllib.universe import Universe

FAILURE_TEXT = {
    Failure.RESTRICTION: "the instrument's restrictions forbid opening on this side",
    Failure.PRICE_BAND: "the price is outside its band, nothing may be opened",
    Failure.OPENING: "nothing may be opened at this price",
    Failure.ADV: "the order exceeds its share of average daily volume",
    Failure.CAPITAL: "free margin does not cover the order",
    Failure.UNTRADABLE: "the instrument has no bar to fill on",
}


@dataclass(frozen=True)
class CurrentPortfolio:
    """What is held, and what is needed to judge a change of it.

    Attributes
    ----------
    weights
        Signed notional over equity by symbol; symbols left out are 0.
    equity_ccy
        Including open P&L.
    covariance
        Of daily simple returns, ndarray of shape (n, n) in the order of the universe.
    correlation
        ndarray of shape (n, n); None: the one that `covariance` implies.
    past
        For a historical `risk.var_method`.
    untradable, outside_band, not_openable
        Symbols without a bar, with a price outside its band, with a price at which nothing may be opened.
    """

    weights: Mapping[str, float]
    equity_ccy: float
    covariance: np.ndarray
    correlation: np.ndarray | None = None
    untradable: Collection[str] = ()
    outside_band: Collection[str] = ()
    not_openable: Collection[str] = ()
    past: PastReturns | None = None

    def proposal(self, proposed: Mapping[str, float], universe: Universe, index: PackedIndex) -> Proposal:
        """The proposal of a batch of one. `ValueError` for an unknown symbol."""
        correlation = self.correlation
        if correlation is None:
            deviation = np.sqrt(np.diagonal(self.covariance))
            correlation = self.covariance / np.outer(deviation, deviation)
        return Proposal(
            proposed=_row(proposed, universe),
            current=_row(self.weights, universe),
            tradable=_without(self.untradable, universe),
            covariance=index.pack(self.covariance)[None],
            correlation=index.pack_hollow(correlation)[None],
            equity=np.array([float(self.equity_ccy)]),
            price_band_ok=_without(self.outside_band, universe),
            opening_allowed=_without(self.not_openable, universe),
            past=self.past,
        )


def _known(symbols: Collection[str], universe: Universe) -> None:
    if unknown := [symbol for symbol in symbols if symbol not in universe.symbols]:
        raise ValueError(f"no instrument {unknown[0]!r}; the desk trades {', '.join(universe.symbols)}")


def _row(weights: Mapping[str, float], universe: Universe) -> np.ndarray:
    _known(weights, universe)
    return np.array([[float(weights.get(symbol, 0.0)) for symbol in universe.symbols]])


def _without(symbols: Collection[str], universe: Universe) -> np.ndarray:
    _known(symbols, universe)
    return np.array([[symbol not in symbols for symbol in universe.symbols]])
