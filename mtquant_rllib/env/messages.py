"""Messages between the levels of the desk, for tracing.

A message adds nothing to a decision: its receiver observes the same numbers in its observation. So the hub builds
messages only where there is a reader; with tracing off and no subscriber a `publish` is one comparison.

    allocation    meta-controller -> specialist   capital and appetite for risk, after caps
    performance   specialist -> meta-controller   its Sharpe ratio, win rate and utilisation
    coordination  specialist -> specialist        how far the receiver's book hedges the rest of the desk, and with whom
    alert         risk manager -> everybody       an instrument's alert level

Arrays: B environments, D domains and n instruments in the order of the universe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np

from mtquant_rllib.errors import MtquantError
from mtquant_rllib.universe import META, Universe

RISK_MANAGER = "risk_manager"
EVERYBODY = "*"

_NO_BOOK = 1e-12
"""Standard deviations whose product is smaller belong to empty books, which correlate with nothing."""


@dataclass(frozen=True)
class Message:
    """bar: bars of the episode done when it was sent; env: index of the environment; receiver `*` is a broadcast."""

    kind: ClassVar[str]
    bar: int
    env: int
    sender: str
    receiver: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON, with the kind of message under `kind`."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The message that `to_dict` wrote.

        Raises
        ------
        MtquantError
            When keys are missing or unknown, or the message is of another kind.
        """
        values = {key: value for key, value in data.items() if key != "kind"}
        expected = {field.name for field in fields(cls)}
        if data.get("kind") != cls.kind or set(values) != expected:
            raise MtquantError(
                f"not a message of kind {cls.kind!r} with {', '.join(sorted(expected))}: "
                f"kind {data.get('kind')!r} with {', '.join(sorted(values))}"
            )
        return cls(**values)


@dataclass(frozen=True)
class AllocationMessage(Message):
    """allocation_frac: share of the desk's capital, after cap and snap; risk_appetite in [0, 1]."""

    kind: ClassVar[str] = "allocation"
    allocation_frac: float
    risk_appetite: float


@dataclass(frozen=True)
class PerformanceReport(Message):
    """sharpe_ann and win_rate_frac over the window the meta-controller observes; utilisation: risk used / allocated."""

    kind: ClassVar[str] = "performance"
    sharpe_ann: float
    win_rate_frac: float
    utilisation: float


@dataclass(frozen=True)
class CoordinationSignal(Message):
    """How the receiver's book relates to the other books, at the present weights.

    hedge
        Minus the correlation of the receiver's book with the rest of the desk: 1 offsets it, -1 doubles it.
    book_correlation
        Of the sender's and the receiver's books; the sender is the specialist for whom it is largest in size.
    """

    kind: ClassVar[str] = "coordination"
    hedge: float
    book_correlation: float


@dataclass(frozen=True)
class Alert(Message):
    """level in (0, 1]: .2 an alert, .4 to 1 a circuit breaker of level 1 to 4."""

    kind: ClassVar[str] = "alert"
    symbol: str
    level: float


MESSAGES: dict[str, type[Message]] = {
    message.kind: message for message in (AllocationMessage, PerformanceReport, CoordinationSignal, Alert)
}


def message_from_dict(data: Mapping[str, Any]) -> Message:
    """The message that `to_dict` wrote, of any kind."""
    if data.get("kind") not in MESSAGES:
        raise MtquantError(f"no message of kind {data.get('kind')!r}; there are {', '.join(MESSAGES)}")
    return MESSAGES[data["kind"]].from_dict(data)


Bars = int | np.ndarray
"""Bars done when a message was sent: one number, or one for each environment, (B,)."""


def _bar_of(bar: Bars, env: int) -> int:
    return int(bar[env]) if isinstance(bar, np.ndarray) else bar


def allocation_messages(
    universe: Universe, bar: Bars, allocation: np.ndarray, appetite: np.ndarray, envs: Sequence[int]
) -> Iterator[AllocationMessage]:
    """One for each specialist and environment of `envs`. `allocation` (B, D), `appetite` (B,)."""
    for env in envs:
        for d, specialist in enumerate(universe.specialists):
            yield AllocationMessage(
                _bar_of(bar, env), env, META, specialist, float(allocation[env, d]), float(appetite[env])
            )


