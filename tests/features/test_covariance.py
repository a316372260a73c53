"""The estimators of the desk's covariance against their formulas written out, a scipy likelihood and the `arch`
library."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.features.building import build_features, content_hash
from mtquant_rllib.features.covariance import covariance_of_days, ledoit_wolf, regime_switching
from mtquant_rllib.features.garch import Parameters, dcc_correlation, garch_covariance, garch_variance
from mtquant_rllib.features.regimes import Regime
from mtquant_rllib.market.bars import MarketData

HAS_ARCH = importlib.util.find_spec("arch") is not None
needs_arch = pytest.mark.skipif(not HAS_ARCH, reason="arch is not installed: the extra `garch`")
WITHOUT_LIBRARY = ("ewma", "sample", "ledoit_wolf", "regime_switching")
Walk = Callable[..., MarketData]


def chosen(covariance: str, **moments: object) -> Settings:
    lines = [f"features.moments.covariance={covariance}", *(f"features.moments.{k}={v}" for k, v in moments.items())]
    return Settings.load(overrides=lines)


def packed_products(returns: np.ndarray) -> np.ndarray:
    rows, columns = np.triu_indices(returns.shape[-1])
    return returns[..., rows] * returns[..., columns]


def some_returns(days: int, n: int, seed: int) -> np.ndarray:
    """(days, 1, n) of correlated instruments of unequal volatility, NaN on the first day."""
    rng = np.random.default_rng(seed)
    root = np.tril(rng.uniform(-0.5, 1, (n, n)))
    returns = (rng.standard_t(6, (days, n)) @ root.T) * np.linspace(0.004, 0.02, n)
    returns[0] = np.nan
    return returns[:, None]


def sklearn_ledoit_wolf(x: np.ndarray) -> np.ndarray:
    """`sklearn.covariance.ledoit_wolf(x, assume_centered=True)`, its formula day by day."""
    days, n = x.shape
    moment = x.T @ x / days
    mean_variance = np.trace(moment) / n
    target = mean_variance * np.eye(n)
    distance = ((moment - target) ** 2).sum() / n
    noise = sum(((np.outer(one, one) - moment) ** 2).sum() / n for one in x) / days**2
    share = min(noise, distance) / distance
    return (1 - share) * moment + share * target


def test_sample_is_the_mean_product_of_the_last_days() -> None:
    returns = some_returns(80, 3, seed=1)
    found = covariance_of_days(chosen("sample", covariance_window_days=30), returns)
    last = returns[-30:, 0]
    np.testing.assert_allclose(found[-1, 0], (last.T @ last / 30)[np.triu_indices(3)], rtol=1e-10)
    assert np.isnan(found[19]).all(), "twenty returns are known at the end of the twenty-first day"
    np.testing.assert_allclose(found[20, 0], (returns[1:21, 0].T @ returns[1:21, 0] / 20)[np.triu_indices(3)])


@pytest.mark.parametrize("day", [20, 45, 79])
def test_ledoit_wolf_is_the_published_formula_over_its_window(day: int) -> None:
    returns = some_returns(80, 4, seed=2)
    found = ledoit_wolf(packed_products(returns), 30, 20)
    expected = sklearn_ledoit_wolf(returns[max(day - 29, 1) : day + 1, 0])
    np.testing.assert_allclose(found[day, 0], expected[np.triu_indices(4)], rtol=1e-9)


def test_ledoit_wolf_of_two_days_by_hand() -> None:
    """x = (1, 0), (0, 2): S = diag(.5, 2), m = 1.25, d = 1.125, b = (|diag(.5, -2)|^2 + |diag(-.5, 2)|^2) / 4 = 2.125,
    so the target stands alone."""
    returns = np.array([[1.0, 0.0], [0.0, 2.0]])[:, None]
    np.testing.assert_allclose(ledoit_wolf(packed_products(returns), 2, 2)[-1, 0], [1.25, 0.0, 1.25])


def test_regime_switching_weighs_each_regimes_covariance_by_the_chance_of_its_next_day() -> None:
    returns = some_returns(60, 2, seed=3)
    rng = np.random.default_rng(4)
    labels = np.repeat(rng.integers(0, 4, 20), 3).astype(np.int8)[:, None]
    found = regime_switching(packed_products(returns), labels, 40, 10)
    days, label = returns[-40:, 0], labels[-40:, 0]
    overall = days.T @ days / 40
    # A pair of days counts with its second: that of the first day of the window began a day before it.
    before, after = labels[-41:-1, 0], labels[-40:, 0]
    chances = np.array([((before == label[-1]) & (after == g)).sum() + 0.25 for g in Regime])
    expected = sum(
        chance * (days[label == g].T @ days[label == g] + 10 * overall) / ((label == g).sum() + 10)
        for g, chance in zip(Regime, chances / chances.sum())
    )
    np.testing.assert_allclose(found[-1, 0], expected[np.triu_indices(2)], rtol=1e-10)


def test_a_volatile_regime_has_the_larger_covariance_at_once() -> None:
    """Two regimes whose deviations are 1 and 3: on a day of the volatile one the forecast is that of the volatile
    days, which an equal-weight window mixes with the calm ones."""
    rng = np.random.default_rng(5)
    labels = np.where(np.arange(400) // 50 % 2, Regime.VOLATILE, Regime.SIDEWAYS).astype(np.int8)[:, None]
    scale = np.where(labels == Regime.VOLATILE, 3.0, 1.0)
    returns = rng.standard_normal((400, 1, 1)) * scale[..., None]
    found = regime_switching(packed_products(returns), labels, 400, 20)[..., 0]
    assert found[-1] == pytest.approx(9.0, rel=0.25)
    assert found[349 - 5] == pytest.approx(1.0, rel=0.4)


# GARCH


def likelihood_fit(returns: np.ndarray) -> Parameters | None:
    """Maximum of the Gaussian likelihood by scipy, with the same variance before the first day."""

    def loss(theta: np.ndarray) -> float:
        variance = garch_variance(returns[:, None], np.array([theta]))[:-1, 0]
        return float(0.5 * (np.log(variance) + returns**2 / variance).sum())

    found = minimize(
        loss,
        np.array([0.05, 0.08, 0.87]),
        method="SLSQP",
        bounds=[(1e-6, 2), (0, 1), (0, 1)],
        constraints={"type": "ineq", "fun": lambda theta: 1 - 1e-9 - theta[1] - theta[2]},
        options={"ftol": 1e-11, "maxiter": 500},
    )
    return tuple(found.x.tolist()) if found.success else None


def simulated_garch(days: int, seed: int) -> np.ndarray:
    """Returns of a GARCH(1,1) with unit variance, alpha .1 and beta .85."""
    rng = np.random.default_rng(seed)
    out, variance = np.empty(days), 1.0
    for day in range(days):
        out[day] = np.sqrt(variance) * rng.standard_normal()
        variance = 0.05 + 0.1 * out[day] ** 2 + 0.85 * variance
    return out


def test_the_variance_of_the_next_day_is_the_recursion_by_hand() -> None:
    """omega .1, alpha .2, beta .7; squares 1 and 4 weighted 1 : .94 make 2.4536 before the first day."""
    variance = garch_variance(np.array([[1.0], [2.0]]), np.array([[0.1, 0.2, 0.7]]))[:, 0]
    before = (1 + 0.94 * 4) / 1.94
    first = 0.1 + 0.9 * before
    second = 0.1 + 0.2 * 1 + 0.7 * first
    np.testing.assert_allclose(variance, [first, second, 0.1 + 0.2 * 4 + 0.7 * second])


def test_dynamic_correlation_is_engles_recursion_written_out() -> None:
    z = np.array([[1.0, 1.0], [2.0, -1.0]])
    target = np.array([[1.0, 0.3], [0.3, 1.0]])
    q = 0.07 * target + 0.05 * np.outer(z[0], z[0]) + 0.88 * target
    expected = [0.3, q[0, 1] / np.sqrt(q[0, 0] * q[1, 1])]
    q = 0.07 * target + 0.05 * np.outer(z[1], z[1]) + 0.88 * q
    expected.append(q[0, 1] / np.sqrt(q[0, 0] * q[1, 1]))
    found = dcc_correlation(z, target, 0.05, 0.88)
    np.testing.assert_allclose(found[:, 0, 1], expected)
    np.testing.assert_allclose(found[:, [0, 1], [0, 1]], 1.0)


@pytest.mark.parametrize("kind", ["garch_constant", "garch_dcc"])
def test_a_forecast_is_fitted_to_earlier_days_and_filtered_to_its_own(kind: str) -> None:
    settings = chosen(kind, garch="{window_days: 200, min_days: 100, refit_days: 60, dcc_shock: 0.05, "
                      "dcc_persistence: 0.9}")  # fmt: skip
    moments = settings.features.moments
    x = np.stack([simulated_garch(230, seed) for seed in (1, 2)], axis=-1) * [0.01, 0.02]
    returns = np.concatenate([np.full((1, 2), np.nan), x])[:, None]
    before = np.full((231, 1, 3), -1.0)
    calls: list[int] = []

    def fit(part: np.ndarray) -> Parameters:
        calls.append(len(part))
        return 0.05, 0.1, 0.85

    found = garch_covariance(returns, before, moments, fit)
    assert calls == [100, 100, 160, 160, 200, 200], "the last 200 of 220 days"
    assert (found[:100] == -1).all()
    # The forecast after 175 returns, by parameters fitted to the first 160.
    scale = np.sqrt((x[:160] ** 2).mean(axis=0))
    parameters = np.array([[0.05 * s * s, 0.1, 0.85] for s in scale])
    variance = garch_variance(x[:175], parameters)
    z = x[:175] / np.sqrt(variance[:-1])
    moment = z[:160].T @ z[:160]
    target = moment / np.sqrt(np.outer(np.diag(moment), np.diag(moment)))
    correlation = target if kind == "garch_constant" else dcc_correlation(z, target, 0.05, 0.9)[-1]
    expected = correlation * np.sqrt(np.outer(variance[-1], variance[-1]))
    np.testing.assert_allclose(found[175, 0], expected[np.triu_indices(2)], rtol=1e-10)


def test_what_cannot_be_fitted_keeps_the_exponential_weighting() -> None:
    moments = chosen("garch_constant").features.moments
    returns = some_returns(600, 2, seed=6)
    returns[:, :, 1] *= 0
    found = garch_covariance(returns, np.zeros((600, 1, 3)), moments, lambda part: None)[-1, 0]
    ewma = covariance_of_days(chosen("ewma"), returns)[-1, 0]
    assert found[0] == pytest.approx(ewma[0], rel=1e-4)
    np.testing.assert_array_equal(found[1:], 0.0)


@needs_arch
def test_parameters_and_variances_are_those_of_arch() -> None:
    from arch import arch_model

    from mtquant_rllib.features.garch import _arch_fit

    returns = simulated_garch(1500, seed=3)
    fitted = _arch_fit(chosen("garch_constant").features.moments)(returns)
    own = likelihood_fit(returns)
    assert fitted is not None
    assert own is not None
    np.testing.assert_allclose(fitted, own, rtol=2e-2)
    model = arch_model(returns, mean="Zero", vol="GARCH", p=1, q=1, rescale=False).fit(disp="off")
    variance = garch_variance(returns[:, None], np.array([fitted]))[:, 0]
    np.testing.assert_allclose(np.sqrt(variance[:-1]), model.conditional_volatility, rtol=1e-6)
    ahead = model.forecast(horizon=1).variance.to_numpy()[-1, 0]
    assert variance[-1] == pytest.approx(ahead, rel=1e-6)


@pytest.mark.slow
def test_the_likelihood_has_its_maximum_near_the_simulated_parameters() -> None:
    """The recursion is the right one: what maximises its likelihood is what the returns were drawn with."""
    found = likelihood_fit(simulated_garch(4000, seed=7))
    assert found is not None
    assert found[1] == pytest.approx(0.10, abs=0.03)
    assert found[2] == pytest.approx(0.85, abs=0.05)


@pytest.mark.skipif(HAS_ARCH, reason="arch is installed")
def test_without_arch_the_extra_is_named() -> None:
    with pytest.raises(ConfigError, match=r"garch_dcc.*pip install 'mtquant_rllib\[garch\]'.*ledoit_wolf"):
        covariance_of_days(chosen("garch_dcc"), some_returns(30, 2, seed=1))


# As the desk gets them


GARCH = [pytest.param(kind, marks=needs_arch) for kind in ("garch_constant", "garch_dcc")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*WITHOUT_LIBRARY, *GARCH])
def test_no_covariance_sees_a_later_day(walk: Walk, scramble: Callable[..., MarketData], kind: str) -> None:
    settings = chosen(kind, regime_window_days=300, covariance_window_days=100)
    market, t = walk(600, seed=4, masked=True), 555
    before, after = (build_features(settings, [one], None).covariance for one in (market, scramble(market, t, 6)))
    assert before[: t + 1].tobytes() == after[: t + 1].tobytes()
    assert not np.array_equal(before, after)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*WITHOUT_LIBRARY, *GARCH])
def test_every_covariance_is_one_and_is_known_as_early_as_the_default(walk: Walk, kind: str) -> None:
    markets = [walk(600, seed=seed, masked=True) for seed in (1, 2)]
    table, default = (build_features(chosen(name), markets, None) for name in (kind, "ewma"))
    assert table.warm_from == default.warm_from
    full = np.zeros((len(table), 8, 8))
    rows, columns = np.triu_indices(8)
    full[:, rows, columns] = full[:, columns, rows] = table.covariance
    usable = np.arange(len(table)) % 600 >= table.warmup
    values = np.linalg.eigvalsh(full[usable])
    assert (values[:, 0] >= -1e-12 * values[:, -1]).all()
    # Nothing but the covariance follows from the choice.
    np.testing.assert_array_equal(table.block, default.block)
    np.testing.assert_array_equal(table.vol_ann, default.vol_ann)


def test_the_choice_names_another_prepared_market(walk: Walk) -> None:
    market = walk(30, seed=1)
    names = {content_hash(chosen(kind), [market]) for kind in (*WITHOUT_LIBRARY, "garch_constant", "garch_dcc")}
    assert len(names) == 6
