"""What each process of a phase's trials gets, so that they fit onto the nodes that there are.

Ray places all processes of a trial at once (a placement group) or none of them, and waits without an end for a group
that fits nowhere. So they are packed here first, and each is bound to its node. Every process gets the same part of a
CPU, the largest at which all of them fit; where something is left, the processes that learn grow into it. A GPU is
shared by as few processes as can be.

Trials run side by side where they can; where parts would become too small, fewer at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mtquant_rllib.config.sections.training import ResourcesConfig
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.placement.nodes import Node, listed

MAIN, RUNNER, LEARNER = "trial", "runner", "learner"
_WHOLE = 100
"""Parts are counted in hundredths of a CPU or a GPU: Ray's own counting is exact to ten thousandths, sums of floats
are not."""


@dataclass(frozen=True)
class TrialResources:
    """What a trial asks Ray for: CPUs of its own process, of each of its runners and of each of its learners, and GPUs
    of each process that learns. Without learners its own process does."""

    cpus: float
    runner_cpus: float
    gpus: float
    learner_cpus: float = 0.0

    @property
    def learner_threads(self) -> int:
        return max(1, math.floor(self.learner_cpus or self.cpus))


@dataclass(frozen=True)
class TrialProcess:
    """A process of a trial. kind: trial | runner | learner; cpus, gpus: hundredths."""

    trial: str
    kind: str
    cpus: int
    gpus: int = 0


Assignment = tuple[TrialProcess, Node]


@dataclass(frozen=True)
class Placement:
    """resources: of every trial. side_by_side: how many trials run at a time. assignments: (process, node) of the first
    so many, trial by trial. bound: whether processes are bound to their nodes; with one node there is no need."""

    resources: TrialResources
    side_by_side: int
    assignments: tuple[Assignment, ...]
    bound: bool

    def nodes_of(self, trial: str) -> list[str | None]:
        """Ray's ids of the nodes of a trial's processes: its own, runners, learners. None stands for any node: of one
        that is not started yet, and of trials that wait for others to end."""
        return [node.id if self.bound else None for process, node in self.assignments if process.trial == trial]

    @property
    def trials(self) -> list[str]:
        """Those that run at a time."""
        return list(dict.fromkeys(process.trial for process, _ in self.assignments))

    def shares(self, trial: str) -> Iterator[tuple[Node, float, float]]:
        """(node, CPUs, GPUs) that a trial takes, node by node."""
        for node in dict.fromkeys(node for process, node in self.assignments if process.trial == trial):
            own = [process for process, assigned in self.assignments if (process.trial, assigned) == (trial, node)]
            yield node, sum(one.cpus for one in own) / _WHOLE, sum(one.gpus for one in own) / _WHOLE

    def held_by(self, trial: str) -> tuple[float, float]:
        """(CPUs, GPUs) that a trial takes, of all nodes."""
        own = [process for process, _ in self.assignments if process.trial == trial]
        return sum(one.cpus for one in own) / _WHOLE, sum(one.gpus for one in own) / _WHOLE

    def to_be_started(self) -> list[Node]:
        """The nodes that are needed and not there yet."""
        return [node for node in dict.fromkeys(node for _, node in self.assignments) if node.id is None]

    def table(self) -> list[str]:
        """A line a node: what runs there, and how much of it is used."""
        lines = []
        for node in dict.fromkeys(node for _, node in self.assignments):
            there = [process for process, assigned in self.assignments if assigned == node]
            cpus, gpus = sum(one.cpus for one in there) / _WHOLE, sum(one.gpus for one in there) / _WHOLE
            used = f"{cpus:g} of {node.cpus:g} CPU" + (f", {gpus:g} of {node.gpus:g} GPU" if node.gpus else "")
            lines.append(f"{node.name}{'' if node.id else ' (to be started)'}: {used}: {_in_words(there)}")
        return lines


def _in_words(processes: Sequence[TrialProcess]) -> str:
    """`forex (trial .66), equity (2 runners of .33)`."""
    parts = []
    for trial in dict.fromkeys(process.trial for process in processes):
        kinds = []
        for kind in (MAIN, RUNNER, LEARNER):
            own = [one for one in processes if (one.trial, one.kind) == (trial, kind)]
            if own:
                many = f"{len(own)} {kind}s of" if len(own) > 1 or kind != MAIN else kind
                gpu = f" + {own[0].gpus / _WHOLE:g} GPU" if own[0].gpus else ""
                kinds.append(
                    f"{many.replace('1 runners', '1 runner').replace('1 learners', '1 learner')} "
                    f"{own[0].cpus / _WHOLE:g} CPU{gpu}"
                )
        parts.append(f"{trial} ({', '.join(kinds)})")
    return ", ".join(parts)


def placed(
    asked: ResourcesConfig,
    phase: int,
    trials: Sequence[str],
    nodes: Sequence[Node],
    free: Mapping[str, Mapping[str, float]] | None = None,
) -> Placement:
    """Pack the trials of a phase.

    Parameters
    ----------
    free
        By node, the CPUs and GPUs that nobody holds. Where the trials fit into these, they keep off what others hold;
        otherwise they wait for it.

    Raises
    ------
    ConfigError
        When one trial alone does not fit, with the arithmetic and the setting that would make it fit.
    """
    for side_by_side in range(len(trials), 0, -1):
        found = _side_by_side(asked, trials[:side_by_side], nodes, free)
        if found is not None:
            return found
    raise ConfigError(_refusal(asked, phase, nodes))


def _side_by_side(
    asked: ResourcesConfig, trials: Sequence[str], nodes: Sequence[Node], free: Mapping[str, Mapping[str, float]] | None
) -> Placement | None:
    """All of these trials at a time; None where their parts would be too small."""
    found = (_with_gpu_part(asked, trials, nodes, free, gpus) for gpus in _gpu_parts(asked, len(trials), nodes))
    return next((one for one in found if one is not None), None)


def _with_gpu_part(
    asked: ResourcesConfig,
    trials: Sequence[str],
    nodes: Sequence[Node],
    free: Mapping[str, Mapping[str, float]] | None,
    gpus: int,
) -> Placement | None:
    least = round(_WHOLE * asked.min_process_cpus)
    for part in range(_WHOLE, least - 1, -1):
        if _packed(asked, trials, nodes, part, part, gpus) is not None:
            break
    else:
        return None
    learning = part
    for larger in range(_WHOLE * asked.learner_cpus, part, -1):
        if _packed(asked, trials, nodes, part, larger, gpus) is not None:
            learning = larger
            break
    assignments = None if free is None else _packed(asked, trials, nodes, part, learning, gpus, free)
    if assignments is None:
        assignments = _packed(asked, trials, nodes, part, learning, gpus)
    assert assignments is not None
    remote = asked.learners > 0
    resources = TrialResources(
        cpus=(part if remote else learning) / _WHOLE,
        runner_cpus=part / _WHOLE,
        gpus=gpus / _WHOLE,
        learner_cpus=learning / _WHOLE if remote else 0.0,
    )
    return Placement(resources, len(trials), tuple(assignments), bound=len(nodes) > 1)


def _gpus_of(asked: ResourcesConfig, nodes: Sequence[Node]) -> int:
    """Whole GPUs of nodes on which a process has room."""
    return sum(math.floor(node.gpus) for node in nodes if node.cpus >= asked.min_process_cpus)


def _gpu_parts(asked: ResourcesConfig, trials: int, nodes: Sequence[Node]) -> list[int]:
    """Hundredths of a GPU for each process that learns, the best first: a whole one, or one over a number, as Ray never
    splits a part over two. None of them where more than `processes_per_gpu` would share one."""
    there = _gpus_of(asked, nodes)
    if asked.gpus == "none" or not there:
        return [0]
    fewest = math.ceil(trials * max(asked.learners, 1) / there)
    return [_WHOLE // sharing for sharing in range(fewest, asked.processes_per_gpu + 1)]


def _processes(asked: ResourcesConfig, trial: str, part: int, learning: int, gpus: int) -> Iterator[TrialProcess]:
    """Those of one trial, in the order of its placement group."""
    if not asked.learners:
        yield TrialProcess(trial, MAIN, learning, gpus)
    else:
        yield TrialProcess(trial, MAIN, part)
    for _ in range(asked.runners):
        yield TrialProcess(trial, RUNNER, part)
    for _ in range(asked.learners):
        yield TrialProcess(trial, LEARNER, learning, gpus)


def _packed(
    asked: ResourcesConfig,
    trials: Sequence[str],
    nodes: Sequence[Node],
    part: int,
    learning: int,
    gpus: int,
    free: Mapping[str, Mapping[str, float]] | None = None,
) -> list[Assignment] | None:
    """A node for each process; None where one does not fit.

    Those with a GPU come first, onto the nodes that have any. The others keep off these nodes while there is room
    elsewhere, and near to their own trial's. free: as of `placed`.
    """
    wanted = [one for trial in trials for one in _processes(asked, trial, part, learning, gpus)]
    if asked.cpus is not None and sum(one.cpus for one in wanted) > _WHOLE * asked.cpus:
        return None
    left = [free_of(node, free) for node in nodes]
    cpus_left = [math.floor(_WHOLE * node.cpus + 1e-6) for node in left]
    gpus_left = [[_WHOLE] * math.floor(node.gpus) for node in left]
    homes: dict[str, set[int]] = {trial: set() for trial in trials}
    assignments: dict[int, Node] = {}
    for place in sorted(range(len(wanted)), key=lambda place: -wanted[place].gpus):
        process = wanted[place]
        able = [
            number
            for number in range(len(nodes))
            if cpus_left[number] >= process.cpus
            and (not process.gpus or max(gpus_left[number], default=0) >= process.gpus)
        ]
        if not able:
            return None
        own = homes[process.trial]
        chosen = min(
            able,
            key=lambda number: (
                nodes[number].id is None,
                bool(gpus_left[number]) and not process.gpus,
                number not in own,
                cpus_left[number],
                number,
            ),
        )
        cpus_left[chosen] -= process.cpus
        if process.gpus:
            # The fullest that it fits into.
            _, which = min((left, index) for index, left in enumerate(gpus_left[chosen]) if left >= process.gpus)
            gpus_left[chosen][which] -= process.gpus
        own.add(chosen)
        assignments[place] = nodes[chosen]
    return [(process, assignments[place]) for place, process in enumerate(wanted)]


def free_of(node: Node, free: Mapping[str, Mapping[str, float]] | None) -> Node:
    """What nobody holds of a node; all of one that is still to be started, and of all where it is not known."""
    if free is None or node.id is None:
        return node
    own = free.get(node.id, {})
    return replace(node, cpus=min(node.cpus, own.get("CPU", 0.0)), gpus=min(node.gpus, own.get("GPU", 0.0)))


def _cure(asked: ResourcesConfig, room: int) -> str:
    """What makes one trial fit where there is room for so many processes."""

    def at_most(name: str, number: int) -> str:
        return f"resources.{name}={number}" + (" or fewer" if number else "")

    if room < 1:
        return "use a machine with more CPUs"
    if asked.runners and room > asked.learners:
        return f"set {at_most('runners', room - 1 - asked.learners)}"
    if room > asked.runners:
        return f"set {at_most('learners', room - 1 - asked.runners)}"
    return f"set resources.learners=0 and {at_most('runners', room - 1)}"


def _refusal(asked: ResourcesConfig, phase: int, nodes: Sequence[Node]) -> str:
    """Why one trial does not fit, and what would."""
    processes = 1 + asked.runners + asked.learners
    least, there = asked.min_process_cpus, listed(nodes)
    said = (
        f"phase {phase}: a trial is {processes} processes (1 of its own, {asked.runners} runners, {asked.learners} "
        "learners)"
    )
    gpus = _gpus_of(asked, nodes)
    if asked.gpus != "none" and gpus and asked.learners > gpus * asked.processes_per_gpu:
        return (
            f"{said}; {asked.learners} learners on {gpus} GPU{'s' if gpus > 1 else ''} are more than "
            f"resources.processes_per_gpu = {asked.processes_per_gpu} on one: set resources.learners="
            f"{gpus * asked.processes_per_gpu} or fewer"
        )
    room = sum(math.floor(node.cpus / least + 1e-6) for node in nodes)
    if asked.cpus is not None:
        room = min(room, math.floor(asked.cpus / least + 1e-6))
    cap = f", of which resources.cpus = {asked.cpus} may be used" if asked.cpus is not None else ""
    cure = _cure(asked, room)
    return (
        f"{said} of at least resources.min_process_cpus = {least:g} CPU each, {processes * least:g} CPUs; there are "
        f"{there}{cap}: {cure}"
    )
