"""What a market is prepared into, number by number: features, regimes, covariances, and the prices that fill orders."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mtquant_rllib.audit.leakage.named_arrays import NamedArray, named
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.features.layout import MACRO, block_layout, domain_layout, pairs
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
        ),
        "prices": (
            named("money", execution.money, [f"{symbol} {name}" for name in CHANNEL_NAMES for symbol in symbols]),
            named("flags", execution.flags, [f"{symbol} {name}" for name in FLAG_NAMES for symbol in symbols]),
            named("day", execution.day),
        ),
    }
