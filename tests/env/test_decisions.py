"""From raw actions to proposed weights: what each level can do, and what it cannot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as search
from hypothesis import strategies as st

from mtquant_rllib.config import Settings
from mtquant_rllib.env import decisions
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.portfolio.book import Book

SETTINGS = Settings.load()
CONFIG = SETTINGS.desk.decision
raw = st.floats(-1, 1)
unit = st.floats(0, 1)


def rows(*values):
    return np.array([values])


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4))
def test_the_meta_decision_is_a_softmax_of_three_times_the_logits_capped_and_snapped(action):
    allocation, appetite = decisions.meta_decision(rows(*action), CONFIG)
    logits = 3 * np.clip(action[:3], -1, 1)
    share = np.exp(logits) / np.exp(logits).sum()
    for got, wanted in zip(allocation[0], share):
        # Nothing is rescaled: what a cap or a snap takes stays in cash.
        assert got == pytest.approx(0.0 if wanted < 0.02 else min(wanted, 0.4), rel=1e-12)
    wanted = (np.clip(action[3], -1, 1) + 1) / 2
    assert appetite[0] == pytest.approx(0.0 if wanted < 0.02 else wanted)
    assert allocation.sum() <= 1 + 1e-12


def test_small_shares_and_appetites_snap_to_nothing_and_large_ones_meet_the_cap():
    allocation, appetite = decisions.meta_decision(rows(1.0, -1.0, -1.0, -0.97), CONFIG)
    # exp(3) : exp(-3) : exp(-3) is .995 : .0025 : .0025
    np.testing.assert_array_equal(allocation, [[0.4, 0.0, 0.0]])
    assert appetite[0] == 0.0


@pytest.mark.slow
@given(st.lists(raw, min_size=7, max_size=7))
def test_a_specialists_intents_are_differences_of_probabilities(action):
    intent, confidence = decisions.specialist_decision(rows(*action), CONFIG)
    for i in range(2):
        power = np.exp(3 * np.array(action[3 * i : 3 * i + 3]))
        probability = power / power.sum()
        assert intent[0, i] == pytest.approx(probability[0] - probability[2], abs=1e-12)
        assert -1 < intent[0, i] < 1, "never rescaled to the full range"
    assert confidence[0] == pytest.approx((action[6] + 1) / 2)


def test_scalars_map_affinely_onto_their_ranges():
    signal, urgency, stop = decisions.instrument_decision(
        np.array([[[-1.0, -1, -1], [0, 0, 0], [1, 1, 1], [9, 9, 9]]]), CONFIG
    )
    np.testing.assert_array_equal(signal, [[-1, 0, 1, 1]])
    np.testing.assert_array_equal(urgency, [[0, 0.5, 1, 1]])
    np.testing.assert_array_equal(stop, [[1, 3, 5, 5]])


@given(s=raw, c=unit, g=raw)
def test_confidence_is_how_far_the_specialist_overrules_the_agent(s, c, g):
    blend = decisions.conviction(rows(s), rows(c), rows(g))[0, 0]
    assert min(s, g) - 1e-12 <= blend <= max(s, g) + 1e-12
    assert decisions.conviction(rows(s), rows(1.0), rows(g))[0, 0] == s
    assert decisions.conviction(rows(s), rows(0.0), rows(g))[0, 0] == g


def test_a_weight_by_hand():
    """Conviction .5, allocation .3 of three, appetite .8, volatility .10 against a target of .20: .5 * .1 * .8 * 2."""
    target = decisions.target_weight(rows(0.5), rows(0.3 / 3), np.array([0.8]), rows(0.10), CONFIG)
    assert target[0, 0] == pytest.approx(0.08)


@given(
    conviction=st.tuples(raw, unit),
    allocation=st.tuples(st.floats(0, 0.4), unit),
    appetite=st.tuples(unit, unit),
    vol=st.floats(0.04, 1),
)
def test_proposed_exposure_grows_with_appetite_allocation_and_conviction(conviction, allocation, appetite, vol):
    def size(c, a, r):
        return abs(decisions.target_weight(rows(c), rows(a), np.array([r]), rows(vol), CONFIG)[0, 0])

    whole = size(conviction[0], allocation[0], appetite[0])
    # The second of each pair is a factor at most 1: each alone can only make the exposure smaller.
    assert size(conviction[0] * conviction[1], allocation[0], appetite[0]) <= whole
    assert size(conviction[0], allocation[0] * allocation[1], appetite[0]) <= whole
    assert size(conviction[0], allocation[0], appetite[0] * appetite[1]) <= whole


@pytest.fixture
def desk(settings, calm) -> Desk:
    start = calm.segments[0].start
    desk = Desk(settings, calm.execution, calm.features, 1, EpisodeSetup())
    desk.reset(np.array([0]), [EpisodeDraw(start, start + 50, 0.0, 0)])
    return desk


def decide(desk: Desk, meta=(0.0, 0.0, 0.0, 1.0), specialist=0.0, instrument=(0.5, 1.0, 0.0)) -> np.ndarray:
    """Proposed weights (n,) after each level decided the same for all; specialists buy with logit `specialist`."""
    desk.observe_meta()
    desk.decide_meta(rows(*meta))
    for d, domain in enumerate(desk.universe.domains):
        desk.observe_specialist(d)
        desk.decide_specialist(d, rows(*([specialist, 0.0, -specialist] * len(domain.symbols)), 0.0))
    desk.observe_instruments()
    desk.decide_instruments(np.broadcast_to(np.array(instrument), (1, 8, 3)).copy())
    return desk.propose()[0]


def test_no_allocation_opens_nothing(desk):
    proposed = decide(desk, meta=(1.0, -1.0, -1.0, 1.0), specialist=1.0)
    part = desk.universe.domain_slices
    assert (proposed[part[0]] != 0).all()
    assert (proposed[part[1]] == 0).all()
    assert (proposed[part[2]] == 0).all()
    desk.advance()
    assert not desk.book.units[0, part[1].start :].any()


def test_no_appetite_opens_nothing(desk):
    assert not decide(desk, meta=(0.0, 0.0, 0.0, -1.0), specialist=1.0).any()


def test_no_urgency_trades_nothing(desk):
    before = decide(desk)
    desk.advance()
    units = desk.book.units.copy()
    assert before.all()
    assert units.any()
    decide(desk, specialist=-1.0, instrument=(-1.0, -1.0, 1.0))
    desk.advance()
    # Stops may close; nothing else moves.
    np.testing.assert_array_equal(desk.book.units, np.where(desk.stopped, 0.0, units))


def test_each_level_alone_can_change_the_orders(desk):
    base = decide(desk)
    assert (decide(desk, meta=(0.5, 0.0, 0.0, 1.0)) != base).any()
    assert (decide(desk, meta=(0.0, 0.0, 0.0, 0.5)) != base).all()
    assert (decide(desk, specialist=0.5) != base).all()
    assert (decide(desk, instrument=(0.6, 1.0, 0.0)) != base).all()
    assert (decide(desk, instrument=(0.5, 0.5, 0.0)) != base).all()


def test_the_stop_alone_changes_the_stop_orders(desk):
    decide(desk, instrument=(0.5, 1.0, -1.0))
    close, atr = desk.market.close.copy(), desk.market.atr.copy()
    desk.advance()
    held = desk.book.units[0] != 0
    fill = desk.book.entry[0]
    assert held.any()
    np.testing.assert_allclose(desk.book.stop[0][held], (fill - atr[0])[held], rtol=1e-12)
    assert (np.abs(fill - close[0]) > 0).any(), "the stop hangs on the fill, not on the close"


def test_the_proposal_trades_a_share_of_the_gap(desk):
    decide(desk)
    desk.advance()
    decide(desk)
    whole = desk.propose()[0]
    half = decide(desk, instrument=(0.5, 0.0, 0.0))
    np.testing.assert_allclose(half, (whole + desk.weight[0]) / 2, rtol=1e-12)


@pytest.mark.parametrize("equity", [1_000.0, 100_000.0, 1e7])
@search(max_examples=50)
@given(units=st.lists(st.floats(-5e6, 5e6), min_size=8, max_size=8))
def test_positions_are_cut_to_whole_lots_toward_zero_and_survive_their_own_weights(equity, units):
    lots = np.array([row.contract * row.lot_step for row in SETTINGS.instruments])
    book = Book(1, lots, equity)
    cut = book.whole_lots(rows(*units))
    assert (np.abs(cut) <= np.abs(units) + 1e-6 * lots).all()
    assert (np.abs(cut) > np.abs(units) - lots).all()
    np.testing.assert_allclose(cut / lots, np.round(cut / lots), atol=1e-6)
    price = np.array([1.1, 1.5, 0.009, 1800.0, 60.0, 4000.0, 12000.0, 33000.0])
    again = book.whole_lots((cut * price / equity) * equity / price)
    np.testing.assert_array_equal(again, cut)
