"""The observations of each level, from the state of the desk, in the layout of named blocks.

Market features are standardised and less their means (`features.feature_means`). Private columns are scaled by
`desk.observation` so that a typical value is of order one, and clipped. Without history they are zero; an allocation is
zero in the middle of its range, appetite at its maximum.
"""

from __future__ import annotations

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.observations.desk_close import DeskClose
from mtquant_rllib.features import layout
from mtquant_rllib.features.table import Columns
from mtquant_rllib.short_rows import row_max

_TINY = 1e-12


class ObservationWriter:
    """Writes observations of B environments as float32."""

    def __init__(self, settings: Settings, columns: Columns, setup: EpisodeSetup) -> None:
        universe = settings.universe
        self._scale = settings.desk.observation
        self._decision = settings.desk.decision
        self._columns = columns
        self._single = setup.domain is not None
        self._domain_of = np.array(universe.domain_of)
        self._slices = universe.domain_slices
        self._n_domains = universe.n_domains
        self._meta = layout.meta_layout(universe, self._scale.returns_days)
        self._instrument = layout.instrument_layout(settings)
        self._instrument_messages, self._specialist_messages = (
            [] if self._scale.messages else [names.index(name) for name in layout.MESSAGES if name in names]
            for names in (layout.INSTRUMENT_STATE.names, layout.SPECIALIST_STATE.names)
        )
        """Columns of the state that are not shown."""
        self._specialists = [layout.specialist_layout(domain, settings) for domain in universe.domains]

    def meta(self, close: DeskClose) -> np.ndarray:
        """(B, w), 74 wide for eight instruments in three domains: portfolio | correlation | specialists | macro."""
        scale, shape, d, state = self._scale, self._meta, self._n_domains, close.state
        days = scale.returns_days
        per_year = np.sqrt(close.domains.days_per_year)
        target = self._decision.vol_target_ann
        out = np.empty((len(state.row), shape.width), dtype=np.float32)
        portfolio = out[:, shape["portfolio"]]
        portfolio[:, :days] = state.daily.returns * (per_year / target)
        volatility = state.daily.volatility_per_day() * per_year / target - 1.0
        portfolio[:, days] = np.where(state.daily.n_days >= 2, volatility, 0.0)
        portfolio[:, days + 1] = state.drawdown.current[:, 0] / scale.drawdown_scale
        out[:, shape["correlation"]] = close.market.context[:, self._columns.seen_correlation]
        specialists = out[:, shape["specialists"]]
        specialists[:, :d] = close.track_sharpe / scale.sharpe_scale
        specialists[:, d : 2 * d] = close.win_rate * 2.0 - 1.0
        specialists[:, 2 * d :] = close.utilisation * 2.0 - 1.0
        out[:, shape["macro"]] = close.market.context[:, self._columns.macro]
        return np.clip(out, -scale.clip, scale.clip, out=out)

    def specialist(self, close: DeskClose, domain: int) -> np.ndarray:
        """(B, w): domain features | block of each instrument | own state."""
        scale, shape, state = self._scale, self._specialists[domain], close.state
        out = np.empty((len(state.row), shape.width), dtype=np.float32)
        own, width = shape["state"], shape.slices["domain"].stop
        out[:, :width] = close.market.context[:, self._columns.domains[domain]]
        out[:, width : own.start] = close.block[:, self._slices[domain]].reshape(len(state.row), -1)
        own_state = out[:, own]
        stream = 1 + domain
        own_state[:, 0] = state.allocation[:, domain] / self._decision.allocation_cap * 2.0 - 1.0
        own_state[:, 1] = state.appetite - 1.0
        own_state[:, 2] = close.track_sharpe[:, domain] / scale.sharpe_scale
        own_state[:, 3] = close.win_rate[:, domain] * 2.0 - 1.0
        own_state[:, 4] = close.utilisation[:, domain] * 2.0 - 1.0
        own_state[:, 5] = state.drawdown.current[:, stream] / scale.drawdown_scale
        own_state[:, 6] = close.hedge[:, domain]
        own_state[:, 7] = row_max(close.alert[:, self._slices[domain]])
        own_state[:, 8] = state.sharpe.mean[:, stream] / scale.reward_mean_scale
        own_state[:, 9] = state.sharpe.square[:, stream] - 1.0
        np.clip(own_state, -scale.clip, scale.clip, out=own_state)
        own_state[:, self._specialist_messages] = 0.0
        return out

    def instruments(self, close: DeskClose) -> np.ndarray:
        """(B, n, w): block | private state."""
        scale, book, state, market = self._scale, close.book, close.state, close.market
        own = self._instrument["state"]
        out = np.empty((*close.weight.shape, self._instrument.width), dtype=np.float32)
        out[:, :, : own.start] = close.block
        own_state = out[:, :, own]
        side = np.sign(book.units)
        atr = np.maximum(market.atr, _TINY)
        streams = slice(1 + self._n_domains, None)
        own_state[:, :, 0] = state.intent
        own_state[:, :, 1] = state.confidence[:, self._domain_of] * 2.0 - 1.0
        own_state[:, :, 2] = state.allocation[:, self._domain_of] / self._decision.allocation_cap * 2.0 - 1.0
        own_state[:, :, 3] = state.appetite[:, None] - 1.0
        own_state[:, :, 4] = close.weight / scale.weight_scale
        own_state[:, :, 5] = side * (market.close - book.entry) / (atr * scale.unrealised_atr_scale)
        own_state[:, :, 6] = book.bars_held / scale.held_bars_scale
        own_state[:, :, 7] = np.where(side != 0, side * (market.close - book.stop), 0.0) / (atr * scale.stop_atr_scale)
        own_state[:, :, 8] = close.alert
        own_state[:, :, 9] = state.sharpe.mean[:, streams] / scale.reward_mean_scale
        own_state[:, :, 10] = state.sharpe.square[:, streams] - 1.0
        # The block is clipped already: all columns at once take less time than the last eleven of every row.
        np.clip(out, -scale.clip, scale.clip, out=out)
        own_state[:, :, self._instrument_messages] = 0.0
        if self._single:
            own_state *= state.active[:, :, None]
        return out
