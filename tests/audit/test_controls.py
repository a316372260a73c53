"""Controls of the whole way from bars to a verdict, with a regression in the place of the policies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mtquant_rllib.audit.changed_settings import changed
from mtquant_rllib.audit.controls import Control, ControlsReport, audit_controls
from mtquant_rllib.audit.findings import LeakFound
from mtquant_rllib.audit.linear_trader import LinearTrader, next_moves
from mtquant_rllib.config import Settings
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.market.bars import CLOSE, OPEN, MarketData

SMALL = [
    "evaluation.controls.train_paths=3",
    "evaluation.controls.train_years=9",
    "evaluation.controls.test_paths=6",
    "evaluation.controls.test_years=4",
    "evaluation.controls.min_share=0.1",
    "evaluation.controls.cost_multiples=[1, 3]",
    "evaluation.null_test={max_gross_sharpe: 0.6, max_net_upper: 0.8}",
    "evaluation.controls.leak_loading=0.5",
]


@pytest.mark.slow
@pytest.mark.parametrize("config", ["planted_meta.yaml", "allocator_planted.yaml"])
def test_controls_come_out_as_they_must(config: str, tmp_path: Path) -> None:
    """With a leak so strong that few years show it."""
    structured = config == "planted_meta.yaml"
    settings = Settings.load(config, [*SMALL, "evaluation.controls.gain_tolerance=0.6"])
    report = audit_controls(settings, tmp_path)
    assert [control.name for control in report.controls if not control.passed] == []
    assert len(report.controls) == 4 + structured
    assert any("over the best parts" in control.name for control in report.controls) == structured
    report.raise_if_failed()


def test_a_failed_control_is_an_error() -> None:
    report = ControlsReport(10.0, (Control("costs cost", False, "net Sharpe at x1 1.00, x2 1.10"),))
    with pytest.raises(LeakFound, match="costs cost: net Sharpe"):
        report.raise_if_failed()
    assert "FAILED" in "\n".join(report.lines())


@pytest.mark.slow
def test_the_next_move_is_what_money_makes_of_it(settings: Settings, daily: MarketData) -> None:
    data = DeskData.of(settings, [daily])
    moves = next_moves(settings, data, np.ones((len(daily), 8)))
    euro, yen = daily.symbols.index("EURUSD"), daily.symbols.index("USDJPY")
    opens, closes = daily.bars[301, :, OPEN], daily.bars[301, :, CLOSE]
    assert moves[300, euro] == pytest.approx(closes[euro] / opens[euro] - 1)
    assert moves[300, yen] == pytest.approx(1 - opens[yen] / closes[yen])
    assert (moves[-1] == 0).all()


def test_the_regression_finds_the_column_that_leaks(settings: Settings, daily: MarketData) -> None:
    data, sigma = DeskData.of(settings, [daily]), np.full((len(daily), 8), 0.01)
    moves, rows = next_moves(settings, data, sigma), np.arange(300, len(daily) - 1)

    def told(leak: float) -> float:
        forecast = LinearTrader(settings, data, sigma, leak).forecast(data, sigma)
        return float(np.corrcoef(forecast[rows].ravel(), moves[rows].ravel())[0, 1])

    assert told(0.0) < 0.4, "what fifty columns fit by luck in two years"
    assert told(2.0) > 0.8


def test_a_column_that_is_not_seen_cannot_leak(daily: MarketData) -> None:
    settings = Settings.load("allocator.yaml", ["evaluation.controls.leak_column=adx"])
    data = DeskData.of(Settings.load(), [daily])
    with pytest.raises(ConfigError, match="leak_column = adx: expected one of ret5"):
        LinearTrader(settings, data, np.ones((len(daily), 8)))


def test_changed_settings_are_checked(settings: Settings) -> None:
    assert changed(settings, embedded={"train": {"paths": 3}}).embedded.train.paths == 3
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        changed(settings, embedded={"train": {"paths": 0}})
    with pytest.raises(ConfigError):
        Settings.load(overrides=["evaluation.controls.min_share=2"])
