"""Runs and bars in an object store: a server of its protocol answers on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from object_store_server import Server, running

from mtquant_rllib.config import Settings
from mtquant_rllib.env.prepared.data import cache_folder
from mtquant_rllib.env.prepared.source import local_copy
from mtquant_rllib.errors import RunError
from mtquant_rllib.object_store import Store
from mtquant_rllib.paths import address_of, is_address
from mtquant_rllib.training.preparation import prepare, restored
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.records.run_names import run_path
from mtquant_rllib.training.run_store.pruning import prune_run
from mtquant_rllib.training.storage import exclusive_access, lease, mirror, retries
from mtquant_rllib.training.storage.mirror import working_folder
from mtquant_rllib.training.storage.working_copy import LEASE, WorkingCopy

ADDRESS = "s3://desk/runs/x"
SMALL = [f"embedded.{split}={{paths: 1, years: 3}}" for split in ("train", "validation", "test")]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as there:
        yield there


@pytest.fixture
def store(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    machine(monkeypatch, tmp_path, 1)
    there = Store.at("s3://desk")
    for path in there.files():
        there.remove_file(path)
    yield Store.at(ADDRESS)
    mirror._copy.cache_clear()


def machine(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
    """From here on, another machine: another disk."""
    monkeypatch.setenv("MTQUANT_CACHE", str(folder / f"machine_{number}"))


def test_addresses_are_told_from_paths() -> None:
    assert is_address("s3://bucket/x")
    assert is_address(Path("gs://bucket/x")), "of which Path keeps one slash"
    assert address_of(Path("s3://bucket/x/")) == "s3://bucket/x"
    assert not is_address("runs/x")
    assert not is_address("c:/x")
    for wrong in ("s3://", "https://bucket/x", "s3:x"):
        with pytest.raises(RunError, match="expected an address"):
            address_of(wrong)
    for wrong in ("s3://bucket", "s3://bucket/a/../b", "s3://bucket//b", "s3://bucket/a\nb"):
        with pytest.raises(RunError):
            working_folder(wrong)


def test_files_go_there_and_back(store: Store, tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(3 << 20)
    (tmp_path / "a").write_bytes(content)
    store.upload(tmp_path / "a", "one/two/a")
    store.write("one/empty", b"")
    assert {path: timestamp.bytes for path, timestamp in store.files().items()} == {
        "one/two/a": len(content),
        "one/empty": 0,
    }
    store.download("one/two/a", tmp_path / "new" / "b")
    assert (tmp_path / "new" / "b").read_bytes() == content
    assert store.read("nothing") is None
    assert store.stat("one") is None, "a folder is no file"
    with pytest.raises(FileNotFoundError):
        store.download("nothing", tmp_path / "c")
    assert not (tmp_path / "c").exists()
    store.remove_folder("one/two")
    store.remove_folder("nothing")
    assert list(store.files()) == ["one/empty"]


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_refused_before_anything_is_trained(store: Store) -> None:
    words = [word for override in (*SMALL, "resources.cpus=2") for word in ("--set", override)]
    command = [sys.executable, "-m", "mtquant_rllib.cli", "train", "--run", "s3://nobody/runs/x", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "s3://nobody/runs/x" in done.stderr
    assert "bucket does not exist" in done.stderr
    assert "phase 1" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("key", ["../../evil", "a/../../../evil", "./evil"])
def test_a_strangers_keys_do_not_lead_out_of_the_copy(store: Store, server: Server, tmp_path: Path, key: str) -> None:
    server.put(f"runs/x/{key}", b"evil")
    try:
        with pytest.raises(RunError, match="nothing is brought here"):
            run_path(ADDRESS)
    finally:
        server.remove(f"runs/x/{key}")
    assert not list(tmp_path.rglob("evil"))


def checkpoint(run: Path, number: int, content: bytes = b"x") -> Path:
    place = run / "phase_1" / "forex" / f"checkpoint_{number:06d}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "state.pkl").write_bytes(content)
    (place / "checkpoint.json").write_text(json.dumps({"format": 1, "content": content.hex()}))
    return place


@pytest.fixture
def run(store: Store) -> Path:
    """A run that was begun on one machine."""
    folder = run_path(ADDRESS)
    settings = Settings.load(overrides=SMALL)
    Manifest.begin("x", settings, prepare(settings, None, None), 1.0, [1]).write(folder)
    mirror.copy_of(folder).send_changed()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_another_machine_gets_what_was_sent(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.push(checkpoint(run, 1))
    checkpoint(run, 2)  # never sent
    (run / "run.log").write_text("one\n")
    with mirror.pushing_changes(run):
        (run / "run.log").write_text("one\ntwo\n")
    here = contents(run)
    machine(monkeypatch, tmp_path, 2)
    there = contents(run_path(ADDRESS))
    assert there == {path: content for path, content in here.items() if "checkpoint_000002" not in path}
    machine(monkeypatch, tmp_path, 1)
    assert contents(run_path(str(run))) == there, "the store is the truth, by whichever name"


@pytest.mark.slow
def test_a_checkpoint_without_its_index_is_none(run: Path, store: Store) -> None:
    """As its sender, or whoever removed it, was killed half way."""
    mirror.push(checkpoint(run, 1))
    mirror.push(checkpoint(run, 2))
    store.remove_file("phase_1/forex/checkpoint_000002/checkpoint.json")
    run_path(ADDRESS)
    assert [path.name for path in (run / "phase_1" / "forex").iterdir()] == ["checkpoint_000001"]


@pytest.mark.slow
def test_the_index_is_sent_last_and_removed_first(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []
    upload, remove = Store.upload, Store.remove_folder
    monkeypatch.setattr(
        Store, "upload", lambda self, source, path: (done.append(("put", path)), upload(self, source, path))
    )
    monkeypatch.setattr(Store, "remove_folder", lambda self, path: (done.append(("gone", path)), remove(self, path)))
    place = checkpoint(run, 1)
    mirror.push(place)
    assert done[-1] == ("put", "phase_1/forex/checkpoint_000001/checkpoint.json")
    there = mirror.copy_of(run)
    monkeypatch.setattr(Store, "remove_folder", lambda self, path: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        mirror.remove_remote(place)
    assert there.store.stat("phase_1/forex/checkpoint_000001/checkpoint.json") is None
    assert there.store.stat("phase_1/forex/checkpoint_000001/state.pkl") is not None


@pytest.mark.slow
def test_what_another_node_wrote_replaces_what_is_here(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.push(checkpoint(run, 1, b"here"))
    machine(monkeypatch, tmp_path, 2)
    other = mirror.join_working_copy(ADDRESS, "attempt")
    assert not (other / "phase_1").exists()
    assert Manifest.read(other).name == "x", "what makes it a run is there at once"
    mirror.pull(other / "phase_1" / "forex")
    assert (other / "phase_1/forex/checkpoint_000001/state.pkl").read_bytes() == b"here"
    mirror.push(checkpoint(other, 1, b"there"))
    mirror.push(checkpoint(other, 2, b"more"))
    machine(monkeypatch, tmp_path, 1)
    mirror.pull(run / "phase_1")
    assert (run / "phase_1/forex/checkpoint_000001/state.pkl").read_bytes() == b"there"
    assert (run / "phase_1/forex/checkpoint_000002/state.pkl").read_bytes() == b"more"


@pytest.mark.slow
def test_the_drivers_own_machine_joins_in_the_drivers_copy(run: Path) -> None:
    (run / "run.log").write_text("not sent yet\n")
    mirror.begin_attempt(run, "attempt")
    assert mirror.join_working_copy(ADDRESS, "attempt") == run
    assert (run / "run.log").exists()
    mirror.join_working_copy(ADDRESS, "another attempt")
    assert not (run / "run.log").exists(), "of an earlier attempt, and not what the store has"


@pytest.mark.slow
def test_states_and_manifests_are_sent_as_they_are_written(run: Path, store: Store) -> None:
    module_states.write(run / "policies" / "phase_1", {"EURUSD": {"w": np.ones(2)}}, phase=1)
    assert "policies/phase_1/index.json" in store.files()
    module_states.write(run / "policies" / "phase_1", {"GBPUSD": {"w": np.ones(2)}}, phase=1)
    assert sorted(store.files("policies")) == ["policies/phase_1/GBPUSD.npz", "policies/phase_1/index.json"]
    manifest = Manifest.read(run)
    manifest.phase(1).status = "running"
    manifest.write(run)
    assert json.loads(store.read("manifest.json"))["phases"]["1"]["status"] == "running"


@pytest.mark.slow
def test_the_prepared_market_goes_with_the_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest.read(run)
    mirror.push_market(run, Path(manifest.market.data))
    shutil.rmtree(manifest.market.data)
    machine(monkeypatch, tmp_path, 2)
    run = run_path(ADDRESS)
    assert not (run / "market").exists(), "in the store alone"
    mirror.pull_market(run, manifest.market.data)
    monkeypatch.setattr("mtquant_rllib.env.prepared.source.prepare_embedded", lambda *_: pytest.fail("made again"))
    found = restored(manifest.load_settings(), manifest.market)
    assert Path(found.data).parent == tmp_path / "machine_2"
    assert found.arrays == manifest.market.arrays


def test_bars_are_read_from_their_address(store: Store, tmp_path: Path) -> None:
    bars = Store.at("s3://desk/bars")
    bars.write("a.csv", b"one")
    copy = local_copy("s3://desk/bars/a.csv")
    assert copy.read_bytes() == b"one"
    before = copy.stat().st_ino
    assert local_copy("s3://desk/bars/a.csv").stat().st_ino == before, "brought once"
    bars.write("a.csv", b"three")
    assert local_copy("s3://desk/bars/a.csv").read_bytes() == b"three"
    bars.write("b.csv", b"two")
    folder = local_copy("s3://desk/bars")
    assert sorted(path.name for path in folder.iterdir()) == ["a.csv", "b.csv"]
    bars.remove_file("b.csv")
    assert [path.name for path in local_copy("s3://desk/bars").iterdir()] == ["a.csv"]
    with pytest.raises(RunError, match="no such file or folder"):
        local_copy("s3://desk/nowhere.csv")


@pytest.mark.slow
def test_one_driver_at_a_time(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_EVERY_S", 0.2)
    monkeypatch.setattr(lease, "LASTS_S", 5.0)
    monkeypatch.setattr(lease, "SETTLES_S", 0.0)
    here, lines = WorkingCopy(run, Store.at(ADDRESS)), list[str]()
    with lease.held(here, lines.append), monkeypatch.context() as elsewhere:
        elsewhere.setattr(lease, "_boot", lambda: "another boot")
        with pytest.raises(RunError, match=rf"process {os.getpid()} on .* trains this run at this moment"):
            lease.held(here, lines.append).__enter__()
    assert here.store.read(LEASE) is None, "given back"


@pytest.mark.slow
def test_a_driver_that_is_not_heard_of_is_taken_over_and_stops(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_EVERY_S", 0.2)
    monkeypatch.setattr(lease, "LASTS_S", 0.6)
    monkeypatch.setattr(lease, "SETTLES_S", 0.0)
    ended = threading.Event()
    monkeypatch.setattr(lease.os, "kill", lambda pid, number: ended.set() if number == 15 else None)
    here, lines = WorkingCopy(run, Store.at(ADDRESS)), list[str]()
    lease._write(here, "somebody's word")
    note = lease._read(here)
    here.store.write(LEASE, json.dumps({**note, "host": "elsewhere"}).encode())
    first = lease.held(here, lines.append)
    first.__enter__()
    assert "on elsewhere trained this run last" in lines[0], "waited for, then taken over"
    lease._write(here, "yet another's")
    assert ended.wait(10), "it asks its own process to stop"
    with pytest.raises(RunError, match="has taken this run over"):
        first.__exit__(None, None, None)
    assert here.store.read(LEASE) is not None, "the other's note stays"


@pytest.mark.slow
def test_a_run_that_is_named_by_its_copy_is_the_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest.read(run)
    machine(monkeypatch, tmp_path, 2)
    other = run_path(ADDRESS)
    manifest.phase(1).status = "running"
    manifest.write(other)
    machine(monkeypatch, tmp_path, 1)
    monkeypatch.chdir(run.parent)
    for name in ("./x", str(run)):
        assert Manifest.read(run_path(name)).phase(1).status == "running", "the store is newer than the copy"
    (tmp_path / "link").symlink_to(run)
    assert run_path(str(tmp_path / "link")) == run
    machine(monkeypatch, tmp_path, 3)
    with pytest.raises(RunError, match=rf"working copy of {ADDRESS}, of another MTQUANT_CACHE"):
        run_path(str(run))


@pytest.mark.slow
def test_what_is_no_run_is_not_brought_and_the_last_copy_stays(run: Path, store: Store) -> None:
    Store.at("s3://desk/bars").write("a.csv", b"one")
    with pytest.raises(RunError, match=r"a\.csv and 0 more files lie there and no run"):
        run_path("s3://desk/bars")
    checkpoint(run, 1)
    for path in store.files():
        store.remove_file(path)
    with pytest.raises(RunError, match="may be the last copy"):
        run_path(ADDRESS)
    assert (run / "phase_1/forex/checkpoint_000001/state.pkl").exists()


@pytest.mark.slow
def test_who_holds_a_run_has_its_newest_state_and_keeps_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SETTLES_S", 0.0)
    manifest = Manifest.read(run)
    machine(monkeypatch, tmp_path, 2)
    other = run_path(ADDRESS)
    machine(monkeypatch, tmp_path, 1)
    manifest.phase(1).status = "running"
    manifest.write(run)
    machine(monkeypatch, tmp_path, 2)
    with exclusive_access.held(other, print):
        assert Manifest.read(other).phase(1).status == "running", "it was taken before that"
        (other / "run.log").write_text("not sent yet\n")
        assert run_path(ADDRESS) == other
        assert (other / "run.log").read_text() == "not sent yet\n", "whoever looks meanwhile changes nothing"
        with mirror.pushing_changes(other):
            Path(other / "evaluation").mkdir()
            (other / "evaluation" / "a").write_text("new")
        assert Store.at(ADDRESS).read("run.log") is None, "a looker sends its own files alone"
        assert Store.at(ADDRESS).read("evaluation/a") == b"new"
    assert Store.at(ADDRESS).read("run.log") == b"not sent yet\n"


@pytest.mark.slow
def test_a_slow_sender_does_not_lose_the_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_EVERY_S", 0.1)
    monkeypatch.setattr(lease, "SETTLES_S", 0.0)
    sending, done = threading.Event(), threading.Event()
    monkeypatch.setattr(WorkingCopy, "send_changed", lambda self: (sending.set(), done.wait(20)))
    here = mirror.copy_of(run)
    with lease.held(here, print):
        assert sending.wait(10)
        first = lease._read(here)
        for _ in range(100):
            if lease._read(here) != first:
                break
            time.sleep(0.1)
        assert lease._read(here) != first, "the note is written anew while files are on their way"
        done.set()


def test_trials_find_the_drivers_cache_wherever_ray_puts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MTQUANT_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    here = cache_folder()
    (tmp_path / "trial").mkdir()
    monkeypatch.setenv("TUNE_ORIG_WORKING_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path / "trial")
    assert cache_folder() == here == tmp_path / ".cache" / "mtquant"
    monkeypatch.setenv("MTQUANT_CACHE", "mine")
    assert cache_folder() == tmp_path / "mine"


@pytest.mark.slow
def test_a_run_that_another_machine_trains_is_not_pruned(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_EVERY_S", 0.2)
    monkeypatch.setattr(lease, "SETTLES_S", 0.0)
    half = run / "phase_1" / "forex" / ".mtquant-new.checkpoint_000009.1.x"
    with lease.held(mirror.copy_of(run), print):
        machine(monkeypatch, tmp_path, 2)
        other = run_path(ADDRESS)
        half = other / half.relative_to(run)
        half.mkdir(parents=True)
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(lease, "_boot", lambda: "another boot")
            with pytest.raises(RunError, match="trains this run at this moment"):
                prune_run(other, remove=True)
        assert half.exists(), "nothing is removed"
    prune_run(other, remove=True)


@pytest.mark.slow
def test_what_other_nodes_wrote_is_waited_for(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that fails for a moment costs a moment."""
    place = checkpoint(run, 1)
    mirror.push(place)
    shutil.rmtree(place)
    files, tries = Store.files, list[str]()

    def failing(self: Store, below: str = "") -> Any:
        tries.append(below)
        if len(tries) < 3:
            raise OSError("no answer")
        return files(self, below)

    monkeypatch.setattr(Store, "files", failing)
    monkeypatch.setattr(retries, "_EVERY_S", 0.01)
    retries.with_retries(partial(mirror.pull, run / "phase_1"), "the store", 20.0, action="read")
    assert (place / "state.pkl").read_bytes() == b"x"
    assert len(tries) == 3


@pytest.mark.slow
def test_a_note_that_a_store_hides_while_it_is_replaced_is_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_EVERY_S", 0.2)
    monkeypatch.setattr(lease, "SETTLES_S", 0.0)
    monkeypatch.setattr(lease, "BETWEEN_LOOKS_S", 0.01)
    here, read, reads = mirror.copy_of(run), Store.read, list[str]()

    def hiding(self: Store, path: str) -> bytes | None:
        reads.append(path)
        return [None, b"", b'{"word": "cut o', read(self, path)][len(reads) % 4] if len(reads) > 2 else read(self, path)

    with lease.held(here, print), monkeypatch.context() as elsewhere:
        elsewhere.setattr(lease, "_boot", lambda: "another boot")
        elsewhere.setattr(Store, "read", hiding)
        with pytest.raises(RunError, match="trains this run at this moment"):
            lease.held(here, print).__enter__()
