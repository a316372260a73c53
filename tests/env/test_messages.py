"""Messages say what the arrays say, survive a dictionary, and cost nothing when nobody reads them."""

import json
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtquant_rllib.config import Settings
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.messages import (
    MESSAGES,
    Alert,
    AllocationMessage,
    CommunicationHub,
    CoordinationSignal,
    PerformanceReport,
    active_alerts,
    allocation_messages,
    book_correlation,
    coordination_signals,
    message_from_dict,
    performance_reports,
)
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.features.layout import meta_layout
from mtquant_rllib.market.synthetic import synthesise
from mtquant_rllib.universe import META, Domain, Universe

DESK = Universe(
    (Domain("forex", ("EURUSD",)), Domain("commodities", ("XAUUSD", "WTIUSD")), Domain("equity", ("US30",)))
)
ALLOCATION = np.array([[0.4, 0.3, 0.1], [0.0, 0.4, 0.4]])
APPETITE = np.array([0.5, 1.0])

messages = st.sampled_from(sorted(MESSAGES)).flatmap(
    lambda kind: st.builds(
        MESSAGES[kind],
        **{
            name: {"int": st.integers(), "str": st.text(), "float": st.floats(allow_nan=False)}[annotation]
            for base in reversed(MESSAGES[kind].__mro__)
            for name, annotation in getattr(base, "__annotations__", {}).items()
            if name != "kind"
        },
    )
)


@pytest.mark.slow
@given(messages)
def test_a_message_comes_back_from_its_dictionary_unchanged(message):
    assert type(message).from_dict(message.to_dict()) == message
    assert message_from_dict(json.loads(json.dumps(message.to_dict()))) == message


def test_a_dictionary_that_is_no_message_is_refused():
    good = Alert(3, 0, "risk_manager", "*", "US30", 0.2).to_dict()
    with pytest.raises(MtquantError, match="no message of kind 'gossip'"):
        message_from_dict({**good, "kind": "gossip"})
    with pytest.raises(MtquantError, match="not a message of kind 'alert'"):
        message_from_dict({key: value for key, value in good.items() if key != "level"})
    with pytest.raises(MtquantError, match="not a message of kind 'allocation'"):
        AllocationMessage.from_dict(good)


def test_allocations_say_what_each_specialist_observes():
    sent = list(allocation_messages(DESK, 7, ALLOCATION, APPETITE, envs=[1]))
    assert sent == [
        AllocationMessage(7, 1, META, "forex_specialist", 0.0, 1.0),
        AllocationMessage(7, 1, META, "commodities_specialist", 0.4, 1.0),
        AllocationMessage(7, 1, META, "equity_specialist", 0.4, 1.0),
    ]


def test_performance_reports_carry_the_meta_controllers_nine_numbers():
    sharpe, win, used = (np.arange(6.0).reshape(2, 3) + offset for offset in (0, 10, 20))
    sent = list(performance_reports(DESK, 7, sharpe, win, used, envs=[0]))
    assert [message.sender for message in sent] == list(DESK.specialists)
    assert [(m.sharpe_ann, m.win_rate_frac, m.utilisation) for m in sent] == [(0, 10, 20), (1, 11, 21), (2, 12, 22)]


def test_book_correlation_equals_numpys_and_is_zero_for_an_empty_book():
    returns = np.random.default_rng(0).standard_normal((100, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 1]])
    covariance = np.cov(returns.T)[None]
    np.testing.assert_allclose(book_correlation(covariance)[0], np.corrcoef(returns.T), rtol=1e-12)
    covariance[:, 2] = covariance[:, :, 2] = 0.0
    assert (book_correlation(covariance)[0, 2] == 0).all()


def test_coordination_comes_from_the_specialist_whose_book_correlates_most():
    # forex and commodities offset each other (-.5), equity stands nearly alone (.1 with forex)
    covariance = 1e-4 * np.array([[[1.0, -0.5, 0.1], [-0.5, 1.0, 0.0], [0.1, 0.0, 1.0]]])
    hedge = np.array([[0.3, 0.4, -0.1]])
    sent = list(coordination_signals(DESK, 7, hedge, covariance, envs=[0]))
    assert [(m.sender, m.receiver, m.hedge) for m in sent] == [
        ("commodities_specialist", "forex_specialist", 0.3),
        ("forex_specialist", "commodities_specialist", 0.4),
        ("forex_specialist", "equity_specialist", -0.1),
    ]
    np.testing.assert_allclose([m.book_correlation for m in sent], [-0.5, -0.5, 0.1])


