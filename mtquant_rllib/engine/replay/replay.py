"""The replay buffer of all modules that learn off policy.

Each level of agents has a `StreamStorage`; a module draws from the streams of the agents that it serves. Sampling is
uniform, or prioritised (Schaul et al. 2016, arXiv 1511.05952): with priority p_i = (|error| + eps)^a a decision is
drawn with probability P_i = p_i / sum p, and its loss has the weight (N P_i)^-b over the largest such weight of the
batch. A new decision has the largest priority so far.

All draws come from one counter-based generator. A checkpoint holds its state and the columns, so that a restored replay
draws what the original would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mtquant_rllib.config.sections.sac import PrioritiesConfig
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.engine.fragments import Fragment, LevelColumns
from mtquant_rllib.engine.randomness import REPLAY, generator
from mtquant_rllib.engine.replay.storage import StreamStorage
from mtquant_rllib.engine.replay.sum_tree import SumTree
from mtquant_rllib.env.observations.reconstruction import ObservationReconstruction
from mtquant_rllib.errors import RunError
from mtquant_rllib.features.table import FeatureTable


@dataclass
class Batch:
    """R decisions of one module.

    observation, action, next_observation
        float32 (R, F), (R, A) raw, (R, F): the last is the observation at the end of the return.
    reward, discount
        float32 (R,): the n-step return, and the discount of the value of `next_observation`, 0 after a termination.
    weight
        float32 (R,): importance weight of each row's loss; ones unless prioritised.
    regime
        int64 (R,): the detector's label when it was decided.
    leaves
        int64: leaves of all rows drawn, those of other learners included, for `Replay.update_priorities`.
    n_stored
        Decisions of the module in the replay.
    """

    observation: np.ndarray
    action: np.ndarray
    next_observation: np.ndarray
    reward: np.ndarray
    discount: np.ndarray
    weight: np.ndarray
    regime: np.ndarray
    leaves: np.ndarray
    n_stored: int


class _Draw(NamedTuple):
    """Leaves of a minibatch, and leaves and weights of the rows that this learner gathers."""

    all_leaves: np.ndarray
    leaves: np.ndarray
    weight: np.ndarray


class _ModuleStreams:
    """The streams of one module.

    storages
        Those that hold them.
    storage, stream
        Of each stream: index into `storages`, and number of the stream there.
    tree
        Priorities of all slots; None where sampling is uniform. Leaf = index of the stream * C + position.
    largest
        The largest priority so far.
    """

    def __init__(self) -> None:
        self.storages: list[StreamStorage] = []
        self.storage = np.zeros(0, dtype=np.int64)
        self.stream = np.zeros(0, dtype=np.int64)
        self.tree: SumTree | None = None
        self.largest = 1.0

    def add_streams(self, storage: StreamStorage, agents: Iterable[int]) -> None:
        streams = np.concatenate([storage.streams_of(agent) for agent in agents])
        self.storage = np.concatenate((self.storage, np.full(len(streams), len(self.storages))))
        self.stream = np.concatenate((self.stream, streams))
        self.storages.append(storage)

    def by_storage(self) -> list[tuple[StreamStorage, np.ndarray]]:
        return [(storage, self.stream[self.storage == number]) for number, storage in enumerate(self.storages)]

    def n_stored(self) -> int:
        """Decisions in the replay."""
        return int(sum(storage.stored[streams].sum() for storage, streams in self.by_storage()))

    def used(self) -> np.ndarray:
        """Positions written of each stream."""
        return np.concatenate([storage.used[streams] for storage, streams in self.by_storage()])

    def slots(self, leaves: np.ndarray) -> list[tuple[StreamStorage, np.ndarray, np.ndarray | slice]]:
        """Of each storage that some of `leaves` lie in: the storage, their slots there, and which of `leaves` they
        are."""
        n_slots = self.storages[0].n_slots
        own, position = leaves // n_slots, leaves % n_slots
        slots = self.stream[own] * n_slots + position
        if len(self.storages) == 1:
            return [(self.storages[0], slots, slice(None))]
        places = [np.flatnonzero(self.storage[own] == number) for number in range(len(self.storages))]
        return [(storage, slots[place], place) for storage, place in zip(self.storages, places) if len(place)]

    def is_decision(self, leaves: np.ndarray) -> np.ndarray:
        out = np.zeros(len(leaves), dtype=bool)
        for storage, slots, place in self.slots(leaves):
            out[place] = storage.is_decision(slots)
        return out

    def leaves_of(self, storage: StreamStorage, slots: np.ndarray) -> np.ndarray:
        """The leaves of those of `slots` that belong to this module."""
        number = self.storages.index(storage)
        places = np.full(len(storage.head), -1)
        own_streams = np.flatnonzero(self.storage == number)
        places[self.stream[own_streams]] = own_streams
        own = places[slots // storage.n_slots]
        return (own * storage.n_slots + slots % storage.n_slots)[own >= 0]


class Replay:
    """See the module's docstring.

    Parameters
    ----------
    features
        The table whose rows the fragments refer to.
    learning
        Modules that learn; decisions of others are not drawn.
    module_of
        Agent id -> module id.
    n_envs
        Environments over all runners; `envs_per_runner` of them each.
    capacity_bars
        Bars stored, over all environments.
    n_steps, gamma
        Decisions in a return; discount per bar.
    priorities
        None for uniform sampling.
    """

    def __init__(
        self,
        settings: Settings,
        features: FeatureTable,
        *,
        learning: Collection[str],
        module_of: Callable[[str], str],
        n_envs: int,
        envs_per_runner: int,
        capacity_bars: int,
        n_steps: int,
        gamma: float,
        priorities: PrioritiesConfig | None,
        seed: int,
    ) -> None:
        self._settings, self._features = settings, features
        self._learning, self._module_of = learning, module_of
        self._n_envs, self._envs_per_runner = n_envs, envs_per_runner
        # One more for the state whose decision is yet to come.
        self._n_slots = -(-capacity_bars // n_envs) + 1
        self._n_steps, self._gamma, self._priorities = n_steps, gamma, priorities
        self._rng = generator(seed, REPLAY)
        self._storages: dict[tuple[str, ...], StreamStorage] = {}
        self._domains: dict[tuple[str, ...], int | None] = {}
        self._streams: dict[str, _ModuleStreams] = {}

    # -- storing ------------------------------------------------------------------------------------------------------

    def add(self, fragments: Sequence[Fragment]) -> None:
        """Store fragments."""
        for fragment in fragments:
            for level in fragment.levels:
                storage = self._storage_of(level)
                # Remote runners count from 1; where there are any, the local one does not sample.
                written = storage.add(level, max(fragment.runner - 1, 0) * self._envs_per_runner)
                if self._priorities is not None:
                    self._prioritise(storage, np.unique(written))

    def _storage_of(self, level: LevelColumns) -> StreamStorage:
        if level.agents not in self._storages:
            self._make_storage(level.agents, level.domain, level.actions.shape[-1])
        return self._storages[level.agents]

    def _make_storage(self, agents: tuple[str, ...], domain: int | None, actions: int) -> StreamStorage:
        reconstruct = ObservationReconstruction(self._settings, self._features, agents, domain)
        storage = self._storages[agents] = StreamStorage(reconstruct, actions, self._n_envs, self._n_slots)
        self._domains[agents] = domain
        for module in dict.fromkeys(map(self._module_of, agents)):
            if module in self._learning:
                streams = self._streams.setdefault(module, _ModuleStreams())
                own = [number for number, agent in enumerate(agents) if self._module_of(agent) == module]
                streams.add_streams(storage, own)
                if self._priorities is not None:
                    tree = SumTree(len(streams.stream) * self._n_slots)
                    if streams.tree is not None:
                        tree.set(np.arange(len(streams.tree.leaves)), streams.tree.leaves)
                    streams.tree = tree
        return storage

    def _prioritise(self, storage: StreamStorage, slots: np.ndarray) -> None:
        for streams in self._streams.values():
            if storage in streams.storages:
                leaves = streams.leaves_of(storage, slots)
                assert streams.tree is not None
                streams.tree.set(leaves, np.where(streams.is_decision(leaves), streams.largest, 0.0))

    # -- sampling -----------------------------------------------------------------------------------------------------

    def has(self, module: str) -> bool:
        """Whether the replay has a decision of the module."""
        streams = self._streams.get(module)
        return streams is not None and streams.n_stored() > 0

    def sample(
        self, modules: Sequence[str], size: int, weight_power: float = 0.0, rows: slice = slice(None)
    ) -> dict[str, Batch]:
        """Draw `size` decisions of each module, with replacement, and gather those in `rows`. Every module must have
        some (`has`). weight_power: the exponent b of the importance weights."""
        groups: dict[int, list[str]] = {}
        drawn = {module: self._draw(self._streams[module], size, weight_power, rows) for module in modules}
        for module in modules:
            groups.setdefault(id(self._streams[module].storages[0]), []).append(module)
        return {module: batch for group in groups.values() for module, batch in self._gather(group, drawn).items()}

    def _draw(self, streams: _ModuleStreams, size: int, weight_power: float, rows: slice) -> _Draw:
        weight = np.ones(size, dtype=np.float32)
        if streams.tree is None:
            leaves = self._uniform(streams, size)
        else:
            leaves = streams.tree.find(self._rng.random(size) * streams.tree.total)
            priority = streams.tree[leaves]
            weight[:] = (priority / priority.min()) ** -weight_power
        return _Draw(leaves, leaves[rows], weight[rows])

    def _uniform(self, streams: _ModuleStreams, size: int) -> np.ndarray:
        """Leaves drawn uniformly from all written positions; those without a decision are drawn again."""
        cumulative = np.cumsum(streams.used())
        leaves = np.zeros(0, dtype=np.int64)
        while len(leaves) < size:
            drawn = self._rng.integers(cumulative[-1], size=size)
            own = np.searchsorted(cumulative, drawn, side="right")
            leaf = own * self._n_slots + drawn - np.where(own > 0, cumulative[own - 1], 0)
            leaves = np.concatenate((leaves, leaf[streams.is_decision(leaf)]))
        return leaves[:size]

    def _gather(self, modules: Sequence[str], drawn: dict[str, _Draw]) -> dict[str, Batch]:
        """The batches of modules of one level, gathered at once; they are views of common arrays."""
        first = self._streams[modules[0]].storages[0]
        size = len(drawn[modules[0]].leaves)
        parts: dict[int, tuple[StreamStorage, list[np.ndarray], list[np.ndarray]]] = {}
        for number, module in enumerate(modules):
            for storage, slots, place in self._streams[module].slots(drawn[module].leaves):
                _, all_slots, all_places = parts.setdefault(id(storage), (storage, [], []))
                all_slots.append(slots)
                all_places.append(np.arange(size)[place] + number * size)
        n_rows, width = len(modules) * size, first.reconstruct.width
        observation, next_observation = np.empty((n_rows, width), np.float32), np.empty((n_rows, width), np.float32)
        action = np.empty((n_rows, first.actions), np.float32)
        reward, discount = np.empty(n_rows, np.float32), np.empty(n_rows, np.float32)
        regime = np.empty(n_rows, np.int64)
        for storage, all_slots, all_places in parts.values():
            slots, place = np.concatenate(all_slots), np.concatenate(all_places)
            rows = slice(None) if len(parts) == 1 else place
            returns = storage.returns(slots, self._n_steps, self._gamma)
            observation[rows], next_observation[rows] = storage.observe(slots), storage.observe(returns.next_slot)
            action[rows], regime[rows] = storage.action[slots], storage.reconstruct.regimes(storage.row[slots])
            reward[rows], discount[rows] = returns.reward, returns.discount
        own = [slice(number * size, (number + 1) * size) for number in range(len(modules))]
        return {
            module: Batch(
                observation=observation[at],
                action=action[at],
                next_observation=next_observation[at],
                reward=reward[at],
                discount=discount[at],
                weight=drawn[module].weight,
                regime=regime[at],
                leaves=drawn[module].all_leaves,
                n_stored=self._streams[module].n_stored(),
            )
            for module, at in zip(modules, own)
        }

    def update_priorities(self, module: str, leaves: np.ndarray, errors: np.ndarray) -> None:
        """Set the priorities of drawn decisions from their absolute errors."""
        streams = self._streams[module]
        assert streams.tree is not None
        assert self._priorities is not None
        # A NaN would stay in the tree's sums for ever; such a decision keeps its priority.
        leaves, errors = leaves[finite := np.isfinite(errors)], errors[finite]
        if not len(leaves):
            return
        priorities = (np.abs(errors) + self._priorities.epsilon) ** self._priorities.power
        streams.tree.set(leaves, priorities)
        streams.largest = max(streams.largest, float(priorities.max()))

    # -- state --------------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        return {
            "generator": self._rng.bit_generator.state,
            "storages": [
                {"domain": self._domains[key], **storage.get_state()} for key, storage in self._storages.items()
            ],
            "largest": {module: streams.largest for module, streams in self._streams.items()},
            "priorities": {
                module: streams.tree.leaves.copy()
                for module, streams in self._streams.items()
                if streams.tree is not None
            },
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises RunError when the state is of a replay of another size."""
        self._rng.bit_generator.state = state["generator"]
        self._storages, self._streams, self._domains = {}, {}, {}
        for kept in state["storages"]:
            size = (kept["n_envs"], kept["n_slots"])
            if size != (self._n_envs, self._n_slots):
                raise RunError(
                    f"the replay of this checkpoint has {size[0]} environments of {size[1]} slots; this run has "
                    f"{self._n_envs} of {self._n_slots} (recipe.environments, sac.replay_bars)"
                )
            self._make_storage(tuple(kept["agents"]), kept["domain"], kept["actions"]).set_state(kept)
        for module, streams in self._streams.items():
            streams.largest = state["largest"][module]
            if streams.tree is not None:
                leaves = state["priorities"][module]
                streams.tree.set(np.arange(len(leaves)), leaves)
