"""The bench of the risk rules: it times what it says, on books of the settings' size."""

from __future__ import annotations

from typing import get_args

import numpy as np

from mtquant_rllib.bench.risk import bench_risk, drawn_proposal
from mtquant_rllib.commands.bench.measurements import BENCHES
from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.risk import VarMethod
from mtquant_rllib.risk.engine import PortfolioRiskManager


def test_every_method_is_timed_and_the_repaired_book_is_one_that_is_repaired() -> None:
    settings = Settings.load(overrides=["risk.var_methods.draws=200"])
    figures = bench_risk(settings, n_books=8, calls=3)
    assert set(figures["one_book_us"]) == set(get_args(VarMethod))
    assert all(0 < times["p50"] <= times["p99"] for times in figures["one_book_us"].values())
    lines = list(next(bench for bench in BENCHES if bench.name == "risk").lines(figures))
    assert len(lines) == 1 + 6 + 2 + 1
    manager = PortfolioRiskManager.from_settings(settings)
    calm, wild = (drawn_proposal(settings, manager, 1, size) for size in (0.02, 5.0))
    np.testing.assert_array_equal(manager.repair(calm).executed, calm.proposed)
    repaired = manager.repair(wild)
    assert not np.array_equal(repaired.executed, wild.proposed)
    assert manager.measure(wild)["var"][0] > settings.portfolio_risk.max_portfolio_var
    assert repaired.measures["var"][0] <= settings.portfolio_risk.max_portfolio_var
