"""One instrument's row of `configs/symbols.yaml`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from mtquant_rllib.config.base import (
    NUMBER,
    Amount,
    Bps,
    ClockTime,
    Count,
    Date,
    Percent,
    PositivePercent,
    RatePct,
    Section,
)

Weekday = Literal["Mon", "Tue", "Wed", "Thu", "Fri"]


class Restriction(StrEnum):
    NO_LONG = "no_long"
    NO_SHORT = "no_short"
    CLOSE_ONLY = "close_only"


class SessionConfig(Section):
    """Daily session in New York time; the week opens on Sunday at `open` and ends on Friday at `close`."""

    open: ClockTime
    close: ClockTime


class FinancingConfig(Section):
    """Overnight financing, per cent a year of notional.

    kind
        `fx`: quote-currency rate minus base-currency rate; `spot`: the quote currency's rate (gold); `index`: that rate
        minus `dividend_pct` (price indices omit dividends); `commodity`: no base rate, minus `roll_yield_pct` instead;
        or one of one's own, `module:NAME` (`portfolio.financing`).
    markup_pct
        What the broker adds for either side: a long pays base + markup, a short pays -base + markup.
    """

    kind: Annotated[str, Field(min_length=1)]
    markup_pct: Percent
    dividend_pct: Percent = 0
    roll_yield_pct: RatePct = 0


class InstrumentConfig(Section):
    asset_class: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    base: str
    quote: str
    contract: Amount
    lot_step: Amount
    tick: Amount
    session: SessionConfig
    spread_bps: Bps
    commission_bps: Bps
    slippage_bps: Bps
    financing: FinancingConfig
    triple_day: Weekday | None
    """None for what is traded, and financed, on all seven days of a week."""
    margin_pct: PositivePercent
    leverage: Annotated[float, Field(gt=0, le=1000), NUMBER]
    adv_ccy: Amount
    band_pct: PositivePercent
    volume_proxy: bool = False
    allow_non_positive: bool = False
    stale_opens_until: Date | None = None
    restrictions: tuple[Restriction, ...] = ()
    aliases: tuple[str, ...] = ()
    scale: Count = 1
    """Divisor of prices on import, for sources that store scaled integers."""
