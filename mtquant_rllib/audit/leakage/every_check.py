"""`mtquant audit leakage`: every check there is, on the market and the settings that a run would have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mtquant_rllib.audit.findings import AuditReport, Check
from mtquant_rllib.audit.leakage.day_volume import check_day_volume
from mtquant_rllib.audit.leakage.fills_at_the_open import check_fills
from mtquant_rllib.audit.leakage.macro_dates import check_dates, check_join
from mtquant_rllib.audit.leakage.perturbed_future import check_futures, random_bars
from mtquant_rllib.audit.leakage.splits_and_scalers import check_scaler, check_splits, prepare_twice
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.market.importing.importers import load_macro, load_market
from mtquant_rllib.market.importing.macro import MacroSeries
from mtquant_rllib.market.synthetic import synthesise


def audit_leakage(
    settings: Settings,
    bars: Path | None,
    macro: Path | None,
    scratch: Path,
    on_progress: Callable[[str], None] = lambda line: None,
) -> AuditReport:
    """Audit bars from files, or one path of the embedded market where none are named.

    Parameters
    ----------
    scratch
        Folder for markets that are prepared on the way.
    on_progress
        Hears what is being looked at.

    Raises
    ------
    ConfigError
        On the market that has a leak planted in it, which is not in its bars.
    MarketDataError
        When the bars cannot be used, or are too few.
    """
    if bars is None and settings.embedded.variant == "leak":
        raise ConfigError(
            "embedded.variant = leak: its leak is planted into prepared arrays, on purpose; `mtquant audit controls` "
            "shows that it is found"
        )
    on_progress("reading the market")
    market, published = _market(settings, bars, macro)
    checks = audit_market(settings, market, published, on_progress)
    on_progress("preparing it twice, with other test bars")
    folders = prepare_twice(settings, None if bars is None else market, macro, scratch)
    checks += [check_splits(folders[0]), check_scaler(settings, folders)]
    name = "embedded market" if bars is None else str(bars)
    span = f"{market.timestamps[0].astype('datetime64[D]')} to {market.timestamps[-1].astype('datetime64[D]')}"
    return AuditReport(f"{name}: {len(market):,} bars of {len(market.symbols)} instruments, {span}", tuple(checks))


def audit_market(
    settings: Settings,
    market: MarketData,
    published: MacroSeries | None,
    on_progress: Callable[[str], None] = lambda line: None,
) -> list[Check]:
    """All checks of one history in memory."""
    data = DeskData.of(settings, [market])
    rows = random_bars(market, data.features.warmup, settings.evaluation.audit, settings.seed)
    on_progress(f"changing the future after {len(rows)} of {len(market):,} bars")
    checks = check_futures(settings, market, data, rows)
    on_progress("filling random books at the open")
    checks.append(check_fills(settings, market, data, rows))
    checks += [check_join(settings, market, published, rows), check_dates(settings, market, published)]
    checks.append(check_day_volume(market, settings.evaluation.audit))
    return checks


def _market(settings: Settings, bars: Path | None, macro: Path | None) -> tuple[MarketData, MacroSeries | None]:
    if bars is None:
        size, embedded = settings.embedded.of("train"), settings.embedded
        drawn = synthesise(settings, n_paths=1, n_years=size.years, seed=embedded.seed, variant=embedded.bars)
        return drawn.markets[0], None
    market, _ = load_market(settings, bars, macro)
    if macro is None:
        return market, None
    return market, load_macro(settings, macro)[0]
