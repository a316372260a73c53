"""Writes a `Decision` from a core that has just decided: orders from units, and everything else from its arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.messages import Message
from mtquant_rllib.env.prepared.rows import MarketRow
from mtquant_rllib.env.trading import NO_STOP_ATR, Trading
from mtquant_rllib.features.regimes import Regime
from mtquant_rllib.portfolio import execution_data as channel
from mtquant_rllib.risk import stops
from mtquant_rllib.serving.closes import TwoCloses
from mtquant_rllib.serving.decision import Decision, LevelViews, RegimeView, RiskChange
from mtquant_rllib.serving.orders import Order, order_id


def utc(moment: np.datetime64) -> str:
    """ISO 8601 with its zone, such as 2022-12-30T00:00:00Z."""
    return f"{moment.astype('datetime64[s]')}Z"


def decision_id(fingerprint: str, closed_at: np.datetime64) -> str:
    """The id of the decision that these policies take at a close, whatever the account."""
    return f"{fingerprint}-{utc(closed_at).replace('-', '').replace(':', '')}"


def written_decision(
    core: Trading,
    closes: TwoCloses,
    units: np.ndarray,
    *,
    fingerprint: str,
    decided: Sequence[str],
    messages: Sequence[Message],
    attention: Mapping[str, Any],
    regimes: Mapping[str, Any],
    disagreement: Mapping[str, float],
) -> Decision:
    """The decision of a core of one environment that wants to hold `units`, (n,); without timings."""
    symbols, risk, state = core.universe.symbols, core.risk, core.state
    assert risk is not None
    name, created = decision_id(fingerprint, closes.closed_at), utc(closes.closed_at)

    def by_symbol(values: np.ndarray) -> dict[str, float]:
        return dict(zip(symbols, map(float, values), strict=True))

    edits = tuple(RiskChange.of(edit) for edit in risk.edits(0))
    return Decision(
        id=name,
        created=created,
        equity_ccy=float(core.book.equity[0]),
        orders=_orders(core, closes, units, name, created),
        held=by_symbol(core.weight[0]),
        proposed=by_symbol(core.proposed[0]),
        executed=by_symbol(core.ordered[0]),
        target_units=by_symbol(units),
        stop_atr=by_symbol(state.stop_atr[0]),
        edits=edits,
        breaker_level=max(int(risk.breakers.level[0]), int(risk.breakers.latched[0])),
        decided=tuple(decided),
        levels=_levels(core) if isinstance(core, Desk) else None,
        messages=tuple(messages),
        regimes=RegimeView(
            Regime(int(closes.regime[1])).name.lower(), float(closes.regime_confidence[1]), dict(regimes)
        ),
        attention=dict(attention),
        disagreement=dict(disagreement),
        timings_s={},
    )


def _levels(core: Desk) -> LevelViews:
    state, universe = core.state, core.universe
    domains, symbols = [domain.name for domain in universe.domains], universe.symbols
    scales = core.settings.desk.decision.risk_scale.exists
    return LevelViews(
        allocation=dict(zip(domains, map(float, state.allocation[0]))),
        confidence=dict(zip(domains, map(float, state.confidence[0]))),
        appetite=float(state.appetite[0]),
        risk_scale=float(state.risk_scale.current()[0]) if scales else 1.0,
        intent=dict(zip(symbols, map(float, state.intent[0]))),
        signal=dict(zip(symbols, map(float, state.signal[0]))),
        urgency=dict(zip(symbols, map(float, state.urgency[0]))),
    )


def _orders(core: Trading, closes: TwoCloses, units: np.ndarray, name: str, created: str) -> tuple[Order, ...]:
    settings, held = core.settings, core.book.units[0]
    lot_units, market = core.book.lot_units, core.market
    levels = _stop_levels(core, market, units)
    orders = []
    for i, symbol in enumerate(core.universe.symbols):
        steps = round((units[i] - held[i]) / lot_units[i])
        if not steps:
            continue
        row = settings.instruments[i]
        opens = abs(units[i]) > (abs(held[i]) if units[i] * held[i] > 0 else 0.0)
        band = _band(settings, i, float(market.close[0, i])) if opens and closes.has_reference[i] else (None, None)
        orders.append(
            Order(
                id=order_id(name, symbol),
                symbol=symbol,
                side="buy" if steps > 0 else "sell",
                lots=_times(abs(steps), row.lot_step),
                units=_times(abs(steps), row.lot_step, row.contract),
                type="market_on_close" if closes.flags[1, channel.FILLS_AT_CLOSE, i] else "market_on_open",
                limit_low=band[0],
                limit_high=band[1],
                stop=levels[i],
                reason=_reason(core, i),
                decision_id=name,
                created=created,
            )
        )
    return tuple(orders)


def _times(*factors: float) -> float:
    """The product as a person writes it: 57 steps of .01 are .57, which binary fractions make .5700000000000001."""
    product = Decimal(1)
    for factor in factors:
        product *= Decimal(str(factor))
    return float(product)


def _band(settings: Settings, i: int, close: float) -> tuple[float, float]:
    """Prices at which a position may be opened, around the last close."""
    width = settings.instruments[i].band_pct / 100 * abs(close)
    return close - width, close + width


def _stop_levels(core: Trading, market: MarketRow, units: np.ndarray) -> list[float | None]:
    """Protective stop of each position, were every order filled at this close; None where there is none."""
    book, k = core.book, core.state.stop_atr
    trailed = stops.trail(book.stop, np.sign(book.units), market.close, market.atr, k)
    levels = stops.after_fill(trailed, book.units, units[None], market.close, market.atr, k)[0]
    far = core.state.stop_atr[0] >= NO_STOP_ATR
    return [None if math.isnan(level) or far[i] else float(level) for i, level in enumerate(levels)]


def _reason(core: Trading, i: int) -> str:
    """Who wanted what and what risk made of it, in plain words."""
    assert core.risk is not None
    held, proposed, ordered = (float(array[0, i]) for array in (core.weight, core.proposed, core.ordered))
    rule = int(core.risk.rule[0, i])
    who = "the allocator" if core.universe.allocates else "the desk"
    wanted = f"{who} proposes {_share(proposed)} of equity and holds {_share(held)}"
    if isinstance(core, Desk):
        state = core.state
        wanted += f" (specialist {state.intent[0, i]:+.2f}, instrument {state.signal[0, i]:+.2f})"
    if rule:
        return f"{wanted}; the risk rule {core.risk.manager.rule_name(rule)} leaves {_share(ordered)}"
    return f"{wanted}; in whole lots that is {_share(ordered)}"


def _share(weight: float) -> str:
    # A zero has no sign.
    return f"{round(weight, 4) + 0.0:+.2%}"
