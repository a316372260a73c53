"""The project itself is clean, on every kind of market and settings, and the command says what it compared."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from audited import FEW

from mtquant_rllib.audit.leakage.altered_futures import FUTURES
from mtquant_rllib.audit.leakage.day_volume import check_day_volume
from mtquant_rllib.audit.leakage.every_check import audit_leakage, audit_market
from mtquant_rllib.audit.leakage.named_arrays import first_difference, named
from mtquant_rllib.audit.leakage.perturbed_future import random_bars
from mtquant_rllib.cli import main
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError, MarketDataError
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.market.importing.importers import import_raw, write_macro, write_market
from mtquant_rllib.market.importing.macro import MacroSeries

KINDS = {
    "features",
    "regimes",
    "covariances",
    "prices",
    "observations",
    "networks",
    "actions",
    "risk",
    "fills",
    "rewards",
}


@pytest.mark.parametrize("name", ["scrambled", "shuffled", "truncated"])
def test_another_future_leaves_everything_up_to_its_bar(daily: MarketData, name: str) -> None:
    other = FUTURES[name](daily, 300, np.random.default_rng(0))
    for array in ("bars", "valid", "macro", "stale_open"):
        assert getattr(other, array)[:301].tobytes() == getattr(daily, array)[:301].tobytes()
    assert len(other) == 301 or other.bars[301:].tobytes() != daily.bars[301:].tobytes()
    prices = other.bars[other.valid][:, :4]
    assert (prices[:, 1] == prices.max(axis=1)).all(), "bars stay bars"
    assert (prices[:, 2] == prices.min(axis=1)).all()


def test_the_first_difference_is_the_earliest_and_a_bit_is_enough() -> None:
    values = np.zeros((5, 2))
    values[1, 1] = np.nan
    before = named("x", values, ("a", "b"), first_row=10)
    assert first_difference(before, before, 14) is None, "NaN is the same as the same NaN"
    other = values.copy()
    other[3, 0], other[2, 1] = -0.0, 7.0
    found = first_difference(before, named("x", other, ("a", "b"), first_row=10), 14)
    assert found is not None
    assert (found.column, found.row, found.after) == ("b", 12, 7.0)
    assert first_difference(before, named("x", other, ("a", "b"), first_row=10), 11) is None
    with pytest.raises(ValueError, match="not the same rows"):
        first_difference(before, named("x", other, ("a", "c"), first_row=10), 14)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["default.yaml", "allocator.yaml"])
def test_the_embedded_market_is_clean(config: str, tmp_path: Path) -> None:
    settings = Settings.load(config, [*FEW, "embedded.train.years=4"])
    report = audit_leakage(settings, None, None, tmp_path)
    assert report.leaks == ()
    by_name = {check.name: check for check in report.checks}
    assert by_name.keys() >= {*KINDS, "fills at the open", "splits", "scaler"}
    assert all(check.bars == 2 for name, check in by_name.items() if name in KINDS)
    assert "change after it" in by_name["features"].compared


@pytest.mark.slow
def test_intraday_bars_are_clean(settings: Settings, hourly: MarketData) -> None:
    assert [leak for check in audit_market(settings, hourly, None) for leak in check.leaks] == []


@pytest.mark.slow
def test_rules_and_reward_terms_of_ones_own_take_part(
    daily: MarketData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reward term that reads the bars of a file knows the future, and what it pays shows it."""
    (tmp_path / "hindsight.py").write_text(
        "import numpy as np\n"
        "bars, calls = None, 0\n"
        "class Hindsight:\n"
        "    name = 'hindsight'\n"
        "    def __call__(self, bar):\n"
        "        return bar.of_agents(bar.turnover) + (0.0 if bars is None else float(np.nanmean(bars)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = Settings.load(overrides=[*FEW, "rewards.terms=[{term: 'hindsight:Hindsight', weight: 1.0}]"])
    assert [leak for check in audit_market(settings, daily, None) for leak in check.leaks] == []
    from mtquant_rllib.audit.leakage import perturbed_future

    prepared = perturbed_future._prepared

    def seen(own: Settings, market: MarketData, like: object) -> object:
        sys.modules["hindsight"].bars = market.bars  # type: ignore[attr-defined]
        return prepared(own, market, like)  # type: ignore[arg-type]

    monkeypatch.setattr(perturbed_future, "_prepared", seen)
    found = {check.name: check.leaks for check in audit_market(settings, daily, None)}
    assert "rewards, term hindsight" in {leak.what for leak in found["rewards"]}
    assert not found["fills"]


def test_a_history_that_is_too_short_is_refused(settings: Settings, daily: MarketData) -> None:
    with pytest.raises(MarketDataError, match="accepted: a longer history"):
        random_bars(daily.rows(0, 260), 251, settings.evaluation.audit, 0)


def test_the_market_with_a_planted_leak_is_refused(tmp_path: Path) -> None:
    settings = Settings.load("allocator_planted.yaml", ["embedded.variant=leak"])
    with pytest.raises(ConfigError, match="audit controls"):
        audit_leakage(settings, None, None, tmp_path)


@pytest.mark.slow
def test_the_command_names_the_leak_and_ends_with_one(
    joined: MarketData, published: MacroSeries, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    years = replace(joined)
    bars = write_market(years, tmp_path / "bars.parquet")
    values, months = published.values.copy(), published.dates.astype("datetime64[M]")
    first = np.concatenate(([True], months[1:] != months[:-1]))
    values[:, 2] = np.where(first, [values[months == month, 2].mean() for month in months], np.nan)
    macro = write_macro(MacroSeries(published.dates, values, published.columns), tmp_path / "macro.parquet")
    out = tmp_path / "audit.json"
    # An import refuses months without a lag; one that is too short is for the audit to find.
    claims = ("market.splits.embargo_bars=1", "market.macro.published.rate_3m.lag_days=1")
    overrides = [word for one in [*FEW, *claims] for word in ("--set", one)]
    code = main(["audit", "leakage", "--market", str(bars), "--macro", str(macro), "--json", str(out), *overrides])
    said = capsys.readouterr()
    assert code == 1
    assert "LEAK       macro, rate_3m, at bar" in said.out
    assert "1 leak found" in said.out
    assert "mtquant: 1 found, the first in macro, rate_3m" in said.err
    report = json.loads(out.read_text())
    assert report["leaks"] == 1
    assert {check["name"] for check in report["checks"]} >= KINDS


@pytest.fixture(scope="session")
def real() -> Path:
    if "MTQUANT_BARS" not in os.environ:
        pytest.skip("MTQUANT_BARS is not set: no folder of real bars")
    return Path(os.environ["MTQUANT_BARS"])


@pytest.mark.slow
def test_real_bars_are_clean(real: Path, settings: Settings, tmp_path: Path) -> None:
    report = audit_leakage(settings, real / "daily.parquet", real / "macro.parquet", tmp_path)
    assert report.leaks == ()
    assert {check.name for check in report.checks if check.skipped} == {"a day's volume on one bar"}


def test_a_real_export_whose_first_bar_carries_the_day_is_found(real: Path, settings: Settings) -> None:
    """The 00:00 bar of these years has the day's volume: about as much as all other hours together."""
    from mtquant_rllib.market.alignment import align

    series, _ = import_raw(real / "raw" / "mt5_terminal_tab_EURUSD_H1_part.csv", settings)
    leaks = check_day_volume(align(series, settings), settings.evaluation.audit).leaks
    assert [leak.column for leak in leaks] == ["EURUSD"]
    sound, _ = import_raw(real / "raw" / "mt4_history_center_EURUSD_H1.csv", settings)
    assert not check_day_volume(align(sound, settings), settings.evaluation.audit).leaks
