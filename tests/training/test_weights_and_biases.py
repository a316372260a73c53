"""Weights & Biases beside a run: one W&B run a trial whatever is killed, all of it in W&B's own files, and never a
training that waits for it.

The files are read back as W&B's own `wandb sync` reads them."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tracked_runs
import wandb_service
from tracked_runs import BARS, begun, end_phase, write_rows
from wandb_files import bars_of, kind_of, records_of, rows_of

from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.training.curriculum.phases import plan_named
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.reporting.weights_and_biases import launcher, sending, sync, transaction_log
from mtquant_rllib.training.reporting.weights_and_biases.identity import identity_of
from mtquant_rllib.training.reporting.weights_and_biases.sections import metric_of, metrics
from mtquant_rllib.training.reporting.weights_and_biases.session import OFFLINE
from mtquant_rllib.training.reporting.weights_and_biases.sweep_follower import SweepFollower

slow = pytest.mark.slow
nightly = pytest.mark.nightly
KEY = "planted5c1e" + "0" * 29
PATIENT_S, LONGEST_S = 300, 600
"""For what a busy machine may take; nothing is measured by it."""


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person without a key, and settings that wait long enough for a busy machine."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def driver(run: Path, first: int, last: int, apart_s: float = 0.0) -> subprocess.Popen[str]:
    """A process that trains phase 1's forex trial, in a process group of its own."""
    words = [run, 1, "forex", first, last, apart_s]
    return subprocess.Popen(
        [sys.executable, tracked_runs.__file__, *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def follower_of(run: Path) -> int:
    """The process that follows a run."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().decode().split("\0")
            if str(run) in words and any(word.endswith(".follower_process") for word in words):
                return int(entry.parent.name)
    return 0


def service_of(follower: int) -> int:
    try:
        return int((Path(f"/proc/{follower}/task/{follower}/children").read_text().split() or ["0"])[0])
    except OSError:
        return 0


# -- without W&B ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "metric"),
    [
        ("bars", "bars"),
        ("EURUSD/policy_loss", "learning/EURUSD/policy_loss"),
        ("reward_terms/drawdown", "learning/reward_terms/drawdown"),
        ("validation_sharpe", "trading/validation_sharpe"),
        ("validation/turnover_ann", "trading/validation/turnover_ann"),
        ("validation/max_drawdown_frac", "risk/validation/max_drawdown_frac"),
        ("validation/regime_share_bull", "regime/validation/regime_share_bull"),
        ("meta_controller/sampled_unsure", "regime/meta_controller/sampled_unsure"),
        ("validation/forex_specialist/attention_entropy", "attention/validation/forex_specialist/attention_entropy"),
        ("bars_per_s", "speed/bars_per_s"),
        ("system/cpu_percent", "system/cpu_percent"),
    ],
)
def test_a_column_of_the_curves_has_a_section(column: str, metric: str) -> None:
    assert metric_of(column) == metric


def test_numbers_keep_their_type_and_what_is_none_is_left_out() -> None:
    found = metrics(
        {"bars": "640", "bars_per_s": "1.5", "best_sharpe": "nan", "validation_sharpe": "", "learning_s": "x"}
    )
    assert found == {"bars": 640, "speed/bars_per_s": 1.5}
    assert isinstance(found["bars"], int)


def test_a_trial_is_named_by_what_differs_and_keeps_all_settings_with_their_types(tmp_path: Path) -> None:
    changed = ("recipe.learning_rate=0.001", "seed=3", "tracking.wandb.tags=[mine]", "resources.cpus=2")
    manifest = Manifest.read(begun(tmp_path / "one", *changed))
    who = identity_of(manifest, plan_named(manifest.load_settings(), 1, "forex"))
    assert who.name == "one phase_1 forex, learning_rate 0.001, seed 3"
    assert (who.id, who.group, who.job_type) == (f"{manifest.id}-phase_1-forex", "one", "phase_1")
    assert {"phase_1", "forex", "ppo", "synthetic market", "mine"} <= set(who.tags)
    assert who.config["recipe/learning_rate"] == 0.001
    assert who.config["recipe/environments"] == 16
    assert who.config["recipe/explore_frozen"] is False
    assert who.config["recipe/gamma"] is None
    assert who.config["recipe/algorithms"] == ["ppo", "ppo", "ppo"]
    assert who.config["run/market_content"] == manifest.market.content
    assert not any(isinstance(value, dict) and value for value in who.config.values())
    assert not any("." in key for key in who.config)


def test_a_process_that_never_ends_is_waited_for_within_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, said = begun(tmp_path / "one", "tracking.wait_seconds=1"), list[str]()
    deaf = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    monkeypatch.setattr(launcher, "begun", lambda run: deaf)
    began = time.monotonic()
    launcher.brought_up(run, said.append)
    assert time.monotonic() - began < 3
    assert deaf.poll() == -signal.SIGKILL
    (line,) = said
    assert f"`mtquant wandb sync {run}`" in line


def test_a_process_that_cannot_be_started_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, said = begun(tmp_path / "one"), list[str]()

    def refused(run: Path) -> Any:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(launcher, "begun", refused)
    launcher.brought_up(run, said.append)
    assert said == [
        "Weights & Biases: its process cannot be started (Cannot allocate memory); training goes on without it"
    ]


def test_nothing_is_started_where_it_is_not_named(tmp_path: Path) -> None:
    run, said = begun(tmp_path / "one", "tracking.trackers=[tensorboard]"), list[str]()
    launcher.brought_up(run, said.append)
    assert said == []
    assert not (run / "wandb").exists()


def test_a_run_is_sent_with_a_key_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no key; `wandb login`"):
        sync.sync(begun(tmp_path / "one"), print)


# -- beside a run that is killed --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three attempts: the first is killed with all it started, the second loses its driver alone, and the
    third goes back to a checkpoint, restores once more, and comes to its end with an evaluation."""
    home = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_API_KEY", KEY)
        run = begun(home / "one", "recipe.learning_rate=0.001", f"tracking.wait_seconds={LONGEST_S}")
        first = driver(run, 1, 1000, apart_s=0.5)
        until(lambda: len(bars_of(run, "phase_1-forex")) >= 3)
        watcher = follower_of(run)
        for pid in (service_of(watcher), watcher, first.pid):
            os.kill(pid, signal.SIGKILL)
        first.wait()
        before = len(bars_of(run, "phase_1-forex"))

        second = driver(run, before, 1000, apart_s=0.2)
        until(lambda: len(bars_of(run, "phase_1-forex")) >= before + 3)
        watcher = follower_of(run)
        second.kill()
        second.wait()
        until(lambda: not Path(f"/proc/{watcher}").exists())
        last = max(bars_of(run, "phase_1-forex")) // BARS

        with launcher.followed(run, Manifest.read(run).load_settings(), print):
            write_rows(run, 1, "forex", [last - 2, last - 1, last, last + 1, last, last + 1, last + 2])
            write_rows(run, 1, "equity", [1, 2])
            write_rows(run, 1, "commodities", [1])
            end_phase(run, 1)
            write_rows(run, 2, "desk", [1, 2])
            end_phase(run, 2, sharpe=0.7)
            write_rows(run, 3, "desk", [1, 2, 3])
            end_phase(run, 3, sharpe=0.6)
        evaluated(run)
        launcher.brought_up(run, print)
    return run


def evaluated(run: Path) -> None:
    """A comparison, as an evaluation writes it."""
    folder = run / "evaluation" / "test"
    folder.mkdir(parents=True)
    books = [
        {"name": name, "all_bars": {"values": {"sharpe_ann": 0.5, "sortino_ann": None}}} for name in ("desk", "cash")
    ]
    facts = {"run": "one", "phase": 3, "split": "test", "seed": 0}
    (folder / "evaluation.json").write_text(json.dumps({"books": books, "context": {"facts": facts}}))
    (folder / "books.csv").write_text("book,bars,sharpe_ann\ndesk,all,0.5\ncash,all,\n")
    for name in ("equity", "drawdown"):
        (folder / f"{name}.csv").write_text("date,desk,cash\n2020-01-01,1,1\n2020-01-02,1.01,1\n")
    (folder / "page.html").write_text("<p>the comparison</p>")


@nightly
def test_a_trial_is_one_run_in_which_nothing_is_missing_or_twice(killed: Path) -> None:
    bars = bars_of(killed, "phase_1-forex")
    assert bars == [BARS * number for number in range(1, len(bars) + 1)]
    assert len(transaction_log.files_of(killed, f"{Manifest.read(killed).id}-phase_1-forex")) == 3, "one an attempt"
    found = kind_of(records_of(killed, "phase_1-forex"), "run")
    assert {(run.run_id, run.run_group, run.job_type, run.resume) for run in found} == {
        (f"{Manifest.read(killed).id}-phase_1-forex", "one", "phase_1", True)
    }
    ids = {path.stem for path in transaction_log.files_of(killed)}
    trials = [
        "phase_1-forex",
        "phase_1-equity",
        "phase_1-commodities",
        "phase_2-desk",
        "phase_3-desk",
        "evaluation-test",
    ]
    assert ids == {f"run-{Manifest.read(killed).id}-{name}" for name in trials}
    assert [bars_of(killed, name) for name in trials[1:5]] == [[640, 1280], [640], [640, 1280], [640, 1280, 1920]]


@nightly
def test_it_has_settings_axis_and_sections(killed: Path) -> None:
    records = records_of(killed, "phase_1-forex")
    config = {item.key: json.loads(item.value_json) for item in kind_of(records, "run")[0].config.update}
    assert config["recipe/learning_rate"] == 0.001
    assert config["run/trial"] == "forex"
    asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    if asked.returncode == 0:
        assert {run.git.commit for run in kind_of(records, "run")} == {asked.stdout.strip()}
    axes = {(metric.name or metric.glob_name): metric.step_metric for metric in kind_of(records, "metric")}
    assert axes["*"] == "bars"
    row = rows_of(killed, "phase_1-forex")[0]
    sections = {name.split("/")[0] for name in row if "/" in name}
    assert sections == {"learning", "trading", "risk", "regime", "attention", "speed", "system"}
    assert "trading/best_sharpe" not in row, "it was no number"


@nightly
def test_policies_descend_from_the_market_and_from_the_phase_before(killed: Path) -> None:
    def used_and_made(name: str) -> tuple[set[str], dict[str, list[str]]]:
        found = kind_of(records_of(killed, name), "artifact")
        used = {artifact.name for artifact in found if artifact.use_after_commit}
        return used, {one.name: sorted(one.aliases) for one in found if not one.use_after_commit}

    market, short = "market-embedded-0123", f"one-{str(Manifest.read(killed).id)[:8]}"
    of_phase_1 = {f"{short}-{trial}" for trial in ("forex", "equity", "commodities")}
    assert used_and_made("phase_1-forex") == ({market}, {f"{short}-forex": ["best", "latest", "phase_1"]})
    assert used_and_made("phase_2-desk") == (
        {market, *of_phase_1},
        {f"{short}-desk": ["best", "latest", "phase_2"]},
    )
    # Its validation was no better than phase 2's.
    assert used_and_made("phase_3-desk") == ({market, f"{short}-desk"}, {f"{short}-desk": ["latest", "phase_3"]})
    used, made = used_and_made("evaluation-test")
    assert {market, f"{short}-desk"} <= used
    assert made[f"{short}-evaluation-test"] == ["latest", "phase_3"]
    policies = kind_of(records_of(killed, "phase_3-desk"), "artifact")[-1]
    assert {entry.path for entry in policies.manifest.contents} >= {"meta_controller.npz", "EURUSD.npz"}
    assert all(Path(entry.local_path).is_relative_to(killed) for entry in policies.manifest.contents)


@nightly
def test_an_evaluation_has_tables_curves_and_the_page(killed: Path) -> None:
    (row,) = rows_of(killed, "evaluation-test")
    assert row["tables/books"]["_type"] == "table-file"
    assert (row["tables/books"]["nrows"], row["tables/books"]["ncols"]) == (2, 3)
    assert row["desk/sharpe_ann"] == 0.5
    assert "desk/sortino_ann" not in row
    assert row["pages/page"]["_type"] == "html-file"
    assert {"curves/equity_table", "curves/drawdown_table"} <= set(row)
    (found,) = [run.job_type for run in kind_of(records_of(killed, "evaluation-test"), "run")]
    assert found == "evaluation"


@nightly
def test_no_key_stands_in_a_file(killed: Path) -> None:
    files = [path for path in killed.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


@nightly
def test_a_run_that_has_been_told_is_not_told_again(killed: Path) -> None:
    before = transaction_log.files_of(killed)
    sync.written_offline(killed, print)
    assert transaction_log.files_of(killed) == before


@nightly
def test_a_damaged_end_of_a_file_costs_what_stood_there_alone(killed: Path, tmp_path: Path) -> None:
    whole = transaction_log.files_of(killed, f"{Manifest.read(killed).id}-phase_3-desk")[-1]
    content = whole.read_bytes()
    torn = tmp_path / "torn.wandb"
    torn.write_bytes(content[:-9])
    assert len(list(transaction_log.records(torn))) == len(list(transaction_log.records(whole))) - 1
    torn.write_bytes(b"something else")
    assert list(transaction_log.records(torn)) == []


@pytest.mark.slow
@slow
def test_a_run_trained_without_it_is_sent_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, asked = begun(tmp_path / "one", "tracking.trackers=[]"), list[Path]()
    write_rows(run, 1, "forex", [1, 2, 3])
    monkeypatch.setattr(sync, "expect_key", lambda: None)

    def sent(run: Path, paths: list[Path]) -> None:
        for path in paths:
            asked.append(path)
            sending.mark_sent(run, path)

    monkeypatch.setattr(sync, "send", sent)
    sync.sync(run, print)
    assert bars_of(run, "phase_1-forex") == [BARS, 2 * BARS, 3 * BARS]
    said = list[str]()
    sync.sync(run, said.append)
    assert len(asked) == 1
    assert "nothing to send" in said[0]
    monkeypatch.setattr(sync, "send", lambda run, paths: None)
    write_rows(run, 1, "forex", [4])
    with pytest.raises(RunError, match="1 of 1 files were not sent"):
        sync.sync(run, print)


# -- where it fails ---------------------------------------------------------------------------------------------------


class _Refuses(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        content = b'{"errors": [{"message": "invalid API key"}]}'
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(401)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@nightly
@pytest.mark.parametrize("service", ["refusing", "silent", "closed", "formless key"])
def test_a_service_that_cannot_be_used_is_told_of_once_and_all_is_kept_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: str, request: pytest.FixtureRequest
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv(
        "WANDB_BASE_URL", request.getfixturevalue(service) if service in ("refusing", "silent") else address
    )
    monkeypatch.setenv("WANDB_API_KEY", "short" if service == "formless key" else KEY)
    run, said = begun(tmp_path / "one", f"tracking.wait_seconds={LONGEST_S}"), list[str]()
    with launcher.followed(run, Manifest.read(run).load_settings(), said.append):
        write_rows(run, 1, "forex", [1, 2])
        until(lambda: len(bars_of(run, "phase_1-forex")) >= 2)
        write_rows(run, 1, "forex", [3])
    assert bars_of(run, "phase_1-forex") == [BARS, 2 * BARS, 3 * BARS]
    assert any(path.parent.name.startswith("offline-") for path in transaction_log.files_of(run))
    (line,) = said
    assert "kept offline from here; training goes on" in line
    assert KEY not in line


@pytest.mark.slow
@slow
def test_its_service_may_end_at_any_moment(tmp_path: Path) -> None:
    run, said = begun(tmp_path / "one", f"tracking.wait_seconds={LONGEST_S}"), list[str]()
    with launcher.followed(run, Manifest.read(run).load_settings(), said.append):
        write_rows(run, 1, "forex", [1, 2])
        until(lambda: len(bars_of(run, "phase_1-forex")) >= 1)
        os.kill(service_of(follower_of(run)), signal.SIGKILL)
        write_rows(run, 1, "forex", [3, 4])
        until(lambda: len(bars_of(run, "phase_1-forex")) >= 4)
    assert bars_of(run, "phase_1-forex") == [BARS, 2 * BARS, 3 * BARS, 4 * BARS]
    (line,) = said
    assert "its service has ended; kept offline from here" in line


@nightly
def test_its_process_may_end_at_any_moment(tmp_path: Path) -> None:
    run, said = begun(tmp_path / "one", f"tracking.wait_seconds={LONGEST_S}"), list[str]()
    with launcher.followed(run, Manifest.read(run).load_settings(), said.append):
        write_rows(run, 1, "forex", [1])
        until(lambda: len(bars_of(run, "phase_1-forex")) >= 1)
        os.kill(follower_of(run), signal.SIGKILL)
        until(lambda: bool(said))
        write_rows(run, 1, "forex", [2])
    (line,) = said
    assert f"its process has ended (-9); training goes on without it, and `mtquant wandb sync {run}`" in line
    sync.written_offline(run, print)
    assert bars_of(run, "phase_1-forex") == [BARS, 2 * BARS]


@nightly
@pytest.mark.skipif(os.getuid() != 0, reason="needs to mount a small disk")
def test_a_full_disk_costs_the_training_nothing(tmp_path: Path) -> None:
    run, said = begun(tmp_path / "one", f"tracking.wait_seconds={LONGEST_S}"), list[str]()
    (run / "wandb").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(run / "wandb")]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        with launcher.followed(run, Manifest.read(run).load_settings(), said.append):
            write_rows(run, 1, "forex", range(1, 400))
    finally:
        subprocess.run(["umount", str(run / "wandb")], check=True)
    assert said
    assert all("training goes on" in line for line in said)
    sync.written_offline(run, print)
    assert bars_of(run, "phase_1-forex") == [BARS * number for number in range(1, 400)]


# -- sweeps -----------------------------------------------------------------------------------------------------------


def sweep_of_two(folder: Path) -> list[Path]:
    """Two runs of a sweep with two rows each, the second still in training."""
    runs = [begun(folder / "rates" / f"trial_0{number}_seed_0") for number in range(2)]
    for run in runs:
        manifest = Manifest.read(run)
        manifest.part_of = "rates"
        manifest.write(run)
        write_rows(run, 1, "forex", [1, 2])
    end_phase(runs[0], 1)
    return runs


@pytest.mark.slow
@slow
def test_the_runs_of_a_sweep_are_one_group_and_each_is_told_whole(tmp_path: Path) -> None:
    runs, said = sweep_of_two(tmp_path), list[str]()
    follower = SweepFollower(tmp_path / "rates", OFFLINE, said.append)
    follower.look()
    write_rows(runs[1], 1, "forex", [3])
    follower.look()
    follower.finish()
    assert said == []
    assert [bars_of(run, "phase_1-forex") for run in runs] == [[BARS, 2 * BARS], [BARS, 2 * BARS, 3 * BARS]]
    for run in runs:
        (record,) = kind_of(records_of(run, "phase_1-forex"), "run")
        assert record.run_group == "rates"
        assert record.display_name.startswith(f"rates {run.name} phase_1 forex")


# -- where it is online -----------------------------------------------------------------------------------------------


@nightly
def test_a_run_kept_offline_and_carried_on_online_is_one_run_at_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps go on over attempts, those kept offline are sent first, and `sync` sends the last."""
    run, said = begun(tmp_path / "one", f"tracking.wait_seconds={LONGEST_S}"), list[str]()
    settings = Manifest.read(run).load_settings()
    wandb_id = f"{Manifest.read(run).id}-phase_1-forex"
    with wandb_service.serving() as service:
        with launcher.followed(run, settings, said.append):
            write_rows(run, 1, "forex", [1, 2])
        assert service.runs == {}
        monkeypatch.setenv("WANDB_BASE_URL", service.address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        with launcher.followed(run, settings, said.append):
            write_rows(run, 1, "forex", [2, 3, 4])
        assert said == []
        assert service.runs[wandb_id].bars == [BARS * number for number in (1, 2, 3, 4)], service.asked
        assert service.runs[wandb_id].steps == [0, 1, 2, 3]
        assert sending.unsent(run) == []
        monkeypatch.setenv("WANDB_MODE", "offline")
        with launcher.followed(run, settings, said.append):
            write_rows(run, 1, "forex", [5])
        monkeypatch.delenv("WANDB_MODE")
        done = subprocess.run(
            [sys.executable, "-m", "mtquant_rllib.cli", "wandb", "sync", str(run)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert service.runs[wandb_id].bars == [BARS * number for number in (1, 2, 3, 4, 5)]
        assert service.runs[wandb_id].steps == [0, 1, 2, 3, 4]
        assert service.runs[wandb_id].config["run/trial"]["value"] == "forex"
    assert said == []


@nightly
@pytest.mark.parametrize("offline", [False, True])
def test_what_the_service_has_is_not_told_again_when_its_files_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    """`wandb sync --clean`, a person, or a machine that was taken away removes W&B's folder; rows go on after it."""
    run, said = begun(tmp_path / "one", f"tracking.wait_seconds={LONGEST_S}"), list[str]()
    settings = Manifest.read(run).load_settings()
    wandb_id = f"{Manifest.read(run).id}-phase_1-forex"
    with wandb_service.serving() as service:
        monkeypatch.setenv("WANDB_BASE_URL", service.address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        with launcher.followed(run, settings, said.append):
            write_rows(run, 1, "forex", [1, 2, 3])
        shutil.rmtree(run / "wandb")
        if offline:
            monkeypatch.setenv("WANDB_MODE", "offline")
        else:
            (run / sending.FILE).unlink()
        with launcher.followed(run, settings, said.append):
            write_rows(run, 1, "forex", [4, 5])
        if offline:
            monkeypatch.delenv("WANDB_MODE")
            done = subprocess.run(
                [sys.executable, "-m", "mtquant_rllib.cli", "wandb", "sync", str(run)], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
        assert service.runs[wandb_id].bars == [BARS * number for number in (1, 2, 3, 4, 5)]
    assert said == []


@nightly
def test_a_service_that_takes_no_earlier_files_is_left_alone_after_a_while_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers nothing at all: what was kept offline waits, and the rest is kept beside it."""
    own = (f"tracking.wait_seconds={LONGEST_S}", "tracking.wandb.connect_seconds=2")
    run, said = begun(tmp_path / "one", *own), list[str]()
    settings = Manifest.read(run).load_settings()
    with launcher.followed(run, settings, said.append):
        write_rows(run, 1, "forex", [1, 2])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        with launcher.followed(run, settings, said.append):
            write_rows(run, 1, "forex", [3, 4])
    assert [line for line in said if "was not taken in 2 s; kept offline from here" in line], said
    assert len(said) == 1
    assert bars_of(run, "phase_1-forex") == [BARS * number for number in (1, 2, 3, 4)]
