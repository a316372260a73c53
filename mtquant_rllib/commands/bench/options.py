"""Options and rate formatting that several benches share."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtquant_rllib.commands.command import check_files, reproducible
from mtquant_rllib.errors import ConfigError

if TYPE_CHECKING:
    from mtquant_rllib.config import Settings
    from mtquant_rllib.training.records.manifest import MarketRecord

Figures = Mapping[str, Any]


def takes_market(parser: Any) -> None:
    parser.add_argument("--market", type=Path, metavar="FILE", help="bars (default: the embedded market)")
    parser.add_argument("--macro", type=Path, metavar="FILE", help="macro series")


def takes_repeats(parser: Any) -> None:
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="windows a side (default: %(default)s)")


def takes_market_and_repeats(parser: Any) -> None:
    takes_market(parser)
    takes_repeats(parser)


def at_least_one(args: argparse.Namespace, option: str) -> int:
    number: int = getattr(args, option)
    if number < 1:
        raise ConfigError(f"--{option} {number}: expected at least 1")
    return number


def trained_on(settings: Settings, market: Path | None, macro: Path | None) -> MarketRecord:
    """The market of a bench that trains, prepared in a process that draws alike every time."""
    check_files(market, macro)
    reproducible()
    from mtquant_rllib.training.preparation import prepare

    return prepare(settings, market, macro)


def median_rates(figures: Figures, *keys: str, decimals: int = 0) -> Iterator[str]:
    for key in keys:
        for side, windows in figures[f"{key}_bars_per_s"].items():
            yield f"{key:<9} {side:<10} {sorted(windows)[len(windows) // 2]:>9,.{decimals}f} bars/s"
