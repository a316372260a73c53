"""Observations reconstructed from a row of the feature table and an agent's private columns.

An observation has a market part, a function of the row, and a private part: the agent's state and the decisions of the
levels above it. Rollouts and replay store the private part alone, which is the smaller one. The layouts are those of
`observations`; a test compares the two byte for byte.

In a single-instrument episode the specialist sees the blocks of the other instruments as zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtquant_rllib.agents.groups import group_of
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.features import layout
from mtquant_rllib.features.feature_means import FeatureMeans
from mtquant_rllib.features.table import FeatureTable


class ObservationReconstruction:
    """Reconstructs the observations of one level, whose agents share a layout.

    Parameters
    ----------
    agents
        Ids of the level's agents, in order.
    domain
        Index of the domain of single-domain episodes, which have one active instrument; None otherwise.

    Attributes
    ----------
    width
        Of an observation.
    private
        Private columns of it, int64 (p,).
    """

    def __init__(self, settings: Settings, features: FeatureTable, agents: Sequence[str], domain: int | None) -> None:
        universe, group = settings.universe, group_of(settings, agents[0])
        self.agents = tuple(agents)
        self._features = features
        # A plain view: indexing a memory map costs twice as much.
        self._block = np.asarray(features.block).view(np.ndarray)
        self._feature_means = FeatureMeans.of(settings)
        self._single = domain is not None
        self._clip = settings.desk.observation.clip
        self._layout = group.observation
        self._market_view = MARKET_VIEWS[group.market_view]
        self._symbols, self._domain = universe.symbols, group.domain
        if group.domain is not None:
            self._domain_table = np.asarray(features.domain[group.domain]).view(np.ndarray)
            self._slice = universe.domain_slices[group.domain]
        self._instruments = np.array([universe.symbols.index(agent) for agent in agents if agent in universe.symbols])
        self.width, self.private = group.observation.width, group.state_columns

    def __call__(
        self, agents: np.ndarray, rows: np.ndarray, active_instrument: np.ndarray, private: np.ndarray
    ) -> np.ndarray:
        """Observations, float32 (R, width), of `agents` (R,), indices into the level's, on `rows` (R,) of the feature
        table with private columns `private` (R, p), where `active_instrument` (R,) is the domain's active
        instrument."""
        out = np.empty((len(rows), self.width), dtype=np.float32)
        self._market_view(self, out, agents, rows, active_instrument)
        out[:, self.private] = private
        return out

    def regimes(self, rows: np.ndarray) -> np.ndarray:
        """The detector's label on each row, int64 (R,)."""
        return self._features.regime[rows].astype(np.int64)

    def _asset_columns(
        self, out: np.ndarray, agents: np.ndarray, rows: np.ndarray, active_instrument: np.ndarray
    ) -> None:
        columns = np.array(layout.allocator_columns(self._symbols))
        seen = self._block.reshape(len(self._block), -1)[rows[:, None], columns]
        out[:] = self._feature_means.centred_columns(seen, columns)

    def _correlation_and_macro(
        self, out: np.ndarray, agents: np.ndarray, rows: np.ndarray, active_instrument: np.ndarray
    ) -> None:
        for part, table in (("correlation", self._features.seen_correlation), ("macro", self._features.macro)):
            np.clip(table[rows], -self._clip, self._clip, out=out[:, self._layout[part]])

    def _domain_and_blocks(
        self, out: np.ndarray, agents: np.ndarray, rows: np.ndarray, active_instrument: np.ndarray
    ) -> None:
        assert self._domain is not None
        width = self._layout["domain"].stop
        out[:, :width] = self._feature_means.centred_domain(self._domain, self._domain_table[rows])
        block = self._feature_means.centred_block(self._block[rows, self._slice])
        if self._single:
            block[np.arange(block.shape[1]) != active_instrument[:, None]] = 0.0
        stop = width + block.shape[1] * block.shape[2]
        out[:, width:stop] = block.reshape(len(rows), stop - width)

    def _own_block(self, out: np.ndarray, agents: np.ndarray, rows: np.ndarray, active_instrument: np.ndarray) -> None:
        out[:, : self._block.shape[2]] = self._feature_means.centred_block(self._block[rows, self._instruments[agents]])


MARKET_VIEWS = {
    "correlation_and_macro": ObservationReconstruction._correlation_and_macro,
    "domain_and_blocks": ObservationReconstruction._domain_and_blocks,
    "own_block": ObservationReconstruction._own_block,
    "asset_columns": ObservationReconstruction._asset_columns,
}
"""`AgentGroup.market_view` -> the method that writes the market part."""
