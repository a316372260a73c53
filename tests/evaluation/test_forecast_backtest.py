"""The backtest of VaR forecasts: each forecast is that of the reference functions on the days before, and a true one is
not rejected."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_runs import FIVE_DAYS, bars_file

from mtquant_rllib.cli import main
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError, MarketDataError
from mtquant_rllib.evaluation.book_risk import forecast_backtest as backtest
from mtquant_rllib.evaluation.book_risk.backtest_lines import passing_lines
from mtquant_rllib.risk import var

SMALL = ["risk.var_methods.draws=300", "risk.var_methods.history_days=260", "risk.var_calibration.window_days=100"]
SETTINGS = Settings.load(overrides=SMALL)
N = SETTINGS.universe.n_instruments


def normal_days(days: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    root = np.tril(rng.uniform(-0.3, 1, (N, N))) * np.linspace(0.002, 0.006, N)[:, None]
    first = np.datetime64("2001-01-01")
    return first + np.arange(days), rng.standard_normal((days, N)) @ root.T


@pytest.mark.slow
def test_forecasts_are_those_of_the_reference_functions_on_the_days_before() -> None:
    """By the mean forecast of the equal-weight book over all judged days."""
    days, returns = normal_days(380, 1)
    found = backtest.backtest_forecasts(
        SETTINGS,
        days,
        returns,
        methods=["parametric", *backtest.BY_HISTORY],
        covariances=["sample"],
        confidences=[0.95],
        simulations=99,
    )
    mean = {one.method: one.mean_var for one in found if one.book == "equal weight"}
    methods, weights = SETTINGS.risk.var_methods, np.full(N, 1 / N)
    expected: dict[str, list[float]] = {method: [] for method in mean}
    for day in range(260, 380):
        past = returns[:day]
        window = SETTINGS.features.moments.covariance_window_days
        covariance = past[-window:].T @ past[-window:] / window
        losses = -(past[-260:] @ weights)
        ages = var.age_weights(260, methods.age_decay)
        filtered = -(var.at_present_volatility(past, methods.volatility_decay)[-260:] @ weights)
        expected["parametric"].append(float(var.parametric_var(weights, covariance, 0.95)))
        expected["historical"].append(float(np.quantile(losses, 0.95)))
        expected["historical_age_weighted"].append(float(var.weighted_var(losses, 0.95, ages)))
        expected["historical_volatility_filtered"].append(float(np.quantile(filtered, 0.95)))
    for method, values in expected.items():
        # The volatility filter begins from other days here and there, which it forgets.
        tolerance = 1e-2 if "filtered" in method else 1e-9
        assert mean[method] == pytest.approx(np.mean(values), rel=tolerance), method


def test_momentum_follows_the_sign_of_the_move_before_its_last_days() -> None:
    _, returns = normal_days(400, 2)
    weights = backtest._books(SETTINGS, returns)["momentum"]
    np.testing.assert_allclose(weights[300], np.sign(returns[300 - 250 : 300 - 21].sum(axis=0)) / N)


def test_no_forecast_knows_the_day_it_is_judged_on() -> None:
    _, returns = normal_days(380, 3)
    changed = returns.copy()
    changed[370:] *= -5
    first, second = (backtest._covariances(SETTINGS, "regime_switching", one)[:371] for one in (returns, changed))
    assert first.tobytes() == second.tobytes()
    weights = np.full((71, N), 1 / N)
    for method in backtest.BY_HISTORY:
        losses = []
        for one in (returns, changed):
            past = backtest._past(SETTINGS, method, one, slice(300, 371))
            assert past is not None
            losses.append(past.losses(weights)[0][1])
        assert losses[0].tobytes() == losses[1].tobytes()


def test_a_true_model_is_not_rejected_and_is_named() -> None:
    days, returns = normal_days(900, 4)
    found = backtest.backtest_forecasts(
        SETTINGS, days, returns, methods=["parametric"], covariances=["sample", "ewma"], confidences=[0.95],
        simulations=199,
    )  # fmt: skip
    assert len(found) == 4
    sample = [one for one in found if one.covariance == "sample"]
    assert all(one.raw is not None and not one.raw.rejected(0.05) for one in sample)
    assert next(iter(passing_lines(found, 0.05))).startswith("raw: no test rejects parametric, sample")


def test_what_cannot_be_backtested_is_refused() -> None:
    days, returns = normal_days(300, 5)
    with pytest.raises(MarketDataError, match="forecasts begin after 260"):
        backtest.backtest_forecasts(SETTINGS, days, returns)
    with pytest.raises(ConfigError, match="covariance 'shrunk': expected one of ewma, sample"):
        backtest.backtest_forecasts(SETTINGS, days, returns, covariances=["shrunk"])
    with pytest.raises(ConfigError, match="method 'normal': expected one of parametric"):
        backtest.backtest_forecasts(SETTINGS, days, returns, methods=["normal"])


@pytest.mark.slow
def test_the_command_prints_a_table_for_each_book_and_confidence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = bars_file(tmp_path, dict.fromkeys(SETTINGS.universe.symbols, FIVE_DAYS), years=4)
    chosen = ["--methods", "parametric,historical", "--covariances", "ewma", "--simulations", "99"]
    line = ["risk", "backtest", "--market", str(bars), *chosen, "--json", str(tmp_path / "found.json")]
    assert main(line) == 0
    said = capsys.readouterr().out
    for title in ("equal weight", "momentum"):
        assert said.count(f"{title}, ") == 2
    assert "raw: " in said
    assert "calibrated: " in said
    tree = json.loads((tmp_path / "found.json").read_text())
    assert len(tree["forecasts"]) == 2 * 2 * 2
    assert main([*line[:4], "--confidence", "95"]) == 2
    assert "expected numbers between 0.5 and 1" in capsys.readouterr().err
