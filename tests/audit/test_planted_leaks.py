"""A leak of every kind, planted where people make it: the audit finds each, and names its column and bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from audited import FEW

from mtquant_rllib.audit.findings import Check, Leak
from mtquant_rllib.audit.leakage.day_volume import check_day_volume
from mtquant_rllib.audit.leakage.fills_at_the_open import check_fills
from mtquant_rllib.audit.leakage.macro_dates import check_dates, check_join
from mtquant_rllib.audit.leakage.perturbed_future import check_futures, random_bars
from mtquant_rllib.audit.leakage.splits_and_scalers import check_scaler, check_splits, prepare_twice
from mtquant_rllib.config import Settings
from mtquant_rllib.env import trading_day
from mtquant_rllib.env.prepared import files as prepared_files
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.features import block, moments
from mtquant_rllib.features import indicators as ind
from mtquant_rllib.features.feature_means import measured
from mtquant_rllib.features.own_bars import OwnBars
from mtquant_rllib.features.registry import Feature
from mtquant_rllib.market.bars import VOLUME, MarketData
from mtquant_rllib.market.importing import macro as market_macro
from mtquant_rllib.market.importing.macro import MacroSeries
from mtquant_rllib.market.synthetic import synthesise
from mtquant_rllib.portfolio import execution_data as channel
from mtquant_rllib.portfolio.execution_data import ExecutionData
from mtquant_rllib.training import preparation


def inspect_nodes(settings: Settings, market: MarketData) -> dict[str, Check]:
    """Checks of the perturbed future and of fills, by name, as settings and code are now."""
    data = DeskData.of(settings, [market])
    rows = random_bars(market, data.features.warmup, settings.evaluation.audit, settings.seed)
    checks = [*check_futures(settings, market, data, rows), check_fills(settings, market, data, rows)]
    return {check.name: check for check in checks}


def only(leaks: Sequence[Leak]) -> Leak:
    assert len(leaks) == 1, leaks
    return leaks[0]


def register(monkeypatch: pytest.MonkeyPatch, name: str, compute: Callable[[OwnBars], np.ndarray]) -> None:
    """A feature of one's own in the place of one of the layout."""
    group = block.feature[name].group
    monkeypatch.setitem(block.feature._features, name, Feature(name, group, "of one's own", compute))


@pytest.mark.slow
def test_a_centred_window(settings: Settings, daily: MarketData, monkeypatch: pytest.MonkeyPatch) -> None:
    def centred(c: OwnBars) -> np.ndarray:
        smooth = np.roll(c.sma(11), -5, axis=0)
        return ind.ratio(c.close - smooth, c.atr)

    register(monkeypatch, "sma50", centred)
    found = inspect_nodes(settings, daily)
    rows = random_bars(daily, DeskData.of(settings, [daily]).features.warmup, settings.evaluation.audit, settings.seed)
    first = found["features"].leaks[0]
    assert (first.what, first.column) == ("features, block", f"{daily.symbols[0]}.sma50")
    assert rows[0] - 5 < first.row <= rows[0], "a window of eleven bars sees five bars ahead"
    assert first.timestamp == str(daily.timestamps[first.row])
    assert found["observations"].leaks, "what is observed is not clean either"
    assert found["actions"].leaks
    assert not found["covariances"].leaks, "and the rest is"


@pytest.mark.slow
def test_a_score_over_the_whole_sample(settings: Settings, daily: MarketData, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "volume_z60", lambda c: (c.a - np.nanmean(c.a, axis=0)) / np.nanstd(c.a, axis=0))
    leaks = inspect_nodes(settings, daily)["features"].leaks
    assert {leak.column.split(".")[1] for leak in leaks} == {"volume_z60"}
    assert leaks[0].row == 250, "from the block's first bar on, the mean of all is known"


