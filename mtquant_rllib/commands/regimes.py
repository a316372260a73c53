"""`mtquant data regimes`: which regimes a history of bars holds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mtquant_rllib.commands.command import add_command, check_files, settings_of, write_json


def add_regimes(kinds: Any) -> None:
    parser = add_command(
        kinds,
        "regimes",
        _run,
        "label the regimes of bars, and say their shares, durations and transitions",
        "mtquant data regimes bars.parquet --period 2020-03 --period 2017",
    )
    parser.add_argument("market", type=Path, metavar="FILE", help="bars")
    parser.add_argument("--macro", type=Path, metavar="FILE", help="macro series")
    parser.add_argument(
        "--period", action="append", default=[], dest="periods", metavar="YEAR[-MONTH]", help="on its own; repeatable"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def _run(args: argparse.Namespace) -> None:
    settings = settings_of(args)
    check_files(args.market, args.macro)
    from mtquant_rllib.evaluation.market_regimes import market_regimes
    from mtquant_rllib.market.importers import load_market

    market, _ = load_market(settings, args.market, args.macro)
    found = market_regimes(settings, market)
    for line in found.lines(args.periods):
        print(line)
    if args.json is not None:
        write_json(args.json, found.to_dict(args.periods))
