"""Observations put together again from a row of the feature table and an agent's private columns.

What an agent sees is a market part, a function of the row alone, and a private part: its state and what was decided
above it. Whoever remembers many observations need not keep the market part, which is the larger one and the same for
all who stood on that row. The layouts are those of `observations`; a test holds the two together, byte for byte.

In a single-instrument episode the specialist sees the blocks of the others as zeros: `turns` says who was on turn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.features import layout
from mtquant_rllib.features.centres import Centres
from mtquant_rllib.features.table import FeatureTable
from mtquant_rllib.universe import ALLOCATOR, META


def private_columns(settings: Settings, agent: str) -> np.ndarray:
    """Columns of an agent's observation that are not a function of the row, int64."""
    universe = settings.universe
    private: tuple[slice, ...]
    if agent == ALLOCATOR:
        private = ()
    elif agent == META:
        shape = layout.meta_layout(universe, settings.desk.observation.returns_days)
        private = (shape["portfolio"], shape["specialists"])
    elif agent in universe.specialists:
        shape = layout.specialist_layout(universe.domains[universe.specialists.index(agent)])
        private = (shape["state"],)
    else:
        private = (layout.INSTRUMENT["state"],)
    columns = [np.arange(part.start, part.stop) for part in private]
    return np.concatenate(columns) if columns else np.zeros(0, dtype=np.int64)


class Recall:
    """The observations of one level: n agents that share a layout.

    Parameters
    ----------
    agents
        Ids of the level's agents, in order.
    domain
        Of a single-domain desk, whose episodes have one instrument on turn; None otherwise.

    Attributes
    ----------
    width
        Of an observation.
    private
        `private_columns` of the level's agents.
    """

    def __init__(self, settings: Settings, features: FeatureTable, agents: Sequence[str], domain: int | None) -> None:
        universe = settings.universe
        self.agents = tuple(agents)
        self._features = features
        # A plain view: a memory map's own indexing costs as much again as the gather.
        self._block = np.asarray(features.block).view(np.ndarray)
        self._centres = Centres.of(settings)
        self._single = domain is not None
        self._clip = settings.desk.observation.clip
        if agents[0] == ALLOCATOR:
            shape = layout.allocator_layout(universe.symbols)
            self._columns = np.array(layout.allocator_columns(universe.symbols))
            self._fill = self._allocator
        elif agents[0] == META:
            shape = layout.meta_layout(universe, settings.desk.observation.returns_days)
            self._fill = self._meta
            self._correlation, self._macro = shape["correlation"], shape["macro"]
        elif agents[0] in universe.specialists:
            own = universe.specialists.index(agents[0])
            shape = layout.specialist_layout(universe.domains[own])
            self._fill = self._specialist
            self._own = own
            self._domain_table = np.asarray(features.domain[own]).view(np.ndarray)
            self._domain_width, self._slice = shape.slices["domain"].stop, universe.domain_slices[own]
        else:
            shape = layout.INSTRUMENT
            self._fill = self._instrument
            self._instruments = np.array([universe.symbols.index(agent) for agent in agents])
        self.width = shape.width
        self.private = private_columns(settings, agents[0])

    def __call__(self, agents: np.ndarray, rows: np.ndarray, turns: np.ndarray, private: np.ndarray) -> np.ndarray:
        """float32 (R, width): what `agents` (R,), indices into the level's, saw on `rows` (R,) of the feature table
        with `private` (R, p), when `turns` (R,) was the domain's instrument on turn."""
        out = np.empty((len(rows), self.width), dtype=np.float32)
        self._fill(out, agents, rows, turns)
        out[:, self.private] = private
        return out

    def regimes(self, rows: np.ndarray) -> np.ndarray:
        """The detector's label on each row, int64 (R,)."""
        return self._features.regime[rows].astype(np.int64)

    def _allocator(self, out: np.ndarray, agents: np.ndarray, rows: np.ndarray, turns: np.ndarray) -> None:
        seen = self._block.reshape(len(self._block), -1)[rows[:, None], self._columns]
        out[:] = self._centres.off_columns(seen, self._columns)

    def _meta(self, out: np.ndarray, agents: np.ndarray, rows: np.ndarray, turns: np.ndarray) -> None:
        for part, table in ((self._correlation, self._features.correlation), (self._macro, self._features.macro)):
            np.clip(table[rows], -self._clip, self._clip, out=out[:, part])

    def _specialist(self, out: np.ndarray, agents: np.ndarray, rows: np.ndarray, turns: np.ndarray) -> None:
        out[:, : self._domain_width] = self._centres.off_domain(self._own, self._domain_table[rows])
        block = self._centres.off_block(self._block[rows, self._slice])
        if self._single:
            block[np.arange(block.shape[1]) != turns[:, None]] = 0.0
        stop = self._domain_width + block.shape[1] * block.shape[2]
        out[:, self._domain_width : stop] = block.reshape(len(rows), stop - self._domain_width)

    def _instrument(self, out: np.ndarray, agents: np.ndarray, rows: np.ndarray, turns: np.ndarray) -> None:
        out[:, : self._block.shape[2]] = self._centres.off_block(self._block[rows, self._instruments[agents]])
