"""`FeatureTable`: the market features of each row, computed once (`building`) and shared read-only."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from mtquant_rllib.features.layout import MACRO

TABLE_FILE = "table.json"
"""What a table's folder says of itself: names of arrays, widths, size."""


@dataclass(frozen=True)
class Columns:
    """Where each part stands in a row of `FeatureTable.context` and of `FeatureTable.sizing`."""

    correlation: slice
    seen_correlation: slice
    macro: slice
    domains: tuple[slice, ...]
    covariance: slice
    vol_ann: slice
    sigma_day: slice
    atr: slice

    @classmethod
    @functools.cache
    def of(cls, n: int, domain_widths: tuple[int, ...], lagged: bool = False) -> Columns:
        """For n instruments and domains of those widths. lagged: agents see correlations later than the risk rules do,
        which have columns of their own then."""
        n_pairs = n * (n - 1) // 2
        seen, macro, *domains = _side_by_side((n_pairs, MACRO.width, *domain_widths, *[n_pairs] * lagged))
        now = domains.pop() if lagged else seen
        return cls(now, seen, macro, tuple(domains), *_side_by_side((n_pairs + n, n, n, n)))


def _side_by_side(widths: Sequence[int]) -> list[slice]:
    stops = [int(stop) for stop in np.cumsum(widths)]
    return [slice(stop - width, stop) for stop, width in zip(stops, widths)]


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of one or several histories on one time axis.

    Every array has a leading axis N = n_paths * n_rows_per_path; path p's rows are [p * T, (p + 1) * T). n instruments
    in universe order, D domains. A masked bar repeats the instrument's last values. No array holds a NaN; values before
    `warmup` are zeros or incomplete and not to be used.

    Attributes
    ----------
    block
        float32 (N, n, 50), see `layout.BLOCK`.
    context
        float32 (N, w): `seen_correlation` | `macro` | each `domain`, side by side, and `correlation` where agents see
        it later (`lagged`). What is read together lies together: a bar of a long history costs a cache miss for each
        array that it touches.
    sizing
        float64 (N, v): `covariance` | `vol_ann` | `sigma_day` | `atr`.
    domain_widths
        Of each domain that has features of its own.
    correlation_shift
        float32 (N,): |mean pairwise correlation of the short window - of the long one|.
    regime, regime_confidence
        int8 and float32 (N,): see `regimes.Regime`.
    proxy_return
        float32 (N,): equal-weight daily return from which the regime is read.
    warm_from
        First row of each path at which everything that an instrument needs is defined, for each of the n: later where
        it arrives in the middle of the history. Before it the instrument is not traded.
    lagged
        Whether columns of others are seen later than they are known (`features.lagging`).
    past_returns, past_days, past_scale
        Of a historical `risk.var_method`, else None: see `past_returns.past_returns`.
    """

    block: np.ndarray
    context: np.ndarray
    sizing: np.ndarray
    correlation_shift: np.ndarray
    regime: np.ndarray
    regime_confidence: np.ndarray
    proxy_return: np.ndarray
    domain_widths: tuple[int, ...]
    warm_from: tuple[int, ...]
    n_paths: int
    n_rows_per_path: int
    lagged: bool = False
    folder: Path | None = None
    past_returns: np.ndarray | None = None
    past_days: np.ndarray | None = None
    past_scale: np.ndarray | None = None

    def __len__(self) -> int:
        return self.n_paths * self.n_rows_per_path

    @property
    def warmup(self) -> int:
        """First row of each path at which an instrument can be traded."""
        return min(self.warm_from)

    @property
    def columns(self) -> Columns:
        """Where the parts of `context` and `sizing` stand."""
        return Columns.of(self.block.shape[1], self.domain_widths, self.lagged)

    @property
    def correlation(self) -> np.ndarray:
        """float32 (N, n(n-1)/2): correlation of bars over the long window, upper triangle row by row."""
        return self.context[:, self.columns.correlation]

    @property
    def seen_correlation(self) -> np.ndarray:
        """The same as agents see it: later, where columns of others are."""
        return self.context[:, self.columns.seen_correlation]

    @property
    def macro(self) -> np.ndarray:
        """float32 (N, 5), see `layout.MACRO`."""
        return self.context[:, self.columns.macro]

    @property
    def domain(self) -> tuple[np.ndarray, ...]:
        """An array for each domain that has features of its own, float32 (N, width of the domain)."""
        return tuple(self.context[:, part] for part in self.columns.domains)

    @property
    def covariance(self) -> np.ndarray:
        """float64 (N, n(n+1)/2): of daily simple returns, `np.triu_indices(n)` order."""
        return self.sizing[:, self.columns.covariance]

    @property
    def vol_ann(self) -> np.ndarray:
        """float64 (N, n): annualised volatility that sizes positions, floored."""
        return self.sizing[:, self.columns.vol_ann]

    @property
    def sigma_day(self) -> np.ndarray:
        """float64 (N, n): deviation of a day's return, EWMA of span 60, not floored."""
        return self.sizing[:, self.columns.sigma_day]

    @property
    def atr(self) -> np.ndarray:
        """float64 (N, n): Wilder's average true range of 14 own bars, in price."""
        return self.sizing[:, self.columns.atr]

    def __reduce__(self) -> Any:
        """A table on disk travels between processes as its folder's name, not as its contents."""
        if self.folder is not None:
            return open_table, (self.folder,)
        return FeatureTable, tuple(getattr(self, item.name) for item in fields(self))


def open_table(folder: Path) -> FeatureTable:
    """Memory-map a built table, read-only."""
    meta = json.loads((folder / TABLE_FILE).read_text())

    def array(name: str) -> np.ndarray:
        return np.load(folder / f"{name}.npy", mmap_mode="r")

    return FeatureTable(
        **{name: array(name) for name in meta["arrays"]},
        domain_widths=tuple(meta["domain_widths"]),
        warm_from=tuple(meta["warm_from"]),
        n_paths=meta["n_paths"],
        n_rows_per_path=meta["n_rows_per_path"],
        lagged=meta.get("lagged", False),
        folder=folder,
    )
