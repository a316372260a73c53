"""`Decision`: everything that a desk decided at one close, as a value that survives JSON unchanged.

Arrays are dictionaries by symbol, domain or agent, so that a reader needs no order of columns. Nothing here is computed
anew: each number is the one that the core has used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from mtquant_rllib import strict_json
from mtquant_rllib.env.messages import Message, message_from_dict
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.risk.rules import RiskEdit
from mtquant_rllib.serving.orders import Order

FORMAT = 1


@dataclass(frozen=True)
class RiskChange:
    """One instrument whose weight risk has changed: `rule` bound it, which measured `measure` on the proposal and
    accepts `limit`, in a unit of its own; None where a rule is yes or no."""

    symbol: str
    proposed: float
    executed: float
    rule: str
    measure: float | None
    limit: float | None

    @classmethod
    def of(cls, edit: RiskEdit) -> Self:
        measure, limit = (value if math.isfinite(value) else None for value in (edit.measure, edit.limit))
        return cls(edit.instrument, edit.proposed, edit.executed, edit.rule, measure, limit)


@dataclass(frozen=True)
class LevelViews:
    """What the levels of a desk have decided, the last time that they did.

    allocation, confidence
        Share of capital of each domain, and how far its specialist overrules the instruments, both in [0, 1].
    appetite, risk_scale
        The meta-controller's appetite for risk in [0, 1], and the slow factor on sizes.
    intent, signal, urgency
        By symbol: the specialist's view and the instrument's signal in [-1, 1], and the share in [0, 1] of the gap to
        the target that is traded at this close.
    """

    allocation: Mapping[str, float]
    confidence: Mapping[str, float]
    appetite: float
    risk_scale: float
    intent: Mapping[str, float]
    signal: Mapping[str, float]
    urgency: Mapping[str, float]


@dataclass(frozen=True)
class RegimeView:
    """detector, confidence: label of the causal detector at this close, such as `bull`, and its confidence in [0, 1].
    networks: agent -> regime -> probability, of the agents whose networks classify regimes."""

    detector: str
    confidence: float
    networks: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Decision:
    """One decision.

    Attributes
    ----------
    id
        `FINGERPRINT-TIMESTAMP`: of the policies that decided, and of the close.
    created
        Timestamp of the bar just closed, UTC, ISO 8601.
    equity_ccy
        Equity that it was decided with, account currency.
    orders
        What is to be traded at the next bar, in the order of the universe.
    held, proposed, executed
        By symbol: signed weights, fractions of equity, before the decision, after the levels, and after risk and whole
        lots.
    target_units
        By symbol: units to be held once every order has filled.
    stop_atr
        By symbol: distance of protective stops in average true ranges.
    edits
        What risk has changed.
    breaker_level
        Level of the circuit breakers that binds, 0 for none.
    decided
        Groups of agents that were due at this close; the others' last decisions stand.
    levels
        What each level has decided; None for an allocator.
    messages
        What the levels told each other at this close (`env.messages`).
    regimes
        Of the detector and of the networks.
    attention
        Agent -> group of columns -> group -> share of attention, over layers and heads; of attention networks.
    disagreement
        Group of agents -> mean deviation of the members' actions in [-1, 1]; empty for a single desk.
    timings_s
        Seconds of each part, by name: `market` (the rows of the close), `account`, `policies`, `risk`, `attention`,
        `orders`. Two decisions that differ by them alone are equal.
    """

    id: str
    created: str
    equity_ccy: float
    orders: tuple[Order, ...]
    held: Mapping[str, float]
    proposed: Mapping[str, float]
    executed: Mapping[str, float]
    target_units: Mapping[str, float]
    stop_atr: Mapping[str, float]
    edits: tuple[RiskChange, ...]
    breaker_level: int
    decided: tuple[str, ...]
    levels: LevelViews | None
    messages: tuple[Message, ...]
    regimes: RegimeView
    attention: Mapping[str, Mapping[str, Mapping[str, float]]]
    disagreement: Mapping[str, float]
    timings_s: Mapping[str, float] = field(compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        tree = {item.name: getattr(self, item.name) for item in fields(self)}
        tree |= {
            "format": FORMAT,
            "orders": [order.to_dict() for order in self.orders],
            "edits": [vars(edit) for edit in self.edits],
            "levels": None if self.levels is None else vars(self.levels),
            "messages": [message.to_dict() for message in self.messages],
            "regimes": vars(self.regimes),
        }
        values: dict[str, Any] = strict_json.json_values(tree)
        return values

    def to_json(self) -> str:
        """One line of JSON."""
        return strict_json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The decision that `to_dict` wrote, equal to it.

        Raises
        ------
        MtquantError
            When it is of another format, or keys are missing or unknown.
        """
        if data.get("format") != FORMAT:
            raise MtquantError(f"a decision of format {data.get('format')!r}, and this version reads {FORMAT}")
        values = {key: value for key, value in data.items() if key != "format"}
        expected = {item.name for item in fields(cls)}
        if set(values) != expected:
            raise MtquantError(
                f"not a decision: it has {', '.join(sorted(values))}; expected {', '.join(sorted(expected))}"
            )
        try:
            values["orders"] = tuple(Order.from_dict(one) for one in values["orders"])
            values["edits"] = tuple(RiskChange(**one) for one in values["edits"])
            values["levels"] = None if values["levels"] is None else LevelViews(**values["levels"])
            values["messages"] = tuple(message_from_dict(one) for one in values["messages"])
            values["regimes"] = RegimeView(**values["regimes"])
            values["decided"] = tuple(values["decided"])
        except TypeError as error:
            raise MtquantError(f"not a decision: {error}") from None
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The decision that `to_json` wrote. Raises MtquantError when it is none."""
        try:
            tree = json.loads(text)
        except ValueError as error:
            raise MtquantError(f"not a decision: no JSON ({error})") from None
        if not isinstance(tree, dict):
            raise MtquantError("not a decision: expected an object of JSON")
        return cls.from_dict(tree)
