"""What an evaluation writes of every bar: tables that add up to the record and are read back as they were."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
from evaluation_records import SETTINGS, played

from mtquant_rllib.evaluation.report.bar_tables import write_bar_tables
from mtquant_rllib.evaluation.report.building import build_report
from mtquant_rllib.evaluation.report.frames import books_frame, returns_frame, weights_frame


def test_the_tables_hold_every_bar_of_every_book_and_add_up(tmp_path: Path) -> None:
    desk, rule = played(n_envs=2), played("rule", n_envs=2, seed=1)
    files = write_bar_tables([desk, rule], tmp_path)
    bars, parts = pd.read_parquet(files["bars"]), pd.read_parquet(files["instruments"])
    assert len(bars) == 2 * 2 * 120
    assert len(parts) == len(bars) * len(desk.symbols)
    own = bars[(bars.book == "desk") & (bars.environment == 1)]
    np.testing.assert_array_equal(own.net_return, desk.returns[1])
    np.testing.assert_array_equal(own.timestamp.to_numpy().astype("datetime64[s]"), desk.timestamps)
    highest = np.maximum.accumulate(np.r_[1e5, own.equity_ccy])[1:]
    np.testing.assert_allclose(own.drawdown, 1 - own.equity_ccy / highest, atol=1e-12)
    by_bar = parts.groupby(["book", "environment", "timestamp"], observed=True)
    summed = by_bar[["contribution", "cost_ccy", "financing_ccy", "traded"]].sum()
    whole = bars.set_index(["book", "environment", "timestamp"]).loc[summed.index]
    columns = {"contribution": "net_return", "traded": "turnover"}
    for part, total in {**columns, "cost_ccy": "cost_ccy", "financing_ccy": "financing_ccy"}.items():
        np.testing.assert_allclose(summed[part], whole[total], atol=1e-12)
    assert parts.rule.value_counts().to_dict() == {"concentration": 2 * 2 * 2, "var": 2 * 2}
    assert set(parts[parts.symbol == "EURUSD"].domain) == {"forex"}


def test_bars_after_a_bankruptcy_have_no_row(tmp_path: Path) -> None:
    record = played()
    ends = np.where(np.arange(120) < 50, record.equity_ccy, np.nan)
    bars = pd.read_parquet(write_bar_tables([dataclasses.replace(record, equity_ccy=ends)], tmp_path)["bars"])
    assert len(bars) == 50


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_bar_tables([played()], tmp_path / name) for name in "ab")
    assert all(first[kind].read_bytes() == second[kind].read_bytes() for kind in first)


def test_frames_have_a_column_a_book_and_an_instrument() -> None:
    desk, rule = played(n_envs=2), played("rule", n_envs=2, seed=1)
    returns, weights = returns_frame([desk, rule]), weights_frame(desk)
    assert list(returns.columns) == ["desk", "rule"]
    assert list(weights.columns) == list(desk.symbols)
    np.testing.assert_array_equal(returns.loc[1, "rule"], rule.returns[1])
    np.testing.assert_array_equal(weights.loc[0], desk.weights[0])
    books = books_frame(build_report([desk, rule], SETTINGS))
    assert books.loc["desk", "n_bars"] == 2 * 120
