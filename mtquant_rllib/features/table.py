"""`FeatureTable`: everything the desk knows of the market at each row, computed once and shared read-only.

Building goes through the histories a few at a time and appends to plain `.npy` files, so that memory stays bounded; the
finished folder, named after a hash of all that went into it, is renamed into place in one step and memory-mapped by
whoever needs it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError, MarketDataError
from mtquant_rllib.features import moments
from mtquant_rllib.features.block import feature as block_registry
from mtquant_rllib.features.block import market_block
from mtquant_rllib.features.chart import OwnCharts, spread_rows
from mtquant_rllib.features.domains import DOMAIN_FEATURES, DomainView, domain_features
from mtquant_rllib.features.layout import BLOCK, DOMAIN_COLUMNS, MACRO, domain_layout, pairs
from mtquant_rllib.features.macro import MacroSeries, macro_block, macro_feature
from mtquant_rllib.features.regimes import Regime
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.market.calendar import trading_day

# Cells (rows x paths) of one instrument handled at a time: its arrays then stay within a processor's cache.
_CHUNK_CELLS = 16_384
_META = "table.json"
# Deviations and prices before there is any history: harmless divisors.
_BEFORE_HISTORY = {"vol_ann": 1.0, "regime": float(Regime.SIDEWAYS)}


@dataclass(frozen=True)
class Columns:
    """Where each part stands in a row of `FeatureTable.context` and of `FeatureTable.sizing`."""

    correlation: slice
    macro: slice
    domains: tuple[slice, ...]
    covariance: slice
    vol_ann: slice
    sigma_day: slice
    atr: slice

    @classmethod
    @functools.cache
    def of(cls, n: int, domain_widths: tuple[int, ...]) -> Columns:
        """For n instruments and domains of those widths."""
        n_pairs = n * (n - 1) // 2
        correlation, macro, *domains = _side_by_side((n_pairs, MACRO.width, *domain_widths))
        return cls(correlation, macro, tuple(domains), *_side_by_side((n_pairs + n, n, n, n)))


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
        float32 (N, w): `correlation` | `macro` | each `domain`, side by side. What is read together lies together: a
        bar of a long history costs a cache miss for each array that it touches.
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
    warmup
        First row of each path at which everything is defined.
    """

    block: np.ndarray
    context: np.ndarray
    sizing: np.ndarray
    correlation_shift: np.ndarray
    regime: np.ndarray
    regime_confidence: np.ndarray
    proxy_return: np.ndarray
    domain_widths: tuple[int, ...]
    warmup: int
    n_paths: int
    n_rows_per_path: int
    folder: Path | None = None

    def __len__(self) -> int:
        return self.n_paths * self.n_rows_per_path

    @property
    def columns(self) -> Columns:
        """Where the parts of `context` and `sizing` stand."""
        return Columns.of(self.block.shape[1], self.domain_widths)

    @property
    def correlation(self) -> np.ndarray:
        """float32 (N, n(n-1)/2): correlation of bars over the long window, upper triangle row by row."""
        return self.context[:, self.columns.correlation]

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
    meta = json.loads((folder / _META).read_text())

    def array(name: str) -> np.ndarray:
        return np.load(folder / f"{name}.npy", mmap_mode="r")

    return FeatureTable(
        **{name: array(name) for name in meta["arrays"]},
        domain_widths=tuple(meta["domain_widths"]),
        warmup=meta["warmup"],
        n_paths=meta["n_paths"],
        n_rows_per_path=meta["n_rows_per_path"],
        folder=folder,
    )


def build_features(settings: Settings, markets: Sequence[MarketData], cache: Path | None) -> FeatureTable:
    """Features of all histories, from the cache where the same was built before.

    Parameters
    ----------
    markets
        Histories with one time axis, the universe's symbols and the same macro columns.
    cache
        Folder of built tables; None keeps the table in memory.

    Raises
    ------
    MarketDataError
        When the histories do not fit together, or are too short for every feature to be defined once.
    ConfigError
        When a width in the agents' table differs from the layout, or a role names an instrument that is not traded.
    """
    _check(settings, markets)
    if cache is None:
        memory = _MemorySink(len(markets), len(markets[0]))
        warmup = _build(settings, markets, memory)
        arrays: dict[str, Any] = memory.arrays
        return FeatureTable(
            **arrays,
            domain_widths=_domain_widths(settings),
            warmup=warmup,
            n_paths=len(markets),
            n_rows_per_path=len(markets[0]),
        )
    folder = cache / content_hash(settings, markets)
    if not (folder / _META).is_file():
        cache.mkdir(parents=True, exist_ok=True)
        scratch = cache / f".{folder.name}.{uuid.uuid4().hex}"
        scratch.mkdir()
        try:
            with _FileSink(scratch, len(markets), len(markets[0])) as sink:
                warmup = _build(settings, markets, sink)
                meta = {
                    "arrays": sink.names,
                    "domain_widths": _domain_widths(settings),
                    "warmup": warmup,
                    "n_paths": len(markets),
                    "n_rows_per_path": len(markets[0]),
                }
            (scratch / _META).write_text(json.dumps(meta, indent=1))
            try:
                scratch.rename(folder)
            except OSError:
                # Another process was faster. Its table is the same, by the hash.
                if not (folder / _META).is_file():
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return open_table(folder)


