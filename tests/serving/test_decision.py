"""What a decision says, and that its JSON says the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
from replayed import replayed
from serving_fixtures import Served

from mtquant_rllib.agents.groups import agent_groups, group_of
from mtquant_rllib.env.messages import AllocationMessage, Message
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.serving.closes import PreparedBars
from mtquant_rllib.serving.decision import Decision
from mtquant_rllib.serving.orders import lot_steps, order_id


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["desk", "ensemble", "allocator", "attentive"])
def test_a_decision_survives_json_to_the_last_digit(kind: str, request: pytest.FixtureRequest) -> None:
    served: Served = request.getfixturevalue(kind)
    for decision in replayed(served.system(), served.account(), served.data, served.first(30)).decisions:
        back = Decision.from_json(decision.to_json())
        assert back == decision
        assert back.to_json() == decision.to_json()


def test_json_that_is_no_decision_is_refused(desk: Served) -> None:
    decision = replayed(desk.system(), desk.account(), desk.data, desk.first(1)).decisions[0]
    tree = decision.to_dict()
    with pytest.raises(MtquantError, match="format 2, and this version reads 1"):
        Decision.from_dict(tree | {"format": 2})
    with pytest.raises(MtquantError, match="not a decision: it has"):
        Decision.from_dict(tree | {"more": 1})
    with pytest.raises(MtquantError, match="no JSON"):
        Decision.from_json(decision.to_json()[:-2])


@pytest.mark.slow
def test_orders_lead_from_what_is_held_to_the_target_in_whole_lots(desk: Served) -> None:
    settings, account = desk.policies.settings, desk.account()
    lot_units = account.book.lot_units
    held = np.zeros(len(lot_units))
    replay = replayed(desk.system(), account, desk.data, desk.first(60))
    seen = 0
    for decision, after in zip(replay.decisions, replay.units):
        steps = np.rint(held / lot_units)
        for order in decision.orders:
            i = settings.universe.symbols.index(order.symbol)
            row = settings.instruments[i]
            own = lot_steps(order.lots, row.lot_step)
            assert own >= 1
            assert order.units == pytest.approx(order.lots * row.contract)
            assert order.id == order_id(decision.id, order.symbol)
            assert (order.decision_id, order.created) == (decision.id, decision.created)
            steps[i] += order.sign * own
            seen += 1
        np.testing.assert_array_equal(steps * lot_units, list(decision.target_units.values()))
        held = after
    assert seen > 100


@pytest.mark.slow
def test_a_price_band_is_given_where_something_is_opened_and_nowhere_else(desk: Served) -> None:
    settings = desk.policies.settings
    replay = replayed(desk.system(), desk.account(), desk.data, desk.first(60))
    for decision, market in zip(replay.decisions, PreparedBars.over(settings, desk.data, desk.first(60))):
        closes = desk.data.execution.money[market.row, 4]
        for order in decision.orders:
            i = settings.universe.symbols.index(order.symbol)
            held, target = decision.held[order.symbol], decision.target_units[order.symbol]
            reduces = target == 0 or (target * held > 0 and np.sign(target) != order.sign)
            if reduces:
                assert order.limit_low is None
            elif order.limit_low is not None and order.limit_high is not None:
                band = settings.instruments[i].band_pct / 100 * abs(closes[i])
                assert (order.limit_low, order.limit_high) == (closes[i] - band, closes[i] + band)
            if order.stop is not None:
                assert np.sign(closes[i] - order.stop) == np.sign(target) or held != 0


def test_the_levels_messages_are_those_that_a_subscriber_hears(desk: Served) -> None:
    heard: list[Message] = []
    system, account = desk.system(), desk.account()
    stop = system.hub.subscribe(AllocationMessage, heard.append)
    market = PreparedBars(system.settings, desk.data, desk.segment.start)
    decision = system.step(market, account.portfolio(), account.positions())
    assert heard == [message for message in decision.messages if message.kind == "allocation"]
    assert len(heard) == system.settings.universe.n_domains
    assert decision.levels is not None
    assert [message.allocation_frac for message in heard] == list(decision.levels.allocation.values())  # type: ignore[attr-defined]
    stop()


def test_groups_decide_at_their_own_bars(desk: Served) -> None:
    settings = desk.policies.settings
    decisions = replayed(desk.system(), desk.account(), desk.data, desk.first(12)).decisions
    for number, decision in enumerate(decisions):
        due = tuple(group.name for group in agent_groups(settings) if number % group.every_bars == 0)
        assert decision.decided == due


@pytest.mark.slow
def test_the_members_of_an_ensemble_disagree_and_a_single_desk_does_not(desk: Served, ensemble: Served) -> None:
    alone, several = (
        replayed(one.system(), one.account(), one.data, one.first(2)).decisions[0] for one in (desk, ensemble)
    )
    assert alone.disagreement == {}
    assert set(several.disagreement) == set(several.decided)
    assert all(0 < value <= 1 for value in several.disagreement.values())


@pytest.mark.slow
def test_attention_is_a_share_of_each_group_of_columns(attentive: Served) -> None:
    settings = attentive.policies.settings
    decision = replayed(attentive.system(), attentive.account(), attentive.data, attentive.first(1)).decisions[0]
    assert set(decision.attention) == {"meta_controller", *settings.universe.specialists}
    for agent, matrix in decision.attention.items():
        groups = list(group_of(settings, agent).observation.slices)
        assert list(matrix) == groups
        for row in matrix.values():
            assert list(row) == groups
            assert sum(row.values()) == pytest.approx(1, abs=1e-5)
        assert sum(decision.regimes.networks[agent].values()) == pytest.approx(1, abs=1e-5)


def test_timings_are_no_part_of_what_decisions_are_compared_by(desk: Served) -> None:
    decision = replayed(desk.system(), desk.account(), desk.data, desk.first(1)).decisions[0]
    tree = json.loads(decision.to_json())
    assert set(tree["timings_s"]) == {"market", "account", "policies", "risk", "attention", "orders"}
    assert Decision.from_dict(tree | {"timings_s": {}}) == decision
