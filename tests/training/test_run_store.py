"""`mtquant runs` on one real run, small, of which copies are broken: what is said, what is chosen, what may go."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mtquant_rllib.cli import main
from mtquant_rllib.env.data import DeskData
from mtquant_rllib.evaluation.rollout import PolicyPlayer, new_desk, whole
from mtquant_rllib.policies.exported import load_exported
from mtquant_rllib.policies.registry import DeskWidths, build_policy, network_configs
from mtquant_rllib.training import checkpoints, states
from mtquant_rllib.training.manifest import Manifest
from mtquant_rllib.training.trust import KEY_VARIABLE

pytestmark = [pytest.mark.ray, pytest.mark.slow]

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
NEWEST, BEFORE = "checkpoint_000004", "checkpoint_000003"


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


def mtquant(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mtquant_rllib.cli", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "mine"))


def unfinish(run: Path) -> None:
    """As a kill leaves it between the last checkpoints and the manifest, its forex trial an update short."""
    path = run / "manifest.json"
    tree = json.loads(path.read_text())
    tree["phases"]["1"] |= {"status": "running", "result": None}
    for trial in tree["phases"]["1"]["trials"].values():
        trial |= {"bars": 0, "best": None, "best_sharpe": None, "best_bars": None, "last": None, "hashes": {}}
    path.write_text(json.dumps(tree))
    shutil.rmtree(run / "policies")
    shutil.rmtree(run / "phase_1" / "forex" / NEWEST)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Leave the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def tree_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What a command prints, once it has ended with this exit code."""
    capsys.readouterr()
    assert main(["runs", *words]) == code
    out, err = capsys.readouterr()
    return out + err


# -- list and show ----------------------------------------------------------------------------------------------------