@pytest.mark.slow
def test_a_feature_that_the_settings_name(daily: MarketData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One's own feature is audited like any other, and the one that waits for its close is clean."""
    (tmp_path / "my_features.py").write_text(
        "import numpy as np\n"
        "def next_close(own_bars):\n"
        "    return np.roll(own_bars.r, -1, axis=0)\n"
        "def last_close(own_bars):\n"
        "    return own_bars.r\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = "features.own.instrument={tomorrow: 'my_features:next_close', today: 'my_features:last_close'}"
    found = inspect_nodes(Settings.load(overrides=[*FEW, own]), daily)
    assert {leak.column.split(".")[1] for leak in found["features"].leaks} == {"tomorrow"}
    assert any(leak.column.endswith(": tomorrow") for leak in found["observations"].leaks)


@pytest.mark.slow
def test_a_regime_label_of_the_next_bar(settings: Settings, daily: MarketData, monkeypatch: pytest.MonkeyPatch) -> None:
    label = moments.regimes

    def ahead(*args: object) -> tuple[np.ndarray, ...]:
        return tuple(np.concatenate((one[1:], one[-1:])) for one in label(*args))  # type: ignore[arg-type]

    monkeypatch.setattr(moments, "regimes", ahead)
    leaks = inspect_nodes(settings, daily)["regimes"].leaks
    assert {"regimes, regime_confidence", "regimes, proxy_return"} <= {leak.what for leak in leaks}


@pytest.mark.slow
def test_an_order_that_fills_at_the_close_it_was_decided_on(
    settings: Settings, daily: MarketData, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = ExecutionData.build.__func__  # type: ignore[attr-defined]

    def at_the_close_before(cls: type, *args: object) -> ExecutionData:
        data = build(cls, *args)
        data.money[:, channel.FILL] = data.money[:, channel.PREVIOUS]
        return data

    monkeypatch.setattr(ExecutionData, "build", classmethod(at_the_close_before))
    check = check_fills(settings, daily, DeskData.of(settings, [daily]), [500])
    assert check.leaks[0].row == 501
    assert "the close that it was decided on" in check.leaks[0].how


@pytest.mark.slow
def test_a_new_position_that_is_paid_for_the_night_before_it(
    settings: Settings, daily: MarketData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held_all_night(self: trading_day.TradingDay) -> None:
        money = self._money
        moved = self._book.units * (money[channel.LAST] - money[channel.PREVIOUS]) * money[channel.FX_LAST]
        self._book.settle(moved)

    monkeypatch.setattr(trading_day.TradingDay, "_hold_to_the_close", held_all_night)
    check = check_fills(settings, daily, DeskData.of(settings, [daily]), [500])
    assert check.leaks[0].what == "pay of a new position"


@pytest.mark.slow
def test_units_that_know_the_bar_that_they_fill_in(
    settings: Settings, daily: MarketData, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = trading_day.TradingDay._fill

    def with_hindsight(self: trading_day.TradingDay, wanted: np.ndarray) -> None:
        rises = self._money[channel.LAST] > self._money[channel.FILL]
        fill(self, np.where((wanted > 0) & ~rises, 0.0, wanted))

    monkeypatch.setattr(trading_day.TradingDay, "_fill", with_hindsight)
    check = check_fills(settings, daily, DeskData.of(settings, [daily]), [500])
    assert "filled units" in {leak.what for leak in check.leaks}


def test_macro_that_is_filled_backwards_by_the_join(
    settings: Settings, joined: MarketData, published: MacroSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    every_tenth = MacroSeries(published.dates[::10], published.values[::10], published.columns)
    assert not check_join(settings, joined, every_tenth, [500, 600]).leaks
    join = market_macro.as_of

    def backwards(series: MacroSeries, timestamps: np.ndarray, daily: bool, config: object) -> np.ndarray:
        known = join(series, timestamps, daily, config)  # type: ignore[arg-type]
        return np.where(np.isnan(known), np.nan, np.concatenate((known[3:], known[-3:])))

    monkeypatch.setattr(market_macro, "as_of", backwards)
    leak = check_join(settings, joined, every_tenth, [500, 600]).leaks[0]
    assert leak.column == published.columns[0]
    assert leak.row is not None
    assert 496 < leak.row <= 500


def closed_on(market: MarketData, step: int) -> MarketData:
    """Every so many days one instrument does not trade."""
    valid, bars = market.valid.copy(), market.bars.copy()
    valid[step::step, 5] = False
    bars[~valid] = np.nan
    return replace(market, valid=valid, bars=bars)


@pytest.mark.parametrize(("towards", "leaks"), [(1, 1), (-1, 0)])
def test_a_macro_file_whose_holidays_are_filled_backwards(
    settings: Settings, joined: MarketData, published: MacroSeries, towards: int, leaks: int
) -> None:
    """Towards the next value it is a leak, and towards the last it is none."""
    market = closed_on(joined, 20)
    values = published.values.copy()
    holidays = np.arange(20, len(values) - 1, 20)
    values[holidays, 0] = values[holidays + towards, 0]
    check = check_dates(settings, market, MacroSeries(published.dates, values, published.columns))
    assert [leak.column for leak in check.leaks] == [published.columns[0]] * leaks


def test_a_macro_file_that_is_filled_backwards_before_its_series_begins(
    settings: Settings, joined: MarketData, published: MacroSeries
) -> None:
    values = published.values.copy()
    values[:300, 2] = values[300, 2]
    leak = only(check_dates(settings, joined, MacroSeries(published.dates, values, published.columns)).leaks)
    assert leak.column == published.columns[2]
    assert "filled backwards before the series began" in leak.how


@pytest.mark.parametrize("held", [False, True])
def test_monthly_averages_that_are_dated_on_the_first_of_their_month(
    settings: Settings, joined: MarketData, published: MacroSeries, held: bool
) -> None:
    """As FRED gives them, in a file of their own dates or held over the days of a daily one."""
    months = published.dates.astype("datetime64[M]")
    average = {month: published.values[months == month, 2].mean() for month in np.unique(months)}
    values = published.values.copy()
    first = np.concatenate(([True], months[1:] != months[:-1]))
    values[:, 2] = np.where(first | held, [average[month] for month in months], np.nan)
    leak = only(check_dates(settings, joined, MacroSeries(published.dates, values, published.columns)).leaks)
    assert leak.column == published.columns[2]
    assert leak.row is not None
    assert "dated on the first days of a month" in leak.how
    at_month_end = np.where(
        np.concatenate((first[1:], [True])), values[:, 2] if held else [average[m] for m in months], np.nan
    )
    values[:, 2] = at_month_end
    assert not check_dates(settings, joined, MacroSeries(published.dates, values, published.columns)).leaks


def test_the_volume_of_a_day_on_its_first_bar(settings: Settings, hourly: MarketData) -> None:
    assert not check_day_volume(hourly, settings.evaluation.audit).leaks
    bars = hourly.bars.copy()
    first = np.arange(0, len(hourly) - 5, 6)
    bars[first, 2, VOLUME] = np.add.reduceat(hourly.bars[:, 2, VOLUME], first)[: len(first)]
    leak = only(check_day_volume(replace(hourly, bars=bars), settings.evaluation.audit).leaks)
    assert (leak.column, leak.row) == (hourly.symbols[2], 0)


@pytest.mark.slow
def test_a_feature_that_gives_the_volume_of_the_day_to_its_first_bar(
    settings: Settings, hourly: MarketData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_the_day(c: OwnBars) -> np.ndarray:
        _, day = np.unique(c.days, return_inverse=True)
        sums = np.stack([np.bincount(day, np.nan_to_num(one)) for one in c.a.T], axis=1)
        return sums[day] / 100

    register(monkeypatch, "volume_trend", of_the_day)
    leak = inspect_nodes(settings, hourly)["features"].leaks[0]
    assert leak.column.endswith(".volume_trend")


@pytest.fixture(scope="module")
def prepared(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A history from a file, and the same with other bars after the training split."""
    market = synthesise(settings, n_paths=1, n_years=8.0, seed=6, variant="default").markets[0]
    return prepare_twice(settings, market, None, tmp_path_factory.mktemp("twice"))


@pytest.mark.slow
def test_a_scaler_that_is_fitted_on_test_bars(
    settings: Settings, prepared: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not check_scaler(settings, prepared).leaks
    monkeypatch.setattr(
        preparation,
        "measured",
        lambda table, segments, own: measured(table, [slice(table.warmup, len(table))], own),
    )
    leaks = check_scaler(settings, prepared).leaks
    assert leaks[0].what == "means of features"
    assert leaks[0].column in block.feature


def test_means_in_the_settings_that_were_fitted_on_all_bars(settings: Settings, prepared: list[Path]) -> None:
    data = {name: DeskData.open(prepared[0], name) for name in ("train", "validation", "test")}
    rows = {name: [slice(s.start, s.stop) for s in one.segments] for name, one in data.items()}
    table = data["train"].features

    def naming(parts: list[slice]) -> Settings:
        tree = settings.model_dump(mode="json")
        tree["desk"]["observation"]["feature_means"] = dict(measured(table, parts, settings))
        return Settings.model_validate(tree)

    assert not check_scaler(naming(rows["train"]), prepared).leaks
    leaks = check_scaler(naming([part for own in rows.values() for part in own]), prepared).leaks
    assert leaks[0].what == "desk.observation.feature_means"


def test_a_split_that_shares_bars_with_another(
    prepared: list[Path], monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    assert not check_splits(prepared[0]).leaks
    index = prepared_files.read_index(prepared[0])
    start = index["splits"]["test"]["segments"][0][0]
    index["splits"]["train"]["segments"] = [[index["splits"]["train"]["segments"][0][0], start + 7]]
    monkeypatch.setattr("mtquant_rllib.env.prepared.data.read_index", lambda folder: index)
    monkeypatch.setattr("mtquant_rllib.audit.leakage.splits_and_scalers.read_index", lambda folder: index)
    leaks = {leak.how: leak.row for leak in check_splits(prepared[0]).leaks}
    assert leaks["7 of its bars stand in the test split too"] == start
