"""Builds a `FeatureTable` from histories of bars.

Building goes through the histories a few at a time and appends to plain `.npy` files, so that memory stays bounded; the
finished folder, named after a hash of all that went into it, is renamed into place in one step and memory-mapped by
whoever needs it.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtquant_rllib import strict_json
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError, MarketDataError
from mtquant_rllib.features import moments
from mtquant_rllib.features.block import market_block
from mtquant_rllib.features.cohorts import ListingCohorts
from mtquant_rllib.features.domains import DomainView, domain_features
from mtquant_rllib.features.lagging import delayed, of_others
from mtquant_rllib.features.layout import block_layout, domain_layout
from mtquant_rllib.features.macro import AlignedMacro, macro_block
from mtquant_rllib.features.own_bars import InstrumentBars, spread_rows
from mtquant_rllib.features.own_features import own_code
from mtquant_rllib.features.past_returns import past_returns
from mtquant_rllib.features.reference import book_code, reference_columns
from mtquant_rllib.features.regimes import Regime
from mtquant_rllib.features.table import TABLE_FILE, Columns, FeatureTable, open_table
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.market.calendar import trading_day
from mtquant_rllib.universe import Domain

# Cells (rows x paths) of one instrument handled at a time: its arrays then stay within a processor's cache.
_CHUNK_CELLS = 16_384
_UNTRADED_VOLATILITY = 1e6
# Deviations and prices before there is any history: harmless divisors.
_BEFORE_HISTORY = {"vol_ann": 1.0, "regime": float(Regime.SIDEWAYS)}


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
        When a macro series is missing and so is what would stand in for it.
    """
    _check(settings, markets)
    if cache is None:
        memory = _MemorySink(len(markets), len(markets[0]))
        warm_from = _build(settings, markets, memory)
        arrays: dict[str, Any] = memory.arrays
        return FeatureTable(
            **arrays,
            domain_widths=domain_widths(settings),
            warm_from=warm_from,
            n_paths=len(markets),
            n_rows_per_path=len(markets[0]),
            lagged=settings.features.others_lag_bars > 0,
        )
    folder = cache / content_hash(settings, markets)
    if not (folder / TABLE_FILE).is_file():
        cache.mkdir(parents=True, exist_ok=True)
        scratch = cache / f".{folder.name}.{uuid.uuid4().hex}"
        scratch.mkdir()
        try:
            with _FileSink(scratch, len(markets), len(markets[0])) as sink:
                warm_from = _build(settings, markets, sink)
                meta = {
                    "arrays": sink.names,
                    "domain_widths": domain_widths(settings),
                    "warm_from": warm_from,
                    "n_paths": len(markets),
                    "n_rows_per_path": len(markets[0]),
                    "lagged": settings.features.others_lag_bars > 0,
                }
            (scratch / TABLE_FILE).write_text(strict_json.dumps(meta, indent=1))
            try:
                scratch.rename(folder)
            except OSError:
                # Another process was faster. Its table is the same, by the hash.
                if not (folder / TABLE_FILE).is_file():
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
        if (
            len(market) != len(first)
            or not np.array_equal(market.timestamps, first.timestamps)
            or market.daily != first.daily
        ):
            raise MarketDataError("features: histories of one table must share their time axis")
        if market.macro_columns != first.macro_columns:
            raise MarketDataError("features: histories of one table must have the same macro columns")
        if absent := [symbol for i, symbol in enumerate(market.symbols) if not market.valid[:, i].any()]:
            raise MarketDataError(
                f"features: no bar of {', '.join(absent)}; every instrument of the universe needs bars to be traded, "
                "those of market.allow_missing too: leave it out by market.instruments"
            )
    macro, index, series = settings.features.macro, settings.features.roles.index, _series(markets)
    if macro.vix not in series and index not in universe.symbols:
        raise ConfigError(
            f"no macro series {macro.vix!r}, and features.roles.index = {index}, whose volatility would stand in for "
            f"it, is not traded: add the series, or name one of {', '.join(universe.symbols)} as the index"
        )
    if macro.dxy not in series and not set(macro.dxy_proxy_weights) & set(universe.symbols):
        raise ConfigError(
            f"no macro series {macro.dxy!r}, and none of features.macro.dxy_proxy_weights, whose basket would stand in "
            "for it, is traded: add the series, or name a pair of the dollar that is traded"
        )


