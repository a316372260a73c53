"""The referee of look-ahead: whatever happens after a bar, everything up to that bar stays the same, byte for byte.

At random bars the future is scrambled, shuffled and cut off. Features are prepared anew from each of these histories,
and the bars before are played anew on them. A comparison that cannot fail proves nothing, so the columns that do react
to the change, after the bar, are counted beside.

What is read off the calendar as a whole (bars and days a year, which annualise) is held: a history that ends earlier
has the same calendar.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mtquant_rllib.audit.findings import Check, Leak, first_of_each
from mtquant_rllib.audit.leakage.altered_futures import FUTURES
from mtquant_rllib.audit.leakage.named_arrays import NamedArray, by_name, changed_columns, first_difference
from mtquant_rllib.audit.leakage.played_bars import played_bars
from mtquant_rllib.audit.leakage.prepared_arrays import prepared_arrays
from mtquant_rllib.config.sections.evaluation import AuditConfig
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.policies.actor import DeskActor
from mtquant_rllib.policies.initial_weights import initial_states

Kinds = Mapping[str, tuple[NamedArray, ...]]

PLAYED = ("observations", "networks", "actions", "risk", "fills", "rewards")


@dataclass
class _Tally:
    """Of one kind of arrays: what was compared, what reacted, what differs."""

    columns: int = 0
    changed: int = 0
    leaks: list[Leak] = field(default_factory=list)


def random_bars(market: MarketData, warmup: int, config: AuditConfig, seed: int) -> list[int]:
    """Distinct rows with bars to play before them, and a few left after them, in order.

    Raises
    ------
    MarketDataError
        When the history is too short for one.
    """
    first, last = warmup + config.played_bars, len(market) - 1 - config.played_bars
    if last < first:
        raise MarketDataError(
            f"{len(market)} bars, of which {warmup} warm the features up: an audit plays {config.played_bars} bars "
            "before and leaves as many after each of its bars; accepted: a longer history, or a smaller "
            "evaluation.audit.played_bars"
        )
    rng = np.random.default_rng(seed)
    rows = rng.choice(np.arange(first, last + 1), size=min(config.bars, last + 1 - first), replace=False)
    return sorted(int(row) for row in rows)


def check_futures(settings: Settings, market: MarketData, data: DeskData, rows: Sequence[int]) -> list[Check]:
    """One check a kind of array. data: of this market, as `DeskData.of` gives it."""
    config, networks = settings.evaluation.audit, DeskActor(settings, initial_states(settings))
    tallies: dict[str, _Tally] = {}
    original = prepared_arrays(settings, data)
    for row in rows:
        first = row - config.played_bars
        played = played_bars(settings, data, first, row, networks)
        for number, (name, future) in enumerate(FUTURES.items()):
            rng = np.random.default_rng((settings.seed, row, number))
            other = _prepared(settings, future(market, row, rng), data)
            story = f"{name} after bar {row}"
            _compare(original, prepared_arrays(settings, other), row, story, market, tallies)
            _compare(played, played_bars(settings, other, first, row, networks), row, story, market, tallies)
    return [_as_check(kind, tally, len(rows), config) for kind, tally in tallies.items()]


def _prepared(settings: Settings, market: MarketData, like: DeskData) -> DeskData:
    data = DeskData.of(settings, [market])
    calendar = {name: getattr(like.execution, name) for name in ("bars_per_year", "bars_per_year_of", "days_per_year")}
    return replace(data, execution=replace(data.execution, **calendar))


def _compare(before: Kinds, after: Kinds, row: int, story: str, market: MarketData, tallies: dict[str, _Tally]) -> None:
    for kind, arrays in before.items():
        tally, other = tallies.setdefault(kind, _Tally()), by_name(after[kind])
        tally.columns = sum(len(array.columns) for array in arrays)
        changed = 0
        for array in arrays:
            found = first_difference(array, other[array.name], row)
            if found is not None:
                how = f"{found.before:.6g} turns into {found.after:.6g} when the future is {story}"
                timestamp = str(market.timestamps[found.row])
                tally.leaks.append(Leak(f"{kind}, {found.array}", found.column, found.row, timestamp, how))
            changed += changed_columns(array, other[array.name])
        tally.changed = max(tally.changed, changed)


def _as_check(kind: str, tally: _Tally, bars: int, config: AuditConfig) -> Check:
    reacting = "" if kind in PLAYED else f", of which {tally.changed:,} change after it"
    compared = f"{tally.columns:,} columns up to the bar{reacting}"
    return Check(kind, compared, bars, first_of_each(tally.leaks, config.max_reported_leaks))
