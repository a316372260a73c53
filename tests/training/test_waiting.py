"""What a trial that has not started says it waits for."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from ray.tune import PlacementGroupFactory
from ray.util import placement_group, remove_placement_group

from mtquant_rllib.config import Settings
from mtquant_rllib.training.curriculum import node_callbacks
from mtquant_rllib.training.curriculum.node_callbacks import Waiting, waits_for
from mtquant_rllib.training.placement.nodes import Node
from mtquant_rllib.training.placement.planner import placed
from mtquant_rllib.training.result_keys import TRIAL
from mtquant_rllib.training.session.ray_session import SessionNodes

HEAD = Node("head", 4, id="h")


def test_what_a_trial_waits_for_is_said_in_numbers() -> None:
    worker = Node("worker", 8, 1, id="w")
    placement = placed(Settings.load(overrides=["resources.runners=1"]).resources, 1, ["desk"], [HEAD, worker])
    assert placement.nodes_of("desk") == ["w", "h"]
    all_free = {"h": {"CPU": 4.0}, "w": {"CPU": 8.0, "GPU": 1.0}}
    assert waits_for(placement, "desk", [HEAD, worker], all_free) == "its process to start"
    said = waits_for(placement, "desk", [HEAD, worker], {"h": {"CPU": 4.0}, "w": {"CPU": 0.5}})
    assert "3 CPU on worker, where 0.5 of 8 are free and 1 GPU on worker, where 0 of 1 are free" in said
    assert "worker, which is gone" in waits_for(placement, "desk", [HEAD], all_free)


@pytest.mark.ray
def test_a_trial_whose_place_is_handed_out_waits_for_its_process_alone(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own place holds the CPUs that are not free then: nobody else does."""
    monkeypatch.setattr(node_callbacks, "TELL_EVERY_S", -1.0)
    machines = SessionNodes(gpus=False)
    (node,) = machines.nodes()
    deadline = time.monotonic() + 60
    while machines.free()[str(node.id)].get("CPU", 0.0) < node.cpus:
        assert time.monotonic() < deadline, "something else holds CPUs of the session that tests share"
        time.sleep(0.2)
    said: list[str] = []
    placement = placed(Settings.load().resources, 1, ["a", "b"], [node])
    assert placement.side_by_side == 2
    waiting = Waiting(1, placement, machines, said.append)
    ((_, cpus, _),) = placement.shares("a")
    own = PlacementGroupFactory([{"CPU": cpus}])
    trials = [SimpleNamespace(config={TRIAL: name}, status="PENDING", placement_group_factory=own) for name in "ab"]

    def told() -> list[str]:
        said.clear()
        waiting.on_step_begin(1, trials)
        return [line.split("waits for ")[1].rsplit(", for", 1)[0] for line in said]

    places = [placement_group([{"CPU": node.cpus - 0.5}]), placement_group([{"CPU": cpus}])]
    try:
        assert places[0].wait(60)
        assert not places[1].wait(0.2)
        assert all("where 0.5 of" in line and "something else" in line for line in told())
        remove_placement_group(places[0])
        assert places[1].wait(60)
        assert told() == ["its process to start"] * 2
        trials[0].status = "RUNNING"
        assert told() == ["its process to start"], "the place is the running trial's; the rest of the node is free"
        places.append(placement_group([{"CPU": node.cpus - cpus - 0.1}]))
        assert places[2].wait(60)
        assert "something else" in told()[0], "the rest of the node is somebody else's"
    finally:
        for place in places:
            remove_placement_group(place)
