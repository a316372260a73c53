"""Benches of the networks: attention, inference, and what a learner's options are worth."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtquant_rllib.commands.bench.options import (
    Figures,
    at_least_one,
    takes_repeats,
)
from mtquant_rllib.commands.command import reproducible
from mtquant_rllib.commands.runs import run_folder
from mtquant_rllib.errors import RunError
from mtquant_rllib.universe import META

if TYPE_CHECKING:
    from mtquant_rllib.config import Settings


def attention(settings: Settings, args: argparse.Namespace) -> Figures:
    repeats = at_least_one(args, "repeats")
    from mtquant_rllib.bench.attention import Sizes, bench_attention

    return bench_attention(settings, Sizes(repeats=repeats))


def attention_lines(figures: Figures) -> Iterator[str]:
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


def inference_options(parser: Any) -> None:
    takes_repeats(parser)
    parser.add_argument(
        "--run",
        type=Path,
        metavar="RUN",
        help="policies of this run, its folder or its name under runs/ (default: fresh networks)",
    )


def inference(settings: Settings, args: argparse.Namespace) -> Figures:
    repeats = at_least_one(args, "repeats")
    from mtquant_rllib.bench.inference import Sizes, bench_inference
    from mtquant_rllib.training.inspection.opened_policies import open_policies
    from mtquant_rllib.training.preparation import prepare

    sizes = Sizes(repeats=repeats)
    if args.run is None:
        return bench_inference(settings, Path(prepare(settings, None, None).data), sizes)
    opened = open_policies(run_folder(args.run), "validation")
    if opened.phase == 1 and not opened.settings.universe.allocates:
        raise RunError(f"{opened.run}: after phase 1 there is no {META} yet to ask; carry the run on first")
    return bench_inference(opened.settings, opened.folder, sizes, opened.states)


def inference_lines(figures: Figures) -> Iterator[str]:
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


def learner_options(parser: Any) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument("--rows", type=int, default=1024, metavar="N", help="of a module's update (%(default)s)")
    takes_repeats(parser)


def learner(settings: Settings, args: argparse.Namespace) -> Figures:
    rows, repeats = at_least_one(args, "rows"), at_least_one(args, "repeats")
    reproducible()
    from mtquant_rllib.bench.learner import Sizes, bench_learner

    return bench_learner(settings, args.device, Sizes(rows=rows, repeats=repeats))


def learner_lines(figures: Figures) -> Iterator[str]:
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
    if figures["compiler_error"] is not None:
        yield f"compile is left out: {figures['compiler_error']}"
