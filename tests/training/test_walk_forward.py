"""A walk-forward test from its declaration to its report, tiny, by the command as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_runs import FIVE_DAYS, bars_file, words_of

from mtquant_rllib.cli import main
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.training.records.manifest import Manifest

SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY", "XAUUSD", "WTIUSD", "SPX500", "NAS100", "US30")
SMALL = (
    "evaluation.walk_forward={first_test: 2016-01-01, validation_years: 0.5}",
    "desk.episode.bars=20",
    "recipe.environments=4",
    "recipe.validations=2",
    "resources.cpus=2",
)


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bars_file(tmp_path_factory.mktemp("bars"), dict.fromkeys(SYMBOLS, FIVE_DAYS))


@pytest.mark.slow
@pytest.mark.ray
def test_folds_are_trained_judged_and_stitched(
    command: None, bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["walk-forward", "--market", str(bars), "--folds", "2", "--seeds", "2", "--phases", "1", "--run", "forward"]
    assert main([*words, "--budget-scale", "0.0005", *words_of(*SMALL)]) == 0
    said = capsys.readouterr().out
    assert "walk-forward, 2 folds x 2 seeds" in said
    assert "members alone, by seed: 0 " in said
    assert "best of" not in said
    folder = tmp_path / "runs" / "forward"
    found = json.loads((folder / "report" / "walk_forward.json").read_text())
    assert set(found["members"]) == {"seed_0", "seed_1"}
    assert {"reference", "flat", "momentum_60"} <= set(found["differences"])
    books = {name: Record.load(folder / "report" / "records" / f"{name}.npz") for name in ("ensemble", "reference")}
    timestamps = books["ensemble"].timestamps.astype("datetime64[D]")
    assert timestamps[0] > np.datetime64("2016-01-01")
    assert books["ensemble"].conservation_error() < 1e-12
    # Hardly anything was learned, and without learning the desk is the reference.
    returns = [record.returns[0] for record in books.values()]
    assert np.corrcoef(*returns)[0, 1] > 0.9
    for fold in ("trial_00", "trial_01"):
        splits = [Manifest.read(folder / f"{fold}_seed_{seed}").load_settings().market.splits for seed in (0, 1)]
        assert splits[0] == splits[1]
        assert splits[0].train_until < splits[0].validation_until < splits[0].test_until
        assert not (folder / f"{fold}_seed_0" / "selection.json").exists()
    before = (folder / "report" / "walk_forward.json").read_bytes()
    assert main(["resume", "forward"]) == 0
    assert "nothing left to do" in capsys.readouterr().out
    assert (folder / "report" / "walk_forward.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--folds", "0"], "--folds 0: expected at least 1"),
        (["--folds", "100"], "a month for each"),
        (["--set", "evaluation.walk_forward.first_test=2030-01-01"], "its bars end on 2017-12-"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    words: list[str],
    said: str,
    bars: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert main(["walk-forward", "--market", str(bars), "--run", "x", *words_of(*SMALL), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
