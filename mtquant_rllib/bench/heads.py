"""Time and memory of the document's attention network with its heads split over two processes.

Forward and backward pass of its encoder, 50 features in four groups, in one process and with the heads of its layers
over several, all on this machine and with one thread each. A layer then stops twice for a sum over the processes, once
each way, and does a share of its own work. With four tokens that work is short; what is spared is memory.

    parameters, kept    of the attention layers: numbers that are learned, and bytes that a forward pass keeps for the
                        backward one, in the first process, which has the most heads
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor

from mtquant_rllib import strict_json
from mtquant_rllib.bench.interleaving import interleaved
from mtquant_rllib.config.sections.attention import AttentionConfig
from mtquant_rllib.policies.attention.head_parallel import heads_per_process, split_heads
from mtquant_rllib.policies.attention.self_attention import AttentionEncoder

PATIENCE = timedelta(minutes=2)
"""So long a process waits for another that has stopped answering."""


def measure_heads(
    widths: tuple[int, ...], config: AttentionConfig, *, rows: int, calls: int, repeats: int, processes: int = 2
) -> Mapping[str, Any]:
    """Seconds of a pass there and back (medians of `repeats` windows of `calls`), and what a process holds.

    Raises
    ------
    ConfigError
        When there are fewer heads than processes.
    """
    heads = heads_per_process(config.heads, processes)
    with tempfile.TemporaryDirectory() as folder:
        sizes = (widths, config, rows, calls, repeats, processes)
        torch.multiprocessing.spawn(_measure, args=(Path(folder), *sizes), nprocs=processes)
        figures: dict[str, Any] = json.loads((Path(folder) / "figures.json").read_text())
    return {"heads": heads, **figures}


def _measure(
    rank: int,
    folder: Path,
    widths: tuple[int, ...],
    config: AttentionConfig,
    rows: int,
    calls: int,
    repeats: int,
    processes: int,
) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes, timeout=PATIENCE
    )
    torch.manual_seed(0)
    obs_BF = torch.randn(rows, sum(widths))
    whole, split = AttentionEncoder(widths, config), AttentionEncoder(widths, config)
    split_heads(split)
    one, several = _window(whole, obs_BF, calls), _window(split, obs_BF, calls)
    windows = interleaved({"one": one if rank == 0 else _nothing, "several": several}, repeats)
    if rank == 0:
        medians = {side: statistics.median(own) for side, own in windows.items()}
        figures = {
            "processes": processes,
            "rows": rows,
            "seconds": medians,
            "windows_s": windows,
            "several_over_one": medians["several"] / medians["one"],
            "several_over_one_by_turn": [b / a for a, b in zip(windows["one"], windows["several"], strict=True)],
            "parameters": {"one": _parameters(whole), "several": _parameters(split)},
        }
    kept = {"one": _kept(whole, obs_BF), "several": _kept(split, obs_BF)}
    if rank == 0:
        (folder / "figures.json").write_text(strict_json.dumps({**figures, "kept_bytes": kept}))
    torch.distributed.destroy_process_group()


def _window(encoder: AttentionEncoder, obs_BF: Tensor, calls: int) -> Callable[[], float]:
    """Each begins when all processes are there: those that have nothing to do in the other side wait here, asleep."""

    def measure() -> float:
        torch.distributed.barrier()
        began = time.perf_counter()
        for _ in range(calls):
            encoder.zero_grad()
            encoder(obs_BF)[0].sum().backward()
        return (time.perf_counter() - began) / calls

    return measure


def _nothing() -> float:
    torch.distributed.barrier()
    return 0.0


def _parameters(encoder: AttentionEncoder) -> int:
    return sum(parameter.numel() for parameter in encoder.layers.parameters())


def _kept(encoder: AttentionEncoder, obs_BF: Tensor) -> int:
    """Bytes of memory behind what the layers' passes keep for the way back, parameters apart."""
    tokens_BGE = encoder.embedding(obs_BF)
    learned = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in learned:
            kept[memory.data_ptr()] = memory.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for layer in encoder.layers:
            tokens_BGE, _ = layer(tokens_BGE)
    return sum(kept.values())
