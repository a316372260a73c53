"""`mtquant bench decide`: what a decision costs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mtquant_rllib.commands.bench.options import Figures, at_least_one, takes_market
from mtquant_rllib.commands.command import check_files
from mtquant_rllib.errors import ConfigError

if TYPE_CHECKING:
    from mtquant_rllib.config import Settings
    from mtquant_rllib.market.bars import MarketData


def decide_options(parser: Any) -> None:
    parser.add_argument(
        "--system",
        metavar="PATH",
        help="what decides: a run, or a folder of `mtquant export` (default: fresh networks)",
    )
    takes_market(parser)
    parser.add_argument("--decisions", type=int, default=600, metavar="N", help="closes (default: %(default)s)")
    parser.add_argument("--appended", type=int, default=30, metavar="N", help="new bars (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1024, metavar="B", help="accounts at once (default: %(default)s)")


def decide(settings: Settings, args: argparse.Namespace) -> Figures:
    decisions, batch = at_least_one(args, "decisions"), at_least_one(args, "batch")
    appended = at_least_one(args, "appended")
    check_files(args.market, args.macro)
    if args.macro is not None and args.market is None:
        raise ConfigError(f"--macro {args.macro} without --market: the embedded market brings its own macro series")
    from mtquant_rllib.bench.decide import Sizes, bench_decide
    from mtquant_rllib.policies.initial_weights import initial_states
    from mtquant_rllib.portfolio.execution_data import ExecutionData
    from mtquant_rllib.serving.closes import Calendar
    from mtquant_rllib.serving.opening import open_deciding
    from mtquant_rllib.serving.policies import DecidingPolicies
    from mtquant_rllib.training.preparation import for_market

    if args.system is not None:
        policies = open_deciding(args.system)
        market = _market(policies.settings, args)
    else:
        settings = for_market(settings, from_files=args.market is not None)
        market = _market(settings, args)
        calendar = Calendar.of(ExecutionData.build(settings, [market]))
        policies = DecidingPolicies(settings, (initial_states(settings),), False, calendar, {"run": "fresh networks"})
    return bench_decide(policies, market, Sizes(decisions, appended, batch))


def _market(settings: Settings, args: argparse.Namespace) -> MarketData:
    """Bars of files, or one history of the embedded market."""
    if args.market is not None:
        from mtquant_rllib.market.importing.importers import load_market

        return load_market(settings, args.market, args.macro)[0]
    from mtquant_rllib.market.synthetic import synthesise

    embedded = settings.embedded
    drawn = synthesise(settings, n_paths=1, n_years=embedded.test.years, seed=embedded.seed, variant=embedded.bars)
    market: MarketData = drawn.markets[0]
    return market


def decide_lines(figures: Figures) -> Iterator[str]:
    def said(times: Figures) -> str:
        text = f"p50 {times['p50']:.2f} ms, p99 {times['p99']:.2f} ms"
        if "n" not in times:
            return text
        cpu = f"{times['cpu_p50']:.2f} and {times['cpu_p99']:.2f} ms of the processor"
        return f"{text} ({cpu}; {times['n']:.0f} measured)"

    yield f"a close to its orders, every group deciding: {said(figures['decision_ms'])}"
    yield f"the same of every close: {said(figures['every_close_ms'])}"
    for name, times in figures["parts_ms"].items():
        yield f"  {name:<24} {said(times)}"
    for name, times in figures["forward_ms"].items():
        yield f"forward of {name:<24} {said(times)}"
    yield (
        f"an appended bar to its orders, {figures['bars_of_history']:,} bars of history: {said(figures['appended_ms'])}"
    )
    yield f"{figures['batch']['decisions_per_s']:,.0f} decisions/s of {figures['batch']['accounts']} accounts at once"
    process = figures["process"]
    yield (
        f"a process that decides from an exported folder: {process['peak_rss_mb']:.0f} MB at its peak, torch included, "
        f"{'with' if process['ray'] else 'without'} Ray"
    )
