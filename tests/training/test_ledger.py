"""The ledger: every training counts once, lines cannot be changed unnoticed, and the last holdout opens once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from mtquant_rllib.cli import main
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records import ledger as ledger_module
from mtquant_rllib.training.records import ownership
from mtquant_rllib.training.records.ledger import (
    FILE,
    LOOK,
    RECEIPT,
    TRAINING,
    Ledger,
    open_holdout,
    same_market,
    training_begins,
    trial_id,
)
from mtquant_rllib.training.records.manifest import Manifest, MarketRecord

BARS = {"kind": "file", "content": "a", "symbols": ["EURUSD", "XAUUSD"], "first": "2000-01-03", "last": "2022-12-30"}


def filled(folder: Path) -> Ledger:
    """Three trainings, two of them the same, and a look."""
    ledger = Ledger(folder / FILE)
    for trial in ("a", "b", "a"):
        ledger.append(TRAINING, "x", BARS, trial=trial)
    ledger.append(LOOK, "x", BARS, why="evaluation", split="test", sharpe_ann=0.4, finding="earns")
    return ledger


def test_the_same_training_again_is_no_other_trial(tmp_path: Path) -> None:
    ledger = filled(tmp_path)
    assert ledger.read().trials_on(BARS) == 2
    assert ledger.verify() == ()
    assert [entry.number for entry in ledger.read().entries] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_trial_is_what_shapes_a_policy() -> None:
    own = Settings.load()

    def of(*overrides: str, budget: float = 1.0, leave_out: tuple[str, ...] = ()) -> str:
        return trial_id(Settings.load(overrides=overrides), budget, leave_out=leave_out)

    assert of() == trial_id(own, 1.0) == of("resources.runners=2") == of("tracking.trackers=[tensorboard]")
    assert of() == of("desk.observation.feature_means={cmf: 0.1}"), "means follow from the bars"
    assert len({of(), of("seed=1"), of("training.gamma=0.98"), of(budget=0.5)}) == 4
    assert of("seed=1", leave_out=("seed",)) == of(leave_out=("seed",))


def test_values_that_a_trial_goes_on_with_are_another_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a population a trial takes over others' values; taking over the same ones again counts once."""
    monkeypatch.setattr(ledger_module, "market_of", lambda folder: BARS)
    record = MarketRecord(kind="file", data="/nowhere", bars="bars.parquet")
    manifest = Manifest.begin("trial_00_seed_0", Settings.load(), record, 1.0, [1])
    run = tmp_path / "sweep" / manifest.name
    run.mkdir(parents=True)
    begins = partial(training_begins, run, manifest, part_of="sweep", leave_out=("seed",))
    for changes in ({}, {"recipe.learning_rate": 1e-3}, {"recipe.learning_rate": 1e-3}, {"recipe.n_epochs": 3}):
        begins(changes=changes)
    assert Ledger.beside(run).read().trials_on(BARS) == 3


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"last": "2023-06-30", "content": "b"}, True),
        ({"symbols": ["EURUSD"]}, True),
        ({"symbols": ["SPX500"]}, False),
        ({"first": "2023-01-02", "last": "2024-01-01"}, False),
        ({"kind": "synthetic"}, False),
    ],
)
def test_bars_of_the_same_instruments_and_days_are_the_same_market(other: dict[str, object], same: bool) -> None:
    assert same_market(BARS, {**BARS, **other}) is same


def change(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b'"trial":"b"', b'"trial":"a"'), *lines[2:]]


DAMAGE: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "a line changed": (change, "line 3 does not follow"),
    "a line taken out": (lambda lines: lines[:1] + lines[2:], "line 2 does not follow"),
    "lines swapped": (lambda lines: [lines[1], lines[0], *lines[2:]], "line 1 does not follow"),
    "half a line": (lambda lines: [*lines[:2], lines[2][:40], lines[3]], "line 3 is not readable"),
    "the last line cut off": (lambda lines: lines[:3], "line 4, of which .* keeps the hash, is gone"),
    "the last line changed": (lambda lines: [*lines[:3], lines[3].replace(b"0.4", b"0.9")], "line 4, .* is another"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGE)
