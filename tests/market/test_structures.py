"""Structures planted for the desk as a whole: who knows them gains, who sees one part alone sees nothing of them, and
without strength they are not there."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.market.bars import CLOSE, OPEN
from mtquant_rllib.market.synthetic import SyntheticMarket, overlap, predictability, synthesise
from mtquant_rllib.market.synthetic.macro import rate_law

META, JOINT, PLAIN = (Settings.load(f"{name}.yaml") for name in ("planted_meta", "planted_joint", "planted"))
UNIVERSE = PLAIN.universe
SHARED = [UNIVERSE.symbols.index(symbol) for symbol in JOINT.synthetic.planted.overlap.instruments]
YEN = UNIVERSE.symbols.index("USDJPY")


@cache
def drawn(settings_name: str) -> SyntheticMarket:
    settings = {"meta": META, "joint": JOINT, "plain": PLAIN}[settings_name]
    return synthesise(settings, n_paths=12, n_years=8, seed=3, variant="planted")


def bars_of(market: SyntheticMarket) -> np.ndarray:
    """(n_paths, T, n, 5)"""
    return np.stack([path.bars for path in market.markets])


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


# -- without strength, and on the null


@pytest.mark.parametrize(("settings", "name"), [(META, "predictability"), (JOINT, "overlap")])
def test_without_strength_bars_and_truth_are_those_of_the_plain_planted_market(settings: Settings, name: str) -> None:
    assert settings.synthetic.planted.structures == (name,)
    none = Settings.load(f"planted_{'meta' if settings is META else 'joint'}.yaml", [_without(name)])
    assert none.synthetic.planted.structures == ()
    strength = none.synthetic.planted.strength
    off, plain = (
        synthesise(one, n_paths=2, n_years=2, seed=4, variant="planted", strength=strength) for one in (none, PLAIN)
    )
    np.testing.assert_array_equal(bars_of(off), bars_of(plain))
    for part in ("latent", "proxy", "filtered", "mu", "sigma", "steady_mu", "predictability"):
        np.testing.assert_array_equal(getattr(off.truth, part), getattr(plain.truth, part))
    np.testing.assert_array_equal(off.truth.steady_mu, off.truth.mu)


def _without(name: str) -> str:
    return f"synthetic.planted.{name}.oracle_gain=0"


@pytest.mark.parametrize("settings", [META, JOINT])
def test_the_null_market_has_no_structure(settings: Settings) -> None:
    null, plain = (synthesise(one, n_paths=2, n_years=2, seed=4, variant="null") for one in (settings, PLAIN))
    np.testing.assert_array_equal(bars_of(null), bars_of(plain))
    assert not null.truth.mu.any()


def test_settings_without_a_structure_say_that_they_draw_what_they_drew_before() -> None:
    """The identity of a market in the ledger of trials is a hash of what it is drawn from."""
    assert set(PLAIN.synthetic.model_dump()["planted"]) - set(PLAIN.synthetic.drawn_from()["planted"]) == {
        "predictability",
        "overlap",
    }
    assert "overlap" in JOINT.synthetic.drawn_from()["planted"]


# -- predictability that comes and goes


def test_the_state_is_the_residual_of_one_rate_on_another() -> None:
    config = META.synthetic.macro.rates
    matrix, deviation = rate_law(config)
    assert deviation == pytest.approx(0.129 / np.sqrt(1 - 0.99**2))
    rho = matrix[0, 1]
    # A 3-month rate two deviations up and a 2-year rate one up: what is left is 2 - rho, over its own deviation.
    rates = np.asarray(config.mean_pct) + deviation * np.array([2.0, 1.0, -3.0])
    expected = (2 - rho) / np.sqrt(1 - rho**2)
    assert predictability.states(config, rates, ("rate_3m", "rate_2y")) == pytest.approx(expected)
    assert predictability.states(config, rates, ("rate_3m",)) == pytest.approx(2.0)


def test_a_state_is_of_variance_one_and_does_not_depend_on_the_rate_that_the_specialist_sees() -> None:
    config = META.synthetic.macro.rates
    rng, (matrix, deviation) = np.random.default_rng(0), rate_law(config)
    rates = np.asarray(config.mean_pct) + deviation * rng.multivariate_normal(np.zeros(3), matrix, 100_000)
    for first, other in META.synthetic.planted.predictability.shown_by.values():
        state = predictability.states(config, rates, (first, other))
        assert state.std() == pytest.approx(1.0, abs=0.01)
        assert abs(correlation(state, rates[:, config.names.index(other)])) < 0.01


@pytest.mark.slow
def test_every_instrument_of_a_domain_has_its_factor_which_is_one_on_average() -> None:
    factor = drawn("meta").truth.predictability
    strength = META.synthetic.planted.predictability.strength
    for part in UNIVERSE.domain_slices:
        assert (factor[..., part] == factor[..., part.start, None]).all()
        assert factor[..., part.start].mean() == pytest.approx(1.0, abs=0.15)
        assert factor[..., part.start].min() < 1 - 0.95 * strength
        assert factor[..., part.start].max() > 1 + 0.95 * strength
    assert (drawn("plain").truth.predictability == 1).all()


def test_a_domain_that_is_not_named_stays_as_predictable_as_it_is() -> None:
    settings = Settings.load("planted_meta.yaml", ["synthetic.planted.predictability.shown_by.forex=[rate_3m]"])
    assert settings.synthetic.planted.predictability.shown_by["forex"] == ("rate_3m",)
    config = META.synthetic.model_copy(deep=True)
    config.planted.predictability.shown_by.pop("equity")
    rates = np.broadcast_to(np.asarray(config.macro.rates.mean_pct) + 1.0, (1, 4, 3))
    factor = predictability.factors(config, rates, UNIVERSE)
    assert (factor[..., UNIVERSE.domain_slices[2]] == 1).all()
    assert (factor[..., UNIVERSE.domain_slices[0]] != 1).all()


def test_the_factor_is_known_at_the_close_from_what_is_published() -> None:
    """It follows from the macro series of the same row, a day old, and from nothing else."""
    market = drawn("meta")
    path = market.markets[5]
    names = META.synthetic.macro.rates.names
    published = path.macro[:, [path.macro_columns.index(name) for name in names]]
    again = predictability.factors(META.synthetic, published[None], UNIVERSE)[0]
    np.testing.assert_array_equal(again, market.truth.predictability[5])


def test_mu_is_the_conditional_mean_of_who_knows_the_factor_and_steady_mu_of_who_does_not() -> None:
    market = drawn("meta")
    truth, bars = market.truth, bars_of(market)
    body = bars[:, 1:, :, CLOSE] / bars[:, 1:, :, OPEN] - 1
    body[..., YEN] = 1 - bars[:, 1:, YEN, OPEN] / bars[:, 1:, YEN, CLOSE]
    outcome = body / truth.sigma[:, :-1]
    forecast, blind = (mu[:, :-1] / truth.sigma[:, :-1] for mu in (truth.mu, truth.steady_mu))
    for told in (forecast, blind):
        top, below = (told * outcome).sum(axis=2).ravel(), (told**2).sum(axis=2).ravel()
        slope = top.sum() / below.sum()
        error = np.sqrt(((top - slope * below) ** 2).sum()) / below.sum()
        assert slope == pytest.approx(1.0, abs=3.5 * error)
        assert error < 0.12
    assert forecast.std() == pytest.approx(truth.forecast_sd, rel=0.05)


@pytest.mark.slow
def test_the_meta_controllers_columns_show_the_state_and_a_specialists_do_not() -> None:
    """Ridge regressions of each domain's factor on what each of them sees, fitted on half the paths and read on the
    other half."""
    market = drawn("meta")
    features = DeskData.of(META, market.markets).features
    length = features.n_rows_per_path
    rows = np.concatenate([np.arange(p * length + features.warmup, (p + 1) * length, 5) for p in range(12)])
    fitted = rows < 6 * length
    factor = market.truth.predictability.reshape(-1, UNIVERSE.n_instruments)[rows]

    def told(columns: np.ndarray, number: int) -> float:
        target = factor[:, UNIVERSE.domain_slices[number].start] - 1.0
        seen = np.concatenate((columns, np.ones((len(columns), 1))), axis=1).astype(np.float64)
        x, y = seen[fitted], target[fitted]
        weights = np.linalg.solve(x.T @ x + 300 * np.eye(x.shape[1]), x.T @ y)
        return correlation(seen[~fitted] @ weights, target[~fitted])

    for number, part in enumerate(UNIVERSE.domain_slices):
        blocks = features.block[rows][:, part].reshape(len(rows), -1)
        specialist = np.concatenate((features.domain[number][rows], blocks), axis=1)
        assert told(features.macro[rows], number) > 0.8
        assert abs(told(specialist, number)) < 0.3


# -- signals that overlap


def test_shared_normals_keep_their_variance_and_gain_the_correlation() -> None:
    rng = np.random.default_rng(1)
    normals, common = rng.standard_normal((100_000, 3)), rng.standard_normal(100_000)
    untouched = normals[:, 1].copy()
    overlap.share(normals, common, [0, 2], 0.6)
    np.testing.assert_allclose(np.cov(normals.T), [[1, 0, 0.6], [0, 1, 0], [0.6, 0, 1]], atol=0.02)
    np.testing.assert_array_equal(normals[:, 1], untouched)


def test_shared_shocks_leave_the_law_inside_each_domain_as_it_is() -> None:
    rng = np.random.default_rng(2)
    matrix = np.array([[1, 0.8, 0.2, 0.1], [0.8, 1, 0.2, 0.1], [0.2, 0.2, 1, -0.5], [0.1, 0.1, -0.5, 1]])
    shocks = rng.multivariate_normal(np.zeros(4), matrix, 200_000)
    domain_of = np.array([0, 0, 1, 1])
    overlap.share_shocks(
        shocks, rng.standard_normal(len(shocks)), [0, 2], 0.7, np.broadcast_to(matrix, (len(shocks), 4, 4)), domain_of
    )
    found = np.cov(shocks.T)
    np.testing.assert_allclose(found[:2, :2], matrix[:2, :2], atol=0.015)
    np.testing.assert_allclose(found[2:, 2:], matrix[2:, 2:], atol=0.015)
    assert found[0, 2] == pytest.approx(0.7 + 0.3 * 0.2, abs=0.015)


@pytest.mark.slow
def test_signals_and_moves_of_the_overlapping_instruments_agree_and_the_others_do_not() -> None:
    joint, plain = drawn("joint"), drawn("plain")
    rho = JOINT.synthetic.planted.overlap.strength
    moves = {
        name: np.clip(np.log(bars_of(market)[:, 1:, :, CLOSE] / bars_of(market)[:, 1:, :, OPEN]), -0.02, 0.02)
        for name, market in (("joint", joint), ("plain", plain))
    }
    for i in range(UNIVERSE.n_instruments):
        for j in range(i):
            both = i in SHARED and j in SHARED
            latents = correlation(joint.truth.filtered[..., i], joint.truth.filtered[..., j])
            assert latents == pytest.approx(rho if both else 0.0, abs=0.12), (i, j)
            if both:
                assert correlation(moves["joint"][..., i], moves["joint"][..., j]) > 0.6 * rho
                assert correlation(moves["plain"][..., i], moves["plain"][..., j]) < 0.4
            elif UNIVERSE.domain_of[i] == UNIVERSE.domain_of[j]:
                inside = [correlation(moves[name][..., i], moves[name][..., j]) for name in ("joint", "plain")]
                assert inside[0] == pytest.approx(inside[1], abs=0.05), "a domain alone shows nothing of it"


def test_other_domains_proxies_tell_nothing_that_an_instruments_own_does_not() -> None:
    """So the estimate of the planted market stays the best one: regressed on all estimates, a latent takes its own."""
    truth = drawn("joint").truth
    known = truth.filtered[:, ::10][..., SHARED].reshape(-1, len(SHARED))
    for place, i in enumerate(SHARED):
        latent = truth.latent[:, ::10, i].ravel()
        coefficients, *_ = np.linalg.lstsq(known, latent, rcond=None)
        np.testing.assert_allclose(coefficients, np.eye(len(SHARED))[place], atol=0.25)
    own = truth.latent[..., SHARED[0]], truth.filtered[..., SHARED[0]]
    plain = drawn("plain").truth
    before = plain.latent[..., SHARED[0]], plain.filtered[..., SHARED[0]]
    assert correlation(*own) == pytest.approx(correlation(*before), abs=0.02)


# -- what cannot be asked for


@pytest.mark.parametrize(
    ("config", "overrides", "said"),
    [
        ("planted_joint.yaml", ["synthetic.planted.overlap.oracle_gain=5"], "oracle_gain 5 lies beyond"),
        (
            "planted_joint.yaml",
            ["synthetic.planted.overlap.instruments=[SPX500, US30]"],
            r"overlap.instruments = \[SPX500, US30\]: expected two traded instruments at least, and each of another",
        ),
        ("planted_joint.yaml", ["market.instruments=[EURUSD, US30]"], "expected two traded instruments at least"),
        ("planted_joint.yaml", ["synthetic.planted.overlap.instruments=[BTCUSD]"], "there is no row for BTCUSD"),
        (
            "planted_meta.yaml",
            ["synthetic.planted.predictability.shown_by.forex=[vix]"],
            r"shown_by.forex = \[vix\]: expected one or several of rate_3m, rate_2y, rate_10y",
        ),
        (
            "allocator_planted.yaml",
            ["synthetic.planted.overlap.oracle_gain=0.1"],
            "overlap.oracle_gain: an allocator has no meta-controller",
        ),
    ],
)
def test_a_structure_that_cannot_be_planted_is_refused(config: str, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings.load(config, overrides)
