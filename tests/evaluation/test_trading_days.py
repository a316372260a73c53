"""A forecast of a day is judged by days, whatever the bars; on daily bars nothing changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from asymptotic_var import backtest_var

from mtquant_rllib.config import Settings
from mtquant_rllib.evaluation import measures
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.backtest.trading_days import bars_per_day, by_day, days_and_forecasts
from mtquant_rllib.evaluation.report.building import build_report, summarise

SETTINGS = Settings.load(overrides=["evaluation.bootstrap.resamples=200"])
BOOTSTRAP = SETTINGS.evaluation.bootstrap
UNIVERSE = SETTINGS.universe
DAY_SD = 0.01


def record(returns: np.ndarray, timestamps: np.ndarray, bars_per_year: float, forecast: float = 0.0165) -> Record:
    """A book with these net returns (B, T)."""
    shape = (*returns.shape, UNIVERSE.n_instruments)
    before = 100_000 * np.concatenate((np.ones((len(returns), 1)), np.cumprod(1 + returns, axis=1)), axis=1)
    pnl = np.zeros(shape)
    pnl[..., 0] = np.diff(before, axis=1)
    nothing = np.zeros(shape)
    return Record(
        name="desk",
        symbols=UNIVERSE.symbols,
        domains=tuple(domain.name for domain in UNIVERSE.domains),
        domain_of=UNIVERSE.domain_of,
        bars_per_year=bars_per_year,
        timestamps=timestamps,
        equity_start_ccy=before[:, 0],
        equity_ccy=before[:, 1:],
        pnl_ccy=pnl,
        cost_ccy=nothing,
        financing_ccy=nothing,
        weights=nothing,
        proposed=nothing,
        traded_frac=nothing,
        rule_ids=nothing.astype(np.int8),
        rule_names={},
        var_forecast_frac=np.full(returns.shape, forecast),
        breaker_trips=np.zeros((len(returns), 4), dtype=np.int64),
    )


def hours(n_days: int, first: str = "2024-01-08T22:00") -> np.ndarray:
    """Timestamps of whole trading days of 24 hours in winter, Monday evening to Friday evening left out of weekends."""
    timestamps = np.datetime64(first, "s") + np.arange(n_days * 2 * 24) * np.timedelta64(1, "h")
    ends = (timestamps + np.timedelta64(2, "h")).astype("datetime64[D]")
    return timestamps[np.is_busday(ends)][: n_days * 24]


def hourly(n_days: int, seed: int, n_envs: int = 1) -> Record:
    timestamps = hours(n_days)
    returns = np.random.default_rng(seed).normal(0, DAY_SD / np.sqrt(24), (n_envs, len(timestamps)))
    return record(returns, timestamps, 6_000.0)


def test_hours_are_compounded_from_17_to_17_new_york() -> None:
    book = hourly(3, seed=0)
    assert bars_per_day(book) == 24
    expected = [np.prod(1 + book.returns[0, k : k + 24]) - 1 for k in (0, 24, 48)]
    np.testing.assert_allclose(by_day(book, book.returns)[0], expected)


def test_daily_bars_are_days_byte_for_byte() -> None:
    timestamps = (np.datetime64("2020-02-03") + np.arange(100)).astype("datetime64[s]")
    book = record(np.random.default_rng(1).normal(0, 0.01, (2, 100)), timestamps, 252.0)
    assert bars_per_day(book) == 1
    returns, forecast = days_and_forecasts(book)
    assert (returns == book.returns).all()
    assert (forecast == book.var_forecast_frac).all()


@pytest.mark.slow
def test_an_honest_forecast_of_a_day_passes_on_hourly_bars() -> None:
    """By bars not one of 4,800 hours loses a day's VaR, which the test would reject; by days one in twenty does."""
    book = hourly(200, seed=2)
    by_bars = backtest_var(book.returns, book.var_forecast_frac, 0.95)
    assert by_bars.n_breaches == 0
    assert by_bars.coverage.p_value < 1e-6
    tests = build_report([book], SETTINGS).var_tests
    assert tests is not None
    assert tests.n_days == 200
    assert 4 <= tests.n_breaches <= 18
    assert not tests.rejected(0.05)


