"""Runs on one small market, one whose controllers attend and one whose networks are plain, and what is collected."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_runs import ATTENTION, SMALL, gather, write_run

from mtquant_rllib.evaluation.explain.collect import ExplanationData
from mtquant_rllib.training.inspection.opened_policies import OpenedRun, open_policies


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `attention`, `plain`, `young` (phase 1 alone), `unfinished` and `alone` (an allocator's)."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "attention", (*SMALL, *ATTENTION))
    write_run(folder / "plain", SMALL)
    write_run(folder / "young", SMALL, phases=(1,))
    write_run(folder / "unfinished", SMALL, phases=())
    write_run(folder / "alone", SMALL, config="allocator.yaml", phases=(1,))
    return folder


@pytest.fixture(scope="session")
def opened(runs: Path) -> OpenedRun:
    return open_policies(runs / "attention", "test")


@pytest.fixture(scope="session")
def material(opened: OpenedRun) -> ExplanationData:
    return gather(opened, "meta_controller")


@pytest.fixture(scope="session")
def plain(runs: Path) -> ExplanationData:
    return gather(open_policies(runs / "plain", "test"), "XAUUSD")
