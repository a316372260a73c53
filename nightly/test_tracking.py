"""Weights & Biases beside whole curricula that are killed, and beside services that cannot be used: the result is
that of a run without it, and what it was told is whole."""

from __future__ import annotations

import csv
import http.server
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import runs
from conftest import Reference

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "training"))

import wandb_files

from mtquant_rllib.training.records.manifest import Manifest

TRACKED = ("tracking.trackers=[tensorboard, wandb]", "tracking.wandb.poll_seconds=0.5")
BOUND_S = 10.0
"""The most that W&B may delay the end of a training."""


def told_of_every_trial(run: Path) -> None:
    for phase, record in Manifest.read(run).phases.items():
        for trial in record.trials:
            with open(run / "curves" / f"phase_{phase}_{trial}.csv", newline="") as file:
                curve = [int(row["bars"]) for row in csv.DictReader(file)]
            assert wandb_files.bars_of(run, f"phase_{phase}-{trial}") == curve


@pytest.mark.parametrize("seed", range(3))
def test_a_curriculum_killed_at_random_is_one_run_a_trial(tmp_path: Path, reference: Reference, seed: int) -> None:
    whole = reference()
    run, _ = runs.killed_at_random(tmp_path, "x", 2, seed, *TRACKED, "tracking.wait_seconds=60")
    told_of_every_trial(run)
    assert runs.differences(whole, run) == []


class _Refuses(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_error(401)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(params=["refuses", "silent", "closed"])
def service(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "refuses":
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refuses)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        return
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        if request.param == "silent":
            yield address
            return
    yield address


def test_a_service_that_cannot_be_used_changes_nothing(tmp_path: Path, reference: Reference, service: str) -> None:
    whole = reference()
    variables = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": service}
    words = ["train", "--run", "x", "--budget-scale", runs.SCALE, *runs.settings(*TRACKED)]
    running = runs.command(tmp_path, *words, env=variables)
    assert running.says("phase 3 done")
    began = time.monotonic()
    assert running.says("run: ")
    with_it = time.monotonic() - began
    assert running.end() == 0
    assert sum("Weights & Biases" in line for line in running.lines) == 1, running.text[-3000:]
    run = tmp_path / "runs" / "x"
    assert runs.differences(whole, run) == []
    plain = runs.command(tmp_path, "train", "--run", "plain", "--budget-scale", runs.SCALE, *runs.settings())
    assert plain.says("phase 3 done")
    began = time.monotonic()
    assert plain.says("run: ")
    assert with_it < time.monotonic() - began + BOUND_S
    plain.end()
