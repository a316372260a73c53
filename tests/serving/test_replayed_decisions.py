"""Deciding bar by bar is what an evaluation does, to the last digit, for every kind of policies."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from replayed import assert_same_books, evaluated, replayed
from serving_fixtures import Served

from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.market.alignment import opens_are_stale
from mtquant_rllib.market.bars import CLOSE
from mtquant_rllib.serving.closes import PreparedBars
from mtquant_rllib.serving.history import BarHistory
from mtquant_rllib.serving.state import SystemState
from mtquant_rllib.serving.system import TradingSystem

KINDS = ("desk", "ensemble", "allocator", "attentive")
BARS = 100


@pytest.mark.parametrize("kind", KINDS)
def test_a_replay_has_the_books_of_the_evaluation(kind: str, request: pytest.FixtureRequest) -> None:
    """Holidays, stale opens, gaps beyond price bands, stops and oil below zero are among the bars."""
    served: Served = request.getfixturevalue(kind)
    segment = served.first(BARS)
    replay = replayed(served.system(), served.account(), served.data, segment)
    assert_same_books(replay, evaluated(served.policies, served.data, segment))
    assert len(replay.decisions) == BARS
    assert any(decision.orders for decision in replay.decisions)


@pytest.mark.parametrize("kind", ["desk", "allocator"])
def test_a_system_that_stops_between_closes_goes_on_as_if_it_had_not(kind: str, request: pytest.FixtureRequest) -> None:
    """Decisions are taken by a new system that knows the policies and the bytes that the one before left."""
    served: Served = request.getfixturevalue(kind)
    segment = served.first(24)
    whole = replayed(served.system(), served.account(), served.data, segment)
    systems = [served.system()]

    def another(number: int) -> TradingSystem | None:
        if number % 7:
            return None
        content = systems[-1].state().to_bytes()
        systems.append(served.system())
        systems[-1].load(SystemState.from_bytes(content))
        assert systems[-1].state().to_bytes() == content
        return systems[-1]

    again = replayed(systems[0], served.account(), served.data, segment, before_each=another)
    assert again.decisions == whole.decisions
    assert len(systems) == 5


def test_bars_that_are_appended_give_the_decisions_of_a_prepared_market(desk: Served) -> None:
    """The history knows no bar beyond the last that was appended, the prepared market was made of all of them."""
    system, prepared, settings = desk.system(), desk.system(), desk.policies.settings
    market = desk.market
    stale = opens_are_stale(settings, market.symbols, market.timestamps[:, None], market.daily)
    market = replace(market, stale_open=stale & market.valid)
    data, account, start = DeskData.of(settings, [market]), desk.account(), desk.segment.start + 300
    history = BarHistory(settings, market.rows(0, start))
    for row in range(start, start + 6):
        valid = np.flatnonzero(market.valid[row])
        history.append(
            market.timestamps[row],
            {market.symbols[i]: market.bars[row, i] for i in valid},
            dict(zip(market.macro_columns, map(float, market.macro[row]))),
        )
        by_preparation = PreparedBars(settings, data, row)
        decision = system.step(history, account.portfolio(), account.positions())
        assert decision == prepared.step(by_preparation, account.portfolio(), account.positions())
        if row + 1 < start + 6:
            account.fill(decision, PreparedBars(settings, data, row + 1).closes())


def test_no_bar_beyond_the_one_just_closed_changes_a_decision(desk: Served) -> None:
    """Every array of the prepared market is overwritten after the row of the last decision."""
    segment = desk.first(20)
    last = segment.stop - 2
    spoiled = replace(
        desk.data,
        **{
            part: replace(
                getattr(desk.data, part),
                **{
                    item.name: _spoiled_after(getattr(getattr(desk.data, part), item.name), last)
                    for item in fields(getattr(desk.data, part))
                    if isinstance(getattr(getattr(desk.data, part), item.name), np.ndarray)
                    and len(getattr(getattr(desk.data, part), item.name)) == len(desk.market)
                },
            )
            for part in ("execution", "features")
        },
    )
    before = replayed(desk.system(), desk.account(), desk.data, segment).decisions
    system, account = desk.system(), desk.account()
    after = []
    for market in PreparedBars.over(system.settings, spoiled, segment):
        if market.row > last:
            break
        if after:
            account.fill(after[-1], market.closes())
        after.append(system.step(market, account.portfolio(), account.positions()))
    assert after == before[: len(after)]
    assert len(after) == 20


def _spoiled_after(array: np.ndarray, row: int) -> np.ndarray:
    changed = np.array(array)
    changed[row + 1 :] = np.roll(changed, 7, axis=0)[row + 1 :]
    return changed


def test_the_bars_of_a_history_change_its_last_close_and_no_earlier_one(desk: Served) -> None:
    market, row = desk.market, desk.segment.start + 300
    known = BarHistory(desk.policies.settings, market.rows(0, row + 1)).closes()
    bars = market.bars.copy()
    bars[row, :, CLOSE] = bars[row, :, :CLOSE].mean(axis=1)
    changed = BarHistory(desk.policies.settings, replace(market, bars=bars).rows(0, row + 1)).closes()
    np.testing.assert_array_equal(changed.block[0], known.block[0])
    assert not np.array_equal(changed.block[1], known.block[1])


def test_a_refused_close_leaves_the_system_as_it_was(desk: Served) -> None:
    system, account = desk.system(), desk.account()
    market = PreparedBars(system.settings, desk.data, desk.segment.start)
    decision = system.step(market, account.portfolio(), account.positions())
    before = system.state().to_bytes()
    with pytest.raises(MtquantError, match="is decided already"):
        system.step(market, account.portfolio(), account.positions())
    market.advance()
    market.advance()
    with pytest.raises(MtquantError, match="every bar in between has to be decided too"):
        system.step(market, account.portfolio(), account.positions())
    with pytest.raises(MtquantError, match="fills in the bar after it"):
        account.fill(decision, market.closes())
    market = PreparedBars(system.settings, desk.data, desk.segment.start + 1)
    account.fill(decision, market.closes())
    portfolio = account.portfolio()
    for wrong, named in (
        (replace(portfolio, currency="EUR"), "portfolio.currency = EUR: expected USD"),
        (replace(portfolio, equity_ccy=portfolio.equity_ccy + 500.0), "results add up to"),
    ):
        with pytest.raises(MtquantError, match=named):
            system.step(market, wrong, account.positions())
    with pytest.raises(
        MtquantError, match=r"positions\.EURUSD: 17\.0 units: expected a whole number of lot steps of 1000"
    ):
        system.step(market, portfolio, {"EURUSD": 17.0})
    with pytest.raises(MtquantError, match="positions: EURCHF: no such instrument"):
        system.step(market, portfolio, {"EURCHF": 1000.0})
    assert system.state().to_bytes() == before


def test_a_state_of_other_policies_or_a_damaged_one_is_refused(desk: Served, ensemble: Served) -> None:
    content = desk.system().state().to_bytes()
    with pytest.raises(MtquantError, match="open the policies that it is of, or begin anew"):
        ensemble.system().load(SystemState.from_bytes(content))
    for damaged in (content[:-1], content[:40], b"", content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]):
        with pytest.raises(MtquantError, match="saved state of a trading system is damaged"):
            SystemState.from_bytes(damaged)
