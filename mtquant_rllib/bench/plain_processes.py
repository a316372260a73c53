"""Runners in plain processes without Ray: the upper bound of what a second core adds.

Two of them over one is the most that two remote runners can come to over one. On machines whose cores are shared with
strangers it is less than 2, and moves.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from ray import cloudpickle


class PlainRunners:
    """`sample(bars)` lets every process sample its share, and returns when the last has."""

    def __init__(self, ends: list[Connection]) -> None:
        self._ends = ends

    def sample(self, bars: int) -> None:
        for end in self._ends:
            end.send(bars // len(self._ends))
        for end in self._ends:
            end.recv()


@contextmanager
def plain_runners(config: Any, number: int) -> Iterator[PlainRunners]:
    """`number` processes with a `BatchedEnvRunner` of that configuration each."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(number)]
    packed = cloudpickle.dumps(config)
    processes = [
        context.Process(target=_serve, args=(packed, index + 1, far), daemon=True)
        for index, (_, far) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    for _, far in pipes:
        far.close()
    ends = [near for near, _ in pipes]
    try:
        yield PlainRunners(ends)
    finally:
        for end, process in zip(ends, processes):
            end.close()
            process.join()


def _serve(packed: bytes, index: int, end: Connection) -> None:
    from mtquant_rllib.engine.sampling.runner import BatchedEnvRunner

    runner = BatchedEnvRunner(config=cloudpickle.loads(packed), worker_index=index)
    while True:
        try:
            bars = end.recv()
        except EOFError:
            return
        runner.sample_bars(bars)
        end.send(bars)
