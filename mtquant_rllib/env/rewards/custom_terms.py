"""Custom reward terms, named in the settings (`rewards.terms`).

A term has a `name` and is called with each bar; its values times its weight are added to the rewards.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.extensions import extension
from mtquant_rllib.short_rows import row_sums
from mtquant_rllib.universe import Universe

ENTRY_POINTS = "mtquant_rllib.reward_terms"
"""Group of the entry points by which installed packages register terms."""
BUILT_IN = ("return", "drawdown", "edits", "var_excess")
"""Names of the desk's own terms."""
NAME = re.compile(r"\w+")
"""Allowed names of a term, which become columns of the curves."""


@dataclass(frozen=True)
class RewardBar:
    """One bar of B environments; n instruments, D domains, K = 1 + D + n agents in the universe's order.

    streams
        Net returns as fractions of the whole equity, (B, K): the portfolio's, each domain's, each instrument's.
    allocation, appetite
        Those that the books were sized by, (B, D) and (B,).
    edited
        Absolute change of each proposed weight by risk, (B, n).
    var_forecast
        One-day VaR of the risk rule, fraction of equity, (B,); infinite without risk.
    opens_day
        The bar is the first of its trading day, bool (B,); every daily bar is.
    traded_ccy, cost_ccy, financing_ccy
        Of the bar, in account currency, (B, n); costs and financing are positive when paid.
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
    opens_day: np.ndarray
    traded_ccy: np.ndarray
    cost_ccy: np.ndarray
    financing_ccy: np.ndarray
    equity_before: np.ndarray
    domain_slices: Sequence[slice]

    @property
    def turnover(self) -> np.ndarray:
        """Notional traded in the bar as a fraction of the equity before it, (B, n)."""
        return self.traded_ccy / self.equity_before[:, None]

    def of_agents(self, of_instruments: np.ndarray) -> np.ndarray:
        """Sums for every agent, (B, n) -> (B, K): of all instruments, of each domain's, and each instrument's own."""
        return np.concatenate(
            (row_sums(of_instruments)[:, None], by_domain(of_instruments, self.domain_slices), of_instruments), axis=1
        )

    def read_only_copy(self) -> RewardBar:
        """A copy with read-only arrays, for custom terms."""
        own: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                own[field.name] = value.copy()
                own[field.name].flags.writeable = False
        return replace(self, **own)


def by_domain(of_instruments: np.ndarray, slices: Sequence[slice]) -> np.ndarray:
    """Sums over each domain's instruments, (B, n) -> (B, D)."""
    return np.stack([row_sums(of_instruments[:, part]) for part in slices], axis=1)


class RewardTerm(Protocol):
    """A custom reward term. name: of its metric, `reward_terms/NAME`."""

    name: str

    def __call__(self, bar: RewardBar) -> np.ndarray:
        """The term's values, (B, K), fractions of equity; positive is good."""
        ...


@dataclass(frozen=True)
class WeightedTerm:
    term: RewardTerm
    weight: float


def custom_terms(settings: Settings) -> list[WeightedTerm]:
    """The terms named in the settings, in order, each tried on an empty bar.

    Raises
    ------
    ConfigError
        When one cannot be found or constructed, is no term, has the name of another, or fails on the empty bar.
    """
    terms: list[WeightedTerm] = []
    for choice in settings.rewards.terms:
        where, factory = f"rewards.terms: {choice.term}", extension("rewards.terms", choice.term, ENTRY_POINTS)
        try:
            term = factory(**choice.options)
        except Exception as error:
            raise ConfigError(f"{where} cannot be made with options {choice.options}: {error}") from error
        name = getattr(term, "name", None)
        if not callable(term) or not isinstance(name, str) or not NAME.fullmatch(name):
            raise ConfigError(
                f"{where} is no term: expected a `name` of letters, digits and _, and that it can be called with a bar"
            )
        if name in (*BUILT_IN, *(other.term.name for other in terms)):
            raise ConfigError(f"rewards.terms: another term is called {name!r}; give this one another `name`")
        terms.append(WeightedTerm(term, choice.weight))
        term_values(terms[-1], _empty_bar(settings.universe))
    return terms


def _empty_bar(universe: Universe) -> RewardBar:
    """A bar of two environments without returns or trades."""
    n, d, b = universe.n_instruments, universe.n_domains, 2
    nothing = np.zeros((b, n))
    return RewardBar(
        streams=np.zeros((b, 1 + d + n)),
        allocation=np.zeros((b, d)),
        appetite=np.zeros(b),
        edited=nothing,
        var_forecast=np.full(b, np.inf),
        opens_day=np.ones(b, dtype=bool),
        traded_ccy=nothing,
        cost_ccy=nothing,
        financing_ccy=nothing,
        equity_before=np.ones(b),
        domain_slices=universe.domain_slices,
    ).read_only_copy()


def term_values(own: WeightedTerm, bar: RewardBar) -> np.ndarray:
    """A term's values times its weight, (B, K), fractions of equity.

    Raises
    ------
    ConfigError
        When it fails, or returns another shape or a number that is not finite.
    """
    where = f"rewards.terms: {own.term.name}"
    try:
        values = own.weight * np.asarray(own.term(bar), dtype=np.float64)
    except Exception as error:
        raise ConfigError(f"{where} fails: {type(error).__name__}: {error}") from error
    if values.shape != bar.streams.shape:
        raise ConfigError(f"{where} returns an array of shape {values.shape}; expected {bar.streams.shape}")
    if not np.isfinite(values).all():
        raise ConfigError(f"{where} returns a number that is not finite")
    return values