def _series(markets: Sequence[MarketData]) -> set[str]:
    """Macro series with a value in some history."""
    return {
        name
        for market in markets
        for name, values in zip(market.macro_columns, market.macro.T)
        if not np.isnan(values).all()
    }


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
        "own_code": own_code(settings.features),
        "features": settings.features.model_dump(mode="json"),
        "reference": settings.reference.arrays,
        "book_code": book_code(settings.reference),
        "logit_scale": settings.desk.decision.logit_scale,
        "specialists": {name: row.model_dump(mode="json") for name, row in settings.specialists.items()},
        "currencies": {symbol: (row.base, row.quote) for symbol, row in settings.symbols.items()},
        "account": settings.desk.account.currency,
        "short_rate_columns": settings.desk.cost.short_rate_columns,
        "correlation_window": settings.portfolio_risk.correlation_window,
        "policy_rates": settings.policy_rates,
        "past_returns": settings.risk.past_returns,
    }
    digest.update(strict_json.dumps(decisive, sort_keys=True, default=list).encode())
    for market in markets:
        digest.update(strict_json.dumps([market.symbols, market.macro_columns, market.daily, len(market)]).encode())
        for array in (market.timestamps, market.bars, market.valid, market.macro, market.volume_proxy):
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


# Building


def _build(settings: Settings, markets: Sequence[MarketData], sink: _MemorySink | _FileSink) -> tuple[int, ...]:
    """Append every array of every history to the sink, in order; the first row at which everything that each instrument
    needs is defined, (n,)."""
    n_rows = len(markets[0])
    step = max(_CHUNK_CELLS // n_rows, 1)
    warm_from = np.zeros(settings.universe.n_instruments, dtype=np.int64)
    for start in range(0, len(markets), step):
        arrays, cohorts, defined = _chunk(settings, markets[start : start + step])
        warm = np.zeros(len(cohorts.members), dtype=np.int64)
        for (what, cohort), complete in defined.items():
            if not complete[-1].all():
                path = start + int(np.argmin(complete[-1]))
                raise MarketDataError(
                    f"features: {n_rows} rows are too few: {what} is not defined on any row"
                    + (f" of path {path}" if len(markets) > 1 else "")
                )
            warm[cohort] = max(warm[cohort], int(np.argmax(complete, axis=0).max()))
        own_warm = np.maximum.accumulate(warm)[cohorts.of]
        _hold_nothing_before(own_warm, cohorts, arrays["sizing"][..., Columns.of(len(own_warm), ()).vol_ann])
        warm_from = np.maximum(warm_from, own_warm)
        for name, array in arrays.items():
            sink.append(name, np.ascontiguousarray(np.swapaxes(array, 0, 1)))
    return tuple(int(row) for row in warm_from)


def _hold_nothing_before(warm_from: np.ndarray, cohorts: ListingCohorts, vol_ann: np.ndarray) -> None:
    """Give instruments that arrive later a volatility (T, P, n) of which nobody holds anything until they are warm."""
    for instrument in np.flatnonzero(cohorts.of > 0):
        vol_ann[: warm_from[instrument], :, instrument] = _UNTRADED_VOLATILITY


Defined = dict[tuple[str, int], np.ndarray]
"""bool (T, P), "is defined from here on", by what it is and the cohort that waits for it."""


def _chunk(settings: Settings, markets: Sequence[MarketData]) -> tuple[dict[str, np.ndarray], ListingCohorts, Defined]:
    """Arrays (T, P, ...) by name of a few histories, when their instruments arrive, and what is defined when."""
    universe, config, first = settings.universe, settings.features, markets[0]
    timestamps, n_rows, n_paths = first.timestamps, len(first), len(markets)
    valid = np.stack([market.valid for market in markets], axis=1)
    bars = np.stack([market.bars for market in markets], axis=1)
    proxies = np.stack([market.volume_proxy for market in markets])
    days_of_rows = trading_day(timestamps, first.daily)
    by_symbol = {
        symbol: InstrumentBars(timestamps, days_of_rows, bars[:, :, i], valid[:, :, i], proxies[:, i], config)
        for i, symbol in enumerate(universe.symbols)
    }
    cohorts = ListingCohorts.find(valid)
    defined: Defined = {}
    arrays: dict[str, np.ndarray] = {}

    block = np.zeros((n_rows, n_paths, universe.n_instruments, block_layout(settings).width), dtype=np.float32)
    for i, symbol in enumerate(universe.symbols):
        complete = np.zeros((n_rows, n_paths), dtype=bool)
        for paths, rows, own_bars in by_symbol[symbol].groups:
            values, ready = market_block(own_bars)
            if settings.reference.exists:
                held = np.where(ready[..., None], reference_columns(settings, symbol, own_bars), 0.0)
                values = np.concatenate((values, held), axis=-1, dtype=np.float32)
            block[:, paths, i] = np.nan_to_num(spread_rows(values, rows, n_rows))
            complete[:, paths] = spread_rows(ready.astype(np.float32), rows, n_rows) == 1
        defined[f"the block of {symbol}", cohorts.of[i]] = complete
    arrays["block"] = block

    macro = AlignedMacro(
        settings, timestamps, first.macro_columns, np.stack([market.macro for market in markets], axis=1), by_symbol
    )
    lag = config.others_lag_bars
    macro_columns, defined["macro", 0] = (delayed(part, lag) for part in macro_block(macro))
    domain_columns = []
    for domain in _seen_domains(settings):
        view = DomainView(settings, domain, by_symbol, valid, macro)
        columns, known = domain_features(view, cohorts)
        late = of_others(domain, settings, set(macro.columns))
        domain_columns.append(np.where(late, delayed(columns, lag), columns))
        defined[f"the features of {domain.name}", 0] = delayed(known, lag)

    def of_each(compute) -> np.ndarray:
        return np.stack([by_symbol[symbol].spread(compute) for symbol in universe.symbols], axis=-1)

    days = moments.Days.of(timestamps, first.daily)
    cum = of_each(lambda own_bars: own_bars.cum)
    raw: dict[str, np.ndarray] = {
        "vol_ann": of_each(lambda own_bars: own_bars.vol_ann),
        "sigma_day": of_each(lambda own_bars: own_bars.s * np.sqrt(own_bars.bars_per_day)),
        "atr": of_each(lambda own_bars: own_bars.atr),
    }
    for name, array in raw.items():
        for cohort in range(len(cohorts.members)):
            own = ~np.isnan(array[..., cohorts.of == cohort])
            defined[name, cohort] = np.logical_or.accumulate(own.all(axis=-1), axis=0)
    for name, (array, known) in _moments(settings, cohorts, days, cum, valid).items():
        raw[name] = array
        known = delayed(known, lag) if name == "correlation" else known
        for cohort in range(len(cohorts.members)):
            defined[name, cohort] = known[..., cohort]
    correlation = raw.pop("correlation")
    raw["correlation"], raw["correlation_shift"] = correlation[..., :-1], correlation[..., -1]
    raw["regime"], raw["regime_confidence"], raw["proxy_return"] = np.moveaxis(raw["regime"], -1, 0)
    for name, array in raw.items():
        raw[name] = np.where(np.isnan(array), _BEFORE_HISTORY.get(name, 0.0), array)
    correlation = raw.pop("correlation")
    context = [delayed(correlation, lag), macro_columns, *domain_columns, *[correlation] * (lag > 0)]
    arrays["context"] = np.concatenate(context, axis=-1, dtype=np.float32)
    arrays["sizing"] = np.concatenate(
        [raw.pop(name) for name in ("covariance", "vol_ann", "sigma_day", "atr")], axis=-1
    )
    arrays["regime"] = raw.pop("regime").astype(np.int8)
    if settings.risk.past_returns is not None:
        past, ready = past_returns(settings, days, cum, valid)
        arrays |= past
        for cohort in range(len(cohorts.members)):
            defined["past returns", cohort] = np.asarray(ready[..., cohorts.of == cohort].all(axis=-1))
    return arrays | {name: array.astype(np.float32) for name, array in raw.items()}, cohorts, defined


def _moments(
    settings: Settings, cohorts: ListingCohorts, days: moments.Days, cum: np.ndarray, valid: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What is computed over all instruments, and from which rows it is known of those of each cohort: covariance;
    correlation and its shift side by side; regime, confidence and proxy return side by side."""
    n = valid.shape[-1]

    def covariance(members: np.ndarray) -> np.ndarray:
        own = moments.daily_covariance(settings, days, cum[..., members], valid[..., members])
        return moments.spread_pairs(own, members, n, diagonal=True)

    def correlation(members: np.ndarray) -> np.ndarray:
        own, shift = moments.bar_correlation(settings, cum[..., members], valid[..., members])
        return np.concatenate((moments.spread_pairs(own, members, n, diagonal=False), shift[..., None]), axis=-1)

    def regime(members: np.ndarray) -> np.ndarray:
        return np.stack(moments.regimes(settings, days, cum[..., members], valid[..., members]), axis=-1)

    computed = {"covariance": covariance, "correlation": correlation, "regime": regime}
    return {name: cohorts.filled(compute) for name, compute in computed.items()}


def domain_widths(settings: Settings) -> tuple[int, ...]:
    """Columns of each domain's features, of those whose specialist sees them."""
    return tuple(domain_layout(domain, settings).width for domain in _seen_domains(settings))


def _seen_domains(settings: Settings) -> tuple[Domain, ...]:
    """Domains whose specialist sees their features: an allocator has none."""
    return () if settings.universe.allocates else settings.universe.domains


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
