"""`Close`: what is known at a close of B environments, of market and accounts, computed on first use."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from mtquant_rllib.env.prepared.rows import MarketRow
from mtquant_rllib.env.risk_layer import RiskLayer
from mtquant_rllib.portfolio.book import Book


class Close:
    """One close of B environments; the next bar has another."""

    def __init__(self, book: Book, market: MarketRow, risk: RiskLayer | None) -> None:
        self.book, self.market, self.risk = book, market, risk

    @cached_property
    def weight(self) -> np.ndarray:
        """Signed weights held, (B, n)."""
        return self.book.weights(self.market.unit_value)

    @cached_property
    def alert(self) -> np.ndarray:
        """Alert level of each instrument in [0, 1], (B, n): its own alerts and the whole book's. 0 without risk."""
        if self.risk is None:
            return np.zeros_like(self.weight)
        return self.risk.alert_level(self.book, self.market)
