"""The whole path once, tiny: killed before its first checkpoint and in phase 2, resumed without its phase 1, judged."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb_files
from small_runs import SMALL_MARKET, words_of

from mtquant_rllib.cli import main
from mtquant_rllib.training.records.manifest import Manifest

SETTINGS = [
    *SMALL_MARKET,
    "market.instruments=[EURUSD, GBPUSD, USDJPY]",
    "desk.episode.bars=20",
    "recipe.environments=4",
    "recipe.validations=2",
    "resources.cpus=2",
    "tracking.progress_seconds=0",
    "tracking.trackers=[tensorboard, wandb]",
    "tracking.wandb.poll_seconds=0.5",
    "tracking.wait_seconds=60",
]
SCALE = "0.0005"
BUDGETS = {"1": 250, "2": 150, "3": 500}


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mtquant_rllib.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_at(process: subprocess.Popen[str], words: str) -> None:
    """SIGKILL the driver as soon as it says this."""
    deadline, said = time.monotonic() + 300, []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if words in line:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return
        assert time.monotonic() < deadline, said
    raise AssertionError(f"never said {words!r}: {''.join(said)[-3000:]}")


def column(path: Path, name: str) -> list[int]:
    with open(path, newline="") as file:
        return [int(row[name]) for row in csv.DictReader(file)]


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_of_one_domain_that_is_killed_twice_ends_where_an_undisturbed_one_does(
    tmp_path: Path, command: None
) -> None:
    run = tmp_path / "run"
    kill_at(start("train", "--run", str(run), "--budget-scale", SCALE, *words_of(*SETTINGS)), "phase 1: forex 250")
    kill_at(start("resume", str(run)), "phase 2 desk")
    shutil.move(run / "phase_1", tmp_path / "elsewhere")
    out, _ = start("resume", str(run), "--set", "checkpoints.keep=1").communicate(timeout=400)

    manifest = Manifest.read(run)
    assert [record.status for record in manifest.phases.values()] == ["done"] * 3, out[-3000:]
    for phase, record in manifest.phases.items():
        for name, trial in record.trials.items():
            assert trial.bars == trial.budget_bars == BUDGETS[phase]
            curve = run / "curves" / f"phase_{phase}_{name}.csv"
            assert column(curve, "iteration") == list(range(1, 9))
            assert column(curve, "bars")[-1] == BUDGETS[phase]
            if phase != "1":
                iterations = column(run / f"phase_{phase}" / name / "progress.csv", "training_iteration")
                assert len(set(iterations)) == len(iterations)
    assert [path.name for path in (run / "phase_3" / "desk").glob("checkpoint_*")] == ["checkpoint_000008"]
    log = (run / "run.log").read_text()
    for phase in (2, 3):
        (busy,) = re.findall(rf"phase {phase} kept [0-9.]+ of [0-9.]+ CPUs busy \((\d+)%\): of the time sampling", log)
        assert 0 < int(busy) <= 120
    frozen = manifest.phase(2).frozen
    assert frozen is not None
    assert len(frozen.before) == 4
    assert frozen.before == frozen.after

    # Weights & Biases has every trial as one run, with nothing missing or twice.
    for phase, record in manifest.phases.items():
        for name in record.trials:
            told = [row for row in wandb_files.rows_of(run, f"phase_{phase}-{name}") if "iteration" in row]
            assert [row["iteration"] for row in told] == list(range(1, 9))
            assert [row["bars"] for row in told] == column(run / "curves" / f"phase_{phase}_{name}.csv", "bars")
            made = wandb_files.kind_of(wandb_files.records_of(run, f"phase_{phase}-{name}"), "artifact")
            assert f"phase_{phase}" in made[-1].aliases, "its policies"
    assert "evaluation-test" in wandb_files.names_of(run), "the comparison at the end of a training"

    report = tmp_path / "report.json"
    assert main(["evaluate", str(run), "--json", str(report)]) == 0
    text = report.read_text()
    assert {book["name"] for book in json.loads(text)["books"]} >= {"desk", "flat", "random"}
    assert "EURUSD" in text
    assert "SPX500" not in text, "a desk of one domain is judged as one"
