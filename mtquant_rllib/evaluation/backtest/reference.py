"""The reference policy's own book: what the settings name as reference, traded without any agent."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtquant_rllib.config import Settings
from mtquant_rllib.env import decisions
from mtquant_rllib.env.state.risk_scale import RiskScale
from mtquant_rllib.features.layout import REFERENCE, block_layout
from mtquant_rllib.risk.repair.packed import PackedIndex

NAME = "reference"
"""Of the book in reports."""


class ReferencePlayer:
    """Its convictions at equal allocations and the appetite that training begins with, its urgency and the widest
    stops that the desk has, under the desk's own fills, costs and risk rules. Plays one set of episodes from their
    first bar."""

    def __init__(self, settings: Settings) -> None:
        universe, config = settings.universe, settings.desk.decision
        self._config, self._urgency = config, settings.reference.urgency
        self._column = block_layout(settings).column(REFERENCE.names[0])
        raw = np.zeros((1, universe.n_domains + 1))
        raw[0, -1] = 2.0 * settings.networks.initial_appetite - 1.0
        (allocation,), (self._appetite,) = decisions.meta_decision(raw, config)
        sizes = np.array([len(universe.domains[d].symbols) for d in universe.domain_of])
        self._share = allocation[np.array(universe.domain_of)] / sizes
        self._packed = PackedIndex(universe.n_instruments)
        self._scale: RiskScale | None = None

    def __call__(self, desk: Any) -> np.ndarray:
        desk.state.stop_atr[:] = self._config.stop_atr_max
        data, config, rows = desk.execution, self._config, desk.state.row
        if self._scale is None:
            self._scale = RiskScale(desk.n_envs, config.risk_scale, data.bars_per_year / data.days_per_year)
        conviction = np.asarray(desk.features.block[rows, :, self._column], dtype=np.float64)
        ones = np.ones(desk.n_envs)
        unscaled = decisions.target_weight(conviction, self._share, ones, desk.market.vol_ann, config)
        size = self._appetite * (self._scale.current() if config.risk_scale.exists else ones)
        variance = np.vecdot(self._packed.products(unscaled), desk.market.covariance)
        self._scale.step(variance * data.days_per_year)
        held = desk.weight
        proposed: np.ndarray = held + self._urgency * (unscaled * size[:, None] - held)
        return proposed
