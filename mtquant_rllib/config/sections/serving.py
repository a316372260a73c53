"""Orders at brokers: which brokers there are, what they call the desk's instruments, and how one is simulated."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mtquant_rllib.config.base import NUMBER, Amount, Bps, Count, Fraction, NonNegative, Positive, Section, Share
from mtquant_rllib.config.sections.instruments import SessionConfig

Requotes = Annotated[int, Field(ge=0, le=100), NUMBER]
Hours = Annotated[float, Field(gt=0, le=1000), NUMBER]


class BrokerSymbolConfig(Section):
    """One of the desk's instruments at a broker; what is null is as in the instrument's row of `symbols`.

    name
        What the broker calls it.
    contract, lot_step
        Units in one lot of the broker, and its smallest fraction of a lot. The step is a whole multiple of the desk's.
    min_lot
        Smallest order; null for one step.
    """

    name: Annotated[str, Field(min_length=1)] | None = None
    contract: Amount | None = None
    lot_step: Amount | None = None
    min_lot: Amount | None = None
    session: SessionConfig | None = None


class BrokerConfig(Section):
    """One broker.

    kind
        `simulated`, or `file_drop`: orders are written into a folder, and answers read from it.
    share
        Of the desk's positions, relative to the sum over brokers that offer the instrument.
    orders_accepted
        `session`: orders are sent only while the broker trades the instrument; `always`: at any time.
    folder
        Of `file_drop`.
    symbols
        By the desk's names; null for an instrument that the broker does not offer.
    """

    kind: Literal["simulated", "file_drop"]
    share: Fraction
    orders_accepted: Literal["always", "session"]
    folder: str | None = None
    symbols: dict[str, BrokerSymbolConfig | None] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _folder_fits(self) -> BrokerConfig:
        if (self.folder is None) == (self.kind == "file_drop"):
            raise ValueError(f"folder = {self.folder}: a broker of kind file_drop has one, and no other has")
        return self


class SimulatedBrokerConfig(Section):
    """What a simulated broker makes of orders.

    latency_seconds
        Shortest and longest time that an order takes to arrive.
    requote_shift_bps, requote_valid_seconds
        How far a requote is from the bar's price at most, either way, and how long it may be accepted.
    partial_fill_probability, part_seconds
        Of a fill in two parts, and the time between them.
    """

    latency_seconds: tuple[NonNegative, NonNegative]
    reject_probability: Share
    requote_probability: Share
    requote_shift_bps: Bps
    requote_valid_seconds: Positive
    partial_fill_probability: Share
    part_seconds: NonNegative
    commission_bps: Bps

    @model_validator(mode="after")
    def _in_order(self) -> SimulatedBrokerConfig:
        low, high = self.latency_seconds
        if low > high:
            raise ValueError(f"latency_seconds {low:g} to {high:g}: expected the shorter time first")
        return self


class ConnectionFaultsConfig(Section):
    """What becomes of a connection, for each call and each report, and how long the longest lasts."""

    disconnect_probability: Share
    disconnect_seconds: Positive
    duplicate_probability: Share
    delay_probability: Share
    delay_seconds: Positive


class FaultSimulationConfig(Section):
    """One seed of the fault simulation: decisions of so many bars at simulated brokers, with faults and kills.

    brokers
        Of the simulated desk, in place of `serving.brokers`.
    bars, open_after_hours
        Daily bars with a decision, and hours from a bar's close to the next open.
    instruments, position_lot_steps
        Of the universe, the first so many are traded; the largest position of each.
    vol_per_bar, band_frac
        Standard deviation of simple returns from close to close; an order's price band on either side of the close.
    close_probability, cancel_probability
        That an order fills at the close, and that it is cancelled before it fills.
    kill_probability, kills_per_bar
        Before and after each write and each call of a broker; and at most.
    restart_seconds, step_seconds
        Longest time to a restart and between two looks at the brokers.
    watch_seconds
        For so long after an open or a close the disturbed desk looks on; then it waits for the next.
    connection, market
        Of the brokers.
    """

    brokers: dict[str, BrokerConfig]
    bars: Count
    open_after_hours: Annotated[float, Field(gt=0, lt=24), NUMBER]
    instruments: Count
    position_lot_steps: Count
    vol_per_bar: Fraction
    band_frac: Fraction
    close_probability: Share
    cancel_probability: Share
    kill_probability: Share
    kills_per_bar: Count
    restart_seconds: Positive
    step_seconds: Positive
    watch_seconds: Positive
    connection: ConnectionFaultsConfig
    market: SimulatedBrokerConfig


class ServingConfig(Section):
    """Orders of a desk that trades.

    order_valid_hours
        From the close at which an order was decided; what has not filled by then expires.
    arrival_seconds
        An order that was sent has reached its broker after this time, or never will.
    brokers
        By name; a config of one's own takes the shipped one away by `simulated: null`.
    max_requotes
        Requotes within an order's price band that are accepted, one after the other.
    """

    order_valid_hours: Hours
    arrival_seconds: Positive
    max_requotes: Requotes
    brokers: dict[str, BrokerConfig]
    simulated_broker: SimulatedBrokerConfig
    fault_simulation: FaultSimulationConfig

    @field_validator("brokers", mode="before")
    @classmethod
    def _null_is_none(cls, given: Any) -> Any:
        """A config that extends another takes a broker of it away by null."""
        return {name: row for name, row in given.items() if row is not None} if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _orders_arrive_in_time(self) -> ServingConfig:
        if not self.brokers:
            raise ValueError("brokers: expected one at least")
        for key, market in (
            ("simulated_broker", self.simulated_broker),
            ("fault_simulation", self.fault_simulation.market),
        ):
            if market.latency_seconds[1] >= self.arrival_seconds:
                raise ValueError(
                    f"{key}: latency_seconds up to {market.latency_seconds[1]:g} are not below arrival_seconds "
                    f"{self.arrival_seconds:g}, after which an order is taken for lost"
                )
        for name in self.brokers:
            if not name.isidentifier():
                raise ValueError(f"brokers: {name!r} is no name: expected letters, digits and _")
        return self
