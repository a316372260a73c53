"""The allocator's experiment from end to end: one Tune phase, the comparison, and a run that is carried on."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtquant_rllib.env.regime_rewards import TERMS
from mtquant_rllib.training.records.manifest import Manifest

SMALL = """
extends: allocator.yaml
embedded: {train: {paths: 2, years: 3}, validation: {paths: 1, years: 3}, test: {paths: 1, years: 3}}
desk: {episode: {bars: 20}}
allocator: {bars: 600, network: plain, hidden: [8]}
sac: {learning_starts_bars: 40, batch_size: 16, critic: {hidden: [16, 16]}}
recipe: {environments: 4, validations: 2}
resources: {cpus: 1}
evaluation: {bootstrap: {resamples: 100}}
"""


def mtquant(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mtquant_rllib.cli", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MTQUANT_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.ray
@pytest.mark.slow
def test_an_allocator_is_trained_compared_and_carried_on(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    told = mtquant(tmp_path, "train", "--config", "small.yaml", "--run", "runs/a")
    run = tmp_path / "runs" / "a"
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
    shown = mtquant(tmp_path, "evaluate", "runs/a")
    assert "net Sharpe by regime" in shown
    assert "they do not predict it" in shown
    assert "nothing left to do" in mtquant(tmp_path, "resume", "runs/a")
