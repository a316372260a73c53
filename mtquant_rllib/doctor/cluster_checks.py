"""Checks of placement and nodes: the plan of every phase, and every node of a cluster by a process there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mtquant_rllib.config import Settings
from mtquant_rllib.doctor.findings import CheckResult, refused
from mtquant_rllib.training.curriculum.phases import expect_trainable, plan_phase
from mtquant_rllib.training.placement.nodes import Node
from mtquant_rllib.training.placement.planner import placed
from mtquant_rllib.training.records.manifest import phases_of
from mtquant_rllib.training.session.node_checks import NodeReport, inspect_nodes
from mtquant_rllib.training.session.ray_session import overcommitted

CLOCK_SECONDS = 2.0
"""By how much a node's clock may differ: times in logs and records stand side by side."""


def cpus(settings: Settings) -> Iterator[CheckResult]:
    """A session of this machine hands out no more CPUs than there are."""
    if (said := overcommitted(settings)) is not None:
        yield CheckResult("cpus", "warning", said, "leave resources.cpus out for all that there are")


def plan(settings: Settings, nodes: Sequence[Node]) -> Iterator[CheckResult]:
    """What runs where in each phase. A fault that several phases have in common is reported once."""
    reported: set[str] = set()
    for phase in phases_of(settings):
        trials = [trial.name for trial in plan_phase(settings, phase)]

        def attempt(phase: int = phase, trials: Sequence[str] = tuple(trials)) -> Iterator[CheckResult]:
            expect_trainable(settings, phase)
            for line in placed(settings.resources, phase, trials, nodes).table():
                yield CheckResult("plan", "ok", f"phase {phase} on {line}")

        for finding in refused("plan", attempt):
            if finding.level == "ok" or finding.said not in reported:
                yield finding
            reported.add(finding.said)


def nodes(there: Sequence[Node], run: Path | str, learners: int = 0) -> Iterator[CheckResult]:
    """Every node has this project in the same versions, sees the same folders or reaches the object store, and tells
    the same time. A prepared market is sent to nodes that lack it: the cache may be their own. learners: of a trial,
    which meet by their nodes' names."""
    # A node has a working folder of its own: what it is asked for is written out.
    found = inspect_nodes(there, [], address=run) if isinstance(run, str) else inspect_nodes(there, [run.absolute()])
    for node in there:
        yield from node_findings(node, found[str(node.id)])
    if learners and len(there) > 1:
        for node in there:
            if found[str(node.id)].name_is_loopback:
                yield CheckResult(
                    "node",
                    "warning",
                    f"{node}: its own name stands for 127.x.x.x there, where learners on other nodes do not find it",
                    "let its name stand for its address in /etc/hosts, or GLOO_SOCKET_IFNAME=eth0 before `ray start`",
                )


def node_findings(node: Node, seen: NodeReport) -> Iterator[CheckResult]:
    for fault in seen.faults:
        yield CheckResult("node", "failed", f"{node}: {fault.said}", fault.cure)
    if seen.clock_off_s > CLOCK_SECONDS:
        off = f"{node}: its clock is {seen.clock_off_s:.0f} s off"
        yield CheckResult("node", "warning", off, "run NTP (chrony) on every node")
    if not seen.faults:
        yield CheckResult("node", "ok", f"{node}: versions, storage and clock are those of this machine")
