"""Small runs of which several tests look at what they leave."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import SMALL_ATTENTION, SMALL_MARKET, mtquant, words_of
from started_runs import Started

from mtquant_rllib.cli import main


@pytest.fixture(scope="session")
def watched(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose first phase is done: three trials with four checkpoints each, whose specialists attend, under a
    confidence that nothing reaches. Never to be changed."""
    run = tmp_path_factory.mktemp("watched") / "run"
    settings = (
        *SMALL_MARKET,
        *SMALL_ATTENTION,
        "desk.episode.bars=20",
        "networks.names.specialist=attention",
        "networks.attention.mixture.min_confidence=1.0",
        "recipe.environments=4",
        "recipe.validations=4",
        "recipe.min_updates=4",
        "resources.cpus=2",
        "checkpoints.keep=4",
        "tracking.attention_rows=100",
    )
    with pytest.MonkeyPatch.context() as patch:
        # It starts no interpreter anew, and trains in the session that is open.
        patch.setenv("PYTHONHASHSEED", "0")
        words = ["--config", "laptop.yaml", "--budget-scale", "0.0005", "--phase", "1", *words_of(*settings)]
        assert main(["train", *words, "--run", str(run)]) == 0
    return run


SECRETS = {
    "AWS_ACCESS_KEY_ID": "x9planted-aws-id-5c1e",
    "AWS_SECRET_ACCESS_KEY": "x9planted-aws-key-5c1e",
    "AWS_SESSION_TOKEN": "x9planted-aws-token-5c1e",
    "AZURE_STORAGE_KEY": "x9planted-azure-5c1e",
    "GOOGLE_APPLICATION_CREDENTIALS": "/x9planted-google-5c1e.json",
    "DATABASE_PASSWORD": "x9planted-password-5c1e",
    "HF_TOKEN": "x9planted-hub-5c1e",
}

ALLOCATOR = """
extends: allocator.yaml
embedded: {train: {paths: 2, years: 3}, validation: {paths: 1, years: 3}, test: {paths: 1, years: 3}}
desk: {episode: {bars: 20}}
allocator: {bars: 600, network: plain, hidden: [8]}
sac: {learning_starts_bars: 40, batch_size: 16, critic: {hidden: [16, 16]}}
recipe: {environments: 4, validations: 2}
resources: {cpus: 2, runners: 1}
evaluation: {bootstrap: {resamples: 100}}
tracking: {trackers: [tensorboard, wandb]}
"""


@pytest.fixture(scope="session")
def allocator_run(own_folders: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """An allocator's, trained and compared, with secrets in its environment. Never to be changed."""
    folder = tmp_path_factory.mktemp("allocator")
    (folder / "small.yaml").write_text(ALLOCATOR)
    # Short: Ray puts sockets there.
    sessions = Path("/tmp") / f"mtq{os.getpid()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_API_KEY", raising=False)
        done = mtquant(
            folder, "train", "--config", "small.yaml", "--run", "runs/a", RAY_TMPDIR=str(sessions), **SECRETS
        )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    yield Started(folder / "runs" / "a", done.stdout, sessions)
    shutil.rmtree(sessions)
