"""The engine's promises, on paper portfolios and on thousands of random ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mtquant_rllib.config import Settings
from mtquant_rllib.risk.engine import PortfolioRiskManager
from mtquant_rllib.risk.repair.packed import PackedIndex
from mtquant_rllib.risk.rules import Proposal, RiskInputError, RuleId
from mtquant_rllib.risk.single_book import CurrentPortfolio

EUR, GBP, JPY, XAU, WTI, SPX, NAS, DOW = range(8)
SLACK = 1e-9


def manager_with(settings: Settings, **changes: dict[str, Any]) -> PortfolioRiskManager:
    """The desk with some rows of its instruments changed."""
    rows = [settings.symbols[symbol].model_copy(update=changes.get(symbol, {})) for symbol in settings.universe.symbols]
    return PortfolioRiskManager(settings.universe, rows, settings.portfolio_risk, settings.risk)


def one_book(
    manager: PortfolioRiskManager,
    proposed: Mapping[int, float],
    current: Mapping[int, float] | None = None,
    vol: float = 1e-4,
    related: Mapping[tuple[int, int], float] | None = None,
    **fields: Any,
) -> Proposal:
    """A calm, uncorrelated market unless said otherwise, so that only the rule under test can bind."""
    n = manager.universe.n_instruments
    index = PackedIndex(manager.universe.n_instruments)
    matrix = np.eye(n)
    for (i, j), value in (related or {}).items():
        matrix[i, j] = matrix[j, i] = value

    def row(weights: Mapping[int, float]) -> np.ndarray:
        return np.array([[weights.get(i, 0.0) for i in range(n)]])

    values: dict[str, Any] = {
        "proposed": row(proposed),
        "current": row(current or {}),
        "tradable": np.ones((1, n), dtype=bool),
        "covariance": index.pack(matrix * vol**2)[None],
        "correlation": index.pack_hollow(matrix)[None],
        "equity": np.array([100_000.0]),
    }
    return Proposal(**(values | fields))


def flags(**by_index: bool) -> np.ndarray:
    row = np.ones((1, 8), dtype=bool)
    for name, value in by_index.items():
        row[0, int(name[1:])] = value
    return row


def executed(manager: PortfolioRiskManager, proposal: Proposal) -> dict[int, float]:
    row = manager.repair(proposal).executed[0]
    return {i: float(w) for i, w in enumerate(row) if w != 0}


def rules(manager: PortfolioRiskManager, proposal: Proposal) -> dict[int, RuleId]:
    row = manager.repair(proposal).rule[0]
    return {i: RuleId(int(r)) for i, r in enumerate(row) if r}


# ---------------------------------------------------------------- one portfolio to pass and one to change, per rule


def test_a_calm_book_passes_untouched(manager: PortfolioRiskManager) -> None:
    proposal = one_book(manager, {EUR: 0.5, XAU: -0.3, SPX: 0.4})
    decision = manager.repair(proposal)
    np.testing.assert_array_equal(decision.executed, proposal.proposed)
    assert (decision.factor == 1).all()
    assert not decision.rule.any()
    assert not decision.unrepairable.any()
    assert decision.edits(0) == []


def test_var_passes_a_hedge_and_scales_two_longs_to_two_percent(manager: PortfolioRiskManager) -> None:
    packed = np.zeros((1, 36))
    index = PackedIndex(manager.universe.n_instruments)
    matrix = np.zeros((8, 8))
    matrix[EUR, EUR], matrix[XAU, XAU] = 1e-4, 4e-4
    matrix[EUR, XAU] = matrix[XAU, EUR] = 5e-5
    packed = index.pack(matrix)[None]
    hedge = one_book(manager, {EUR: 0.5, XAU: -0.5}, covariance=packed)
    assert executed(manager, hedge) == {EUR: 0.5, XAU: -0.5}
    assert manager.repair(hedge).measures["var"][0] == pytest.approx(0.0164, abs=5e-5)

    longs = one_book(manager, {EUR: 0.5, XAU: 0.5}, covariance=packed)
    assert manager.measure(longs)["var"][0] == pytest.approx(0.0201, abs=5e-5)
    decision = manager.repair(longs)
    assert decision.measures["var"][0] == pytest.approx(0.02, rel=1e-9)
    assert decision.factor[0, EUR] == decision.factor[0, XAU] == pytest.approx(0.02 / 0.0201453, rel=1e-5)
    assert rules(manager, longs) == {EUR: RuleId.VAR, XAU: RuleId.VAR}


def test_correlation_passes_a_hedge_and_shrinks_two_longs_to_the_floor(manager: PortfolioRiskManager) -> None:
    high = {(EUR, SPX): 0.85}
    assert executed(manager, one_book(manager, {EUR: 0.5, SPX: -0.5}, related=high)) == {EUR: 0.5, SPX: -0.5}
    longs = one_book(manager, {EUR: 0.5, SPX: 0.5}, related=high)
    assert manager.measure(longs)["correlation"][0] == pytest.approx(0.85)
    assert executed(manager, longs) == pytest.approx({EUR: 0.375, SPX: 0.375})
    assert rules(manager, longs) == {EUR: RuleId.CORRELATION, SPX: RuleId.CORRELATION}
    assert executed(manager, one_book(manager, {EUR: 0.3, SPX: 0.3}, related=high)) == {EUR: 0.3, SPX: 0.3}


def test_concentration_caps_one_instrument(manager: PortfolioRiskManager) -> None:
    assert executed(manager, one_book(manager, {GBP: -0.75})) == {GBP: -0.75}
    big = one_book(manager, {GBP: -1.0, XAU: 0.2})
    assert executed(manager, big) == {GBP: -0.75, XAU: 0.2}
    assert rules(manager, big) == {GBP: RuleId.CONCENTRATION}


def test_a_sector_shrinks_as_one_and_leaves_the_others(manager: PortfolioRiskManager) -> None:
    assert executed(manager, one_book(manager, {SPX: 0.6, NAS: -0.6})) == {SPX: 0.6, NAS: -0.6}
    heavy = one_book(manager, {EUR: 0.5, SPX: 0.7, NAS: -0.5, DOW: 0.4})
    assert executed(manager, heavy) == pytest.approx({EUR: 0.5, SPX: 0.525, NAS: -0.375, DOW: 0.3})
    assert rules(manager, heavy) == {SPX: RuleId.SECTOR, NAS: RuleId.SECTOR, DOW: RuleId.SECTOR}


def test_total_gross_shrinks_the_whole_book(manager: PortfolioRiskManager) -> None:
    wide = {EUR: 0.6, GBP: 0.6, XAU: 0.6, WTI: 0.6, SPX: 0.4, NAS: 0.4, DOW: 0.4}
    decision = manager.repair(one_book(manager, wide))
    assert decision.measures["gross"][0] == pytest.approx(3.0)
    assert decision.factor[0, EUR] == decision.factor[0, DOW] == pytest.approx(3 / 3.6)
    assert decision.rule[0, EUR] == RuleId.GROSS


def test_margin_binds_when_leverage_is_dear(settings: Settings) -> None:
    manager = manager_with(settings, **{symbol: {"margin_pct": 50.0} for symbol in settings.universe.symbols})
    held = {EUR: 0.7, XAU: 0.7, SPX: 0.7}
    assert executed(manager, one_book(manager, {EUR: 0.7, XAU: 0.7}, held)) == {EUR: 0.7, XAU: 0.7}
    # A book that is held already: the order check has nothing to say, the book rule has (1.155 of equity).
    decision = manager.repair(one_book(manager, held, held))
    assert decision.measures["margin"][0] == pytest.approx(1.0)
    assert decision.rule[0, EUR] == RuleId.MARGIN
    # From a smaller book, the single order for SPX lacks capital before the book rule is asked.
    order = one_book(manager, {EUR: 0.75, XAU: 0.75, SPX: 0.6}, {EUR: 0.75, XAU: 0.75})
    decision = manager.repair(order)
    assert decision.executed[0, SPX] == pytest.approx((1 - 1.5 * 0.55) / 0.55)
    assert decision.rule[0, SPX] == RuleId.CAPITAL


# ------------------------------------------------------------------------------------------- orders and their legs


@pytest.mark.parametrize(
    ("proposed", "current", "expected"),
    [
        (0.5, 0.2, 0.2),  # an increase is refused: stay
        (0.1, 0.2, 0.1),  # a reduction passes
        (0.0, 0.2, 0.0),  # so does closing
        (-0.3, 0.2, 0.0),  # of a flip only the closing leg
        (0.3, 0.0, 0.0),
    ],
)
def test_a_price_outside_its_band_refuses_only_the_opening_leg(
    manager: PortfolioRiskManager, proposed: float, current: float, expected: float
) -> None:
    for name in ("price_band_ok", "opening_allowed"):
        refused = one_book(manager, {EUR: proposed}, {EUR: current})
        setattr(refused, name, flags(_0=False))
        decision = manager.repair(refused)
        assert decision.executed[0, EUR] == expected
        assert 0 <= decision.factor[0, EUR] <= 1


def test_restrictions_bind_one_side(settings: Settings) -> None:
    manager = manager_with(settings, EURUSD={"restrictions": ("no_short",)}, XAUUSD={"restrictions": ("close_only",)})
    assert executed(manager, one_book(manager, {EUR: 0.3})) == {EUR: 0.3}
    assert executed(manager, one_book(manager, {EUR: -0.3, XAU: 0.3}, {XAU: 0.2})) == {XAU: 0.2}
    assert rules(manager, one_book(manager, {EUR: -0.3})) == {EUR: RuleId.RESTRICTION}


def test_a_large_account_is_held_to_its_share_of_volume(manager: PortfolioRiskManager) -> None:
    equity = np.array([5e9])  # 5% of US30's 25 billion a day is a quarter of this account
    assert executed(manager, one_book(manager, {DOW: 0.25}, equity=equity)) == {DOW: 0.25}
    bought = one_book(manager, {DOW: 0.6}, {DOW: 0.2}, equity=equity)
    assert executed(manager, bought) == pytest.approx({DOW: 0.45})
    assert rules(manager, bought) == {DOW: RuleId.ADV}
    assert executed(manager, one_book(manager, {DOW: 0.0}, {DOW: 0.6}, equity=equity)) == {}


def test_an_account_without_equity_may_only_reduce(manager: PortfolioRiskManager) -> None:
    broke = one_book(manager, {EUR: 0.3, XAU: 0.1}, {XAU: 0.2}, equity=np.array([0.0]))
    assert executed(manager, broke) == {XAU: 0.1}


def test_a_bad_order_reports_all_its_failures(settings: Settings) -> None:
    manager = manager_with(settings, US30={"restrictions": ("no_long",)})
    book = CurrentPortfolio({}, equity_ccy=5e9, covariance=1e-8 * np.eye(8), outside_band=["US30"])
    ok, reasons = manager.check_portfolio_risk({"US30": 0.8}, book)
    assert not ok
    assert [reason.split(":")[0] for reason in reasons] == ["US30"] * 4
    text = " | ".join(reasons)
    for word in ("restrictions", "band", "volume", "concentration"):
        assert word in text
    # Nothing is wrong with closing.
    held = replace(book, weights={"US30": 0.6})
    assert manager.check_portfolio_risk({}, held) == (True, [])


# ------------------------------------------------------------------------------------- untradable parts, and hedges


def test_an_untradable_position_stays_counts_and_makes_the_others_give_way(manager: PortfolioRiskManager) -> None:
    proposal = one_book(manager, {SPX: 0.0, NAS: 0.7, DOW: 0.1}, {SPX: 0.7}, tradable=flags(_5=False))
    decision = manager.repair(proposal)
    assert decision.executed[0, SPX] == 0.7
    assert decision.executed[0, NAS] == pytest.approx(0.4375)  # .5 of room times 7/8
    assert decision.rule[0, SPX] == RuleId.UNTRADABLE
    assert not decision.unrepairable[0]


def test_a_breach_held_by_an_untradable_position_is_flagged(manager: PortfolioRiskManager) -> None:
    decision = manager.repair(one_book(manager, {EUR: 0.1}, {WTI: 0.9}, tradable=flags(_4=False)))
    assert decision.unrepairable.tolist() == [True]
    assert decision.executed[0, WTI] == 0.9


def test_var_of_a_hedged_untradable_position_is_brought_to_its_minimum(manager: PortfolioRiskManager) -> None:
    # WTI cannot be sold; EUR is its hedge. Variance of w = (.7, -x): least at x = .7 * .9 = .63, limit out of reach.
    proposal = one_book(
        manager,
        {WTI: 0.7, EUR: -0.74},
        {WTI: 0.7},
        vol=0.05,
        related={(EUR, WTI): 0.9},
        tradable=flags(_4=False),
    )
    decision = manager.repair(proposal)
    assert decision.executed[0, EUR] == pytest.approx(-0.63)
    assert decision.unrepairable[0]
    again = manager.repair(replace(proposal, proposed=decision.executed))
    np.testing.assert_allclose(again.executed, decision.executed, atol=1e-12)


def test_removing_a_hedge_executes_in_full_and_the_other_positions_shrink(manager: PortfolioRiskManager) -> None:
    current = {SPX: 0.7, NAS: -0.5}
    hedged = one_book(manager, current, current, vol=0.02, related={(SPX, NAS): 0.9})
    assert executed(manager, hedged) == current
    unhedged = one_book(manager, {SPX: 0.7}, current, vol=0.02, related={(SPX, NAS): 0.9})
    assert executed(manager, unhedged) == pytest.approx({SPX: 0.02 / (1.6448536 * 0.02)})


# ------------------------------------------------------------------------------------------------------- breakers


def test_breaker_caps_and_no_increases_bound_the_executed_weight(manager: PortfolioRiskManager) -> None:
    cap = np.full((1, 8), np.inf)
    cap[0, EUR] = 0.2
    proposal = one_book(manager, {EUR: -0.4, XAU: 0.4}, cap_abs=cap)
    assert executed(manager, proposal) == {EUR: -0.2, XAU: 0.4}
    assert rules(manager, proposal) == {EUR: RuleId.BREAKER}
    halted = one_book(manager, {EUR: 0.4, XAU: 0.1, SPX: -0.2}, {EUR: 0.3, XAU: 0.2, SPX: 0.1})
    halted.no_increase = np.array([True])
    assert executed(manager, halted) == {EUR: 0.3, XAU: 0.1}


def test_flatten_closes_everything_that_has_a_bar(manager: PortfolioRiskManager) -> None:
    current = {EUR: 0.3, WTI: 0.2}
    proposal = one_book(manager, {EUR: 0.4}, current, flatten=np.array([True]), tradable=flags(_4=False))
    decision = manager.repair(proposal)
    assert executed(manager, proposal) == {WTI: 0.2}
    assert decision.unrepairable[0]


def test_level_two_closes_the_riskiest_positions_until_var_is_at_half_the_limit(manager: PortfolioRiskManager) -> None:
    # Stand-alone VaRs of 1.15%, .82%, .33%: 1.45% together, so the largest goes, and .89% of the rest is within 1%.
    weights = {EUR: 0.7, XAU: 0.5, SPX: 0.2}
    proposal = one_book(manager, weights, weights, vol=0.01, var_limit_scale=np.array([0.5]))
    assert executed(manager, proposal) == {XAU: 0.5, SPX: 0.2}
    small = {EUR: 0.3, XAU: 0.3}
    assert executed(manager, one_book(manager, small, small, vol=0.01, var_limit_scale=np.array([0.5]))) == small


def test_level_two_keeps_the_hedge_of_a_position_that_cannot_be_closed(manager: PortfolioRiskManager) -> None:
    weights = {EUR: -0.5, XAU: 0.3, WTI: 0.7}
    proposal = one_book(
        manager,
        weights,
        weights,
        vol=0.02,
        related={(EUR, WTI): 0.9},
        tradable=flags(_4=False),
        var_limit_scale=np.array([0.25]),
    )
    decision = manager.repair(proposal)
    assert executed(manager, proposal) == {EUR: -0.5, WTI: 0.7}
    assert decision.unrepairable[0]


def test_a_cap_that_removes_a_hedge_sets_the_other_rules_to_work_again(
    manager: PortfolioRiskManager, breaches: Callable[..., dict[str, np.ndarray]]
) -> None:
    cap = np.full((1, 8), np.inf)
    cap[0, NAS] = 0.05
    proposal = one_book(manager, {SPX: 0.75, NAS: -0.45}, vol=0.02, related={(SPX, NAS): 0.9}, cap_abs=cap)
    decision = manager.repair(proposal)
    assert decision.measures["var"][0] == pytest.approx(0.02)
    assert abs(decision.executed[0, NAS]) <= 0.05
    assert decision.rule[0, SPX] == RuleId.VAR
    assert not decision.unrepairable[0]


# ---------------------------------------------------------------------------------------------------- custom rules


class MaxIndices:
    """At most `limit` of gross in indices, all three together; repaired by half measures, so that sweeps are needed."""

    name = "max_indices"
    limit = 0.3

    def measure(self, weights: np.ndarray, proposal: Proposal) -> np.ndarray:
        return np.abs(weights[:, SPX:]).sum(axis=1)

    def repair(self, weights: np.ndarray, proposal: Proposal) -> np.ndarray:
        factors = np.ones_like(weights)
        factors[:, SPX:] = 0.5
        return factors


class Impossible(MaxIndices):
    """Refuses every book with a position, and offers no repair."""

    name = "impossible"
    limit = 0.0

    def measure(self, weights: np.ndarray, proposal: Proposal) -> np.ndarray:
        return (weights != 0).sum(axis=1).astype(float)

    def repair(self, weights: np.ndarray, proposal: Proposal) -> np.ndarray:
        return np.ones_like(weights)


def test_a_custom_rule_joins_the_sweeps_and_appears_by_its_name(settings: Settings) -> None:
    manager = PortfolioRiskManager.from_settings(settings, [MaxIndices()])
    assert executed(manager, one_book(manager, {EUR: 0.3, SPX: 0.2})) == {EUR: 0.3, SPX: 0.2}
    decision = manager.repair(one_book(manager, {EUR: 0.3, SPX: 0.6, NAS: -0.4}))
    assert np.abs(decision.executed[0, SPX:]).sum() == pytest.approx(0.25)  # two halvings: one sweep
    assert decision.executed[0, EUR] == 0.3
    (first, second) = decision.edits(0)
    assert (first.instrument, first.rule, first.measure, first.limit) == ("SPX500", "max_indices", 1.0, 0.3)
    assert second.executed == pytest.approx(-0.1)
    with pytest.raises(ValueError, match="registered already"):
        manager.add_rule(MaxIndices())


def test_what_no_sweep_repairs_is_shrunk_to_nothing(settings: Settings) -> None:
    manager = PortfolioRiskManager.from_settings(settings, [Impossible()])
    decision = manager.repair(one_book(manager, {EUR: 0.3}))
    assert not decision.executed.any()
    assert not decision.unrepairable.any()


# ------------------------------------------------------------------------------------------- promises on any book


def with_everything(books: Any, seed: int) -> Proposal:
    """The proposal with breakers, bands and refused openings in some environments."""
    rng = np.random.default_rng(seed)
    n_envs, n = books.proposal.proposed.shape
    scale = np.where(rng.random(n_envs) < 0.2, 0.5, 1.0)
    return replace(
        books.proposal,
        equity=rng.choice([1e3, 1e5, 5e9], n_envs),
        price_band_ok=rng.random((n_envs, n)) < 0.9,
        opening_allowed=rng.random((n_envs, n)) < 0.95,
        cap_abs=np.where(rng.random((n_envs, n)) < 0.1, rng.uniform(0, 0.5, (n_envs, n)), np.inf),
        no_increase=rng.random(n_envs) < 0.2,
        flatten=rng.random(n_envs) < 0.05,
        var_limit_scale=scale,
    )


@pytest.mark.slow
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.3, 1.0, 3.0, 30.0]),
    untradable=st.sampled_from([0.0, 0.1, 0.5]),
    everything=st.booleans(),
)
@hypothesis_settings(max_examples=120, deadline=None)
def test_promises_hold_on_any_book(
    settings: Settings, random_books, breaches, seed: int, scale: float, untradable: float, everything: bool
) -> None:
    manager = PortfolioRiskManager.from_settings(settings)
    books = random_books(64, seed, scale, untradable)
    proposal: Any = with_everything(books, seed) if everything else books.proposal
    given_proposed = proposal.proposed.copy()
    decision = manager.repair(proposal)
    proposed, current, moves = proposal.proposed, proposal.current, proposal.tradable
    done = decision.executed
    np.testing.assert_array_equal(proposed, given_proposed)

    # lambda in [0, 1] where tradable; untradable stay.
    assert (decision.factor >= 0).all()
    assert (decision.factor <= 1).all()
    np.testing.assert_allclose(done[moves], (decision.factor * proposed)[moves], rtol=1e-12, atol=0)
    assert (np.abs(done) <= np.abs(proposed))[moves].all()
    assert (done * proposed >= 0)[moves].all()
    np.testing.assert_array_equal(done[~moves], current[~moves])

    # A rule is named exactly where something changed.
    np.testing.assert_array_equal(decision.rule != RuleId.NONE, done != proposed)

    # Everything passes together, unless it is flagged, which takes an untradable position.
    judged = breaches(done, books)
    repaired = ~decision.unrepairable
    for name, excess in judged.items():
        assert (excess[repaired] <= SLACK).all(), name
    assert not (decision.unrepairable & moves.all(axis=1)).any()
    if everything:
        assert (np.abs(done) <= proposal.cap_abs + SLACK)[moves].all()
        hold = np.where(proposed * current > 0, np.abs(current), 0)
        opens = moves & (np.abs(done) > hold)
        assert not (opens & ~(proposal.price_band_ok & proposal.opening_allowed)).any()
        assert not (opens & proposal.no_increase[:, None]).any()
        assert not (done[proposal.flatten] * moves[proposal.flatten]).any()
        assert ((judged["var"] + 0.02 <= 0.02 * proposal.var_limit_scale + SLACK) | decision.unrepairable).all()

    # Repairing again changes nothing, flagged books included.
    again = manager.repair(replace(proposal, proposed=done.copy()))
    np.testing.assert_allclose(again.executed, done, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(again.executed[repaired], done[repaired])
    np.testing.assert_array_equal(again.unrepairable, decision.unrepairable)


def test_six_thousand_random_books_pass_every_rule_after_one_pass_in_this_order(
    settings: Settings, random_books, breaches
) -> None:
    manager = PortfolioRiskManager.from_settings(settings)
    manager._sweep = None  # type: ignore[method-assign, assignment]  # a second pass would be an error
    for seed, scale in enumerate((0.5, 1.0, 2.0, 4.0, 8.0, 16.0)):
        books = random_books(1000, seed, scale)
        decision = manager.repair(books.proposal)
        assert not decision.unrepairable.any()
        assert decision.rule.any()
        for name, excess in breaches(decision.executed, books).items():
            assert excess.max() <= SLACK, name


def test_moves_toward_zero_are_never_blocked(settings: Settings, random_books) -> None:
    """Closing part of a held book under bans on every opening changes nothing that the book rules do not shrink."""
    manager = PortfolioRiskManager.from_settings(settings)
    books = random_books(500, 11, 0.25)
    current = manager.repair(books.proposal).executed
    shrink = np.random.default_rng(0).uniform(0, 1, current.shape)
    closed = np.zeros_like(current, dtype=bool)
    proposal = replace(
        books.proposal,
        proposed=current * shrink,
        current=current,
        price_band_ok=closed,
        opening_allowed=closed,
        no_increase=np.ones(len(current), dtype=bool),
    )
    decision = manager.repair(proposal)
    order_rules = (RuleId.PRICE_BAND, RuleId.OPENING, RuleId.BREAKER, RuleId.ADV, RuleId.CAPITAL, RuleId.RESTRICTION)
    assert not np.isin(decision.rule, order_rules).any()
    # Halving everything at once leaves each book's shape, hence passes untouched.
    halved = replace(proposal, proposed=current * 0.5)
    np.testing.assert_array_equal(manager.repair(halved).executed, current * 0.5)


def test_asking_for_more_of_the_same_book_never_executes_less(settings: Settings, random_books) -> None:
    """Under the uniform rules a larger ask is capped, not punished."""
    manager = PortfolioRiskManager.from_settings(settings)
    proposal = random_books(500, 5, 1.5).proposal
    last, shape_kept, capped = np.zeros(500), np.ones(500, dtype=bool), 0
    for factor in (0.1, 0.25, 0.5, 1.0):
        decision = manager.repair(replace(proposal, proposed=proposal.proposed * factor))
        shape_kept &= np.ptp(decision.factor, axis=1) < 1e-12
        capped += int((shape_kept & decision.rule.any(axis=1)).sum())
        gross = decision.measures["gross"]
        assert (gross >= last - SLACK)[shape_kept].all()
        last = gross
    assert capped > 50


def test_a_batch_is_judged_as_its_members_alone(settings: Settings, random_books) -> None:
    manager = PortfolioRiskManager.from_settings(settings)
    books = random_books(40, 3, 2.0, 0.1)
    together = manager.repair(books.proposal)
    for env in range(40):
        alone = manager.repair(books.proposal.rows(np.array([env])))
        np.testing.assert_allclose(alone.executed[0], together.executed[env], rtol=1e-12, atol=1e-15)
        np.testing.assert_array_equal(alone.rule[0], together.rule[env])


def test_a_reused_decision_equals_a_new_one(settings: Settings, random_books) -> None:
    manager = PortfolioRiskManager.from_settings(settings)
    first, second = random_books(64, 1, 2.0, 0.1).proposal, random_books(64, 2, 2.0, 0.1).proposal
    reused = manager.repair(first)
    assert manager.repair(second, out=reused) is reused
    new = manager.repair(second)
    for name in ("executed", "factor", "rule", "unrepairable"):
        np.testing.assert_array_equal(getattr(reused, name), getattr(new, name))


def test_measures_are_those_of_the_executed_book(manager: PortfolioRiskManager, random_books) -> None:
    proposal = with_everything(random_books(200, 9, 2.0, 0.1), 9)
    decision = manager.repair(proposal)
    expected = manager.measure(replace(proposal, proposed=decision.executed))
    for name, values in expected.items():
        np.testing.assert_allclose(decision.measures[name], values, rtol=1e-9, atol=1e-12)


def test_what_is_not_a_number_is_refused_aloud(manager: PortfolioRiskManager) -> None:
    for broken in (
        one_book(manager, {EUR: np.nan}),
        one_book(manager, {EUR: np.inf}),
        one_book(manager, {EUR: 0.1}, covariance=np.full((1, 36), np.nan)),
        one_book(manager, {EUR: 0.1}, correlation=np.full((1, 28), np.nan)),
    ):
        with pytest.raises(RiskInputError, match="not a finite number"):
            manager.repair(broken)


# ----------------------------------------------------------------------------------------------------- by names


def test_one_book_by_names(manager: PortfolioRiskManager) -> None:
    covariance = 1e-8 * np.eye(8)
    covariance[EUR, EUR], covariance[XAU, XAU] = 1e-4, 4e-4
    covariance[EUR, XAU] = covariance[XAU, EUR] = 5e-5
    book = CurrentPortfolio({}, equity_ccy=100_000, covariance=covariance)
    assert manager.check_portfolio_risk({"EURUSD": 0.5, "XAUUSD": -0.5}, book) == (True, [])
    ok, reasons = manager.check_portfolio_risk({"EURUSD": 0.5, "XAUUSD": 0.5}, book)
    assert (ok, reasons) == (False, ["var 0.02015 exceeds 0.02"])
    scaled = manager.scale_down_to_risk_limit({"EURUSD": 0.5, "XAUUSD": 0.5}, book)
    assert scaled["EURUSD"] == scaled["XAUUSD"] == pytest.approx(0.4963, abs=1e-4)
    assert manager.check_portfolio_risk(scaled, book) == (True, [])
    with pytest.raises(ValueError, match="no instrument 'EURUSDX'"):
        manager.check_portfolio_risk({"EURUSDX": 0.5}, book)
