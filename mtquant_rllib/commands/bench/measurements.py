"""`mtquant bench ...`: one shape for all of them. A bench measures figures, a dictionary that `--json` writes as it is,
and says them in lines."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtquant_rllib.commands.bench import deciding, networks
from mtquant_rllib.commands.bench.options import (
    Figures,
    at_least_one,
    median_rates,
    takes_market,
    takes_market_and_repeats,
    takes_repeats,
    trained_on,
)
from mtquant_rllib.commands.command import (
    add_command,
    add_family,
    check_files,
    settings_of,
    write_json,
)
from mtquant_rllib.errors import ConfigError

if TYPE_CHECKING:
    from mtquant_rllib.config import Settings


@dataclass(frozen=True)
class Bench:
    """A word after `mtquant bench`.

    options
        Adds what it takes besides the settings and `--json`.
    measure, lines
        Figures of a command line, and how they are told.
    """

    name: str
    help: str
    options: Callable[[Any], None]
    measure: Callable[[Settings, argparse.Namespace], Figures]
    lines: Callable[[Figures], Iterable[str]]
    example: str


def add_benches(commands: Any) -> None:
    family = add_family(
        commands,
        "bench",
        "measure speed and memory",
        "mtquant bench core --market bars.parquet --macro macro.parquet --json core.json",
        word="WHAT",
        dest="what",
    )
    for bench in BENCHES:
        parser = add_command(family, bench.name, partial(_run, bench), bench.help, bench.example)
        bench.options(parser)
        parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def _run(bench: Bench, args: argparse.Namespace) -> None:
    figures = bench.measure(settings_of(args), args)
    for line in bench.lines(figures):
        print(line)
    if args.json is not None:
        write_json(args.json, figures)


# -- the benches ------------------------------------------------------------------------------------------------------


def _core_options(parser: Any) -> None:
    takes_market(parser)
    parser.add_argument("--environments", type=int, default=1024, metavar="B", help="default: %(default)s")


def _core(settings: Settings, args: argparse.Namespace) -> Figures:
    environments = at_least_one(args, "environments")
    check_files(args.market, args.macro)
    from mtquant_rllib.bench.core import bench_core
    from mtquant_rllib.env.prepared.data import prepare_embedded, prepare_files

    embedded = args.market is None
    folder = prepare_embedded(settings) if embedded else prepare_files(settings, args.market, args.macro)
    return bench_core(settings, folder, n_envs=environments)


def _core_lines(figures: Figures) -> Iterator[str]:
    yield (
        f"{figures['bars_per_s']:,.0f} bars/s with {figures['environments']} environments, risk on, one core; "
        f"resident memory {figures['rss_mb']:.0f} MB"
    )


def _engine(settings: Settings, args: argparse.Namespace) -> Figures:
    repeats = at_least_one(args, "repeats")
    market = trained_on(settings, args.market, args.macro)
    from mtquant_rllib.bench.engine import Sizes, bench_engine

    return bench_engine(settings, market, Sizes(repeats=repeats))


def _engine_lines(figures: Figures) -> Iterator[str]:
    for key in (
        "sampling_ratio",
        "ppo_ratio",
        "phase2_over_phase3",
        "two_runners_over_one",
        "two_processes_over_one",
    ):
        yield f"{key:<22} {figures[key]:7.2f}"
    yield from median_rates(figures, "sampling", "ppo", "phase", "runners")


def _scale(settings: Settings, args: argparse.Namespace) -> Figures:
    from mtquant_rllib.bench.scale import bench_scale

    return bench_scale(settings)


def _scale_lines(figures: Figures) -> Iterator[str]:
    for bars, cost in figures["microseconds_per_bar"].items():
        yield f"{int(bars):>9,} bars of data: {cost:.2f} microseconds a bar"
    yield f"dearest over cheapest: {figures['cost_ratio']:.2f}"


def _memory_options(parser: Any) -> None:
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="default: %(default)s")


def _memory(settings: Settings, args: argparse.Namespace) -> Figures:
    if not args.minutes > 0:
        raise ConfigError(f"--minutes {args.minutes:g}: expected more than 0")
    market = trained_on(settings, None, None)
    from mtquant_rllib.bench.scale import bench_memory

    return bench_memory(settings, market, minutes=args.minutes)


def _memory_lines(figures: Figures) -> Iterator[str]:
    yield f"{figures['bars']:,} bars in {figures['minutes']:g} minutes"
    for what, key in (("resident memory", "rss"), ("of it not the mapped market", "own")):
        yield f"{what}: {', '.join(f'{reading:.0f}' for reading in figures[f'{key}_mb'])} MB"
        yield f"growth after warming up: {figures[f'{key}_growth_mb']:+.1f} MB"


def _sac(settings: Settings, args: argparse.Namespace) -> Figures:
    repeats = at_least_one(args, "repeats")
    market = trained_on(settings, args.market, args.macro)
    from mtquant_rllib.bench.sac import Sizes, bench_sac

    return bench_sac(settings, market, Sizes(repeats=repeats))


def _sac_lines(figures: Figures) -> Iterator[str]:
    for key in ("sac_ratio", "sac_attention_ratio"):
        yield f"{key:<22} {figures[key]:7.1f}"
    yield from median_rates(figures, "sac", decimals=1)


def _checkpoint(settings: Settings, args: argparse.Namespace) -> Figures:
    repeats = at_least_one(args, "repeats")
    market = trained_on(settings, args.market, args.macro)
    from mtquant_rllib.bench.checkpoint import Sizes, bench_checkpoint

    return bench_checkpoint(settings, market, Sizes(repeats=repeats))


def _checkpoint_lines(figures: Figures) -> Iterator[str]:
    for algorithm in ("ppo", "sac"):
        own = figures[algorithm]
        yield (
            f"{algorithm}: {own['mb']:.1f} MB in {own['files']:.0f} files, written in {own['write_ms']:.0f} ms (RLlib "
            f"alone {own['plain_ms']:.0f} ms), verified in {own['verify_ms']:.0f} ms, loaded in "
            f"{own['restore_ms']:.0f} ms; "
            f"the update before it took {own['update_ms']:.0f} ms"
        )


def _import_options(parser: Any) -> None:
    takes_repeats(parser)
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N", help="default: %(default)s")


def _import(settings: Settings, args: argparse.Namespace) -> Figures:
    rows, repeats = at_least_one(args, "rows"), at_least_one(args, "repeats")
    from mtquant_rllib.bench.importing import bench_import

    return bench_import(settings, rows=rows, repeats=repeats)


def _import_lines(figures: Figures) -> Iterator[str]:
    yield (
        f"{figures['rows']:,} minute bars read in {figures['read_s']:.2f} s ({figures['rows_per_s']:,.0f} rows/s), "
        f"peak of memory {figures['read_peak_mb']:+.0f} MB"
    )
    yield f"twenty years of daily bars simulated in {figures['simulate_s']:.2f} s"


def _risk_options(parser: Any) -> None:
    parser.add_argument("--books", type=int, default=1024, metavar="B", help="of the batch (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=2000, metavar="N", help="timed calls (default: %(default)s)")


def _risk(settings: Settings, args: argparse.Namespace) -> Figures:
    books, calls = at_least_one(args, "books"), at_least_one(args, "calls")
    from mtquant_rllib.bench.risk import bench_risk

    return bench_risk(settings, books, calls)


def _risk_lines(figures: Figures) -> Iterator[str]:
    def said(times: Any) -> str:
        return f"p50 {times['p50']:,.0f}, p99 {times['p99']:,.0f} microseconds"

    yield f"one book, {figures['draws']:,} draws, {figures['history_days']} past days"
    for method, times in figures["one_book_us"].items():
        yield f"  measured, VaR {method}: {said(times)}"
    yield f"  all rules, a book that passes: {said(figures['all_rules_passing_us'])}"
    yield f"  all rules, a book that is repaired: {said(figures['all_rules_repaired_us'])}"
    batched = figures["batched_parametric_us_a_book"]
    times = f"{batched['p50']:.2f} microseconds a book (p99 {batched['p99']:.2f})"
    yield f"{figures['batch']:,} books at once, parametric: {times}"


def _nothing(parser: Any) -> None:
    pass


BENCHES = (
    Bench(
        "core",
        "step the batched core with risk on, and say how many bars a second and how much memory",
        _core_options,
        _core,
        _core_lines,
        "mtquant bench core --environments 1024 --json core.json",
    ),
    Bench(
        "risk",
        "measure how long the risk rules take over one book, by every VaR method, and over a batch",
        _risk_options,
        _risk,
        _risk_lines,
        "mtquant bench risk --json risk.json",
    ),
    Bench(
        "engine",
        "measure the batched engine against RLlib's own: sampling, PPO, a frozen phase, two runners",
        takes_market_and_repeats,
        _engine,
        _engine_lines,
        "mtquant bench engine --json engine.json",
    ),
    Bench(
        "scale",
        "measure what a bar costs on markets of 5,000 to 1,000,000 bars, which are made for it (minutes)",
        _nothing,
        _scale,
        _scale_lines,
        "mtquant bench scale --json scale.json",
    ),
    Bench(
        "memory",
        "let a runner sample without pause and watch its resident memory",
        _memory_options,
        _memory,
        _memory_lines,
        "mtquant bench memory --minutes 10 --json memory.json",
    ),
    Bench(
        "sac",
        "measure SAC of twelve policies, one gradient step a bar, against RLlib's own",
        takes_market_and_repeats,
        _sac,
        _sac_lines,
        "mtquant bench sac --json sac.json",
    ),
    Bench(
        "checkpoint",
        "measure what a checkpoint of PPO and of SAC costs: to write, to verify, to go on from",
        takes_market_and_repeats,
        _checkpoint,
        _checkpoint_lines,
        "mtquant bench checkpoint --json checkpoint.json",
    ),
    Bench(
        "import",
        "measure how fast a raw export of minute bars is read, and with how much memory",
        _import_options,
        _import,
        _import_lines,
        "mtquant bench import --rows 1000000 --json import.json",
    ),
    Bench(
        "attention",
        "fit how time grows with tokens, width, batch, window and hidden size, beside what is stated; heads over two "
        "processes",
        takes_repeats,
        networks.attention,
        networks.attention_lines,
        "mtquant bench attention --json attention.json",
    ),
    Bench(
        "inference",
        "measure policies that no longer learn: float32, bfloat16, int8, cached and batched; speed and agreement",
        networks.inference_options,
        networks.inference,
        networks.inference_lines,
        "mtquant bench inference --json inference.json",
    ),
    Bench(
        "decide",
        "measure a decision from a close, or a new bar, to its orders on one core, side by side, and its memory",
        deciding.decide_options,
        deciding.decide,
        deciding.decide_lines,
        "mtquant bench decide --market bars.parquet --macro macro.parquet --json decide.json",
    ),
    Bench(
        "learner",
        "measure what precision, checkpointing and compilation are worth in PPO's update (minutes)",
        networks.learner_options,
        networks.learner,
        networks.learner_lines,
        "mtquant bench learner --json learner.json",
    ),
)
