"""A trained run on bars that it has never seen."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_runs import FIVE_DAYS, SEVEN_DAYS, bars_file, mtquant, python_path, words_of

from mtquant_rllib.cli import main
from mtquant_rllib.errors import MarketDataError
from mtquant_rllib.training.inspection.unseen_bars import UnseenBars

EIGHT = ("EURUSD", "GBPUSD", "USDJPY", "XAUUSD", "WTIUSD", "SPX500", "NAS100", "US30")
SYMBOLS = {**dict.fromkeys((*EIGHT, "GER40"), FIVE_DAYS), "BTCUSD": SEVEN_DAYS}


@pytest.fixture
def folder(all_extensions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the run with its extensions, where this process works, and newer bars of another file."""
    shutil.copytree(all_extensions, tmp_path / "copy")
    (tmp_path / "newer").mkdir()
    shutil.copyfile(bars_file(tmp_path / "newer", SYMBOLS, years=8), tmp_path / "copy" / "newer.parquet")
    forget_extensions()
    monkeypatch.syspath_prepend(tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    yield tmp_path / "copy"
    forget_extensions()


def forget_extensions() -> None:
    """Other tests have modules of the same names."""
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_is_judged_on_what_comes_after_the_bars_that_it_was_made_with(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "all", "--market", "newer.parquet", "--json", "unseen.json"]
    assert main(words) == 0
    found, own = (json.loads((folder / name).read_text())["context"] for name in ("unseen.json", "report.json"))
    # Its test split begins an embargo after its validation bars, and ends with its own file.
    assert np.datetime64(found["first_date"]) <= np.datetime64(own["first_date"])
    assert np.datetime64(found["first_date"]) > np.datetime64(own["first_date"]) - np.timedelta64(60, "D")
    assert np.datetime64(found["last_date"]) > np.datetime64(own["last_date"]) + np.timedelta64(600, "D")
    assert (folder / "runs" / "all" / "evaluation" / "newer" / "books.csv").is_file()
    assert main([*words, "--after", "2019-06-30"]) == 0
    assert json.loads((folder / "unseen.json").read_text())["context"]["first_date"] > "2019-06-30"
    capsys.readouterr()
    assert main([*words, "--after", "2030-01-01"]) == 2
    assert "nothing of it can be traded after 2030-01-01" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--after", "2020-01-01"], "--after without --market"),
        (["--market", "newer.parquet", "--split", "train"], "bars of one's own have no splits"),
        (["--market", "newer.parquet", "--after", "June"], "expected a date such as 2022-12-31"),
        (["--market", "no.parquet"], "no such file"),
    ],
)
@pytest.mark.ray
def test_what_cannot_be_judged_is_refused(
    folder: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "all", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("here", "refused"), [(6100.0, True), (52.0, True), (252.0, False), (313.0, True)])
def test_bars_of_another_length_are_refused(here: float, refused: bool) -> None:
    """261 bars a year are daily bars of weekdays; holidays take ten of them."""
    newer, own = (SimpleNamespace(execution=SimpleNamespace(bars_per_year=number)) for number in (here, 261.0))
    bars = UnseenBars(Path("newer.parquet"))
    if not refused:
        bars.expect_frequency(newer, own)  # type: ignore[arg-type]
        return
    with pytest.raises(MarketDataError, match=r"newer\.parquet: .* bars a year; the run was trained on 261 a year"):
        bars.expect_frequency(newer, own)  # type: ignore[arg-type]


@pytest.mark.nightly
@pytest.mark.ray
def test_the_last_holdout_is_in_no_split_and_opens_once(folder: Path) -> None:
    """The run's own bars, prepared again without their last year."""
    last = json.loads((folder / "report.json").read_text())["context"]["last_date"]
    first_held = str(np.datetime64(last) - np.timedelta64(200, "D"))
    words = ("--config", "all.yaml", "--market", "bars.parquet", "--phase", "1", "--budget-scale", "0.0005")
    small = ("desk.episode.bars=30", "recipe.validations=1", "recipe.environments=4", "resources.cpus=2")
    sets = words_of(*small, "recipe.algorithms=[ppo, ppo, ppo]", f"market.splits.holdout_from={first_held}")
    done = mtquant(folder, "train", "--run", "held", *words, *sets, PYTHONPATH=python_path(folder))
    assert done.returncode == 0, done.stderr[-2000:]
    done = mtquant(folder, "evaluate", "held", "--json", "own.json", PYTHONPATH=python_path(folder))
    assert json.loads((folder / "own.json").read_text())["context"]["last_date"] < first_held
    opened, again = (
        mtquant(folder, "evaluate", "held", "--holdout", "--json", "held.json", PYTHONPATH=python_path(folder))
        for _ in range(2)
    )
    assert opened.returncode == 0, opened.stderr[-2000:]
    context = json.loads((folder / "held.json").read_text())["context"]
    assert (context["first_date"] >= first_held, context["last_date"]) == (True, last)
    assert again.returncode == 2
    assert "opens once" in again.stderr
    done = mtquant(folder, "evaluate", "all", "--holdout", PYTHONPATH=python_path(folder))
    assert "this run holds out no bars" in done.stderr
    assert mtquant(folder, "ledger", "verify").returncode == 0