def test_an_empty_desk_has_nothing_to_coordinate():
    assert list(coordination_signals(DESK, 7, np.zeros((1, 3)), np.zeros((1, 3, 3)), envs=[0])) == []


def test_alerts_name_the_instruments_that_stand_above_zero():
    level = np.array([[0.0, 0.2, 0.0, 0.6]])
    assert [(m.symbol, m.level) for m in active_alerts(DESK, 7, level, envs=[0])] == [("XAUUSD", 0.2), ("US30", 0.6)]


def hub(tracing, journal_messages=100, envs=(0,)):
    return CommunicationHub(tracing=tracing, journal_messages=journal_messages, envs=envs)


def test_nobody_listening_means_no_message_is_made():
    def never(envs):
        raise AssertionError("made although nobody reads")

    quiet = hub(tracing=False)
    quiet.publish(AllocationMessage, never)
    quiet.subscribe(Alert, print)
    quiet.publish(AllocationMessage, never)
    assert not quiet.journal


def test_the_journal_keeps_the_latest_messages_of_the_wanted_environments():
    traced = hub(tracing=True, journal_messages=4, envs=[1])
    for bar in range(3):
        traced.publish(AllocationMessage, partial(allocation_messages, DESK, bar, ALLOCATION, APPETITE))
    assert [(m.bar, m.env) for m in traced.journal] == [(1, 1), (2, 1), (2, 1), (2, 1)]


def test_messages_keep_what_was_true_when_they_were_sent():
    traced, allocation = hub(tracing=True), ALLOCATION.copy()
    traced.publish(AllocationMessage, partial(allocation_messages, DESK, 0, allocation, APPETITE))
    allocation[:] = 0.0
    assert traced.journal[0].allocation_frac == 0.4


def test_a_subscriber_hears_its_kind_its_name_and_broadcasts_until_it_leaves():
    desk, heard, alarms = hub(tracing=False), [], []
    leave = desk.subscribe(AllocationMessage, heard.append, receiver="equity_specialist")
    desk.subscribe(Alert, alarms.append, receiver="equity_specialist")
    publish = partial(desk.publish, AllocationMessage, partial(allocation_messages, DESK, 0, ALLOCATION, APPETITE))
    publish()
    assert [m.allocation_frac for m in heard] == [0.1]
    desk.publish(Alert, partial(active_alerts, DESK, 0, np.array([[0.0, 0.0, 0.0, 1.0]])))
    assert [m.level for m in alarms] == [1.0]
    leave()
    leave()
    publish()
    assert len(heard) == 1
    assert not desk.wants(AllocationMessage)
    assert not desk.wants(PerformanceReport)
    assert not desk.wants(CoordinationSignal)


def test_the_desk_tells_its_hub_what_the_levels_observe():
    settings = Settings.load()
    data = DeskData.of(settings, synthesise(settings, n_paths=1, n_years=3, seed=1).markets)
    desk_hub = CommunicationHub(tracing=True, journal_messages=1000, envs=[0])
    desk = Desk(settings, data.execution, data.features, 1, EpisodeSetup(), hub=desk_hub)
    desk.reset(np.array([0]), [EpisodeDraw(data.segments[0].start, data.segments[0].stop - 1, 0.0, 0)])
    seen = desk.observe_meta()[0]
    reports = [m for m in desk_hub.journal if isinstance(m, PerformanceReport)]
    names = meta_layout(settings.universe, settings.desk.observation.returns_days)
    for report in reports:
        used = seen[names.column(f"utilisation_{report.sender.removesuffix('_specialist')}")]
        assert used == pytest.approx(report.utilisation * 2 - 1, abs=1e-6)
    desk.decide_meta(np.array([[1.0, 0.0, -1.0, 1.0]]))
    allocations = [m for m in desk_hub.journal if isinstance(m, AllocationMessage)]
    assert [m.allocation_frac for m in allocations] == desk.state.allocation[0].tolist()
    assert len(reports) == len(allocations) == 3
