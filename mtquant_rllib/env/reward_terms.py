"""Reward terms of one's own, named in the settings (`rewards.terms`) and so paid wherever the settings are.

A term has a `name` and is called with each bar; what it returns is added to the rewards, times its weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mtquant_rllib.config.desk import RewardTermConfig
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.extensions import extension
from mtquant_rllib.portfolio.book import Book, row_sums

ENTRY_POINTS = "mtquant_rllib.reward_terms"
"""Group of the entry points by which an installed package offers terms by name."""
BUILT_IN = ("return", "drawdown", "edits", "var_excess")
"""Names of the desk's own terms."""


@dataclass(frozen=True)
class RewardBar:
    """What a bar has brought B environments; n instruments, D domains, K = 1 + D + n agents in the universe's order.

    streams
        Net returns as fractions of the whole equity, (B, K): the portfolio's, each domain's, each instrument's.
    allocation, appetite
        What the books were sized for, (B, D) and (B,).
    edited
        Absolute weight that risk took from each proposal, (B, n).
    var_forecast
        VaR that the rule used, fraction of equity, (B,); infinite without risk.
    book
        At the close of the bar.
    equity_before
        Before the bar, in account currency, (B,); 1 for an account in debt.
    domain_slices
        Of the instrument axis.
    """

    streams: np.ndarray
    allocation: np.ndarray
    appetite: np.ndarray
    edited: np.ndarray
    var_forecast: np.ndarray
    book: Book
    equity_before: np.ndarray
    domain_slices: Sequence[slice]

    @property
    def turnover(self) -> np.ndarray:
        """Notional traded in the bar as a fraction of the equity before it, (B, n)."""
        return self.book.traded_ccy / self.equity_before[:, None]

    def of_agents(self, of_instruments: np.ndarray) -> np.ndarray:
        """Sums for every agent, (B, n) -> (B, K): of all instruments, of each domain's, and each instrument's own."""
        return np.concatenate(
            (row_sums(of_instruments)[:, None], by_domain(of_instruments, self.domain_slices), of_instruments), axis=1
        )


def by_domain(of_instruments: np.ndarray, slices: Sequence[slice]) -> np.ndarray:
    """Sums over each domain's instruments, (B, n) -> (B, D)."""
    return np.stack([row_sums(of_instruments[:, part]) for part in slices], axis=1)


class RewardTerm(Protocol):
    """name: of its metric, `reward_terms/NAME`."""

    name: str

    def __call__(self, bar: RewardBar) -> np.ndarray:
        """(B, K), fractions of equity; what is positive is rewarded."""
        ...


@dataclass(frozen=True)
class WeighedTerm:
    term: RewardTerm
    weight: float


def own_terms(choices: Sequence[RewardTermConfig]) -> list[WeighedTerm]:
    """The terms that settings name, in their order.

    Raises
    ------
    ConfigError
        When one cannot be found or made, is no term, or has the name of another.
    """
    terms: list[WeighedTerm] = []
    for choice in choices:
        said, found = f"rewards.terms: {choice.term}", extension("rewards.terms", choice.term, ENTRY_POINTS)
        try:
            term = found(**choice.options)
        except TypeError as error:
            raise ConfigError(f"{said} cannot be made with options {choice.options}: {error}") from error
        if not callable(term) or not isinstance(getattr(term, "name", None), str):
            raise ConfigError(f"{said} is no term: expected a `name`, and that it can be called with a bar")
        if term.name in (*BUILT_IN, *(other.term.name for other in terms)):
            raise ConfigError(f"rewards.terms: another term is called {term.name!r}; give this one another `name`")
        terms.append(WeighedTerm(term, choice.weight))
    return terms


def paid(own: WeighedTerm, bar: RewardBar) -> np.ndarray:
    """What a term pays, (B, K), fractions of equity.

    Raises
    ------
    ConfigError
        When it returns another shape.
    """
    values = own.weight * np.asarray(own.term(bar), dtype=np.float64)
    if values.shape != bar.streams.shape:
        raise ConfigError(f"rewards.terms: {own.term.name} returns {values.shape}; expected {bar.streams.shape}")
    return values