# Checks and identity


def _check(settings: Settings, markets: Sequence[MarketData]) -> None:
    universe = settings.universe
    if not markets:
        raise MarketDataError("features: no history was given")
    first = markets[0]
    for market in markets:
        if market.symbols != universe.symbols:
            raise MarketDataError(
                f"features: the market holds {', '.join(market.symbols)}; the universe is {', '.join(universe.symbols)}"
            )
        if len(market) != len(first) or not np.array_equal(market.stamps, first.stamps) or market.daily != first.daily:
            raise MarketDataError("features: histories of one table must share their time axis")
        if market.macro_columns != first.macro_columns:
            raise MarketDataError("features: histories of one table must have the same macro columns")
    featured = [domain for domain in universe.domains if domain.features_dim]
    for domain in featured:
        domain_layout(domain)
    for role, symbol in settings.features.roles:
        # Only domain features read the other roles.
        if symbol not in universe.symbols and (featured or role == "index"):
            raise ConfigError(f"features.roles.{role} = {symbol}: expected one of {', '.join(universe.symbols)}")


@functools.cache
def _code_version() -> str:
    """Hash of the sources that decide what a feature is."""
    digest = hashlib.blake2b(digest_size=16)
    package = Path(__file__).resolve().parent
    for source in [*sorted(package.glob("*.py")), package.parent / "market" / "rates.py"]:
        digest.update(source.name.encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()


def content_hash(settings: Settings, markets: Sequence[MarketData]) -> str:
    """Name of a table: equal when bars, macro, flags, settings and the code of the features are equal."""
    digest = hashlib.blake2b(digest_size=16)
    decisive = {
        "code": _code_version(),
        "features": settings.features.model_dump(mode="json"),
        "specialists": {name: row.model_dump(mode="json") for name, row in settings.specialists.items()},
        "currencies": {symbol: (row.base, row.quote) for symbol, row in settings.symbols.items()},
        "account": settings.desk.account.currency,
        "short_rate_columns": settings.desk.cost.short_rate_columns,
        "correlation_window": settings.portfolio_risk.correlation_window,
        "policy_rates": settings.policy_rates,
    }
    digest.update(json.dumps(decisive, sort_keys=True, default=list).encode())
    for market in markets:
        digest.update(json.dumps([market.symbols, market.macro_columns, market.daily, len(market)]).encode())
        for array in (market.stamps, market.bars, market.valid, market.macro, market.volume_proxy):
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


# Building


def _build(settings: Settings, markets: Sequence[MarketData], sink: _MemorySink | _FileSink) -> int:
    """Append every array of every history to the sink, in order; the first row at which all are defined."""
    n_rows = len(markets[0])
    step = max(_CHUNK_CELLS // n_rows, 1)
    warmup = 0
    for start in range(0, len(markets), step):
        arrays, defined = _chunk(settings, markets[start : start + step])
        for what, complete in defined.items():
            first = np.argmax(complete, axis=0)
            if not complete[-1].all():
                path = start + int(np.argmin(complete[-1]))
                raise MarketDataError(
                    f"features: {n_rows} rows are too few: {what} is not defined on any row"
                    + (f" of path {path}" if len(markets) > 1 else "")
                )
            warmup = max(warmup, int(first.max()))
        for name, array in arrays.items():
            sink.append(name, np.ascontiguousarray(np.swapaxes(array, 0, 1)))
    return warmup


def _chunk(settings: Settings, markets: Sequence[MarketData]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(arrays (T, P, ...) by name, bool (T, P) "is defined from here on" by what it is) of a few histories."""
    universe, config, first = settings.universe, settings.features, markets[0]
    stamps, n_rows, n_paths = first.stamps, len(first), len(markets)
    valid = np.stack([market.valid for market in markets], axis=1)
    bars = np.stack([market.bars for market in markets], axis=1)
    proxies = np.stack([market.volume_proxy for market in markets])
    days_of_rows = trading_day(stamps, first.daily)
    charts = {
        symbol: OwnCharts(stamps, days_of_rows, bars[:, :, i], valid[:, :, i], proxies[:, i], config)
        for i, symbol in enumerate(universe.symbols)
    }
    defined: dict[str, np.ndarray] = {}
    arrays: dict[str, np.ndarray] = {}

    block = np.zeros((n_rows, n_paths, universe.n_instruments, BLOCK.width), dtype=np.float32)
    for i, symbol in enumerate(universe.symbols):
        complete = np.zeros((n_rows, n_paths), dtype=bool)
        for paths, rows, chart in charts[symbol].groups:
            values, ready = market_block(chart)
            block[:, paths, i] = np.nan_to_num(spread_rows(values, rows, n_rows))
            complete[:, paths] = spread_rows(ready.astype(np.float32), rows, n_rows) == 1
        defined[f"the block of {symbol}"] = complete
    arrays["block"] = block

    macro = MacroSeries(
        settings, stamps, first.macro_columns, np.stack([market.macro for market in markets], axis=1), charts
    )
    macro_columns, defined["macro"] = macro_block(macro)
    domain_columns = []
    for domain in universe.domains:
        if not domain.features_dim:
            continue
        view = DomainView(settings, domain, charts, valid, macro)
        columns, defined[f"the features of {domain.name}"] = domain_features(view)
        domain_columns.append(columns)

    def of_each(compute) -> np.ndarray:
        return np.stack([charts[symbol].spread(compute) for symbol in universe.symbols], axis=-1)

    days = moments.Days.of(stamps, first.daily)
    cum = of_each(lambda chart: chart.cum)
    raw: dict[str, np.ndarray] = {
        "vol_ann": of_each(lambda chart: chart.vol_ann),
        "sigma_day": of_each(lambda chart: chart.s * np.sqrt(chart.bars_per_day)),
        "atr": of_each(lambda chart: chart.atr),
        "covariance": moments.daily_covariance(settings, days, cum, valid),
    }
    raw["correlation"], raw["correlation_shift"] = moments.bar_correlation(settings, cum, valid)
    raw["regime"], raw["regime_confidence"], raw["proxy_return"] = moments.regimes(settings, days, cum, valid)
    for name, array in raw.items():
        known = ~np.isnan(array)
        defined[name] = np.logical_or.accumulate(known.reshape(n_rows, n_paths, -1).all(axis=-1), axis=0)
        raw[name] = np.where(known, array, _BEFORE_HISTORY.get(name, 0.0))
    context = [raw.pop("correlation"), macro_columns, *domain_columns]
    arrays["context"] = np.concatenate(context, axis=-1, dtype=np.float32)
    arrays["sizing"] = np.concatenate(
        [raw.pop(name) for name in ("covariance", "vol_ann", "sigma_day", "atr")], axis=-1
    )
    arrays["regime"] = raw.pop("regime").astype(np.int8)
    return arrays | {name: array.astype(np.float32) for name, array in raw.items()}, defined


def _domain_widths(settings: Settings) -> tuple[int, ...]:
    return tuple(domain.features_dim for domain in settings.universe.domains if domain.features_dim)


class _MemorySink:
    """Takes arrays (paths, T, ...) and keeps them stacked, (N, ...)."""

    def __init__(self, n_paths: int, n_rows: int) -> None:
        self._n = n_paths * n_rows
        self._filled: dict[str, int] = {}
        self.arrays: dict[str, np.ndarray] = {}

    def append(self, name: str, part: np.ndarray) -> None:
        part = part.reshape(-1, *part.shape[2:])
        if name not in self.arrays:
            self.arrays[name] = np.empty((self._n, *part.shape[1:]), dtype=part.dtype)
            self._filled[name] = 0
        start = self._filled[name]
        self.arrays[name][start : start + len(part)] = part
        self._filled[name] = start + len(part)


class _FileSink:
    """Takes arrays (paths, T, ...) and appends them to `.npy` files of their final shape (N, ...)."""

    def __init__(self, folder: Path, n_paths: int, n_rows: int) -> None:
        self._folder = folder
        self._n = n_paths * n_rows
        self._files: dict[str, Any] = {}

    @property
    def names(self) -> list[str]:
        return list(self._files)

    def __enter__(self) -> _FileSink:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def append(self, name: str, part: np.ndarray) -> None:
        part = part.reshape(-1, *part.shape[2:])
        if name not in self._files:
            self._files[name] = (self._folder / f"{name}.npy").open("wb")
            header = {
                "descr": np.lib.format.dtype_to_descr(part.dtype),
                "fortran_order": False,
                "shape": (self._n, *part.shape[1:]),
            }
            np.lib.format.write_array_header_1_0(self._files[name], header)
        self._files[name].write(part.data)


# For people


def list_features(settings: Settings) -> list[tuple[str, str, str]]:
    """Every market feature of the desk as (group, name, formula), in the order of the observations."""
    lines = [(group, name, block_registry[name].formula) for group, names in BLOCK.groups for name in names]
    for domain in settings.universe.domains:
        registry = DOMAIN_FEATURES[domain.name]
        lines += [(domain.name, name, registry[name].formula) for name in DOMAIN_COLUMNS[domain.name]]
    lines += [("macro", name, macro_feature[name].formula) for name in MACRO.names]
    window = settings.portfolio_risk.correlation_window
    lines += [
        ("correlation", f"corr_{a}_{b}", f"correlation of bar returns over {window} common bars")
        for a, b in pairs(settings.universe.symbols)
    ]
    return lines
