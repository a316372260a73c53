"""`Record`: the result of a rollout, and the only input of an evaluation.

Row t of a record is one bar: the decision taken at the close of the bar before filled in it, and the book was marked
at its close. So `proposed[:, t]` is what was asked for *in* bar t, `weights[:, t]` what was held *after* it, and the
change of equity from t-1 to t is the price profit of row t less its costs and financing.

Axes: B environments (one history each), T bars, n instruments in universe order, L breaker levels.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mtquant_rllib import strict_json
from mtquant_rllib.errors import RunError
from mtquant_rllib.market.calendar import trading_day


@dataclass(frozen=True)
class Record:
    """One book over T bars in B environments.

    Attributes
    ----------
    name
        Of the book: the desk, or a baseline.
    symbols, domains, domain_of
        Instrument names (n), domain names (D), and the domain index of each instrument (n).
    bars_per_year
        Annualises everything.
    timestamps
        datetime64[s] of shape (T,), or (B, T) where the environments begin at different bars.
    equity_start_ccy
        Shape (B,): equity before the first bar, account currency.
    equity_ccy
        Shape (B, T): equity at the close of each bar. Zero or below is bankruptcy, the debt being in it. NaN after an
        episode has ended.
    pnl_ccy, cost_ccy, financing_ccy
        Shape (B, T, n): price profit before costs; spread, commission, slippage and impact paid; financing paid
        (negative: received).
    weights
        Shape (B, T, n): signed notional over equity after the bar's close.
    proposed
        Shape (B, T, n): weights asked for in the bar, before risk.
    traded_frac
        Shape (B, T, n): absolute notional traded in the bar, as a fraction of equity; stops and forced closes included.
    rule_ids
        int8 of shape (B, T, n): the risk rule that bound, 0 where none did.
    rule_names
        Name of each rule id; an id without a name is shown as a number.
    var_forecast_frac
        Shape (B, T): one-day VaR of the book that entered bar t, forecast before it.
    breaker_trips
        int64 of shape (B, L): how often each level was tripped, level 1 first.
    facts
        What a reader needs to reproduce it, JSON values only: seed, split, market, run, commit, ...
    """

    name: str
    symbols: tuple[str, ...]
    domains: tuple[str, ...]
    domain_of: tuple[int, ...]
    bars_per_year: float
    timestamps: np.ndarray
    equity_start_ccy: np.ndarray
    equity_ccy: np.ndarray
    pnl_ccy: np.ndarray
    cost_ccy: np.ndarray
    financing_ccy: np.ndarray
    weights: np.ndarray
    proposed: np.ndarray
    traded_frac: np.ndarray
    rule_ids: np.ndarray
    rule_names: dict[int, str]
    var_forecast_frac: np.ndarray
    breaker_trips: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n_envs, n_bars = self.equity_ccy.shape
        n = len(self.symbols)
        assert len(self.domain_of) == n, self.domain_of
        assert self.timestamps.shape in ((n_bars,), (n_envs, n_bars)), self.timestamps.shape
        assert self.equity_start_ccy.shape == (n_envs,), self.equity_start_ccy.shape
        assert self.var_forecast_frac.shape == (n_envs, n_bars), self.var_forecast_frac.shape
        assert self.breaker_trips.shape[:-1] == (n_envs,), self.breaker_trips.shape
        for key in ("pnl_ccy", "cost_ccy", "financing_ccy", "weights", "proposed", "traded_frac", "rule_ids"):
            shape = getattr(self, key).shape
            assert shape == (n_envs, n_bars, n), (key, shape)

    @property
    def n_envs(self) -> int:
        return self.equity_ccy.shape[0]

    @property
    def n_bars(self) -> int:
        return self.equity_ccy.shape[1]

    @property
    def overlaps(self) -> bool:
        """Whether environments begin at different bars, as from random starts, and so may play the same ones."""
        return self.timestamps.ndim > 1

    @cached_property
    def equity_before_ccy(self) -> np.ndarray:
        """Equity at the close before each bar, shape (B, T)."""
        return np.concatenate([self.equity_start_ccy[:, None], self.equity_ccy[:, :-1]], axis=1)

    @cached_property
    def played(self) -> np.ndarray:
        """bool of shape (B, T): the bar was played from a positive equity."""
        return np.isfinite(self.equity_ccy) & (self.equity_before_ccy > 0)

    @cached_property
    def days(self) -> np.ndarray:
        """Trading day of each bar, int64 (B, T), days since 1970. Timestamps that are all midnights are dates of daily
        bars."""
        daily = bool((self.timestamps == self.timestamps.astype("datetime64[D]")).all())
        days = trading_day(self.timestamps.ravel(), daily).reshape(self.timestamps.shape)
        return np.broadcast_to(days, self.equity_ccy.shape)

    @cached_property
    def returns(self) -> np.ndarray:
        """Net simple returns (B, T); below -1 on a bar that ends in debt, NaN where not played."""
        return np.where(self.played, self.equity_ccy / self._divisor - 1, np.nan)

    @cached_property
    def contributions(self) -> np.ndarray:
        """Net return that each instrument added to the book's, shape (B, T, n); their sum is `returns`."""
        net = self.pnl_ccy - self.cost_ccy - self.financing_ccy
        return np.where(self.played[..., None], net / self._divisor[..., None], np.nan)

    @cached_property
    def gross_returns(self) -> np.ndarray:
        """Returns before costs and financing, shape (B, T)."""
        return np.where(self.played, self.pnl_ccy.sum(axis=-1) / self._divisor, np.nan)

    @cached_property
    def edited(self) -> np.ndarray:
        """bool of shape (B, T, n): a risk rule changed what was proposed."""
        return (self.rule_ids != 0) & self.played[..., None]

    @property
    def bankrupt(self) -> np.ndarray:
        """bool of shape (B,)."""
        return np.any(np.where(np.isfinite(self.equity_ccy), self.equity_ccy, np.inf) <= 0, axis=1)

    def edits_by_rule(self) -> dict[str, int]:
        """Risk edits over all environments, bars and instruments, by rule, the busiest first."""
        ids, counts = np.unique(self.rule_ids[self.edited], return_counts=True)
        named = {self.rule_names.get(int(i), f"rule {i}"): int(count) for i, count in zip(ids, counts, strict=True)}
        return dict(sorted(named.items(), key=lambda item: -item[1]))

    def conservation_error(self) -> float:
        """Largest |change of equity - (price profit - costs - financing)| of a bar, over the equity before it."""
        error = np.abs(self.returns - self.contributions.sum(axis=-1))
        return float(np.nanmax(error)) if np.isfinite(error).any() else 0.0

    def on_dates(self, dates: Iterable[Any]) -> np.ndarray:
        """bool of shape (B, T): the bar belongs to the trading day of one of `dates`."""
        wanted = np.array([np.datetime64(date, "D") for date in dates], dtype="datetime64[D]")
        return np.isin(self.days, wanted.astype(np.int64))

    def renamed(self, name: str) -> Record:
        return replace(self, name=name)

    def save(self, path: Path) -> Path:
        """Write one compressed `.npz`, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {key: getattr(self, key) for key in _ARRAYS}
        rest = {key: getattr(self, key) for key in _METADATA}
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".npz.part")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez_compressed(file, rest=np.array(strict_json.dumps(rest)), **arrays)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return path

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read what `save` wrote; nothing in the file is executed.

        Raises
        ------
        RunError
            If the file is missing, damaged or not a record.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                rest = json.loads(str(stored["rest"]))
                arrays = {key: stored[key] for key in _ARRAYS}
        except FileNotFoundError:
            raise RunError(f"{path}: no such record; an evaluation writes it") from None
        except (KeyError, ValueError, OSError) as error:
            raise RunError(f"{path}: not a readable record of a rollout: {error}") from error
        for key in ("symbols", "domains", "domain_of"):
            rest[key] = tuple(rest[key])
        rest["rule_names"] = {int(i): name for i, name in rest["rule_names"].items()}
        return cls(**rest, **arrays)

    @cached_property
    def _divisor(self) -> np.ndarray:
        """Equity before the bar, 1 where not played (the quotient is not used there)."""
        return np.where(self.played, self.equity_before_ccy, 1.0)


_METADATA = ("name", "symbols", "domains", "domain_of", "bars_per_year", "rule_names", "facts")
_ARRAYS = tuple(item.name for item in fields(Record) if item.name not in _METADATA)
