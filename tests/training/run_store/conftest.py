"""One small run for all tests of this folder, of which each gets a copy to break."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from broken_runs import mtquant

from mtquant_rllib.training.records.signatures import KEY_VARIABLE

SETTINGS = [
    "embedded.train={paths: 2, years: 3}",
    "embedded.validation={paths: 1, years: 3}",
    "embedded.test={paths: 1, years: 3}",
    "desk.episode.bars=20",
    "recipe.environments=4",
    "recipe.validations=2",
    "recipe.min_updates=4",
    "resources.cpus=2",
    "checkpoints.keep=4",
]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run whose first phase is done: three trials with four checkpoints each. Never to be changed."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, str(folder / "key"))
        patch.setenv("MTQUANT_CACHE", str(folder / "cache"))
        overrides = [word for setting in SETTINGS for word in ("--set", setting)]
        words = ["train", "--config", "laptop.yaml", "--budget-scale", "0.0005", "--phase", "1", *overrides]
        done = mtquant(*words, "--run", str(folder / "run"))
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        yield folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "mine"))
