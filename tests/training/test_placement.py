"""Processes of trials on nodes: all of them fit, GPUs are shared evenly, what cannot fit is refused with numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.placement.nodes import Node
from mtquant_rllib.training.placement.planner import LEARNER, MAIN, RUNNER, Placement, placed

TRIALS = ("forex", "commodities", "equity")


def nodes(*sizes: float | tuple[float, float]) -> list[Node]:
    """(CPUs, GPUs) of each."""
    pairs = [size if isinstance(size, tuple) else (size, 0.0) for size in sizes]
    return [Node(f"n{number}", cpus, gpus, id=str(number)) for number, (cpus, gpus) in enumerate(pairs)]


def place(there: Sequence[Node], trials: Sequence[str] = TRIALS, **resources: object) -> Placement:
    overrides = [f"resources.{name}={value}" for name, value in resources.items()]
    return placed(Settings.load(overrides=overrides).resources, 1, trials, there)


def test_three_trials_fit_on_two_cores_and_share_one_gpu() -> None:
    on_one = place(nodes((2, 1)))
    assert (on_one.resources.cpus, on_one.resources.gpus, on_one.side_by_side) == (0.66, 0.33, 3)
    assert place(nodes(2), runners=2).resources.runner_cpus == 0.22
    assert place(nodes((2, 1)), gpus="none").resources.gpus == 0.0


def test_a_process_never_asks_for_more_than_a_node_has() -> None:
    assert place(nodes(2, 2), ("desk",)).resources.cpus == 2.0, "four CPUs in two halves"
    assert place(nodes(1, 8), ("desk",)).resources.cpus == 3.0, "learner_cpus is the most"


@pytest.mark.parametrize(
    ("gpus", "learners", "part"), [(1, 0, 0.33), (2, 0, 0.5), (4, 0, 1.0), (4, 2, 0.5), (6, 2, 1.0), (2, 2, 0.33)]
)
def test_a_gpu_is_shared_by_as_few_as_can_be(gpus: int, learners: int, part: float) -> None:
    """Two thirds of a GPU, which sums of two would give three trials, let a third one wait."""
    placement = place(nodes((16, gpus)), learners=learners)
    assert (placement.resources.gpus, placement.side_by_side) == (part, 3)


def test_a_gpu_without_a_cpu_beside_it_is_no_gpu() -> None:
    """A head with --num-cpus=0 may have one."""
    placement = place(nodes((0, 1), (8, 1)), ("desk",), learners=2)
    assert placement.resources.gpus == 0.5
    assert {node.name for process, node in placement.assignments if process.gpus} == {"n1"}


def test_a_gpu_is_shared_by_more_where_fewer_do_not_fit() -> None:
    """Two GPUs, one of them on a node with room for one process: three trials would wait for a third of each."""
    placement = place(nodes((1, 1), (8, 1)), ("desk",), learners=4, min_process_cpus=0.9, learner_cpus=1)
    assert placement.resources.gpus == 0.33
    assert Counter(node.name for process, node in placement.assignments if process.gpus) == {"n0": 1, "n1": 3}


def test_trials_keep_off_what_others_hold_where_they_fit_beside_it() -> None:
    there = nodes((8, 1), (8, 1))
    asked = Settings.load().resources
    alone = placed(asked, 2, ("desk",), there, {"0": {"CPU": 8.0, "GPU": 1.0}, "1": {"CPU": 8.0, "GPU": 1.0}})
    assert alone.nodes_of("desk") == ["0"]
    beside = placed(asked, 2, ("desk",), there, {"0": {"CPU": 5.0, "GPU": 0.0}, "1": {"CPU": 8.0, "GPU": 1.0}})
    assert (beside.nodes_of("desk"), beside.resources) == (["1"], alone.resources)
    waits = placed(asked, 2, ("desk",), there, {"0": {"CPU": 1.0}, "1": {"CPU": 1.0}})
    assert (waits.nodes_of("desk"), waits.resources) == (["0"], alone.resources), "as large, when somebody leaves"


def test_learners_grow_into_what_is_left() -> None:
    placement = place(nodes((20, 4)), ("desk",), learners=4)
    own = placement.resources
    assert (own.cpus, own.learner_cpus, own.learner_threads, own.gpus) == (1.0, 3.0, 3, 1.0)


def test_runners_keep_off_the_gpu_nodes() -> None:
    placement = place(nodes((2, 1), 8), runners=2)
    where = Counter((process.kind, node.name) for process, node in placement.assignments)
    assert where == {(MAIN, "n0"): 3, (RUNNER, "n1"): 6}
    assert placement.nodes_of("forex") == ["0", "1", "1"]


def test_on_one_node_nothing_is_bound() -> None:
    assert place(nodes(4), runners=1).nodes_of("forex") == [None, None]
    assert place(nodes(1, 8), ("desk",)).nodes_of("desk") == ["1"], "the other may be lost, and this one"


def test_an_autoscaler_is_asked_for_what_it_may_start() -> None:
    """Nine processes share a head of two CPUs, and have one each where a node may come."""
    head, coming = Node("head", 2, id="h"), Node("worker", 8)
    assert place([head], runners=2).resources.cpus == 0.22
    with_worker = place([head, coming], runners=2)
    assert with_worker.resources.cpus == with_worker.resources.runner_cpus == 1.0
    assert with_worker.nodes_of("forex") == ["h", "h", None]
    assert "worker (to be started): 7 of 8 CPU" in with_worker.table()[1]


def test_where_parts_would_be_too_small_fewer_trials_run_at_a_time() -> None:
    assert place(nodes(2), runners=10).side_by_side == 1
    assert place(nodes((8, 1)), processes_per_gpu=2).side_by_side == 2


@pytest.mark.parametrize(
    ("there", "resources", "said"),
    [
        (nodes(2), {"runners": 50}, r"51 processes .* 0\.1 CPU each, 5\.1 CPUs; .* 2 CPUs: set resources\.runners=19"),
        (nodes(2, 2), {"runners": 50}, r"there are 2 \+ 2 CPUs: set resources\.runners=39 or fewer"),
        (nodes((8, 1)), {"learners": 5}, r"5 learners on 1 GPU .* set resources\.learners=4 or fewer"),
        (nodes(8), {"cpus": 1, "runners": 16}, r"of which resources\.cpus = 1 may be used: set resources\.runners=9"),
        (
            nodes(2),
            {"min_process_cpus": 1, "learners": 4, "runners": 4},
            r"there are 2 CPUs: set resources\.learners=0 and resources\.runners=1 or fewer",
        ),
        (nodes(0), {}, r"there are 0 CPUs: use a machine with more CPUs"),
    ],
)
def test_what_cannot_fit_is_refused_with_numbers_that_do(
    there: list[Node], resources: dict[str, int], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        place(there, **resources)


@pytest.mark.slow
@given(
    sizes=st.lists(st.tuples(st.integers(0, 16), st.integers(0, 4)), min_size=1, max_size=5),
    trials=st.integers(1, 4),
    runners=st.integers(0, 6),
    learners=st.integers(0, 3),
    cpus=st.none() | st.integers(1, 20),
)
def test_whatever_is_placed_fits(
    sizes: list[tuple[int, int]], trials: int, runners: int, learners: int, cpus: int | None
) -> None:
    there, names = nodes(*sizes), [f"t{number}" for number in range(trials)]
    asked = {"runners": runners, "learners": learners, "cpus": "null" if cpus is None else cpus}
    try:
        placement = place(there, names, **asked)
    except ConfigError:
        return
    kinds = Counter((process.trial, process.kind) for process, _ in placement.assignments)
    for name in names[: placement.side_by_side]:
        assert [kinds[name, kind] for kind in (MAIN, RUNNER, LEARNER)] == [1, runners, learners]
    for node in there:
        own = [process for process, assigned in placement.assignments if assigned == node]
        assert sum(process.cpus for process in own) <= 100 * node.cpus
        part = max((process.gpus for process in own), default=0)
        assert not part or sum(process.gpus > 0 for process in own) <= node.gpus * (100 // part)
    if cpus is not None:
        assert sum(process.cpus for process, _ in placement.assignments) <= 100 * cpus
    if any(gpus and own_cpus for own_cpus, gpus in sizes):
        assert placement.resources.gpus > 0
