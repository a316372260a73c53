"""The date of a macro value is what it measures, not when it was known: a month's average is out in the next month."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.market.importing.importers import import_paths, load_market
from mtquant_rllib.market.importing.macro import MacroSeries, as_of
from mtquant_rllib.market.importing.publication import period_of

SETTINGS = Settings.load()


def monthly(path: Path, header: str = "rate_3m", first: str = "2019-01-01", n: int = 24, freq: str = "MS") -> Path:
    days = pd.date_range(first, periods=n, freq=freq)
    path.write_text(f"date,{header}\n" + "".join(f"{day:%Y-%m-%d},{k + 1}\n" for k, day in enumerate(days)))
    return path


@pytest.mark.parametrize(
    ("freq", "period"),
    [("MS", "month"), ("ME", "month"), ("BMS", "month"), ("W-FRI", "week"), ("QS", "quarter"), ("YS", "year")],
)
def test_a_series_that_is_not_daily_is_refused_without_a_lag(freq: str, period: str, tmp_path: Path) -> None:
    path = monthly(tmp_path / "macro.csv", freq=freq)
    with pytest.raises(MarketDataError) as caught:
        import_paths(path, SETTINGS)
    message = str(caught.value)
    assert f"column rate_3m: rate_3m has a value every {period}" in message
    assert "market.macro.published.rate_3m.lag_days=35" in message


def test_a_months_average_is_known_in_the_next_month(tmp_path: Path) -> None:
    """2020-03-01 and 36 days are 2020-04-06, a Monday: until then February's average is all that is known."""
    path = monthly(tmp_path / "macro.csv", header="TB3MS", first="2020-01-01", n=6)
    settings = Settings.load(overrides=["market.macro.aliases={rate_3m: [TB3MS]}"])
    found = import_paths(path, settings)
    assert found.macro is not None
    assert found.macro.columns == ("rate_3m",)
    assert "rate_3m, every month, is known 36 days after its date" in found.report.files[0].notes
    days = np.array(["2020-03-03", "2020-04-03", "2020-04-06"], dtype="datetime64[s]")
    assert as_of(found.macro, days, True, settings.market.macro)[:, 0].tolist() == [1, 2, 3]
    intraday = np.array(["2020-04-06T20:00", "2020-04-06T21:00"], dtype="datetime64[s]")
    assert as_of(found.macro, intraday, False, settings.market.macro)[:, 0].tolist() == [2, 3]


def test_a_lag_of_ones_own_is_named_by_the_series(tmp_path: Path) -> None:
    path = monthly(tmp_path / "macro.csv")
    settings = Settings.load(overrides=["market.macro.published.rate_3m.lag_days=35"])
    assert import_paths(path, settings).macro is not None


def test_a_lag_of_a_daily_series_is_kept_to(tmp_path: Path) -> None:
    path = monthly(tmp_path / "macro.csv", freq="B")
    found = import_paths(path, Settings.load(overrides=["market.macro.published.rate_3m.lag_days=9"]))
    assert found.macro is not None
    assert found.macro.lag_days == (9,)


def test_a_date_of_another_century_is_refused(tmp_path: Path) -> None:
    path = monthly(tmp_path / "macro.csv", freq="B", n=200)
    path.write_text(path.read_text() + "2220-01-03,7\n")
    with pytest.raises(MarketDataError, match="line 202, column date: 2220-01-03 is no date of a value"):
        import_paths(path, SETTINGS)
    assert import_paths(path, SETTINGS, repair=True).report.repairs == {"impossible_times_dropped": 1}


def test_a_macro_column_that_is_no_number_is_not_repaired_away(tmp_path: Path) -> None:
    days = pd.bdate_range("2019-01-01", periods=100)
    path = tmp_path / "macro.csv"
    path.write_text(
        "date,vix\n" + "".join(f"{day:%Y-%m-%d},{'x' if k % 9 == 0 else 20}\n" for k, day in enumerate(days))
    )
    with pytest.raises(MarketDataError, match=r"market\.repair\.max_frac\.unparsable_values_dropped"):
        import_paths(path, SETTINGS, repair=True)


