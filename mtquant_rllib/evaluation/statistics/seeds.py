"""Books of several training seeds on one history: intervals over seeds and bars.

A single history has one market and as many policies as there are seeds. Both are resampled: bars in blocks (Politis and
Romano 1994), the same ones for every book, so that books are compared on the same markets; and seeds, because another
one would have been another policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from mtquant_rllib.config.sections.evaluation import BootstrapConfig
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.backtest.trading_days import bars_per_day
from mtquant_rllib.evaluation.measures import living_returns, sharpe
from mtquant_rllib.evaluation.statistics.bootstrap import Interval, percentile_interval, stationary_bootstrap_indices


@dataclass(frozen=True)
class SeedStatistics:
    """A book's annualised net Sharpe of each seed, (S,), their mean, and how far it lies ahead of a reference's."""

    per_seed: np.ndarray
    mean: Interval
    ahead: Interval


def seed_statistics(
    returns: Mapping[str, np.ndarray],
    bars_per_year: float,
    reference: str,
    config: BootstrapConfig,
    rng: np.random.Generator,
) -> dict[str, SeedStatistics]:
    """Book -> its Sharpe over seeds.

    returns: net returns (S, T) by book, on the same bars; what is NaN or comes after a bankruptcy counts as no gain.
    """
    names = list(returns)
    played = np.stack([np.nan_to_num(living_returns(returns[name])) for name in names])
    n_books, n_seeds, n_bars = played.shape
    block = min(config.mean_block_bars, n_bars)
    drawn = np.empty((n_books, config.resamples))
    for number in range(config.resamples):
        bars = stationary_bootstrap_indices(n_bars, block, 1, rng)[0]
        seeds = rng.integers(n_seeds, size=n_seeds)
        drawn[:, number] = _sharpe(played[:, seeds][:, :, bars], bars_per_year).mean(axis=1)
    found = _sharpe(played, bars_per_year)
    means, base = found.mean(axis=1), names.index(reference)
    return {
        name: SeedStatistics(
            found[number],
            percentile_interval(means[number], drawn[number], config),
            percentile_interval(means[number] - means[base], drawn[number] - drawn[base], config),
        )
        for number, name in enumerate(names)
    }


def _sharpe(returns: np.ndarray, bars_per_year: float) -> np.ndarray:
    """0 for a book that never moves: it can be compared."""
    return np.nan_to_num(sharpe(returns, bars_per_year))


def of_records(
    seeds: Sequence[Sequence[Record]], reference: str, config: BootstrapConfig, rng: np.random.Generator
) -> dict[str, SeedStatistics]:
    """Of the books of each seed, in the same order, over one history each.

    Raises
    ------
    ValueError
        When a book has more than one history: those are resampled whole (`statistics.pooled_sharpe_interval`).
    """
    for record in (record for books in seeds for record in books):
        if len(record.returns) != 1:
            raise ValueError(f"{record.name} has {len(record.returns)} histories; expected one")
    config = config.of_bars(bars_per_day(seeds[0][0]))
    books = [record.name for record in seeds[0]]
    returns = {name: np.stack([own[number].returns[0] for own in seeds]) for number, name in enumerate(books)}
    return seed_statistics(returns, seeds[0][0].bars_per_year, reference, config, rng)


def print_seed_statistics(found: Mapping[str, SeedStatistics], reference: str, console: Console) -> None:
    confidence = next(iter(found.values())).mean.confidence
    table = Table(
        title=f"net Sharpe and how far ahead of {reference}: {confidence:.0%} intervals over seeds and blocks of bars",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("book", no_wrap=True)
    for column in ("mean of seeds", "ahead"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("per seed")
    for name, own in found.items():
        alike = np.ptp(own.per_seed) < 1e-12
        seeds = "the same" if alike else ", ".join(f"{value:.2f}" for value in own.per_seed)
        table.add_row(name, _text(own.mean), "" if name == reference else _text(own.ahead), seeds)
    console.print(table)


def _text(interval: Interval) -> str:
    return f"{interval.estimate:.2f} [{interval.lower:.2f}, {interval.upper:.2f}]"
