"""One bar from end to end is the bar of the evaluation, to the last digit, and its money adds up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mtquant_rllib import HierarchicalTradingSystem
from mtquant_rllib.cli import main
from mtquant_rllib.env.messages import message_from_dict
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.evaluation.backtest import rollout
from mtquant_rllib.training.inspection.inspected_bar import inspect_run, lines
from mtquant_rllib.training.inspection.opened_policies import open_policies

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def run(five_lines: Path) -> Path:
    return five_lines / "runs" / "mine"


@pytest.mark.slow
def test_it_is_the_bar_that_the_evaluation_plays(run: Path) -> None:
    opened = open_policies(run, "test")
    player = rollout.policy_player(opened.settings, opened.states)
    record = rollout.play(opened.settings, opened.data, player, rollout.whole(opened.data.segments), name="desk")
    for t in (0, 40, record.n_bars - 1):
        day = str(record.timestamps[t].astype("datetime64[D]"))
        bar = inspect_run(run, day)
        assert bar.split == "test"
        assert bar.bar.startswith(day)
        assert bar.decided_at < bar.bar
        assert bar.equity_after_ccy == record.equity_ccy[0, t]
        parts = {
            name: np.array([getattr(one, name) for one in bar.instruments])
            for name in ("proposed", "held_after", "pnl_ccy", "cost_ccy", "financing_ccy", "ordered")
        }
        np.testing.assert_array_equal(parts["proposed"], record.proposed[0, t])
        np.testing.assert_array_equal(parts["held_after"], record.weights[0, t])
        net = (parts["pnl_ccy"] - parts["cost_ccy"] - parts["financing_ccy"]).sum()
        assert bar.equity_after_ccy - bar.equity_before_ccy == pytest.approx(net, abs=1e-6)
        for edit in bar.edits:
            place = opened.settings.universe.symbols.index(edit["instrument"])
            assert bar.instruments[place].rule
        kinds = {message["kind"] for message in bar.messages}
        assert {"performance", "allocation"} <= kinds or t % 5
        assert "equity" in list(lines(bar))[-1]


@pytest.mark.slow
def test_the_command_writes_what_it_says(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = open_policies(run, "validation")
    row = opened.data.segments[0].start + 30
    day = str(opened.data.execution.timestamps[row].astype("datetime64[D]"))
    words = ["inspect", str(run), "--at", day, "--split", "validation"]
    assert main([*words, "--json", str(tmp_path / "bar.json")]) == 0
    said, found = capsys.readouterr().out, json.loads((tmp_path / "bar.json").read_text())
    assert f"filled in the bar of {day}" in said
    assert all(one["symbol"] in said for one in found["instruments"])
    assert found["split"] == "validation"


def test_a_day_without_a_bar_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="no bar of the run's market that is traded then"):
        inspect_run(run, "1999-01-04")
    with pytest.raises(ConfigError, match="expected a day such as"):
        inspect_run(run, "the ides of March")


@pytest.mark.slow
def test_a_trace_has_every_message_of_the_split_and_those_of_one_bar_are_its_inspections(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "messages.parquet"
    assert main(["trace", str(run), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    rows = pq.read_table(out).to_pylist()
    assert sum(int(line.split()[0].replace(",", "")) for line in said.splitlines()[:-1]) == len(rows)
    day = str(open_policies(run, "test").data.execution.timestamps[-60].astype("datetime64[D]"))
    bar = inspect_run(run, day)
    own = [row for row in rows if str(row["timestamp"]).replace(" ", "T") == bar.decided_at]
    assert [{key: row[key] for key in message} for row, message in zip(own, bar.messages, strict=True)] == list(
        bar.messages
    )
    for row in own:
        kept = {key: value for key, value in row.items() if key != "timestamp" and value is not None}
        assert message_from_dict(kept).to_dict() == kept


@pytest.mark.slow
def test_steps_end_with_the_split_and_are_those_of_the_evaluation(run: Path) -> None:
    opened = open_policies(run, "test")
    player = rollout.policy_player(opened.settings, opened.states)
    record = rollout.play(opened.settings, opened.data, player, rollout.whole(opened.data.segments), name="desk")
    system = HierarchicalTradingSystem(run=run)
    desk = system.desk()
    equity = []
    for _ in range(record.n_bars):
        system.step(desk)
        equity.append(float(desk.book.equity[0]))
    with pytest.raises(RunError, match="has come to the end of its bars"):
        system.step(desk)
    np.testing.assert_array_equal(equity, record.equity_ccy[0])
    np.testing.assert_array_equal(desk.weights_now()[0], record.weights[0, -1])
