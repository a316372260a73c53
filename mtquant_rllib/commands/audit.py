"""`mtquant audit ...`: whether results can be believed, before anybody believes them."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from mtquant_rllib.commands.command import add_command, add_family, check_files, settings_of, write_json
from mtquant_rllib.errors import ConfigError


def add_audit(commands: Any) -> None:
    family = add_family(
        commands,
        "audit",
        "look for what makes results false: knowledge of the future, controls that fail, verdicts that err",
        "mtquant audit leakage --market bars.parquet --macro macro.parquet",
        word="WHAT",
        dest="what",
    )
    leakage = add_command(
        family,
        "leakage",
        _leakage,
        "change the future at random bars and see whether anything before it changes; ends with 1 where something does",
        "mtquant audit leakage --config my_desk.yaml --market bars.parquet --macro macro.parquet",
    )
    leakage.add_argument("--market", type=Path, metavar="FILE", help="bars (default: the embedded market)")
    leakage.add_argument("--macro", type=Path, metavar="FILE", help="macro series")
    leakage.add_argument("--json", type=Path, metavar="FILE", help="write the report here")

    controls = add_command(
        family,
        "controls",
        _controls,
        "trade markets whose truth is known: what is planted is found, nothing in nothing, a leak wins, costs cost",
        "mtquant audit controls --config allocator.yaml",
    )
    controls.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")

    verdict = add_command(
        family,
        "verdict",
        _verdict,
        "count how often the verdict on a book errs, on hundreds of worlds without skill and with some",
        "mtquant audit verdict --market bars.parquet --json rates.json",
    )
    verdict.add_argument(
        "--market", type=Path, metavar="FILE", help="bars whose blocks make the worlds (default: the null market)"
    )
    verdict.add_argument("--json", type=Path, metavar="FILE", help="write the rates here")


def _print_progress(line: str) -> None:
    print(f"mtquant: {line}", file=sys.stderr)


def _leakage(args: argparse.Namespace) -> None:
    settings = settings_of(args)
    check_files(args.market, args.macro)
    if args.macro is not None and args.market is None:
        raise ConfigError(f"--macro {args.macro} without --market: the embedded market brings its own macro series")
    from mtquant_rllib.audit.leakage.every_check import audit_leakage
    from mtquant_rllib.env.prepared.source import local_copy

    bars, macro = (None if path is None else local_copy(path) for path in (args.market, args.macro))
    with tempfile.TemporaryDirectory(prefix="mtquant-audit-") as scratch:
        report = audit_leakage(settings, bars, macro, Path(scratch), _print_progress)
    for line in report.lines():
        print(line)
    if args.json is not None:
        write_json(args.json, report.to_dict())
    report.raise_if_leaking()


def _controls(args: argparse.Namespace) -> None:
    settings = settings_of(args)
    from mtquant_rllib.audit.controls import audit_controls
    from mtquant_rllib.env.prepared.data import cache_folder

    report = audit_controls(settings, cache_folder(), _print_progress)
    for line in report.lines():
        print(line)
    if args.json is not None:
        write_json(args.json, report.to_dict())
    report.raise_if_failed()


def _verdict(args: argparse.Namespace) -> None:
    settings = settings_of(args)
    check_files(args.market)
    from mtquant_rllib.audit.verdict_errors import verdict_errors
    from mtquant_rllib.env.prepared.source import local_copy
    from mtquant_rllib.market.importing.importers import load_market

    market, name = None, "the synthetic null market"
    if args.market is not None:
        market, _ = load_market(settings, local_copy(args.market), None)
        name = f"blocks of {args.market}, means taken out"
    rates = verdict_errors(settings, market, name, _print_progress)
    for line in rates.lines():
        print(line)
    if args.json is not None:
        write_json(args.json, rates.to_dict())
    rates.raise_if_too_high()
