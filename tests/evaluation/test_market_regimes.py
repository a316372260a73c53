"""The command that says which regimes bars hold: on drawn bars against a count by hand, on the real ones against the
figures that the adaptive detector was chosen by."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtquant_rllib.cli import main
from mtquant_rllib.config import Settings
from mtquant_rllib.evaluation.regimes.figures import REGIME_NAMES, regime_figures
from mtquant_rllib.evaluation.regimes.market import MarketRegimes, market_regimes
from mtquant_rllib.features.regimes import Regime
from mtquant_rllib.market.synthetic import synthesise


def drawn() -> MarketRegimes:
    labels = np.array([Regime.BULL] * 4 + [Regime.SIDEWAYS] * 2 + [Regime.BULL] * 3 + [Regime.VOLATILE], dtype=np.int8)
    timestamps = np.datetime64("2019-12-27", "s") + np.arange(10) * np.timedelta64(86400, "s")
    return MarketRegimes(regime_figures(labels, np.full(10, 0.5)), labels, timestamps, "by hand")


def test_shares_of_a_year_and_of_a_month_count_its_own_bars() -> None:
    regimes = drawn()
    # The 27th to the 31st of December, and the 1st to the 5th of January.
    np.testing.assert_allclose(regimes.shares_in("2019"), [4 / 5, 0, 0, 1 / 5])
    np.testing.assert_allclose(regimes.shares_in("2020-01"), [3 / 5, 0, 1 / 5, 1 / 5])
    assert regimes.years() == ["2019", "2020"]
    assert regimes.bars_per_year == pytest.approx(365.25)
    assert regimes.transitions_per_year == pytest.approx(3 * 365.25 / 10)
    assert regimes.to_dict()["mean_duration_bars"] == {"bull": 3.5, "bear": None, "volatile": 1, "sideways": 2}


@pytest.mark.slow
def test_the_command_refuses_what_is_no_period(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "synth", "--years", "3", "--seed", "5", "--out", str(tmp_path)]) == 0
    bars = [str(tmp_path / "path_000.parquet"), "--macro", str(tmp_path / "path_000_macro.parquet")]
    assert main(["data", "regimes", *bars, "--period", "May"]) == 2
    assert "expected a year or a month" in capsys.readouterr().err
    assert main(["data", "regimes", *bars, "--period", "1066"]) == 2
    said = capsys.readouterr()
    assert "no bars; they reach from" in said.err
    assert not said.out, "nothing before the refusal"
    report = tmp_path / "regimes.json"
    assert main(["data", "regimes", *bars, "--json", str(report)]) == 0
    assert "transitions" in capsys.readouterr().out
    assert sum(json.loads(report.read_text())["shares"].values()) == pytest.approx(1)


def test_labels_are_those_that_the_desk_is_given(settings: Settings) -> None:
    market = synthesise(settings, n_paths=1, n_years=3, seed=5, variant="default").markets[0]
    found = market_regimes(settings, market)
    assert found.figures.bars.sum() == len(found.labels) == len(found.timestamps)
    assert found.timestamps[0] > market.timestamps[settings.features.regimes.window_bars - 1]


@pytest.fixture
def settings() -> Settings:
    return Settings.load()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command writes of the eight daily series."""
    if "MTQUANT_BARS" not in os.environ:
        pytest.skip("MTQUANT_BARS is not set: no folder of real bars")
    folder, report = Path(os.environ["MTQUANT_BARS"]), tmp_path_factory.mktemp("regimes") / "regimes.json"
    files = [str(folder / "daily.parquet"), "--macro", str(folder / "macro.parquet")]
    assert main(["data", "regimes", *files, "--period", "2020-03", "--json", str(report)]) == 0
    written: dict[str, Any] = json.loads(report.read_text())
    return written


@pytest.mark.slow
def test_all_four_regimes_are_present_on_real_bars_in_the_shares_known_of_them(real: dict[str, Any]) -> None:
    known = {"bull": 0.26, "bear": 0.13, "volatile": 0.17, "sideways": 0.44}
    assert real["shares"] == pytest.approx(known, abs=0.01)


def test_real_regimes_last_for_weeks_and_change_thirteen_times_a_year(real: dict[str, Any]) -> None:
    known = {"bull": 16, "bear": 16, "volatile": 43, "sideways": 18}
    assert real["mean_duration_bars"] == pytest.approx(known, abs=1)
    assert real["transitions_per_year"] == pytest.approx(13, abs=0.5)
    # Bull and bear never follow each other at once: a trend ends before another begins.
    assert real["transitions"]["bull"]["bear"] == real["transitions"]["bear"]["bull"] == 0


def test_march_2020_is_volatile_and_a_third_of_2017_is_bull(real: dict[str, Any]) -> None:
    assert real["periods"]["2020-03"] == {name: float(name == "volatile") for name in REGIME_NAMES}
    assert real["periods"]["2017"]["bull"] == pytest.approx(1 / 3, abs=0.02)
