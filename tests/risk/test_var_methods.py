"""The rule that limits VaR by every method: its measure against the reference functions, and that repair ends in a book
that passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.risk import var
from mtquant_rllib.risk.engine import PortfolioRiskManager
from mtquant_rllib.risk.past_returns import PastReturns
from mtquant_rllib.risk.repair.tail_measures import upper_mean, upper_quantile
from mtquant_rllib.risk.rules import Proposal, RiskInputError, RuleId

METHODS = (
    "parametric",
    "historical",
    "historical_age_weighted",
    "historical_volatility_filtered",
    "monte_carlo_normal",
    "monte_carlo_student_t",
)
CONFIDENCE = 0.95
DAYS = 150
SLACK = 1e-9


def chosen(method: str, *more: str) -> Settings:
    return Settings.load(overrides=[f"risk.var_method={method}", "risk.var_methods.draws=500", *more])


CHOSEN = {method: chosen(method) for method in METHODS}


def past_of(books, seed: int, scale: bool = False) -> PastReturns:
    """Past days of each environment, of unequal number, drawn from its own covariance with fat tails."""
    rng = np.random.default_rng(seed)
    n_envs, n = books.proposal.proposed.shape
    roots = np.linalg.cholesky(books.covariance)
    returns = np.concatenate([rng.standard_t(4, (DAYS, n)) / np.sqrt(2) @ root.T for root in roots])
    stop = np.arange(1, n_envs + 1) * DAYS
    start = stop - rng.choice([DAYS, DAYS // 2], n_envs)
    now = rng.uniform(0.5, 2, (n_envs, n)) if scale else None
    return PastReturns(returns, np.stack([start, stop], axis=1), now)


def with_past(books, seed: int, method: str) -> Proposal:
    return replace(books.proposal, past=past_of(books, seed, scale=method == "historical_volatility_filtered"))


def reference(settings: Settings, weights: np.ndarray, proposal: Proposal, books) -> tuple[np.ndarray, np.ndarray]:
    """VaR and shortfall of books (B, n), one by one."""
    config, found = settings.risk.var_methods, []
    for b, own in enumerate(weights):
        chances, losses = None, np.zeros(0)
        match settings.risk.var_method:
            case "parametric":
                found.append((var.parametric_var(own, books.covariance[b], CONFIDENCE),
                              var.parametric_shortfall(own, books.covariance[b], CONFIDENCE)))  # fmt: skip
                continue
            case "monte_carlo_normal" | "monte_carlo_student_t":
                degrees = config.degrees_of_freedom if settings.risk.var_method.endswith("t") else None
                rng = np.random.default_rng(config.draws_seed)
                losses = var.monte_carlo_losses(own, books.covariance[b], config.draws, rng, degrees)
            case _:
                past = proposal.past
                first, stop = past.days[b]
                moved = own if past.scale is None else own * past.scale[b]
                losses = -(past.returns[first:stop] @ moved)
        if settings.risk.var_method == "historical_age_weighted":
            chances = var.age_weights(len(losses), config.age_decay)
            value = var.weighted_var(losses, CONFIDENCE, chances)
        else:
            value = np.maximum(np.quantile(losses, CONFIDENCE), 0.0)
        found.append((value, var.expected_shortfall(losses, CONFIDENCE, chances)))
    return tuple(np.array(part) for part in zip(*found))  # type: ignore[return-value]


@pytest.mark.parametrize("method", METHODS)
def test_the_measure_is_that_of_the_reference_functions(method: str, random_books) -> None:
    books = random_books(12, 3)
    settings, proposal = CHOSEN[method], with_past(books, 3, method)
    manager = PortfolioRiskManager.from_settings(settings)
    value, shortfall = reference(settings, proposal.proposed, proposal, books)
    np.testing.assert_allclose(manager.measure(proposal)["var"], value, rtol=1e-9)
    np.testing.assert_allclose(manager.expected_shortfall(proposal), shortfall, rtol=1e-9)
    assert (shortfall >= value).all()


@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 10**6), factor=st.floats(1e-3, 1e3))
@hypothesis_settings(max_examples=15, deadline=None)
def test_doubling_the_book_doubles_its_var_by_every_method(method: str, random_books, seed: int, factor: float) -> None:
    """Positive homogeneity, on which the rule's repair rests."""
    manager = PortfolioRiskManager.from_settings(CHOSEN[method])
    proposal = with_past(random_books(4, seed), seed, method)
    larger = replace(proposal, proposed=proposal.proposed * factor)
    np.testing.assert_allclose(
        manager.measure(larger)["var"], factor * manager.measure(proposal)["var"], rtol=1e-9, atol=1e-15
    )
    np.testing.assert_allclose(
        manager.expected_shortfall(larger), factor * manager.expected_shortfall(proposal), rtol=1e-9, atol=1e-15
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.3, 1.0, 3.0, 30.0]),
    untradable=st.sampled_from([0.0, 0.1, 0.5]),
    breakers=st.booleans(),
)
@hypothesis_settings(max_examples=25, deadline=None)
def test_repair_ends_in_a_book_that_passes_every_rule(
    method: str, random_books, breaches, seed: int, scale: float, untradable: float, breakers: bool
) -> None:
    settings = CHOSEN[method]
    manager = PortfolioRiskManager.from_settings(settings)
    books = random_books(16, seed, scale, untradable)
    proposal = with_past(books, seed, method)
    if breakers:
        rng = np.random.default_rng(seed)
        proposal = replace(proposal, var_limit_scale=np.where(rng.random(16) < 0.5, 0.5, 1.0))
    decision = manager.repair(proposal)
    done, moves = decision.executed, proposal.tradable
    assert (np.abs(done) <= np.abs(proposal.proposed))[moves].all()
    assert (done * proposal.proposed >= 0)[moves].all()
    np.testing.assert_array_equal(done[~moves], proposal.current[~moves])
    assert not (decision.unrepairable & moves.all(axis=1)).any()
    passing = ~decision.unrepairable
    for name, excess in breaches(done, books).items():
        if name != "var":
            assert (excess[passing] <= SLACK).all(), name
    value, _ = reference(settings, done, proposal, books)
    limit = manager.limits["var"] * (1.0 if proposal.var_limit_scale is None else proposal.var_limit_scale)
    assert (value <= limit + SLACK)[passing].all()
    np.testing.assert_allclose(decision.measures["var"], value, rtol=1e-8, atol=1e-15)

    again = manager.repair(replace(proposal, proposed=done.copy()))
    np.testing.assert_array_equal(again.executed[passing], done[passing])
    np.testing.assert_array_equal(again.unrepairable[passing], False)


