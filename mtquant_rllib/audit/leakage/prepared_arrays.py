"""What a market is prepared into, number by number: features, regimes, covariances, and the prices that fill orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mtquant_rllib.audit.leakage.named_arrays import NamedArray, named
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.features.layout import MACRO, block_layout, domain_layout, pairs
from mtquant_rllib.features.table import FeatureTable
from mtquant_rllib.portfolio.execution_data import CHANNEL_NAMES

FLAG_NAMES = ("has a bar", "may be opened", "fills at the close")


def prepared_arrays(settings: Settings, data: DeskData) -> Mapping[str, tuple[NamedArray, ...]]:
    """Every array of a prepared history of one path, by what it is: features, regimes, covariances, prices."""
    universe, table, execution = settings.universe, data.features, data.execution
    symbols = universe.symbols
    n = len(symbols)
    packed = tuple(f"{symbols[i]}, {symbols[j]}" for i, j in zip(*np.triu_indices(n)))
    domains = () if universe.allocates else universe.domains
    return {
        "features": (
            named(
                "block",
                table.block,
                [f"{symbol}.{name}" for symbol in symbols for name in block_layout(settings).names],
            ),
            named("macro", table.macro, MACRO.names),
            *(
                named(f"domain {domain.name}", own, domain_layout(domain, settings).names)
                for domain, own in zip(domains, table.domain, strict=True)
            ),
        ),
        "regimes": (
            named("regime", table.regime),
            named("regime_confidence", table.regime_confidence),
            named("proxy_return", table.proxy_return),
        ),
        "covariances": (
            named("covariance", table.covariance, packed),
            named("correlation", table.correlation, [f"{a}, {b}" for a, b in pairs(symbols)]),
            named("correlation_shift", table.correlation_shift),
            *(named(name, getattr(table, name), symbols) for name in ("vol_ann", "sigma_day", "atr")),
            *_past(table, symbols),
        ),
        "prices": (
            named("money", execution.money, [f"{symbol} {name}" for name in CHANNEL_NAMES for symbol in symbols]),
            named("flags", execution.flags, [f"{symbol} {name}" for name in FLAG_NAMES for symbol in symbols]),
            named("day", execution.day),
        ),
    }


def _past(table: FeatureTable, symbols: Sequence[str]) -> list[NamedArray]:
    """What a historical VaR rule knows at each row: its number of days, the last of them, and the scale."""
    if table.past_returns is None or table.past_days is None:
        return []
    last = table.past_returns[np.maximum(table.past_days[:, 1] - 1, 0)]
    found = [named("past_days", table.past_days, ("first", "stop")), named("past_returns", last, symbols)]
    return found if table.past_scale is None else [*found, named("past_scale", table.past_scale, symbols)]