def test_a_list_has_whole_runs_beside_damaged_ones_and_nothing_else(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = run.parent
    cut(Path(shutil.copytree(run, runs / "half")) / "manifest.json")
    (Path(shutil.copytree(run, runs / "lost")) / "manifest.json").unlink()
    (Path(shutil.copytree(run, runs / "noise")) / "manifest.json").write_bytes(os.urandom(500))
    (runs / "notes").mkdir()
    lines = {line.split()[0]: line for line in said(capsys, "list", str(runs)).splitlines()}
    assert list(lines) == ["run", "half", "lost", "mine", "noise"]
    trials = Manifest.read(run).phase(1).trials
    best = max(trial.best_sharpe for trial in trials.values() if trial.best_sharpe is not None)
    assert "1 done 2 pending 3 pending   114  114" in lines["mine"]
    assert f"{best:.2f} (phase 1 " in lines["mine"]
    assert lines["mine"].endswith("done")
    assert all("damaged: " in lines[name] for name in ("half", "lost", "noise"))
    assert "no manifest.json there" in lines["lost"]


def test_a_run_is_told_to_be_running_while_the_process_that_holds_its_lock_lives(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from mtquant_rllib.training import run_lock\n"
        "with run_lock.held(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(run)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert said(capsys, "list", str(run.parent)).rstrip().endswith("running")
        before = tree_of(run)
        assert f"process {holder.pid} on" in said(capsys, "prune", str(run), "--yes", code=2)
        assert tree_of(run) == before
        refused = mtquant("resume", str(run))
        assert refused.returncode == 2
        holder.kill()
    assert said(capsys, "list", str(run.parent)).rstrip().endswith("done"), "its lock went with it"
    shown = said(capsys, "show", str(run))
    (error,) = [line for line in shown.splitlines() if line.startswith("errors")]
    assert f"process {holder.pid} on" in error


def test_the_newest_checkpoint_is_the_newest_that_is_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest = run / "phase_1" / "equity" / NEWEST
    assert said(capsys, "show", str(run), "--newest", "1/equity") == f"{newest}\n"
    flip(newest / "algorithm_state.pkl")
    assert said(capsys, "show", str(run), "--newest", "phase_1/equity") == f"{newest.with_name(BEFORE)}\n"
    shown = said(capsys, "show", str(run))
    assert f"not used    {NEWEST}: algorithm_state.pkl: its content is not what was written" in " ".join(shown.split("\n"))
    for path in checkpoints.listed(newest.parent):
        cut(path / "checkpoint.json")
    assert "no whole checkpoint" in said(capsys, "show", str(run), "--newest", "1/equity", code=2)
    assert "there are 1/forex, 1/commodities, 1/equity, 2/desk" in said(
        capsys, "show", str(run), "--newest", "1", code=2
    )


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


# -- verify -----------------------------------------------------------------------------------------------------------


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
    path = run / "manifest.json"
    tree = json.loads(path.read_text())
    copy = Path(shutil.copytree(tree["market"]["data"], run.parent.parent / "cache" / "embedded-copy"))
    flip(next(copy.glob("train/*.npy")))
    path.write_text(json.dumps({**tree, "market": {**tree["market"], "data": str(copy)}}))


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
    "a number of the market": (other_market, "market embedded-copy: ", "is prepared again"),
    "the manifest": (lambda run: cut(run / "manifest.json"), "manifest.json: ", "nothing else of this run"),
}


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


def test_a_damaged_policy_that_was_handed_on_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(run / "policies/phase_1/EURUSD.npz")
    lines = said(capsys, "verify", str(run), code=1)
    (line,) = [line for line in lines.splitlines() if line.startswith("DAMAGED")]
    assert "policies/phase_1: EURUSD.npz" in line
    assert "phase 2, evaluate and export cannot begin from it" in line


# -- export -----------------------------------------------------------------------------------------------------------


def test_exported_policies_act_to_the_byte_as_the_run_s_own_on_the_validation_split(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    said(capsys, "export-policy", str(run), "--out", str(out))
    assert {path.suffix for path in out.iterdir()} == {".json", ".safetensors"}
    manifest, exported = Manifest.read(run), load_exported(out)
    settings, own = manifest.load_settings(), states.read(run / "policies/phase_1")
    configs = network_configs(settings.universe, DeskWidths.of(settings), settings)
    compared = dict.fromkeys(exported.document.agents, 0)

    def compare(agent: str, desk: object, obs: np.ndarray, decides: np.ndarray) -> None:
        policy = build_policy(configs[agent]).eval().requires_grad_(False)
        policy.load_state_dict({k[7:]: torch.tensor(v) for k, v in own[agent].items() if k.startswith("policy.")})
        mean = policy(torch.tensor(obs)).chunk(2, dim=-1)[0].clamp(-1, 1).numpy()
        assert exported.act(agent, obs).tobytes() == mean.tobytes()
        assert obs.any()
        compared[agent] += 1

    data = DeskData.open(Path(manifest.market.data), "validation")
    draws = whole(data.stretches)
    mine, theirs = new_desk(settings, data, draws), new_desk(settings, data, draws)
    player = PolicyPlayer.of(settings, own, equal_allocation=True, on_decision=compare)
    other = PolicyPlayer(exported.actor(), equal_allocation=True)
    for _ in range(30):
        proposed, again = player(mine), other(theirs)
        assert proposed.tobytes() == again.tobytes()
        mine.advance_with_weights(proposed)
        theirs.advance_with_weights(again)
    assert len(compared) == 11
    assert all(count == 30 for count in compared.values())
    assert proposed.any()


def test_an_exported_policy_is_read_without_torch_and_without_ray(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "export-policy", str(run), "--out", str(tmp_path / "out"))
    read = """
import json, sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "ray", "mtquant_rllib"):
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Refused())
import numpy as np
from safetensors.numpy import load_file
with open(f"{sys.argv[1]}/policy.json") as file:
    document = json.load(file)
sums = {}
for module, entry in document["modules"].items():
    arrays = load_file(f"{sys.argv[1]}/{entry['file']}")
    assert {k: [str(a.dtype), list(a.shape)] for k, a in arrays.items()} == {
        k: [a["dtype"], a["shape"]] for k, a in entry["arrays"].items()}
    sums[module] = {k: float(np.abs(a.astype(np.float64)).sum()) for k, a in sorted(arrays.items())}
print(json.dumps(sums))
"""
    done = subprocess.run(
        [sys.executable, "-c", read, str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    own = states.read(run / "policies/phase_1")
    for module, sums in json.loads(done.stdout).items():
        policy = {key[7:]: array for key, array in own[module].items() if key.startswith("policy.")}
        assert sums == {key: float(np.abs(array.astype(np.float64)).sum()) for key, array in policy.items()}
    assert len(own) == 11


def test_an_export_of_some_agents_says_where_it_comes_from_and_overwrites_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ("export-policy", str(run), "--out", str(out))
    said(capsys, *words, "--agent", "XAUUSD", "equity_specialist")
    document = load_exported(out).document
    assert list(document.agents) == ["equity_specialist", "XAUUSD"]
    assert [part.name for part in document.agents["XAUUSD"].action] == ["signal", "urgency", "stop"]
    assert document.source["run_id"] == Manifest.read(run).run_id
    assert document.modules["XAUUSD"].state_sha256 == Manifest.read(run).phase(1).trials["commodities"].hashes["XAUUSD"]
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert "something is there" in said(capsys, *words, code=2)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    shutil.rmtree(out)
    assert "no such policy after phase 1; there are forex" in said(
        capsys, *words, "--agent", "meta_controller", code=2
    )
    assert "phase 2 is not done; those that are: 1" in said(capsys, *words, "--phase", "2", code=2)
    flip(run / "policies/phase_1/EURUSD.npz")
    assert "EURUSD.npz" in said(capsys, *words, code=2)
    assert not out.exists()


# -- prune ------------------------------------------------------------------------------------------------------------


def test_pruning_says_what_may_go_and_removes_that_and_nothing_else_once_it_may(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree_of(run)
    told = said(capsys, "prune", str(run), "--keep", "1")
    assert tree_of(run) == before
    may_go = {line.split()[0] for line in told.splitlines() if line.startswith("phase_1/")}
    gone = {f"phase_1/{trial}/checkpoint_{n:06d}" for trial in ("forex", "equity", "commodities") for n in (1, 2, 3)}
    assert gone <= may_go
    assert all("/modules/" in name for name in may_go - gone)
    said(capsys, "prune", str(run), "--keep", "1", "--yes")
    left = tree_of(run) - {".lock"}
    assert left == {name for name in before - {".lock"} if not any(Path(name).is_relative_to(one) for one in may_go)}
    assert "DAMAGED" not in said(capsys, "verify", str(run))
    said(capsys, "prune", str(run), "--yes")
    assert not list(run.glob("phase_1/*/checkpoint_*")), "the phase is done, and its policies are handed on"
    assert "nothing to remove" in said(capsys, "prune", str(run), "--yes")


def test_the_newest_whole_checkpoint_of_an_unfinished_trial_stays_whatever_is_asked(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinish(run)
    flip(run / "phase_1/equity" / NEWEST / "algorithm_state.pkl")
    for path in checkpoints.listed(run / "phase_1/commodities"):
        flip(path / "algorithm_state.pkl")
    told = said(capsys, "prune", str(run), "--keep", "0", "--yes")
    left = {trial: [path.name for path in checkpoints.listed(run / "phase_1" / trial)] for trial in ("forex", "equity")}
    assert left == {"forex": [BEFORE], "equity": [BEFORE]}
    assert len(checkpoints.listed(run / "phase_1/commodities")) == 4, "none is whole, and one may be rescued"
    assert told.count("left alone: phase_1/commodities/") == 4
    best = checkpoints.read_index(run / "phase_1/equity" / BEFORE).result["best"]
    assert states.read(run / f"phase_1/modules/equity/bars_{int(best['bars']):09d}")


def test_pruning_leaves_alone_what_is_not_the_run_s_own(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    shutil.move(run / "phase_1/equity" / NEWEST, outside)
    (run / "phase_1/equity" / NEWEST).symlink_to(outside)
    mine = run / "phase_1/forex/checkpoint_000900"
    mine.mkdir()
    (mine / "notes.txt").write_text("kept by hand")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, living = (run / f"phase_1/forex/.writing-checkpoint_000005-{pid}" for pid in (gone.pid, os.getpid()))
    for folder in (dead, living):
        folder.mkdir()
        (folder / "algorithm_state.pkl").write_bytes(b"half")
    stranger = run / "phase_1/forex" / NEWEST / "checkpoint.json"
    stranger.write_text(json.dumps({**json.loads(stranger.read_text()), "run": "another"}))
    for number in (1, 2):
        (run / f"phase_1/experiment_state-2026-01-0{number}_00-00-00.json").write_text("{}")
    told = said(capsys, "prune", str(run), "--yes")
    assert sorted(path.name for path in outside.iterdir())[:2] == ["algorithm_state.pkl", "checkpoint.json"]
    assert (run / "phase_1/equity" / NEWEST).is_symlink()
    assert (mine / "notes.txt").is_file()
    assert stranger.is_file()
    assert not dead.exists()
    assert living.is_dir()
    assert len(list(run.glob("phase_1/experiment_state-*"))) == 1
    for kept in (f"equity/{NEWEST}: a symbolic link", "checkpoint_000900: it has no checkpoint.json", f"forex/{NEWEST}: "):
        assert kept in told


def test_a_done_phase_whose_handed_on_policies_are_damaged_keeps_everything(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(run / "policies/phase_1/SPX500.npz")
    before = tree_of(run)
    assert "may be the only copy" in said(capsys, "prune", str(run), "--yes")
    assert tree_of(run) - {".lock"} == before - {".lock"}