def test_a_file_of_one_series_is_known_by_its_name(tmp_path: Path) -> None:
    path = monthly(tmp_path / "CPIAUCSL.csv", header="vix")
    notes = import_paths(path, SETTINGS).report.files[0].notes
    assert "vix, every month, is known 50 days after its date" in notes
    assert "vix is revised after its publication: these values are later knowledge" in notes


def test_a_series_of_another_frequency_among_daily_ones_is_found() -> None:
    days = pd.bdate_range("2019-01-01", periods=400).to_numpy(dtype="datetime64[D]")
    rng = np.random.default_rng(0)
    daily = rng.normal(size=400)
    assert period_of(days, daily) is None
    months = days.astype("datetime64[M]")
    first = np.concatenate(([True], months[1:] != months[:-1]))
    assert period_of(days, np.where(first, daily, np.nan)) == "month"
    assert period_of(days, np.where(np.arange(400) < 300, np.where(first, daily, np.nan), daily)) == "month"


def test_a_month_that_is_repeated_every_day_is_still_a_month() -> None:
    days = pd.bdate_range("2019-01-01", periods=400).to_numpy(dtype="datetime64[D]")
    months = days.astype("datetime64[M]").astype(int)
    rng = np.random.default_rng(1)
    assert period_of(days, rng.normal(size=2000)[months]) == "month"
    meetings = np.cumsum(np.isin(np.arange(400), np.arange(20, 400, 31)))
    assert period_of(days, 5.0 - 0.25 * meetings) is None, "a policy rate changes when it is decided"


def test_a_handful_of_values_is_seldom_only_where_months_lie_between() -> None:
    three = np.array(["2019-01-01", "2019-02-01", "2019-03-01"], dtype="datetime64[D]")
    assert period_of(three, np.arange(3.0)) == "month"
    assert period_of(three[:2], np.arange(2.0)) == "month"
    assert period_of(three[:1], np.arange(1.0)) is None
    assert period_of(np.array(["2019-01-02", "2019-01-14"], dtype="datetime64[D]"), np.arange(2.0)) is None


def test_holes_do_not_make_a_daily_series_seldom() -> None:
    days = pd.bdate_range("2019-01-01", periods=400).to_numpy(dtype="datetime64[D]")
    values = np.random.default_rng(2).normal(size=400)
    values[50:90], values[200:209] = np.nan, np.nan
    assert period_of(days, values) is None


def test_of_daily_series_nothing_is_as_it_was_not() -> None:
    days = np.array(["2019-01-02", "2019-01-03", "2019-01-04"], dtype="datetime64[D]")
    plain = MacroSeries(days, np.array([[1.0], [2.0], [3.0]]), ("vix",))
    rows = np.array(["2019-01-03", "2019-01-04", "2019-01-07"], dtype="datetime64[s]")
    assert as_of(plain, rows, True, SETTINGS.market.macro)[:, 0].tolist() == [1, 2, 3]


def test_bars_with_a_monthly_rate_are_refused(tmp_path: Path) -> None:
    days = pd.bdate_range("2019-01-01", periods=260)
    (tmp_path / "EURUSD.csv").write_text(
        "date,open,high,low,close\n" + "".join(f"{d:%Y-%m-%d},1.1,1.2,1.0,1.1\n" for d in days)
    )
    rows = "".join(f"{d:%Y-%m-%d},{20 + k % 7},{90 + k % 5},{2 if d.day <= 2 else ''}\n" for k, d in enumerate(days))
    (tmp_path / "macro.csv").write_text("date,vix,dxy,rate_3m\n" + rows)
    settings = Settings.load(overrides=["market.macro.allow_missing=[rate_2y, rate_10y]"])
    with pytest.raises(MarketDataError, match="rate_3m has a value every month"):
        load_market(settings, tmp_path / "EURUSD.csv", tmp_path / "macro.csv", allow_missing=settings.universe.symbols)