def performance_reports(
    universe: Universe,
    bar: Bars,
    sharpe_ann: np.ndarray,
    win_rate_frac: np.ndarray,
    utilisation: np.ndarray,
    envs: Sequence[int],
) -> Iterator[PerformanceReport]:
    """One from each specialist and environment of `envs`. All arrays (B, D)."""
    for env in envs:
        for d, specialist in enumerate(universe.specialists):
            values = (float(array[env, d]) for array in (sharpe_ann, win_rate_frac, utilisation))
            yield PerformanceReport(_bar_of(bar, env), env, specialist, META, *values)


def book_correlation(domain_covariance: np.ndarray) -> np.ndarray:
    """Correlation of each pair of domains' books, (B, D, D), from their covariance, (B, D, D). 0 with an empty book."""
    deviation = np.sqrt(np.maximum(np.diagonal(domain_covariance, axis1=1, axis2=2), 0.0))
    scale = deviation[:, :, None] * deviation[:, None, :]
    held = scale > _NO_BOOK
    return np.where(held, domain_covariance / np.where(held, scale, 1.0), 0.0)


def coordination_signals(
    universe: Universe, bar: Bars, hedge: np.ndarray, domain_covariance: np.ndarray, envs: Sequence[int]
) -> Iterator[CoordinationSignal]:
    """One to each specialist whose book correlates with another, from the one with the largest absolute correlation.

    `hedge` (B, D) as the specialists observe it, `domain_covariance` (B, D, D) of the domains' books.
    """
    correlation = book_correlation(domain_covariance[list(envs)])
    others = correlation * (1 - np.eye(universe.n_domains))
    partners = np.abs(others).argmax(axis=2)
    for row, env in enumerate(envs):
        for d, receiver in enumerate(universe.specialists):
            partner = int(partners[row, d])
            if others[row, d, partner] != 0:
                sender = universe.specialists[partner]
                values = (float(hedge[env, d]), float(others[row, d, partner]))
                yield CoordinationSignal(_bar_of(bar, env), env, sender, receiver, *values)


def active_alerts(universe: Universe, bar: Bars, level: np.ndarray, envs: Sequence[int]) -> Iterator[Alert]:
    """One for each instrument whose alert `level`, (B, n), is above 0."""
    for env in envs:
        for i in np.flatnonzero(level[env] > 0):
            yield Alert(_bar_of(bar, env), env, RISK_MANAGER, EVERYBODY, universe.symbols[i], float(level[env, i]))


Source = Callable[[Sequence[int]], Iterable[Message]]
"""Builds the messages of the given environments from the arrays of the present step."""


class CommunicationHub:
    """Passes messages to a journal and to subscribers, and builds none without either.

    tracing
        Whether messages are kept in `journal`.
    journal_messages
        Capacity of the journal; older messages are dropped.
    envs
        Indices of the environments whose messages are sent.
    """

    def __init__(self, *, tracing: bool, journal_messages: int, envs: Sequence[int]) -> None:
        self.tracing = tracing
        self.envs = tuple(envs)
        self.journal: deque[Message] = deque(maxlen=journal_messages)
        self._readers: dict[type[Message], list[tuple[str | None, Callable[[Message], None]]]] = {}

    def wants(self, kind: type[Message]) -> bool:
        return self.tracing or kind in self._readers

    def publish(self, kind: type[Message], source: Source) -> None:
        """Send the messages that `source` builds from the present arrays. It is not called without a reader of the
        kind.

        Messages are made before this returns, so the arrays may change afterwards.
        """
        if not self.wants(kind):
            return
        readers = self._readers.get(kind, [])
        for message in source(self.envs):
            if self.tracing:
                self.journal.append(message)
            # A copy, because a reader may unsubscribe while it reads.
            for receiver, read in tuple(readers):
                if receiver is None or message.receiver in (receiver, EVERYBODY):
                    read(message)

    def subscribe(
        self, kind: type[Message], read: Callable[[Message], None], receiver: str | None = None
    ) -> Callable[[], None]:
        """Call `read` with each message of a kind, or with those to one receiver (broadcasts included).

        Returns a function that ends the subscription.
        """
        entry = (receiver, read)
        self._readers.setdefault(kind, []).append(entry)

        def unsubscribe() -> None:
            readers = self._readers.get(kind, [])
            if entry in readers:
                readers.remove(entry)
            if not readers:
                self._readers.pop(kind, None)

        return unsubscribe
