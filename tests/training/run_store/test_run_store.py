"""`mtquant runs list`, `show` and `verify` on broken copies of a real run: what is said, and what is chosen."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from broken_runs import BEFORE, NEWEST, both_copies, cut, flip, mtquant, rewrite, said, tree_of, unfinish

from mtquant_rllib.training.records import checkpoints
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.records.signatures import KEY_VARIABLE

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.slow
def test_a_list_has_whole_runs_beside_damaged_ones_and_nothing_else(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = run.parent
    for name, damage in {
        "half": cut,
        "lost": Path.unlink,
        "noise": lambda path: path.write_bytes(b"\xff" * 500),
    }.items():
        for path in both_copies(Path(shutil.copytree(run, runs / name))):
            damage(path)
    (runs / "notes").mkdir()
    lines = {line.split()[0]: line for line in said(capsys, "list", str(runs)).splitlines()}
    assert list(lines) == ["run", "half", "lost", "mine", "noise"]
    trials = Manifest.read(run).phase(1).trials
    best = max(trial.best_sharpe for trial in trials.values() if trial.best_sharpe is not None)
    assert "1 done 2 pending 3 pending   114  114" in lines["mine"]
    assert f"{best:.2f} (phase 1 " in lines["mine"]
    assert lines["mine"].endswith("done")
    assert all("damaged: " in lines[name] for name in ("half", "lost", "noise"))
    assert "lost both manifest.json and manifest.backup.json" in lines["lost"]


MALFORMED = {
    "no tree": "[]",
    "an infinite budget": {"budget_scale": float("inf")},
    "a phase without a number": {"phases": {"last": {"experiment": "phase_1"}}},
    "a path that is none": {"phases": {"1": {"experiment": "x" * 300}}},
    "settings that are none": {"settings": {"evaluation": "x"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("what", MALFORMED)
def test_a_manifest_of_another_form_gets_one_clear_error_from_every_command(
    what: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = MALFORMED[what]
    if isinstance(changes, dict):
        rewrite(run, lambda tree: {**tree, **changes})
    else:
        for path in both_copies(run):
            path.write_text(changes)
    assert "damaged: " in said(capsys, "list", str(run.parent))
    assert said(capsys, "verify", str(run), code=1).startswith("DAMAGED  manifest.json: ")
    for words in (["show"], ["prune", "--yes"], ["export-policy", "--out", str(tmp_path / "out")]):
        assert str(run) in said(capsys, words[0], str(run), *words[1:], code=2)


@pytest.mark.slow
def test_a_run_is_told_to_be_running_while_the_process_that_holds_its_lock_lives(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from mtquant_rllib.training.storage import run_lock\n"
        "with run_lock.held(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(run)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            assert said(capsys, "list", str(run.parent)).rstrip().endswith("running")
            before = tree_of(run)
            assert f"process {holder.pid} on" in said(capsys, "prune", str(run), "--yes", code=2)
            assert tree_of(run) == before
            refused = mtquant("resume", str(run))
            assert refused.returncode == 2
        finally:
            holder.kill()
    assert said(capsys, "list", str(run.parent)).rstrip().endswith("done"), "its lock went with it"
    shown = said(capsys, "show", str(run))
    (error,) = [line for line in shown.splitlines() if line.startswith("errors")]
    assert f"process {holder.pid} on" in error


@pytest.mark.slow
def test_the_newest_checkpoint_is_the_newest_that_is_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest = run / "phase_1" / "equity" / NEWEST
    assert said(capsys, "show", str(run), "--newest", "1/equity") == f"{newest}\n"
    flip(newest / "algorithm_state.pkl")
    assert said(capsys, "show", str(run), "--newest", "phase_1/equity") == f"{newest.with_name(BEFORE)}\n"
    shown = said(capsys, "show", str(run))
    assert f"not used    {NEWEST}: algorithm_state.pkl: its content is not what was written" in " ".join(
        shown.split("\n")
    )
    for path in checkpoints.listed(newest.parent):
        cut(path / "checkpoint.json")
    assert "no whole checkpoint" in said(capsys, "show", str(run), "--newest", "1/equity", code=2)
    assert "there are 1/forex, 1/commodities, 1/equity, 2/desk" in said(
        capsys, "show", str(run), "--newest", "1", code=2
    )


@pytest.mark.slow
def test_show_names_what_differs_from_a_configuration_and_the_way_on(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = json.loads(said(capsys, "show", str(run), "--json"))
    assert facts["changed"]["recipe.environments"] == ["4", "16"]
    assert facts["changed"]["training.phase_1_timesteps"] == ["75000", "500000"]
    assert f"mtquant evaluate {run}" in facts["go_on"]
    against = json.loads(said(capsys, "show", str(run), "--json", "--config", "laptop.yaml"))
    assert "training.phase_1_timesteps" not in against["changed"]
    unfinish(run)
    facts = json.loads(said(capsys, "show", str(run), "--json"))
    forex, commodities, _ = facts["phases"][0]["trials"]
    assert (forex["status"], commodities["status"]) == ("running", "done")
    assert 0 < forex["bars"] < forex["budget_bars"] == commodities["bars"]
    assert facts["go_on"] == f"mtquant resume {run}"


@pytest.mark.slow
def test_a_whole_run_is_whole_also_for_another_user_who_did_not_sign_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = said(capsys, "verify", str(run))
    assert "DAMAGED" not in lines
    assert lines.count("signed by you") == 12
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "other"))
    assert said(capsys, "verify", str(run)).count("not signed by you") == 12
    assert not (tmp_path / "other").exists(), "looking makes no key"


def other_market(run: Path) -> None:
    """Change one number of a copy of the prepared market."""
    market = Manifest.read(run).market.data
    copy = Path(shutil.copytree(market, run.parent.parent / "cache" / "embedded-copy"))
    flip(next(copy.glob("train/*.npy")))
    rewrite(run, lambda tree: {**tree, "market": {**tree["market"], "data": str(copy)}})


def half_a_row(run: Path) -> None:
    path = run / "curves" / "phase_1_forex.csv"
    path.write_text(path.read_text()[:-20])


DAMAGE: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a bit of a checkpoint": (
        lambda run: flip(run / "phase_1/commodities" / NEWEST / "algorithm_state.pkl"),
        f"phase_1/commodities/{NEWEST}: algorithm_state.pkl: its content is not what was written",
        f"{BEFORE} is used, at ",
    ),
    "half of a file of an older checkpoint": (
        lambda run: cut(run / "phase_1/commodities" / BEFORE / "class_and_ctor_args.pkl"),
        f"phase_1/commodities/{BEFORE}: class_and_ctor_args.pkl: has ",
        f"{NEWEST}, which is newer, is used",
    ),
    "a checkpoint's index": (
        lambda run: (run / "phase_1/commodities" / NEWEST / "checkpoint.json").unlink(),
        f"phase_1/commodities/{NEWEST}: checkpoint.json cannot be read",
        f"{BEFORE} is used",
    ),
    "a file of last states": (
        lambda run: cut(run / "phase_1/modules/equity/last/US30.npz"),
        "phase_1/modules/equity/last: US30.npz: ",
        "cannot hand its best policies on",
    ),
    "the index of last states": (
        lambda run: cut(run / "phase_1/modules/equity/last/index.json"),
        "phase_1/modules/equity/last: ",
        "cannot hand its best policies on",
    ),
    "half a row of a curve": (half_a_row, "curves/phase_1_forex.csv: 1 of 4 rows", "training does not need it"),
    "a number of the market": (other_market, "market embedded-copy: ", "prepares it again"),
    "the manifest's second copy": (lambda run: cut(run / "manifest.backup.json"), "manifest.backup.json: ", "again"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named_with_what_it_costs(what: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unfinish(run)
    assert "DAMAGED" not in said(capsys, "verify", str(run))
    damage, named, cost = DAMAGE[what]
    damage(run)
    lines = said(capsys, "verify", str(run), code=1)
    (line,) = [line for line in lines.splitlines() if line.startswith("DAMAGED")]
    assert line.removeprefix("DAMAGED").strip().startswith(named)
    assert cost in line


@pytest.mark.slow
def test_a_damaged_policy_that_was_handed_over_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(run / "policies/phase_1/EURUSD.npz")
    lines = said(capsys, "verify", str(run), code=1)
    (line,) = [line for line in lines.splitlines() if line.startswith("DAMAGED")]
    assert "policies/phase_1: EURUSD.npz" in line
    assert "phase 2, evaluate and export cannot begin from it" in line
