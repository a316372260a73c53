"""What each level sees, written from the state of the desk into the layout of named blocks.

Market features arrive standardised and without their centres (`features.centres`). The private parts are scaled here,
by the numbers of `desk.observation`, so that a typical value is of order one, and clipped. Before there is history they
are zero, and what is decided about capital is zero in the middle of its range; appetite at its largest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.features import layout
from mtquant_rllib.features.table import Columns

if TYPE_CHECKING:
    from mtquant_rllib.env.core import Desk

_TINY = 1e-12


class Observer:
    """Writes observations of B environments as float32."""

    def __init__(self, settings: Settings, columns: Columns) -> None:
        universe = settings.universe
        self._scale = settings.desk.observation
        self._decision = settings.desk.decision
        self._columns = columns
        self._domain_of = np.array(universe.domain_of)
        self._slices = universe.domain_slices
        self._n_domains = universe.n_domains
        self._meta = layout.meta_layout(universe, self._scale.returns_days)
        self._specialists = [layout.specialist_layout(domain) for domain in universe.domains]

    def meta(self, desk: Desk) -> np.ndarray:
        """(B, 74): portfolio | correlation | specialists | macro."""
        scale, shape, d = self._scale, self._meta, self._n_domains
        days = scale.returns_days
        per_year = np.sqrt(desk.tape.days_per_year)
        target = self._decision.vol_target_ann
        out = np.empty((desk.n_envs, shape.width), dtype=np.float32)
        portfolio = out[:, shape["portfolio"]]
        portfolio[:, :days] = desk.daily.returns * (per_year / target)
        volatility = desk.daily.volatility_per_day() * per_year / target - 1.0
        portfolio[:, days] = np.where(desk.daily.n_days >= 2, volatility, 0.0)
        portfolio[:, days + 1] = desk.drawdown.current[:, 0] / scale.drawdown_scale
        out[:, shape["correlation"]] = desk.correlation
        specialists = out[:, shape["specialists"]]
        specialists[:, :d] = desk.track_sharpe() / scale.sharpe_scale
        specialists[:, d : 2 * d] = desk.win_rate() * 2.0 - 1.0
        specialists[:, 2 * d :] = desk.utilisation() * 2.0 - 1.0
        out[:, shape["macro"]] = desk.context[:, self._columns.macro]
        return np.clip(out, -scale.clip, scale.clip, out=out)

    def specialist(self, desk: Desk, domain: int) -> np.ndarray:
        """(B, w): domain features | block of each instrument | own state."""
        scale, shape = self._scale, self._specialists[domain]
        out = np.empty((desk.n_envs, shape.width), dtype=np.float32)
        own, width = shape["state"], shape.slices["domain"].stop
        out[:, :width] = desk.context[:, self._columns.domains[domain]]
        out[:, width : own.start] = desk.block[:, self._slices[domain]].reshape(desk.n_envs, -1)
        state = out[:, own]
        stream = 1 + domain
        state[:, 0] = desk.allocation[:, domain] / self._decision.allocation_cap * 2.0 - 1.0
        state[:, 1] = desk.appetite - 1.0
        state[:, 2] = desk.track_sharpe()[:, domain] / scale.sharpe_scale
        state[:, 3] = desk.win_rate()[:, domain] * 2.0 - 1.0
        state[:, 4] = desk.utilisation()[:, domain] * 2.0 - 1.0
        state[:, 5] = desk.drawdown.current[:, stream] / scale.drawdown_scale
        state[:, 6] = desk.hedge()[:, domain]
        state[:, 7] = desk.alert()[:, self._slices[domain]].max(axis=1)
        state[:, 8] = desk.sharpe.mean[:, stream] / scale.reward_mean_scale
        state[:, 9] = desk.sharpe.square[:, stream] - 1.0
        np.clip(state, -scale.clip, scale.clip, out=state)
        return out

    def instruments(self, desk: Desk) -> np.ndarray:
        """(B, n, 61): block | private state."""
        scale, book = self._scale, desk.book
        own = layout.INSTRUMENT["state"]
        out = np.empty((*desk.weight.shape, layout.INSTRUMENT.width), dtype=np.float32)
        out[:, :, : own.start] = desk.block
        state = out[:, :, own]
        side = np.sign(book.units)
        atr = np.maximum(desk.atr, _TINY)
        streams = slice(1 + self._n_domains, None)
        state[:, :, 0] = desk.intent
        state[:, :, 1] = desk.confidence[:, self._domain_of] * 2.0 - 1.0
        state[:, :, 2] = desk.allocation[:, self._domain_of] / self._decision.allocation_cap * 2.0 - 1.0
        state[:, :, 3] = desk.appetite[:, None] - 1.0
        state[:, :, 4] = desk.weight / scale.weight_scale
        state[:, :, 5] = side * (desk.close - book.entry) / (atr * scale.unrealised_atr_scale)
        state[:, :, 6] = book.bars_held / scale.held_bars_scale
        state[:, :, 7] = np.where(side != 0, side * (desk.close - book.stop), 0.0) / (atr * scale.stop_atr_scale)
        state[:, :, 8] = desk.alert()
        state[:, :, 9] = desk.sharpe.mean[:, streams] / scale.reward_mean_scale
        state[:, :, 10] = desk.sharpe.square[:, streams] - 1.0
        np.clip(state, -scale.clip, scale.clip, out=state)
        if desk.scene.domain is not None:
            state *= desk.active[:, :, None]
        return out
