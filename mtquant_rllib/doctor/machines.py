"""Checks of what a run is placed on: the plan of every phase, and each node of a cluster from a process there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mtquant_rllib.config import Settings
from mtquant_rllib.doctor.findings import Finding, refused
from mtquant_rllib.training.phases import expect_trainable, plan_phase
from mtquant_rllib.training.placement.nodes import Node
from mtquant_rllib.training.placement.planner import placed
from mtquant_rllib.training.records.manifest import phases_of, versions

CLOCK_SECONDS = 2.0
"""By how much a node's clock may differ: times in logs and records stand side by side."""
ANSWER_SECONDS = 60.0
"""How long a process on a node may take to start and answer."""


def plan(settings: Settings, nodes: Sequence[Node]) -> Iterator[Finding]:
    """What runs where in each phase."""
    for phase in phases_of(settings):
        trials = [trial.name for trial in plan_phase(settings, phase)]

        def attempt(phase: int = phase, trials: Sequence[str] = tuple(trials)) -> Iterator[Finding]:
            expect_trainable(settings, phase)
            for line in placed(settings.resources, phase, trials, nodes).table():
                yield Finding("plan", "ok", f"phase {phase} on {line}")

        yield from refused("plan", attempt)


def nodes(there: Sequence[Node], run: Path, cache: Path) -> Iterator[Finding]:
    """Every node has this project in the same versions, sees the same folders and tells the same time."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Defined here, so that it travels by value: a node may lack the package.
    def look(folders: list[str], word: str) -> dict[str, Any]:
        import os
        import time

        seen: dict[str, Any] = {"time": time.time(), "folders": {}}
        for folder in folders:
            try:
                with open(os.path.join(folder, word)) as file:
                    found = file.read()
                with open(os.path.join(folder, f"{word}.{os.getpid()}"), "w") as file:
                    file.write(found)
                os.remove(os.path.join(folder, f"{word}.{os.getpid()}"))
            except OSError as error:
                seen["folders"][folder] = error.strerror
        try:
            from mtquant_rllib.training.records.manifest import versions

            seen["versions"] = versions()
        except ImportError as error:
            seen["missing"] = str(error)
        return seen

    remote = ray.remote(num_cpus=0, max_retries=0)(look)
    word, folders = f".mtquant-doctor-{time.time_ns()}", [str(run), str(cache)]
    for folder in folders:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / word).write_text(word)
    try:
        for node in there:
            began = time.time()
            task = remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(str(node.id), soft=False))
            try:
                seen = ray.get(task.remote(folders, word), timeout=ANSWER_SECONDS)
            except Exception as error:
                yield Finding(
                    "node",
                    "failed",
                    f"{node}: no process answers there ({type(error).__name__})",
                    "`ray logs` on the node says why; restart it",
                )
                continue
            yield from _judged(node, seen, began, time.time())
    finally:
        for folder in folders:
            (Path(folder) / word).unlink(missing_ok=True)


def _judged(node: Node, seen: dict[str, Any], began: float, ended: float) -> Iterator[Finding]:
    sound = True
    if "missing" in seen:
        sound = False
        yield Finding("node", "failed", f"{node}: {seen['missing']}", "install this project in its Ray's environment")
    else:
        here, theirs = versions(), seen["versions"]
        others = [f"{name} {theirs.get(name)} (here {own})" for name, own in here.items() if theirs.get(name) != own]
        if others:
            sound = False
            cure = "install the versions of constraints.txt on every node"
            yield Finding("node", "failed", f"{node}: {', '.join(others)}", cure)
    for folder, why in seen["folders"].items():
        sound = False
        yield Finding(
            "node",
            "failed",
            f"{node}: {folder} is not the folder of that name here ({why})",
            "mount one shared folder on every node (NFS, EFS, Filestore) and name it with --run and MTQUANT_CACHE",
        )
    behind = max(began - seen["time"], seen["time"] - ended, 0.0)
    if behind > CLOCK_SECONDS:
        yield Finding("node", "warning", f"{node}: its clock is {behind:.0f} s off", "run NTP (chrony) on every node")
    if sound:
        yield Finding("node", "ok", f"{node}: versions, folders and clock are those of this machine")
