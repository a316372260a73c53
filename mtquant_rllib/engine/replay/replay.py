"""The replay of every module that learns off policy, and its own generator.

Levels are kept as `StreamStorage`s; a module owns the streams of the agents that it serves. Drawing is uniform, or
prioritised (Schaul et al. 2016, arXiv 1511.05952): with priority p_i = (|error| + eps)^a a decision is drawn with
probability P_i = p_i / sum p, and its loss weighs (N P_i)^-b over the largest such weight of the batch. What is new has
the largest priority so far.

Everything is drawn from one counter-based generator. Its state and the columns are what a checkpoint keeps: a restored
replay draws what the lost one would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mtquant_rllib.config.sac import PrioritiesConfig
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.engine.columns import Fragment, LevelColumns
from mtquant_rllib.engine.randomness import REPLAY, generator
from mtquant_rllib.engine.replay.storage import StreamStorage
from mtquant_rllib.engine.replay.sum_tree import SumTree
from mtquant_rllib.env.observation_reconstruction import ObservationReconstruction
from mtquant_rllib.errors import RunError
from mtquant_rllib.features.table import FeatureTable


@dataclass
class Batch:
    """R decisions of one module.

    observation, action, after
        float32 (R, F), (R, A) raw, (R, F): seen, done, and seen where the return ends.
    reward, discount
        float32 (R,): discounted return, and the factor of the value of `after`, 0 where nothing follows.
    weight
        float32 (R,): of each row's loss; ones unless prioritised.
    regime
        int64 (R,): the detector's label when it was decided.
    leaves
        int64: where all that was drawn stands, also what other learners gather, for `Replay.note_errors`.
    remembered
        How many decisions of the module there were to draw from.
    """

    observation: np.ndarray
    action: np.ndarray
    after: np.ndarray
    reward: np.ndarray
    discount: np.ndarray
    weight: np.ndarray
    regime: np.ndarray
    leaves: np.ndarray
    remembered: int


class _Drawn(NamedTuple):
    """leaves and weight: of the rows to gather, among `all_leaves`."""

    all_leaves: np.ndarray
    leaves: np.ndarray
    weight: np.ndarray


class _Owner:
    """A module's streams, storage by storage: which storage and which of its streams each is, and where prioritised the
    tree over all their slots."""

    def __init__(self) -> None:
        self.storages: list[StreamStorage] = []
        self.storage = np.zeros(0, dtype=np.int64)
        self.stream = np.zeros(0, dtype=np.int64)
        self.tree: SumTree | None = None
        self.largest = 1.0

    def take(self, storage: StreamStorage, agents: Iterable[int]) -> None:
        streams = np.concatenate([storage.streams_of(agent) for agent in agents])
        self.storage = np.concatenate((self.storage, np.full(len(streams), len(self.storages))))
        self.stream = np.concatenate((self.stream, streams))
        self.storages.append(storage)

    def by_storage(self) -> list[tuple[StreamStorage, np.ndarray]]:
        return [(storage, self.stream[self.storage == number]) for number, storage in enumerate(self.storages)]

    def remembered(self) -> int:
        """Decisions that are kept."""
        return int(sum(storage.stored[streams].sum() for storage, streams in self.by_storage()))

    def used(self) -> np.ndarray:
        """Positions passed of each stream."""
        return np.concatenate([storage.used[streams] for storage, streams in self.by_storage()])

    def slots(self, leaves: np.ndarray) -> list[tuple[StreamStorage, np.ndarray, np.ndarray | slice]]:
        """StreamStorage, slots and places among `leaves` (own stream * C + position) of each storage's part."""
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
        """Those of `slots` that are this owner's, as leaves."""
        number = self.storages.index(storage)
        places = np.full(len(storage.head), -1)
        mine = np.flatnonzero(self.storage == number)
        places[self.stream[mine]] = mine
        own = places[slots // storage.n_slots]
        return (own * storage.n_slots + slots % storage.n_slots)[own >= 0]


class Replay:
    """See the module's docstring.

    Parameters
    ----------
    features
        The table whose rows fragments name.
    learning
        Modules that are to be remembered; others' decisions are not drawn.
    module_of
        Agent id -> module id.
    n_envs
        Environments over all runners; `envs_per_runner` of them each.
    capacity_bars
        Bars kept, over all environments.
    n_steps, gamma
        Decisions in a return; discount of a bar.
    priorities
        None draws uniformly.
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
        # One more for the state that waits.
        self._n_slots = -(-capacity_bars // n_envs) + 1
        self._n_steps, self._gamma, self._priorities = n_steps, gamma, priorities
        self._rng = generator(seed, REPLAY)
        self._storages: dict[tuple[str, ...], StreamStorage] = {}
        self._domains: dict[tuple[str, ...], int | None] = {}
        self._owners: dict[str, _Owner] = {}

    # -- in -----------------------------------------------------------------------------------------------------------

    def add(self, fragments: Sequence[Fragment]) -> None:
        """Take in what was sampled."""
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
        recall = ObservationReconstruction(self._settings, self._features, agents, domain)
        storage = self._storages[agents] = StreamStorage(recall, actions, self._n_envs, self._n_slots)
        self._domains[agents] = domain
        for module in dict.fromkeys(map(self._module_of, agents)):
            if module in self._learning:
                owner = self._owners.setdefault(module, _Owner())
                owner.take(storage, [number for number, agent in enumerate(agents) if self._module_of(agent) == module])
                if self._priorities is not None:
                    grown = SumTree(len(owner.stream) * self._n_slots)
                    if owner.tree is not None:
                        grown.set(np.arange(len(owner.tree.leaves)), owner.tree.leaves)
                    owner.tree = grown
        return storage

    def _prioritise(self, storage: StreamStorage, slots: np.ndarray) -> None:
        for owner in self._owners.values():
            if storage in owner.storages:
                leaves = owner.leaves_of(storage, slots)
                assert owner.tree is not None
                owner.tree.set(leaves, np.where(owner.is_decision(leaves), owner.largest, 0.0))

    # -- out ----------------------------------------------------------------------------------------------------------

    def has(self, module: str) -> bool:
        """Whether there is a decision of the module to draw."""
        owner = self._owners.get(module)
        return owner is not None and owner.remembered() > 0

    def sample(
        self, modules: Sequence[str], size: int, weight_power: float = 0.0, rows: slice = slice(None)
    ) -> dict[str, Batch]:
        """Draw `size` decisions of each module, with replacement, and gather those in `rows`; `weight_power` is b of
        prioritised weights. Each must have some (`has`)."""
        groups: dict[int, list[str]] = {}
        drawn = {module: self._draw(self._owners[module], size, weight_power, rows) for module in modules}
        for module in modules:
            groups.setdefault(id(self._owners[module].storages[0]), []).append(module)
        return {module: batch for group in groups.values() for module, batch in self._gathered(group, drawn).items()}

    def _draw(self, owner: _Owner, size: int, weight_power: float, rows: slice) -> _Drawn:
        weight = np.ones(size, dtype=np.float32)
        if owner.tree is None:
            leaves = self._uniform(owner, size)
        else:
            leaves = owner.tree.find(self._rng.random(size) * owner.tree.total)
            priority = owner.tree[leaves]
            weight[:] = (priority / priority.min()) ** -weight_power
        return _Drawn(leaves, leaves[rows], weight[rows])

    def _uniform(self, owner: _Owner, size: int) -> np.ndarray:
        """Positions that were passed, drawn alike; those without a decision are drawn again."""
        upto = np.cumsum(owner.used())
        leaves = np.zeros(0, dtype=np.int64)
        while len(leaves) < size:
            drawn = self._rng.integers(upto[-1], size=size)
            own = np.searchsorted(upto, drawn, side="right")
            found = own * self._n_slots + drawn - np.where(own > 0, upto[own - 1], 0)
            leaves = np.concatenate((leaves, found[owner.is_decision(found)]))
        return leaves[:size]

    def _gathered(self, modules: Sequence[str], drawn: dict[str, _Drawn]) -> dict[str, Batch]:
        """What was drawn of modules that share a level: gathered at once, and handed out as views."""
        first = self._owners[modules[0]].storages[0]
        size = len(drawn[modules[0]].leaves)
        parts: dict[int, tuple[StreamStorage, list[np.ndarray], list[np.ndarray]]] = {}
        for number, module in enumerate(modules):
            for storage, slots, place in self._owners[module].slots(drawn[module].leaves):
                _, all_slots, all_places = parts.setdefault(id(storage), (storage, [], []))
                all_slots.append(slots)
                all_places.append(np.arange(size)[place] + number * size)
        n_rows, width = len(modules) * size, first.recall.width
        observation, after = np.empty((n_rows, width), np.float32), np.empty((n_rows, width), np.float32)
        action = np.empty((n_rows, first.actions), np.float32)
        reward, discount = np.empty(n_rows, np.float32), np.empty(n_rows, np.float32)
        regime = np.empty(n_rows, np.int64)
        for storage, all_slots, all_places in parts.values():
            slots, place = np.concatenate(all_slots), np.concatenate(all_places)
            rows = slice(None) if len(parts) == 1 else place
            returns = storage.returns(slots, self._n_steps, self._gamma)
            observation[rows], after[rows] = storage.observe(slots), storage.observe(returns.after)
            action[rows], regime[rows] = storage.action[slots], storage.recall.regimes(storage.row[slots])
            reward[rows], discount[rows] = returns.reward, returns.discount
        own = [slice(number * size, (number + 1) * size) for number in range(len(modules))]
        return {
            module: Batch(
                observation=observation[at],
                action=action[at],
                after=after[at],
                reward=reward[at],
                discount=discount[at],
                weight=drawn[module].weight,
                regime=regime[at],
                leaves=drawn[module].all_leaves,
                remembered=self._owners[module].remembered(),
            )
            for module, at in zip(modules, own)
        }

    def note_errors(self, module: str, leaves: np.ndarray, errors: np.ndarray) -> None:
        """New priorities of drawn decisions from the size of their errors."""
        owner = self._owners[module]
        assert owner.tree is not None
        assert self._priorities is not None
        # A sum with a NaN in it would be one for ever; a decision of unknown error keeps the priority it has.
        leaves, errors = leaves[known := np.isfinite(errors)], errors[known]
        if not len(leaves):
            return
        priorities = (np.abs(errors) + self._priorities.epsilon) ** self._priorities.power
        owner.tree.set(leaves, priorities)
        owner.largest = max(owner.largest, float(priorities.max()))

    # -- state --------------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        return {
            "generator": self._rng.bit_generator.state,
            "storages": [
                {"domain": self._domains[key], **storage.get_state()} for key, storage in self._storages.items()
            ],
            "largest": {module: owner.largest for module, owner in self._owners.items()},
            "priorities": {
                module: owner.tree.leaves.copy() for module, owner in self._owners.items() if owner.tree is not None
            },
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises RunError when the state is of a replay of other size: positions would mean other things."""
        self._rng.bit_generator.state = state["generator"]
        self._storages, self._owners, self._domains = {}, {}, {}
        for kept in state["storages"]:
            there = (kept["n_envs"], kept["n_slots"])
            if there != (self._n_envs, self._n_slots):
                raise RunError(
                    f"the replay of this checkpoint has {there[0]} environments of {there[1]} slots; this run has "
                    f"{self._n_envs} of {self._n_slots} (recipe.environments, sac.replay_bars)"
                )
            self._make_storage(tuple(kept["agents"]), kept["domain"], kept["actions"]).set_state(kept)
        for module, owner in self._owners.items():
            owner.largest = state["largest"][module]
            if owner.tree is not None:
                leaves = state["priorities"][module]
                owner.tree.set(np.arange(len(leaves)), leaves)
