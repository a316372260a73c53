"""Tune callbacks that watch the nodes of a phase: a lost node ends the experiment, to be placed anew, and a trial that
waits for resources says which. Ray would wait for both silently and without end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.tune import Callback

from mtquant_rllib.errors import MtquantError
from mtquant_rllib.training.placement.nodes import Node
from mtquant_rllib.training.placement.planner import Placement
from mtquant_rllib.training.result_keys import TRIAL
from mtquant_rllib.training.session.interruption import Interruption
from mtquant_rllib.training.session.ray_session import SessionNodes
from mtquant_rllib.training.storage.retries import TELL_EVERY_S

Tell = Callable[[str], None]

LOOK_EVERY_S = 2.0
"""Between two looks at which nodes are there."""


class SessionLost(MtquantError):
    """Every node of the Ray session is gone."""


class LostNodes(Callback):
    """Lets the phase be placed anew once a node is gone that a trial was bound to; ends it where none is left.

    on_step_begin raises SessionLost then: Tune would ask for the nodes of a dead session until somebody stops it.
    """

    def __init__(
        self, phase: int, placement: Placement, machines: SessionNodes, stop: Interruption, tell: Tell
    ) -> None:
        self._phase, self._machines, self._stop, self._tell = phase, machines, stop, tell
        self._bound = {
            trial: {node for node in placement.nodes_of(trial) if node is not None} for trial in placement.trials
        }
        self._looked = time.monotonic()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._looked < LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        there = {node.id for node in self._machines.nodes()}
        if not there:
            raise SessionLost("the Ray session has no node left: its raylet has died or was killed")
        lost = [trial for trial, own in self._bound.items() if not own <= there]
        if lost and not self._stop.node_lost:
            self._tell(
                f"phase {self._phase} {', '.join(lost)}: a node is lost; every trial finishes its update and is placed "
                "anew"
            )
            self._stop.lose_node()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """An autoscaler may end the node of a trial that is over."""
        self._bound.pop(trial.config[TRIAL], None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._bound.pop(trial.config[TRIAL], None)


class Waiting(Callback):
    """Says every 30 seconds what a trial waits for that should run beside the others and does not."""

    def __init__(self, phase: int, placement: Placement, machines: SessionNodes, tell: Tell) -> None:
        self._phase, self._placement, self._machines, self._tell = phase, placement, machines, tell
        self._since: dict[str, float] = {}
        self._last_reported: dict[str, float] = {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        now = time.monotonic()
        running = sum(trial.status == "RUNNING" for trial in trials)
        for trial in trials:
            name = trial.config[TRIAL]
            if trial.status != "PENDING" or running >= self._placement.side_by_side:
                self._since.pop(name, None)
                continue
            since = self._since.setdefault(name, now)
            if now - max(since, self._last_reported.get(name, -math.inf)) > TELL_EVERY_S:
                self._last_reported[name] = now
                if self._has_its_place(trial, trials):
                    why = "its process to start"
                else:
                    why = waits_for(self._placement, name, self._machines.nodes(), self._machines.free())
                self._tell(f"phase {self._phase} {name}: waits for {why}, for {now - since:.0f} seconds")

    def _has_its_place(self, pending: Any, trials: Sequence[Any]) -> bool:
        """Whether Ray has handed out the resources of a pending trial: more places like its own than run."""
        own = _sizes(pending.placement_group_factory.bundles)
        running = sum(
            trial.status == "RUNNING" and _sizes(trial.placement_group_factory.bundles) == own for trial in trials
        )
        return sum(_sizes(held) == own for held in self._machines.held_places()) > running


def _sizes(bundles: Sequence[Mapping[str, float]]) -> list[tuple[float, float]]:
    """CPUs and GPUs of each bundle; Ray hands out ten-thousandths."""
    return [(round(one.get("CPU", 0.0), 4), round(one.get("GPU", 0.0), 4)) for one in bundles]


def waits_for(placement: Placement, trial: str, there: Sequence[Node], free: Mapping[str, Mapping[str, float]]) -> str:
    """The resources that a pending trial lacks, in words.

    there: the nodes that are alive. free: by node, the CPUs and GPUs that are not handed out.
    """
    lacking, taken = [], False
    ids = {node.id: node for node in there}
    for node, cpus, gpus in placement.shares(trial):
        if node.id not in ids:
            lacking.append(f"{node.name}, which is gone")
            continue
        left = free.get(node.id or "", {})
        for name, asked, has in (("CPU", cpus, node.cpus), ("GPU", gpus, node.gpus)):
            if asked > left.get(name, 0.0) + 1e-6:
                taken = True
                lacking.append(f"{asked:g} {name} on {node.name}, where {left.get(name, 0.0):g} of {has:g} are free")
    if lacking:
        return " and ".join(lacking) + (" (something else uses the cluster: `ray status`)" if taken else "")
    return "its process to start"
