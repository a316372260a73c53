"""Policies that decide bar by bar through `TradingSystem`, beside the same policies played by an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from mtquant_rllib.config import Settings
from mtquant_rllib.env.episodes import EpisodeDraw, EpisodeSegment
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.evaluation.backtest import rollout
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.policies.initial_weights import initial_states
from mtquant_rllib.serving.closes import Calendar, PreparedBars
from mtquant_rllib.serving.decision import Decision
from mtquant_rllib.serving.policies import DecidingPolicies
from mtquant_rllib.serving.simulated_account import SimulatedAccount
from mtquant_rllib.serving.system import TradingSystem

LIVELY = ("networks.last_layer_scale=1.0",)
"""Fresh networks say nearly nothing; these say something."""


@dataclass
class Replay:
    """decisions: at each close. equity_ccy, pnl_ccy, cost_ccy, financing_ccy, units: after each bar."""

    decisions: list[Decision] = field(default_factory=list)
    equity_ccy: list[float] = field(default_factory=list)
    pnl_ccy: list[np.ndarray] = field(default_factory=list)
    cost_ccy: list[np.ndarray] = field(default_factory=list)
    financing_ccy: list[np.ndarray] = field(default_factory=list)
    units: list[np.ndarray] = field(default_factory=list)

    def filled(self, account: SimulatedAccount) -> None:
        book = account.book
        self.equity_ccy.append(float(book.equity[0]))
        for name in ("pnl_ccy", "cost_ccy", "financing_ccy", "units"):
            getattr(self, name).append(getattr(book, name)[0].copy())


def lively(settings: Settings, data: DeskData, *, members: int = 1) -> DecidingPolicies:
    """Fresh policies, of several members with seeds of their own."""
    states = [initial_states(settings.model_copy(update={"seed": number})) for number in range(members)]
    return DecidingPolicies(settings, tuple(states), False, Calendar.of(data.execution), {"run": "fresh", "phase": 3})


def replayed(
    system: TradingSystem,
    account: SimulatedAccount,
    data: DeskData,
    segment: EpisodeSegment,
    *,
    before_each: Callable[[int], TradingSystem | None] = lambda number: None,
) -> Replay:
    """Decide at every close of a segment but the last, and let the account fill each decision in the bar after it.

    before_each: called with the number of each decision; the system that takes it, or None for the same as before.
    """
    replay = Replay()
    for number, market in enumerate(PreparedBars.over(system.settings, data, segment)):
        if replay.decisions:
            account.fill(replay.decisions[-1], market.closes())
            replay.filled(account)
        if number == segment.stop - 1 - segment.start:
            break
        system = before_each(number) or system
        replay.decisions.append(system.step(market, account.portfolio(), account.positions()))
    return replay


def evaluated(policies: DecidingPolicies, data: DeskData, segment: EpisodeSegment) -> Record:
    """The same policies over the same bars, as `mtquant evaluate` plays them."""
    draws = [EpisodeDraw(segment.start, segment.stop - 1, 0.0, 0)]
    return rollout.play(policies.settings, data, policies.player(), draws, name="evaluated")


def written_equity(run: Path) -> list[float]:
    """Equity after each bar, as `mtquant evaluate` has written it for the run's own book over the test bars."""
    table = pq.read_table(run / "evaluation" / "test" / "bars.parquet").to_pydict()
    subject = table["book"][0]
    rows = zip(table["book"], table["environment"], table["equity_ccy"], strict=True)
    return [equity for book, environment, equity in rows if book == subject and environment == 0]


def assert_same_books(replay: Replay, record: Record) -> None:
    """To the last digit."""
    assert replay.equity_ccy == record.equity_ccy[0].tolist()
    for name in ("pnl_ccy", "cost_ccy", "financing_ccy"):
        np.testing.assert_array_equal(np.stack(getattr(replay, name)), getattr(record, name)[0], err_msg=name)
    proposed = [list(decision.proposed.values()) for decision in replay.decisions]
    np.testing.assert_array_equal(np.array(proposed), record.proposed[0])
