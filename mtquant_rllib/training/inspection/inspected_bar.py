"""One bar of a run's policies from end to end: what was known, who said what, what each level decided, what risk
changed, what was filled, and what came of it.

The run is played as `evaluate_run` plays it, up to the bar, so that the book is the one of the evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtquant_rllib import strict_json
from mtquant_rllib.env.messages import CommunicationHub
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.evaluation.backtest import rollout
from mtquant_rllib.market.splits import NAMES
from mtquant_rllib.training.inspection.opened_policies import OpenedRun, open_policies

_MESSAGES_A_BAR = 64


@dataclass(frozen=True)
class InstrumentBar:
    """One instrument in the bar: weights are fractions of equity, money is in account currency.

    held, proposed, ordered, held_after: weights before, as the levels together asked for, as risk let it be, and after
    the bar's close. rule: that bound, empty for none. fill_price: NaN where nothing was traded.
    """

    symbol: str
    intent: float
    signal: float
    urgency: float
    stop_atr: float
    held: float
    proposed: float
    ordered: float
    rule: str
    traded_ccy: float
    fill_price: float
    stopped: bool
    pnl_ccy: float
    cost_ccy: float
    financing_ccy: float
    held_after: float


@dataclass(frozen=True)
class InspectedBar:
    """decided_at, bar: timestamps of the close at which it was decided and of the bar in which it filled. allocation,
    confidence: by domain. edits: as of `RiskLayer.edits`. messages: as plain dictionaries, as they were sent."""

    run: str
    split: str
    decided_at: str
    bar: str
    equity_before_ccy: float
    equity_after_ccy: float
    breaker_level: int
    allocation: dict[str, float]
    appetite: float
    risk_scale: float
    confidence: dict[str, float]
    instruments: tuple[InstrumentBar, ...]
    edits: tuple[dict[str, Any], ...]
    messages: tuple[dict[str, Any], ...]

    def tree(self) -> dict[str, Any]:
        """JSON values."""
        values: dict[str, Any] = strict_json.json_values(asdict(self))
        return values


def inspect_run(run: Path, at: str, *, split: str | None = None, phase: int | None = None) -> InspectedBar:
    """The bar of a day or of a moment (ISO 8601) in a split of the run's market, or in the last one that has it: those
    of the embedded market are of the same days.

    Raises
    ------
    ConfigError
        When `at` is no date, no bar of any split, or the first of one, before which nothing was decided; and for an
        allocator, which has no levels.
    """
    try:
        moment = np.datetime64(at, "s")
    except ValueError:
        raise ConfigError(f"--at {at}: expected a day such as 2020-03-12, or a moment, 2020-03-12T15:00") from None
    whole_day = "T" not in at
    for name in reversed(NAMES) if split is None else (split,):
        opened = open_policies(run, name, phase=phase)
        if opened.settings.allocator is not None:
            raise ConfigError("mtquant inspect: an allocator decides alone; `mtquant explain` shows what on")
        if (found := _row_of(opened.data, moment, whole_day=whole_day)) is not None:
            opened.looked("inspection", at=at)
            return _played_to(opened, name, *found)
    raise ConfigError(f"--at {at}: no bar of the run's market that is traded then; `mtquant evaluate` says its days")


def _row_of(data: DeskData, moment: np.datetime64, *, whole_day: bool) -> tuple[int, int] | None:
    """Index of the segment, and the row: the first of the day, or that of the moment."""
    timestamps = data.execution.timestamps
    for number, segment in enumerate(data.segments):
        own = timestamps[segment.start + 1 : segment.stop]
        same = own.astype("datetime64[D]") == moment.astype("datetime64[D]") if whole_day else own == moment
        if same.any():
            return number, segment.start + 1 + int(np.argmax(same))
    return None


def _played_to(opened: OpenedRun, split: str, number: int, row: int) -> InspectedBar:
    settings, data = opened.settings, opened.data
    desk = rollout.new_desk(settings, data, [rollout.whole(data.segments)[number]])
    hub = CommunicationHub(tracing=True, journal_messages=_MESSAGES_A_BAR, envs=[0])
    player = opened.player()
    while desk.state.row[0] < row - 1:
        desk.finish(np.flatnonzero(desk.advance_with_weights(player(desk)).terminated))
        if desk.state.done[0]:
            raise ConfigError(f"the desk went bankrupt before {data.execution.timestamps[row]}")
    desk.hub = hub
    desk.invalidate_close()
    universe, state, before = settings.universe, desk.state, float(desk.book.equity[0])
    proposed, held, decided = player(desk), desk.weight[0].copy(), int(state.row[0])
    allocation, appetite = state.allocation[0].copy(), float(state.appetite[0])
    scale = float(state.risk_scale.current()[0]) if settings.desk.decision.risk_scale.exists else 1.0
    level = int(desk.risk.breakers.level[0])
    messages = tuple(message.to_dict() for message in hub.journal)
    desk.advance_with_weights(proposed)
    book, names = desk.book, rollout.names_of_rules(desk.risk)
    after = desk.weights_now()[0]
    price = rollout.fill_prices(data, row)
    instruments = tuple(
        InstrumentBar(
            symbol=symbol,
            intent=float(state.intent[0, i]),
            signal=float(state.signal[0, i]),
            urgency=float(state.urgency[0, i]),
            stop_atr=float(state.stop_atr[0, i]),
            held=float(held[i]),
            proposed=float(desk.proposed[0, i]),
            ordered=float(desk.ordered[0, i]),
            rule=names.get(int(desk.risk.rule[0, i]), ""),
            traded_ccy=float(book.traded_ccy[0, i]),
            fill_price=float(price[i]) if book.traded_ccy[0, i] else float("nan"),
            stopped=bool(desk.stopped[0, i]),
            pnl_ccy=float(book.pnl_ccy[0, i]),
            cost_ccy=float(book.cost_ccy[0, i]),
            financing_ccy=float(book.financing_ccy[0, i]),
            held_after=float(after[i]),
        )
        for i, symbol in enumerate(universe.symbols)
    )
    domains = [domain.name for domain in universe.domains]
    return InspectedBar(
        run=opened.run.name,
        split=split,
        decided_at=str(data.execution.timestamps[decided]),
        bar=str(data.execution.timestamps[row]),
        equity_before_ccy=before,
        equity_after_ccy=float(book.equity[0]),
        breaker_level=level,
        allocation=dict(zip(domains, map(float, allocation))),
        appetite=appetite,
        risk_scale=scale,
        confidence=dict(zip(domains, map(float, state.confidence[0]))),
        instruments=instruments,
        edits=tuple(asdict(edit) for edit in desk.risk.edits(0)),
        messages=messages,
    )


def lines(bar: InspectedBar) -> Iterator[str]:
    """In words, for a terminal."""
    yield f"{bar.run}, {bar.split}: decided at the close of {bar.decided_at}, filled in the bar of {bar.bar}"
    shares = ", ".join(f"{name} {share:.0%}" for name, share in bar.allocation.items())
    yield (
        f"meta-controller: capital {shares}; appetite {bar.appetite:.0%}, sizes times {bar.risk_scale:.2f}"
        + (f"; circuit breaker at level {bar.breaker_level}" if bar.breaker_level else "")
    )
    yield "specialists overrule the instruments by " + ", ".join(
        f"{name} {share:.0%}" for name, share in bar.confidence.items()
    )
    for message in bar.messages:
        yield f"  {message['kind']}: {message['sender']} to {message['receiver']}: {_said(message)}"
    for one in bar.instruments:
        yield (
            f"  {one.symbol}: specialist {one.intent:+.2f}, agent {one.signal:+.2f}, {one.urgency:.0%} of the gap; "
            f"{one.held:+.1%} held, {one.proposed:+.1%} proposed, {one.ordered:+.1%} ordered"
            + (f" ({one.rule})" if one.rule else "")
            + _came_of(one)
        )
    change = bar.equity_after_ccy - bar.equity_before_ccy
    paid = sum(one.cost_ccy + one.financing_ccy for one in bar.instruments)
    yield (
        f"equity {bar.equity_before_ccy:,.2f} to {bar.equity_after_ccy:,.2f}: {change:+,.2f}, of which costs and "
        f"financing {-paid:+,.2f}"
    )


def _came_of(one: InstrumentBar) -> str:
    traded = f"; traded {one.traded_ccy:,.0f} at {one.fill_price:g}" if one.traded_ccy else ""
    stopped = ", stopped out" if one.stopped else ""
    net = one.pnl_ccy - one.cost_ccy - one.financing_ccy
    return f"{traded}{stopped}; {net:+,.2f}" if net or traded else ""


_ENVELOPE = ("kind", "bar", "env", "sender", "receiver")


def _said(message: dict[str, Any]) -> str:
    values = {key: value for key, value in message.items() if key not in _ENVELOPE}
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )
