"""The blotter has every trade of a book: units lead from one position to the next, and its money is the record's."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.evaluation.backtest.baselines import weight_rules
from mtquant_rllib.evaluation.backtest.rollout import RulePlayer, closes_of, play, whole
from mtquant_rllib.evaluation.report.blotter import Blotter
from mtquant_rllib.market.synthetic import synthesise

SETTINGS = Settings.load()


class StoppedRule(RulePlayer):
    """A rule with stops so near that some fill."""

    def __call__(self, desk):  # type: ignore[no-untyped-def]
        weights = super().__call__(desk)
        desk.state.stop_atr[:] = 1.0
        return weights


@pytest.fixture(scope="module")
def traded():  # type: ignore[no-untyped-def]
    markets = synthesise(SETTINGS, n_paths=2, n_years=3, seed=3, variant="default").markets
    data = DeskData.of(SETTINGS, markets)
    rule = StoppedRule(weight_rules(SETTINGS)["long_all"], closes_of(data))
    first, second = data.segments
    blotter = Blotter(data)
    draws = whole([first, replace(second, stop=second.start + 100)])
    return play(SETTINGS, data, rule, draws, name="book", on_bar=blotter), blotter, data


@pytest.mark.slow
def test_units_lead_from_one_position_to_the_next(traded) -> None:  # type: ignore[no-untyped-def]
    _, blotter, _ = traded
    trades = blotter.table().to_pandas()
    assert len(trades) > 100
    for _, own in trades.groupby(["environment", "symbol"]):
        assert own.timestamp.is_monotonic_increasing
        np.testing.assert_allclose(own.units.cumsum(), own.units_after, atol=1e-6)
    assert trades.stopped.sum() > 10
    assert (trades[trades.stopped].units_after == 0).all()
    assert ((trades.side == "buy") == (trades.units > 0)).all()


def test_its_money_is_that_of_the_record(traded) -> None:  # type: ignore[no-untyped-def]
    record, blotter, _ = traded
    trades = blotter.table().to_pandas()
    for env in range(2):
        own = trades[trades.environment == env]
        timestamps = np.broadcast_to(record.timestamps, record.equity_ccy.shape)[env]
        bar, which = (
            np.searchsorted(timestamps, own.timestamp.to_numpy()),
            own.symbol.map(record.symbols.index).to_numpy(),
        )
        np.testing.assert_allclose(own.cost_ccy, record.cost_ccy[env, bar, which])
        before = record.equity_before_ccy[env, bar]
        np.testing.assert_allclose(own.notional_ccy, record.traded_frac[env, bar, which] * before)
        np.testing.assert_allclose(own.weight_after, record.weights[env, bar, which])
        assert own.cost_ccy.sum() == pytest.approx(np.nansum(record.cost_ccy[env]))
    once = trades[~trades.stopped & (trades.symbol == "EURUSD") & (trades.environment == 0)]
    np.testing.assert_allclose(once.price * once.units.abs(), once.notional_ccy)


def test_it_is_written_as_csv_and_a_book_without_trades_has_an_empty_one(traded, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _, blotter, data = traded
    written = pd.read_csv(blotter.write(tmp_path / "trades.csv"))
    assert len(written) == blotter.table().num_rows
    with Blotter(data).write(tmp_path / "none.csv").open() as file:
        assert list(csv.DictReader(file)) == []
