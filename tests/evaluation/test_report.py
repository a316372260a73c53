"""The record of a rollout, and the report made from it: figures that add up, files that can be read back."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from evaluation_records import SETTINGS, UNIVERSE, N, played
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import image
from rich.console import Console

from mtquant_rllib.errors import RunError
from mtquant_rllib.evaluation import measures
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.report.building import build_report, summarise
from mtquant_rllib.evaluation.report.output import print_report, report_tree, write_json, write_report
from mtquant_rllib.evaluation.report.plots import plot_equity
from mtquant_rllib.evaluation.report.terminal_tables import blocks


def test_returns_are_changes_of_equity_and_contributions_add_up_to_them():
    record = played(n_envs=2)
    before = np.concatenate([record.equity_start_ccy[:, None], record.equity_ccy[:, :-1]], axis=1)
    np.testing.assert_allclose(record.returns, record.equity_ccy / before - 1)
    np.testing.assert_allclose(record.contributions.sum(axis=-1), record.returns, atol=1e-12)
    assert record.conservation_error() < 1e-12


def test_a_lost_cent_shows_as_a_conservation_error():
    record = played()
    leaking = dataclasses.replace(record, equity_ccy=record.equity_ccy - np.arange(120) * 0.01)
    assert leaking.conservation_error() == pytest.approx(0.01 / 100_000, rel=0.2)


def test_a_record_survives_the_disk(tmp_path):
    record = played(n_envs=2)
    again = Record.load(record.save(tmp_path / "deep" / "desk.npz"))
    for item in dataclasses.fields(Record):
        ours, theirs = getattr(record, item.name), getattr(again, item.name)
        if isinstance(ours, np.ndarray):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
        else:
            assert ours == theirs
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "desk.npz"]


def test_a_damaged_or_missing_record_says_so(tmp_path):
    with pytest.raises(RunError, match="no such record"):
        Record.load(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"not a zip")
    with pytest.raises(RunError, match="not a readable record"):
        Record.load(tmp_path / "bad.npz")


def test_edits_are_counted_by_rule():
    assert played().edits_by_rule() == {"concentration": 2, "var": 1}


def test_summary_adds_up_in_money():
    record = played()
    values = summarise(record, 0.95, SETTINGS.evaluation.bootstrap, seed=0).values
    assert values["net_pnl_ccy"] == pytest.approx(record.equity_ccy[0, -1] - 100_000)
    assert values["net_pnl_ccy"] == pytest.approx(
        values["price_pnl_ccy"] - values["cost_ccy"] - values["financing_ccy"]
    )
    assert values["turnover_ann"] == pytest.approx(0.01 * N * 252)
    assert values["risk_edits"] == 3
    assert values["breaker_trips_1"] == 2
    assert values["sharpe_ann"] == pytest.approx(float(measures.sharpe(record.returns[0], 252)))
    assert values["sharpe_lower"] < values["sharpe_ann"] < values["sharpe_upper"]


def test_excluded_dates_leave_out_the_oil_shock():
    record = played(shock=-0.30)
    report = build_report([record], SETTINGS)
    book = report.subject
    assert book.all_bars.values["n_bars"] - book.without_excluded.values["n_bars"] == 2
    assert book.all_bars.values["max_drawdown_frac"] > 0.25
    assert book.without_excluded.values["max_drawdown_frac"] < 0.25


def test_a_bankrupt_book_is_reported_with_its_debt():
    report = build_report([played(), played("hold_WTIUSD", shock=-3.06)], SETTINGS)
    bankrupt = report.books[1].all_bars.values
    assert bankrupt["bankruptcies"] == 1
    assert bankrupt["total_return"] < -1
    assert any("hold_WTIUSD went bankrupt in 1 of 1" in note for note in report.notes)


def test_parts_add_up_to_the_book():
    report = build_report([played()], SETTINGS)
    for kind, count in (("domain", UNIVERSE.n_domains), ("instrument", N)):
        parts = [part.summary.values["net_pnl_ccy"] for part in report.parts if part.kind == kind]
        assert len(parts) == count
        assert sum(parts) == pytest.approx(report.subject.all_bars.values["net_pnl_ccy"])


def test_many_environments_are_pooled_and_their_errors_come_from_their_spread():
    record = played(n_envs=12, drift=2e-4)
    summary = summarise(record, 0.95, SETTINGS.evaluation.bootstrap, seed=0)
    by_env = measures.volatility(record.returns, 252)
    assert summary.values["volatility_ann"] == pytest.approx(by_env.mean())
    assert summary.standard_errors["volatility_ann"] == pytest.approx(by_env.std(ddof=1) / 12**0.5)
    assert summary.values["sharpe_ann"] == pytest.approx(float(measures.sharpe(record.returns.ravel(), 252)))


def test_books_on_other_bars_cannot_be_compared():
    with pytest.raises(ValueError, match="played on other bars"):
        build_report([played(), played("flat", n_bars=119)], SETTINGS)


def test_the_screen_shows_seed_split_costs_errors_and_every_book():
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_report(build_report([played(), played("equal_weight", seed=1)], SETTINGS), console)
    text = console.export_text()
    for word in (
        "seed 7",
        "split test",
        "equal_weight",
        "±",
        "Sharpe*",
        "EURUSD 0.8/0.3/0.3",
        "commodities",
        "VaR forecast:",
        "dynamic quantile",
        "Verdict",
    ):
        assert word in text, word
    assert "…" not in text  # no figure is cut on a narrow terminal


def test_the_verdict_compares_with_every_other_book_and_not_over_shared_bars():
    books = [played(), played("equal_weight", seed=1), played("flat", seed=2)]
    verdict = build_report(books, SETTINGS).verdict
    assert verdict is not None
    assert verdict.better_than.keys() == {"equal_weight", "flat"}
    assert verdict.years == pytest.approx(books[0].played.sum() / 252)
    apart = [dataclasses.replace(book, timestamps=book.timestamps[None]) for book in books]
    report = build_report(apart, SETTINGS)
    assert report.verdict is None
    assert any(note.endswith("there is no verdict.") for note in report.notes)


def test_files_hold_what_the_screen_shows(tmp_path):
    report = build_report([played(), played("flat", seed=2)], SETTINGS)
    paths = write_report(report, tmp_path)
    tree = json.loads(paths["json"].read_text())
    assert tree["books"][0]["name"] == "desk"
    assert tree["context"]["facts"]["seed"] == 7
    with paths["books"].open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["book"], row["bars"]) for row in rows] == [
        ("desk", "all"), ("desk", "without_excluded"), ("flat", "all"), ("flat", "without_excluded"),
    ]  # fmt: skip
    assert float(rows[0]["sharpe_ann"]) == tree["books"][0]["all_bars"]["values"]["sharpe_ann"]
    assert float(rows[0]["sharpe_ann_se"]) > 0
    with paths["parts"].open() as file:
        assert len(list(csv.DictReader(file))) == UNIVERSE.n_domains + N


def test_json_is_strict_even_for_a_book_that_does_nothing(tmp_path):
    record = played()
    still = dataclasses.replace(
        record,
        equity_ccy=np.full_like(record.equity_ccy, 100_000.0),
        **{key: np.zeros_like(record.pnl_ccy) for key in ("pnl_ccy", "cost_ccy", "financing_ccy", "traded_frac")},
    )
    report = build_report([still], SETTINGS)
    text = write_json(report, tmp_path / "one.json").read_text()
    tree = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert tree["books"][0]["all_bars"]["values"]["sharpe_ann"] is None
    assert report_tree(report) == tree


@pytest.mark.parametrize("own_timestamps", [False, True])
def test_the_picture_is_drawn_with_a_bankrupt_book_in_it(tmp_path, own_timestamps):
    records = [played(n_envs=3), played("momentum_12_1", 3, seed=1), played("hold_WTIUSD", 3, shock=-3.06)]
    if own_timestamps:
        records = [dataclasses.replace(r, timestamps=np.tile(r.timestamps, (3, 1))) for r in records]
    config = SETTINGS.evaluation.plot
    picture = image.imread(plot_equity(records, tmp_path / "equity.png", config, "Made up"))
    assert picture.shape[:2] == (config.height_in * config.dpi, config.width_in * config.dpi)
    assert picture[..., :3].std() > 0.02


@given(
    st.lists(st.lists(st.text("abc", max_size=30), min_size=7, max_size=7), min_size=1, max_size=5),
    st.integers(20, 200),
)
def test_columns_that_do_not_fit_go_beneath_and_none_is_lost(cells, width):
    found = blocks(cells, width)
    assert [column for block in found for column in block[1:]] == list(range(1, 7))
    assert all(block[0] == 0 for block in found)
    widths = [max(len(row[column]) for row in cells) + 2 for column in range(7)]
    for block in found:
        assert sum(widths[column] for column in block) <= width or len(block) <= 2


@pytest.mark.parametrize("width", [80, 200])
def test_a_report_is_whole_on_eighty_columns(width):
    console = Console(width=width, record=True, file=io.StringIO())
    report = build_report([played(), played("inverse_volatility", seed=1), played("hold_EURUSD", seed=2)], SETTINGS)
    print_report(report, console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    for heading in ("Sharpe*", "cost/y", "edits", "financing", "profit f."):
        assert heading in text
