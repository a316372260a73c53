"""The allocator's experiment from end to end: one Tune phase, the comparison, and a run that is carried on."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from started_runs import Started

from mtquant_rllib.cli import main
from mtquant_rllib.env.rewards.regime_aware import TERMS
from mtquant_rllib.training.records.manifest import Manifest


@pytest.mark.ray
@pytest.mark.slow
def test_an_allocator_is_trained_compared_and_carried_on(
    allocator_run: Started, command: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told, run = allocator_run.said, Path(shutil.copytree(allocator_run.run, tmp_path / "runs" / "a"))
    manifest = Manifest.read(run)
    assert [manifest.phase(1).status, list(manifest.phases)] == ["done", ["1"]]
    assert manifest.phase(1).trials["allocator"].bars == 600
    for book in ("allocator", "sixty_forty", "risk_parity", "equal_weight", "hold_SPX500"):
        assert book in told
    with (run / "evaluation" / "test" / "reward_terms.csv").open() as file:
        terms = {row["book"]: row for row in csv.DictReader(file)}
    assert set(TERMS) < set(terms["allocator"])
    report = json.loads((run / "evaluation" / "test" / "evaluation.json").read_text())
    assert list(terms) == [book["name"] for book in report["books"]]
    with (run / "evaluation" / "test" / "regimes.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["book"] == "allocator"]
    assert [row["regime"] for row in rows] == ["bull", "bear", "volatile", "sideways", "all"]
    profits = [float(row["profit_frac"]) for row in rows]
    assert sum(profits[:-1]) == pytest.approx(profits[-1])
    assert main(["evaluate", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "net Sharpe by regime" in shown
    assert "they do not predict it" in shown
    assert main(["resume", str(run)]) == 0
    assert "nothing left to do" in capsys.readouterr().out