def test_a_day_that_the_history_cuts_short_is_not_judged() -> None:
    whole = hourly(5, seed=3)
    cut = record(whole.returns[:, 20:], whole.timestamps[20:], 6_000.0)
    assert np.isfinite(days_and_forecasts(whole)[0]).sum() == 5
    assert np.isfinite(days_and_forecasts(cut)[0]).sum() == 4


def test_the_forecast_of_a_day_is_the_one_it_began_with() -> None:
    book = hourly(2, seed=4)
    forecast = np.arange(48, dtype=float)[None]
    assert days_and_forecasts(dataclasses.replace(book, var_forecast_frac=forecast))[1].tolist() == [[0, 24]]


def test_value_at_risk_in_a_report_is_a_days() -> None:
    book = hourly(250, seed=5)
    values = summarise(book, 0.95, SETTINGS.evaluation.bootstrap, seed=0).values
    assert values["var_frac"] == pytest.approx(1.645 * DAY_SD, rel=0.2)
    assert values["cvar_frac"] > values["var_frac"]


def test_a_date_is_left_out_by_its_trading_day() -> None:
    """22:00 UTC of the 8th is 17:00 in New York: the trading day of the 9th begins."""
    book = hourly(3, seed=6)
    left_out = book.on_dates([np.datetime64("2024-01-09")])[0]
    assert left_out[:24].all()
    assert not left_out[24:].any()


def test_three_short_episodes_have_the_error_of_their_bars() -> None:
    """756 quarters of an hour are 11 days: an annual Sharpe of them is known to plus or minus 5.8, also where the three
    episodes happen to agree."""
    returns = np.tile(np.random.default_rng(7).normal(0, 0.001, 252), (3, 1))
    timestamps = np.datetime64("2024-01-08T22:00", "s") + np.arange(252) * np.timedelta64(15, "m")
    summary = summarise(record(returns, timestamps, 25_200.0), 0.95, SETTINGS.evaluation.bootstrap, seed=0)
    assert summary.standard_errors["sharpe_ann"] == pytest.approx(np.sqrt(25_200 / 756), rel=0.1)
    assert summary.values["sharpe_upper"] - summary.values["sharpe_lower"] > 10
    one = measures.sharpe_standard_error(returns[0], 25_200.0)
    assert measures.pooled_sharpe_standard_error(returns[:1], 25_200.0) == one


def test_blocks_of_a_month_are_a_month_of_hours() -> None:
    bootstrap = SETTINGS.evaluation.bootstrap
    assert bootstrap.of_bars(1).mean_block_bars == bootstrap.mean_block_bars == 20
    assert bootstrap.of_bars(24).mean_block_bars == 480


@pytest.mark.slow
def test_two_hundred_episodes_from_random_starts_know_no_more_than_the_history_they_play() -> None:
    """Ten years are known to ± 1/sqrt(10) a year, however often parts of them are played."""
    rng = np.random.default_rng(11)
    history = rng.normal(0.0003, 0.01, 2_520)
    days = np.datetime64("2010-01-04") + np.arange(2_520)
    starts = rng.integers(0, 2_520 - 252, 200)
    at = starts[:, None] + np.arange(252)
    overlapping = record(history[at], days.astype("datetime64[s]")[at], 252.0)
    summary = summarise(overlapping, 0.95, BOOTSTRAP, seed=0)
    end_to_end = summarise(record(history[None], days.astype("datetime64[s]"), 252.0), 0.95, BOOTSTRAP, 0)
    whole = end_to_end.standard_errors["sharpe_ann"]
    assert whole == pytest.approx(1 / np.sqrt(10), rel=0.1)
    # The first and last year are played less often than the rest, so that it is somewhat more.
    assert 0.95 * whole < summary.standard_errors["sharpe_ann"] < 1.4 * whole
    assert set(summary.standard_errors) == {"sharpe_ann"}
    report = build_report([overlapping], SETTINGS)
    assert report.verdict is None
    assert any("these are no more than the 2,5" in note for note in report.notes)