@pytest.mark.parametrize("method", METHODS)
def test_a_book_within_its_var_passes_and_one_beyond_is_scaled_to_it(method: str, random_books) -> None:
    manager = PortfolioRiskManager.from_settings(CHOSEN[method])
    proposal = with_past(random_books(1, 5), 5, method)
    # A single index future: no other rule binds where VaR is at half its limit, nor at twice.
    book = np.zeros((1, 8))
    book[0, 4] = 0.01
    calm = replace(proposal, proposed=book, current=np.zeros((1, 8)))
    per_weight = manager.measure(calm)["var"][0] / 0.01
    calm.proposed = book * (0.01 / per_weight / 0.01)
    assert (manager.repair(calm).executed == calm.proposed).all()
    wild = replace(calm, proposed=calm.proposed * 2.5)
    decision = manager.repair(wild)
    if np.abs(wild.proposed).max() < manager.limits["position"]:
        assert decision.rule[0, 4] == RuleId.VAR
    assert decision.measures["var"][0] <= 0.02 * (1 + 1e-9)


def test_a_year_that_fell_after_a_calm_one_is_weighed_more_by_age_than_equally() -> None:
    """200 days of +-1%, then 10 days of -3%: 5% of 210 days lie at 1%, and the last ten, each of weight 1% at first,
    hold 9.6% of the weight at a decay of .99."""
    returns = np.concatenate([np.tile([0.01, -0.01], 100), np.full(10, -0.03)])[:, None]
    universe = Settings.load().universe
    padded = np.hstack([returns, np.zeros((210, universe.n_instruments - 1))])
    books = {
        method: PortfolioRiskManager.from_settings(chosen(method))
        for method in ("historical", "historical_age_weighted")
    }
    n = universe.n_instruments
    weights = np.eye(n)[:1] * 0.1
    proposal = Proposal(weights, weights, np.ones((1, n), bool), np.zeros((1, n * (n + 1) // 2)),
                        np.zeros((1, n * (n - 1) // 2)), np.array([1e5]), past=PastReturns.of(padded))  # fmt: skip
    assert books["historical"].measure(proposal)["var"][0] == pytest.approx(0.001)
    assert books["historical_age_weighted"].measure(proposal)["var"][0] == pytest.approx(0.003)


def test_monte_carlo_tends_to_the_normal_and_to_the_student_quantile(random_books) -> None:
    books = random_books(3, 8)
    proposal = books.proposal
    deviation = np.sqrt(np.einsum("bi,bij,bj->b", proposal.proposed, books.covariance, proposal.proposed))
    many = "risk.var_methods.draws=200000"
    normal = PortfolioRiskManager.from_settings(chosen("monte_carlo_normal", many)).measure(proposal)["var"]
    np.testing.assert_allclose(normal, stats.norm.ppf(0.95) * deviation, rtol=0.02)
    student = PortfolioRiskManager.from_settings(chosen("monte_carlo_student_t", many)).measure(proposal)["var"]
    expected = stats.t.ppf(0.95, 5) / np.sqrt(5 / 3) * deviation
    np.testing.assert_allclose(student, expected, rtol=0.02)


def test_monte_carlo_takes_a_covariance_that_is_not_positive_definite(random_books) -> None:
    """Two instruments that are one: the second repeats the first, and a hedge between them has no risk."""
    books = random_books(2, 9)
    covariance = books.covariance.copy()
    covariance[:, 1], covariance[:, :, 1] = covariance[:, 0], covariance[:, :, 0]
    covariance[:, 1, 1] = covariance[:, 0, 0]
    many = chosen("monte_carlo_normal", "risk.var_methods.draws=100000")
    manager = PortfolioRiskManager.from_settings(many)
    weights = np.zeros((2, 8))
    weights[:, 0], weights[0, 1], weights[1, 1] = 1.0, -1.0, 1.0
    proposal = replace(books.proposal, proposed=weights, covariance=manager.index.pack(covariance))
    hedged, doubled = manager.measure(proposal)["var"]
    assert hedged == pytest.approx(0.0, abs=1e-6)
    assert doubled == pytest.approx(2 * 1.645 * np.sqrt(covariance[1, 0, 0]), rel=0.02)


@pytest.mark.slow
def test_the_horizon_scales_every_method_by_its_root(random_books) -> None:
    for method in METHODS:
        proposal = with_past(random_books(3, 4), 4, method)
        day = PortfolioRiskManager.from_settings(CHOSEN[method])
        four = PortfolioRiskManager.from_settings(chosen(method, "risk.var_horizon_days=4"))
        np.testing.assert_allclose(four.measure(proposal)["var"], 2 * day.measure(proposal)["var"], rtol=1e-9)
        np.testing.assert_allclose(four.expected_shortfall(proposal), 2 * day.expected_shortfall(proposal), rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_judged_as_its_members_alone_by_every_method(method: str, random_books) -> None:
    manager = PortfolioRiskManager.from_settings(CHOSEN[method])
    proposal = with_past(random_books(6, 7, 3.0, 0.2), 7, method)
    whole = manager.repair(proposal).executed.copy()
    for env in range(6):
        alone = manager.repair(proposal.rows(np.array([env]))).executed[0]
        np.testing.assert_allclose(alone, whole[env], rtol=1e-9, atol=1e-12)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), confidence=st.floats(0.5, 0.999))
@hypothesis_settings(max_examples=50, deadline=None)
def test_the_quantile_by_partition_is_numpys(seed: int, n: int, confidence: float) -> None:
    losses = np.random.default_rng(seed).normal(size=(3, n))
    expected = np.quantile(losses, confidence, axis=1)
    np.testing.assert_allclose(upper_quantile(losses, confidence), expected, rtol=1e-12, atol=1e-15)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), confidence=st.floats(0.5, 0.999))
@hypothesis_settings(max_examples=50, deadline=None)
def test_the_mean_of_the_worst_by_partition_is_the_expected_shortfall(seed: int, n: int, confidence: float) -> None:
    losses = np.random.default_rng(seed).normal(size=(3, n))
    expected = var.expected_shortfall(losses, confidence)
    np.testing.assert_allclose(np.maximum(upper_mean(losses, confidence), 0.0), expected, rtol=1e-9, atol=1e-12)


def test_without_past_returns_a_historical_rule_says_what_it_needs(random_books) -> None:
    manager = PortfolioRiskManager.from_settings(CHOSEN["historical"])
    with pytest.raises(RiskInputError, match=r"prepared with this risk\.var_method"):
        manager.repair(random_books(2, 1).proposal)


def test_what_is_not_a_number_is_refused_by_every_method(random_books) -> None:
    for method in METHODS:
        proposal = with_past(random_books(2, 1), 1, method)
        proposal.covariance[1, 0] = np.nan
        proposal.correlation[1, 0] = np.nan
        with pytest.raises(RiskInputError, match="environment 1"):
            PortfolioRiskManager.from_settings(CHOSEN[method]).repair(proposal)


def test_more_days_than_the_history_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="history_min_days 600 is more than history_days 500"):
        Settings.load(overrides=["risk.var_methods.history_min_days=600"])