def test_what_was_changed_is_named(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    ledger, (harm, said) = filled(tmp_path), DAMAGE[kind]
    entry = ledger.read().entries[-1]
    receipt = tmp_path / "x" / "evaluation" / "test" / RECEIPT
    receipt.parent.mkdir(parents=True)
    receipt.write_text(json.dumps({"number": entry.number, "hash": entry.hash}))
    assert main(["ledger", "verify", str(tmp_path)]) == 0
    ledger.path.write_bytes(b"\n".join(harm(ledger.path.read_bytes().splitlines())) + b"\n")
    assert any(re.search(said, fault) for fault in ledger.verify()), ledger.verify()
    assert main(["ledger", "verify", str(tmp_path)]) == 1
    assert "DAMAGED" in capsys.readouterr().out


def test_a_line_cut_short_by_a_power_cut_does_not_swallow_the_next(tmp_path: Path) -> None:
    ledger = filled(tmp_path)
    ledger.path.write_bytes(ledger.path.read_bytes()[:-30])
    ledger.append(TRAINING, "y", BARS, trial="c")
    contents = ledger.read()
    assert contents.trials_on(BARS) == 3
    assert len(contents.faults) == 1


@pytest.mark.slow
def test_processes_that_add_at_the_same_time_take_turns(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from mtquant_rllib.training.records.ledger import Ledger\n"
        "for n in range(20): Ledger(Path(sys.argv[1])).append('training', 'x', {}, trial=sys.argv[2] + str(n))"
    )
    path = tmp_path / FILE
    adding = [subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in "abc"]
    assert [process.wait() for process in adding] == [0, 0, 0]
    assert len(Ledger(path).read().entries) == 60
    assert Ledger(path).verify() == ()


def test_a_link_in_its_place_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("mine")
    (tmp_path / FILE).symlink_to(tmp_path / "other.txt")
    with pytest.raises(RunError, match="cannot be written"):
        Ledger(tmp_path / FILE).append(TRAINING, "x", BARS)
    assert (tmp_path / "other.txt").read_text() == "mine"


def test_runs_of_a_sweep_have_the_ledger_beside_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "sweep" / "trial_00_seed_0").mkdir(parents=True)
    (tmp_path / "sweep" / ownership.SWEEP).write_text("{}")
    assert Ledger.beside(tmp_path / "sweep" / "trial_00_seed_0").path == tmp_path / FILE
    assert Ledger.beside(tmp_path / "sweep").path == tmp_path / FILE


def test_the_last_holdout_opens_once_for_all_runs(tmp_path: Path) -> None:
    open_holdout(tmp_path / "one", BARS, "2021-01-01")
    with pytest.raises(RunError, match=r"opened on .* by run one \(line 1 of .*\), and opens once"):
        open_holdout(tmp_path / "two", {**BARS, "content": "b", "last": "2023-12-29"}, "2022-06-01")
    open_holdout(tmp_path / "two", {**BARS, "last": "2024-12-31"}, "2023-01-01")


def test_of_many_who_open_a_holdout_at_the_same_time_one_does(tmp_path: Path) -> None:
    def opens(_: int) -> bool:
        try:
            open_holdout(tmp_path / "one", BARS, "2021-01-01")
        except RunError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(opens, range(40))) == 1
    assert len(Ledger.beside(tmp_path / "one").read().entries) == 1


@pytest.mark.slow
def test_it_knows_the_training_of_a_run_by_itself_and_of_all_seeds_of_a_part(tmp_path: Path) -> None:
    def begun(*overrides: str, part_of: str | None = None) -> Manifest:
        market = MarketRecord(kind="file", bars="bars.parquet", data=str(tmp_path / "bars-0"))
        manifest = Manifest.begin("x", Settings.load(overrides=overrides), market, 1.0, [1], part_of=part_of)
        manifest.id = "1234" if part_of is None else "5678"
        return manifest

    ledger, seeds = Ledger(tmp_path / FILE), [begun(f"seed={seed}", part_of="sweep") for seed in range(2)]
    own = trial_id(seeds[0].load_settings(), 1.0, leave_out=("seed",))
    ledger.append(TRAINING, "x", BARS, trial="a", run_id="1234")
    ledger.append(TRAINING, "sweep/trial_01_seed_0", BARS, trial=own, part_of="sweep")
    contents = ledger.read()
    assert contents.has_training_of(begun())
    assert all(map(contents.has_training_of, seeds))
    assert not contents.has_training_of(begun(part_of="another"))
    assert not contents.has_training_of(begun("recipe.gae_lambda=0.5", part_of="sweep"))


def test_it_is_shown_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path)
    assert main(["ledger", "show", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "2000-01-03 to 2022-12-30" in said
    assert "Sharpe 0.40, earns" in said
    assert "2 different trainings" in said
    assert main(["ledger", "show", str(tmp_path / "no")]) == 2
