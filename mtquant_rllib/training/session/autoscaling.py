"""Lets a cluster's autoscaler start the nodes that a phase was placed on and that are not there yet.

Demand is a placement group with a bundle as large as each node, or what is free of it: it is this driver's, so that it
goes when the driver does, killed or not (`ray.autoscaler.sdk.request_resources` would keep the nodes for ever, and
their bill). It is removed once the nodes are there; the trials' own groups come next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from ray.util.placement_group import placement_group, remove_placement_group

from mtquant_rllib.training.placement.nodes import Node

LOOK_EVERY_S = 1.0
TELL_EVERY_S = 30.0


def wait_for_nodes(
    there: Callable[[], Sequence[Node]],
    wanted: Sequence[Node],
    patience_s: float,
    tell: Callable[[str], None],
    stop: Callable[[], None] = lambda: None,
) -> bool:
    """Ask for nodes and wait until as many of their size are there; whether they are.

    Parameters
    ----------
    there
        The nodes that are alive.
    wanted
        What the missing nodes, which have no id, have to be started beside: nodes that are there, as far as they are
        free.
    tell
        Gets a line at once and every 30 seconds: what is waited for.
    stop
        Called while waiting; raises to give up.
    """
    missing = [node for node in wanted if node.id is None]
    if not missing:
        return True
    before = {node.id for node in there()}
    group = placement_group([bundle for node in wanted if (bundle := dict(_bundle(node)))])
    began = last_report = time.monotonic()
    tell(f"waits for {_listed(missing)} to be started by the autoscaler (`ray status` shows what it does)")
    try:
        while True:
            new = [node for node in there() if node.id not in before]
            lacking = _lacking(missing, new)
            if not lacking:
                return True
            now = time.monotonic()
            if now - began > patience_s:
                return False
            if now - last_report > TELL_EVERY_S:
                last_report = now
                tell(f"waits for {_listed(lacking)} for {now - began:.0f} s of at most {patience_s:.0f}")
            stop()
            time.sleep(LOOK_EVERY_S)
    finally:
        remove_placement_group(group)


def _bundle(node: Node) -> Iterator[tuple[str, float]]:
    if node.cpus:
        yield "CPU", node.cpus
    if node.gpus:
        yield "GPU", node.gpus


def _lacking(missing: Sequence[Node], new: Sequence[Node]) -> list[Node]:
    """Those of the missing ones that no new node of at least their size stands for."""
    left, lacking = list(new), []
    for wanted in missing:
        for node in left:
            if node.cpus >= wanted.cpus and node.gpus >= wanted.gpus:
                left.remove(node)
                break
        else:
            lacking.append(wanted)
    return lacking


def _listed(nodes: Sequence[Node]) -> str:
    """`2 nodes with 4 CPU, 1 node with 8 CPU + 1 GPU`."""
    sizes = [" + ".join(f"{amount:g} {name}" for name, amount in _bundle(node)) or "0 CPU" for node in nodes]
    counts = {size: sizes.count(size) for size in sizes}
    return ", ".join(f"{count} node{'s' if count > 1 else ''} with {size}" for size, count in counts.items())
