"""`mtquant bench ...`: one shape for all of them. A bench measures figures, a dictionary that `--json` writes as it is,
and says them in lines."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtquant_rllib.commands.command import (
    add_command,
    add_family,
    check_files,
    reproducible,
    settings_of,
    write_json,
)
from mtquant_rllib.commands.runs import run_folder
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.universe import META

if TYPE_CHECKING:
    from mtquant_rllib.config import Settings
    from mtquant_rllib.training.records.manifest import MarketRecord

Figures = Mapping[str, Any]


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


# -- what several of them take ----------------------------------------------------------------------------------------


def _takes_market(parser: Any) -> None:
    parser.add_argument("--market", type=Path, metavar="FILE", help="bars (default: the embedded market)")
    parser.add_argument("--macro", type=Path, metavar="FILE", help="macro series")


def _takes_repeats(parser: Any) -> None:
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="windows a side (default: %(default)s)")


def _takes_market_and_repeats(parser: Any) -> None:
    _takes_market(parser)
    _takes_repeats(parser)


def _at_least_one(args: argparse.Namespace, option: str) -> int:
    number: int = getattr(args, option)
    if number < 1:
        raise ConfigError(f"--{option} {number}: expected at least 1")
    return number


def _trained_on(settings: Settings, market: Path | None, macro: Path | None) -> MarketRecord:
    """The market of a bench that trains, prepared in a process that draws alike every time."""
    check_files(market, macro)
    reproducible()
    from mtquant_rllib.training.preparation import prepare

    return prepare(settings, market, macro)


def _median_rates(figures: Figures, *keys: str, decimals: int = 0) -> Iterator[str]:
    for key in keys:
        for side, windows in figures[f"{key}_bars_per_s"].items():
            yield f"{key:<9} {side:<10} {sorted(windows)[len(windows) // 2]:>9,.{decimals}f} bars/s"


# -- the benches ------------------------------------------------------------------------------------------------------


def _core_options(parser: Any) -> None:
    _takes_market(parser)
    parser.add_argument("--environments", type=int, default=1024, metavar="B", help="default: %(default)s")


def _core(settings: Settings, args: argparse.Namespace) -> Figures:
    environments = _at_least_one(args, "environments")
    check_files(args.market, args.macro)
    from mtquant_rllib.bench.core import bench_core
    from mtquant_rllib.env.data import prepare_embedded, prepare_files

    embedded = args.market is None
    folder = prepare_embedded(settings) if embedded else prepare_files(settings, args.market, args.macro)
    return bench_core(settings, folder, n_envs=environments)


def _core_lines(figures: Figures) -> Iterator[str]:
    yield (
        f"{figures['bars_per_s']:,.0f} bars/s with {figures['environments']} environments, risk on, one core; "
        f"resident memory {figures['rss_mb']:.0f} MB"
    )


def _engine(settings: Settings, args: argparse.Namespace) -> Figures:
    repeats = _at_least_one(args, "repeats")
    market = _trained_on(settings, args.market, args.macro)
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
    yield from _median_rates(figures, "sampling", "ppo", "phase", "runners")


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
    market = _trained_on(settings, None, None)
    from mtquant_rllib.bench.scale import bench_memory

    return bench_memory(settings, market, minutes=args.minutes)


def _memory_lines(figures: Figures) -> Iterator[str]:
    yield f"{figures['bars']:,} bars in {figures['minutes']:g} minutes"
    for what, key in (("resident memory", "rss"), ("of it not the mapped market", "own")):
        yield f"{what}: {', '.join(f'{reading:.0f}' for reading in figures[f'{key}_mb'])} MB"
        yield f"growth after warming up: {figures[f'{key}_growth_mb']:+.1f} MB"


def _sac(settings: Settings, args: argparse.Namespace) -> Figures:
    repeats = _at_least_one(args, "repeats")
    market = _trained_on(settings, args.market, args.macro)
    from mtquant_rllib.bench.sac import Sizes, bench_sac

    return bench_sac(settings, market, Sizes(repeats=repeats))


def _sac_lines(figures: Figures) -> Iterator[str]:
    for key in ("sac_ratio", "sac_attention_ratio"):
        yield f"{key:<22} {figures[key]:7.1f}"
    yield from _median_rates(figures, "sac", decimals=1)


def _attention(settings: Settings, args: argparse.Namespace) -> Figures:
    repeats = _at_least_one(args, "repeats")
    from mtquant_rllib.bench.attention import Sizes, bench_attention

    return bench_attention(settings, Sizes(repeats=repeats))


def _attention_lines(figures: Figures) -> Iterator[str]:
    from mtquant_rllib.bench.attention import BEYOND

    heads = f"{'exponent of':<17}{'over':<9}{'bound':<16}{'stated':>7}{'counted':>8}"
    yield f"{heads}{'time':>7}{'repeats':>15}{'largest':>9}"
    for sweep in figures["sweeps"]:
        stated, counted = ("" if sweep[key] is None else f"{sweep[key]:.2f}" for key in ("stated", "counted"))
        yield (
            f"{sweep['name']:<17}{sweep['over']:<9}{sweep['bound']:<16}{stated:>7}{counted:>8}{sweep['exponent']:>7.2f}"
            f"{sweep['low']:>7.2f} to{sweep['high']:>5.2f}{sweep['largest']:>9.2f}  {sweep['verdict']}"
        )
    yield f"{'weights, bytes':<17}{'tokens':<9}{'n^2':<16}{2:>7.2f}{figures['weights_exponent']:>8.2f}"
    beyond = [f"{sweep['name']} over {sweep['over']}" for sweep in figures["sweeps"] if sweep["verdict"] == BEYOND]
    yield f"beyond their bounds: {', '.join(beyond)}" if beyond else "every stated bound holds"
    total = sum(figures["tokens_of_the_document"].values())
    parts = ", ".join(f"{part} {work / total:.1%}" for part, work in figures["tokens_of_the_document"].items())
    yield f"multiply-adds of a row with the document's four tokens: {parts}"
    split = figures["heads_over_processes"]
    one, several = (1000 * split["seconds"][side] for side in ("one", "several"))
    turns = split["several_over_one_by_turn"]
    parameters, kept = (split[key]["several"] / split[key]["one"] for key in ("parameters", "kept_bytes"))
    yield (
        f"its encoder, {split['rows']} rows forward and backward: {one:.1f} ms in one process, {several:.1f} ms with "
        f"heads over {split['processes']} ({split['several_over_one']:.2f} x, {min(turns):.2f} to {max(turns):.2f})"
    )
    yield f"each then holds of the attention layers: {parameters:.1%} of parameters, {kept:.1%} of what a pass keeps"


def _inference_options(parser: Any) -> None:
    _takes_repeats(parser)
    parser.add_argument(
        "--run",
        type=Path,
        metavar="RUN",
        help="policies of this run, its folder or its name under runs/ (default: fresh networks)",
    )


def _inference(settings: Settings, args: argparse.Namespace) -> Figures:
    repeats = _at_least_one(args, "repeats")
    from mtquant_rllib.bench.inference import Sizes, bench_inference
    from mtquant_rllib.training.assessment import open_run
    from mtquant_rllib.training.preparation import prepare

    sizes = Sizes(repeats=repeats)
    if args.run is None:
        return bench_inference(settings, Path(prepare(settings, None, None).data), sizes)
    opened = open_run(run_folder(args.run), "validation")
    if opened.phase == 1 and not opened.settings.universe.allocates:
        raise RunError(f"{opened.run}: after phase 1 there is no {META} yet to ask; carry the run on first")
    return bench_inference(opened.settings, opened.folder, sizes, opened.states)


def _inference_lines(figures: Figures) -> Iterator[str]:
    for name, found in figures["networks"].items():
        batches = figures["sizes"]["batches"]
        yield f"{name} networks: decisions of all its agents a second, environments at once"
        yield f"  {'':<12}" + "".join(f"{batch:>10,}" for batch in batches) + "   weights, MB"
        for way, speeds in found["decisions_per_s"].items():
            memory = f"{found['weights_mb'][way]:>14.2f}" if way in found["weights_mb"] else ""
            yield f"  {way:<12}" + "".join(f"{speeds[str(batch)]:>10,.0f}" for batch in batches) + memory
        yield f"  beside float32, {found['rows']:,} rows: difference of actions (mean, 99%, largest), equal choices"
        for way, own in found["agreement"].items():
            yield (
                f"  {way:<12}{own['mean_difference']:>10.2g}{own['difference_of_99_percent']:>10.2g}"
                f"{own['largest_difference']:>10.2g}{own['equal_choices']:>10.2%}"
            )


def _learner_options(parser: Any) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument("--rows", type=int, default=1024, metavar="N", help="of a module's update (%(default)s)")
    _takes_repeats(parser)


def _learner(settings: Settings, args: argparse.Namespace) -> Figures:
    rows, repeats = _at_least_one(args, "rows"), _at_least_one(args, "repeats")
    reproducible()
    from mtquant_rllib.bench.learner import Sizes, bench_learner

    return bench_learner(settings, args.device, Sizes(rows=rows, repeats=repeats))


def _learner_lines(figures: Figures) -> Iterator[str]:
    for network in ("attention", "plain"):
        own = figures[network]
        for side, rows in own["rows_per_s"].items():
            peak, memory = own["peak_mb"][side], own["peak_mb_over_float32"].get(side)
            yield (
                f"{network:<10} {side:<14} {rows:>9,.0f} rows/s {own['rows_per_s_over_float32'][side]:>5.2f} x"
                + ("" if peak is None else f" {peak:>7,.0f} MB {memory:>5.2f} x")
                + f"   first update {own['first_s'][side]:.1f} s"
            )
        for kind in ("time", "memory"):
            yield f"{network:<10} pays in {kind}: {', '.join(own[f'pays_in_{kind}']) or 'nothing'}"
    if figures["compiler_complaint"] is not None:
        yield f"compile is left out: {figures['compiler_complaint']}"


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
        "engine",
        "measure the batched engine against RLlib's own: sampling, PPO, a frozen phase, two runners",
        _takes_market_and_repeats,
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
        _takes_market_and_repeats,
        _sac,
        _sac_lines,
        "mtquant bench sac --json sac.json",
    ),
    Bench(
        "attention",
        "fit how time grows with tokens, width, batch, window and hidden size, beside what is stated; heads over two "
        "processes",
        _takes_repeats,
        _attention,
        _attention_lines,
        "mtquant bench attention --json attention.json",
    ),
    Bench(
        "inference",
        "measure policies that no longer learn: float32, bfloat16, int8, remembered and batched; speed and agreement",
        _inference_options,
        _inference,
        _inference_lines,
        "mtquant bench inference --json inference.json",
    ),
    Bench(
        "learner",
        "measure what precision, checkpointing and compilation are worth in PPO's update (minutes)",
        _learner_options,
        _learner,
        _learner_lines,
        "mtquant bench learner --json learner.json",
    ),
)
