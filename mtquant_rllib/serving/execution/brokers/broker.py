"""What a desk asks of a broker, in the broker's own terms: its names of instruments and its lots.

Two things are asked of every broker, and everything that follows a kill or a broken connection rests on them:

- An order that is sent again under the same client order id is the same order.
- Its reports are numbered 1, 2, 3, ..., and can be asked for again from any number on. So one that came twice is known
  by its number, one that is late leaves a gap, and one that was lost is given again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from mtquant_rllib.errors import MtquantError
from mtquant_rllib.serving.orders import OrderType, Side

ReportKind = Literal["acknowledged", "filled", "rejected", "requoted", "cancelled", "cancel_refused", "expired"]


class BrokerError(MtquantError):
    """A broker that says something which cannot be."""

    exit_code = 1


class BrokerUnavailable(BrokerError):
    """No connection. What was being asked has reached the broker or not."""


@dataclass(frozen=True)
class BrokerOrder:
    """An order as a broker gets it.

    Attributes
    ----------
    client_order_id
        By which it is known: sent twice, it is one order.
    symbol, lots
        Name and size in the broker's terms.
    limit_low, limit_high
        Price band of the part that opens or enlarges a position, quote currency, or None.
    accept_price
        A requoted price that is accepted; the order then fills at it at once, or not at all.
    valid_until
        UTC, ISO 8601; what has not filled by then expires.
    """

    client_order_id: str
    symbol: str
    side: Side
    lots: float
    type: OrderType
    limit_low: float | None
    limit_high: float | None
    stop: float | None
    accept_price: float | None
    valid_until: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Report:
    """What a broker says of an order.

    Attributes
    ----------
    number
        1, 2, 3, ... over all orders of the account.
    lots
        Of a fill: its own size, not the sum so far.
    price
        Of a fill, and of a requote; quote currency.
    commission_ccy
        Of a fill, account currency, positive when paid.
    reason
        In words, where the broker gives one.
    """

    number: int
    client_order_id: str
    kind: ReportKind
    lots: float = 0.0
    price: float | None = None
    commission_ccy: float = 0.0
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class KnownOrder:
    """An order in a broker's record. filled_lots: in all so far. is_open: whether more can fill."""

    symbol: str
    side: Side
    lots: float
    filled_lots: float
    is_open: bool


@dataclass(frozen=True)
class Snapshot:
    """A broker's record at one moment.

    Attributes
    ----------
    last_report
        Number of the newest report that is in it.
    positions
        symbol -> lots, negative when short.
    orders
        Every order that the broker has or had, by client order id.
    currency, balance_ccy
        Of the account.
    """

    last_report: int
    positions: Mapping[str, float]
    orders: Mapping[str, KnownOrder]
    currency: str
    balance_ccy: float


class Broker(Protocol):
    """Every method raises BrokerUnavailable where there is no connection."""

    def send(self, order: BrokerOrder) -> None:
        """Give an order; one that is known by its id is left as it is."""

    def cancel(self, client_order_id: str) -> None:
        """Ask that what has not filled is cancelled. The answer is a report."""

    def poll(self, after: int) -> Sequence[Report]:
        """Reports with a number above `after`, in whatever order, with whatever gaps and repeats they come in."""

    def snapshot(self) -> Snapshot:
        """Positions, orders and account, all of one moment."""
