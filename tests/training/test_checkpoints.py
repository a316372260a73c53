"""Checkpoints are whole, or not there, or named as damaged; and loaded unasked only where this user wrote them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from run_files import FILES, index, save, written
from writers import started

from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records import checkpoints, ownership, signatures
from mtquant_rllib.training.records.checkpoints import DamagedCheckpoint


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    ownership.claim(folder)
    return folder


def test_what_was_written_is_found_newest_first_and_is_whole(run: Path) -> None:
    trial = written(run, 1, 2, 10)
    found = list(checkpoints.whole(trial, pytest.fail))
    assert [(path.name, own.bars) for path, own in found] == [
        ("checkpoint_000010", 1000),
        ("checkpoint_000002", 200),
        ("checkpoint_000001", 100),
    ]
    assert found[0][1].files["algorithm_state.pkl"].bytes == 500
    assert sorted(path.name for path in trial.iterdir()) == [
        "checkpoint_000001",
        "checkpoint_000002",
        "checkpoint_000010",
    ]


@pytest.mark.parametrize("name", [*FILES, checkpoints.INDEX])
def test_a_file_that_is_cut_flipped_or_gone_is_named_and_the_checkpoint_before_is_used(run: Path, name: str) -> None:
    rng = random.Random(0)
    for damage in ("cut", "flipped", "gone"):
        trial = written(run, 1, 2)
        file = trial / "checkpoint_000002" / name
        content = bytearray(file.read_bytes())
        if damage == "gone":
            file.unlink()
        elif damage == "cut":
            file.write_bytes(content[: rng.randrange(len(content))])
        else:
            content[rng.randrange(len(content))] ^= 0x80
            file.write_bytes(content)
        told: list[str] = []
        assert [path.name for path, _ in checkpoints.whole(trial, told.append)] == ["checkpoint_000001"], damage
        assert len(told) == 1
        assert str(trial / "checkpoint_000002") in told[0]
        assert name in told[0]


def test_a_checkpoint_of_another_format_says_so(run: Path) -> None:
    path = written(run, 1) / "checkpoint_000001"
    tree = json.loads((path / checkpoints.INDEX).read_text())
    (path / checkpoints.INDEX).write_text(json.dumps({**tree, "format": 99}))
    with pytest.raises(DamagedCheckpoint, match="has format 99, and this version reads 2"):
        checkpoints.verify(path)


def test_an_index_that_names_files_outside_is_damaged(run: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    path = written(run, 1) / "checkpoint_000001"
    tree = json.loads((path / checkpoints.INDEX).read_text())
    for name in ("../../../../secret", str(tmp_path / "secret")):
        changed = {**tree, "files": {**tree["files"], name: {"bytes": 1, "sha256": "0"}}}
        (path / checkpoints.INDEX).write_text(json.dumps(changed))
        with pytest.raises(DamagedCheckpoint, match="leads out of the checkpoint"):
            checkpoints.verify(path)


def test_a_file_that_was_slipped_in_is_noticed(run: Path) -> None:
    """Checksums of what was written say nothing about a pickle beside it."""
    path = written(run, 1) / "checkpoint_000001"
    (path / "learner_group" / "state.pkl").write_bytes(b"cos\nsystem\n")
    with pytest.raises(DamagedCheckpoint, match=r"learner_group/state\.pkl: was not written with this checkpoint"):
        checkpoints.verify(path)


@pytest.mark.parametrize(("left_out", "named"), [("state.pkl", "learner/state"), ("how.pkl", "learner/how.pkl")])
def test_what_rllib_left_out_makes_no_checkpoint(run: Path, left_out: str, named: str) -> None:
    """As where a learner dies in the middle of writing, which RLlib does not mind."""
    folder = written(run, 1)
    description = {"state_file": "state", "class_and_ctor_args_file": "how.pkl"}
    files = {"metadata.json": json.dumps(description).encode(), "state.pkl": b"x", "how.pkl": b"x", left_out: b""}

    def cut_short(path: str) -> None:
        learner = Path(path, "learner")
        learner.mkdir()
        for name, content in files.items():
            (learner / name).write_bytes(content)

    with pytest.raises(RunError, match=f"left {named} out of this checkpoint"):
        checkpoints.write(run, folder, index(2), cut_short)
    assert [path.name for path in checkpoints.listed(folder)] == ["checkpoint_000001"]
    files[left_out] = b"x"
    path = checkpoints.write(run, folder, index(2), cut_short)
    assert checkpoints.verify(path).iteration == 2
    entry = json.loads((path / "checkpoint.json").read_text())
    del entry["files"]["learner/state.pkl"]
    (path / "learner" / "state.pkl").unlink()
    (path / "checkpoint.json").write_text(json.dumps(entry))
    with pytest.raises(DamagedCheckpoint, match="learner/state: was never written"):
        checkpoints.verify(path)


def test_what_desktops_and_file_servers_leave_is_no_damage(run: Path) -> None:
    path = written(run, 1) / "checkpoint_000001"
    for name in (".DS_Store", "._state.pkl", ".nfs000000000012"):
        (path / "learner_group" / name).write_text("x")
    assert checkpoints.verify(path).iteration == 1


def test_a_failed_write_leaves_what_was_there(run: Path) -> None:
    trial = written(run, 1)

    def full(folder: str) -> None:
        save(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoints.write(run, trial, index(2), full)
    assert [path.name for path in trial.iterdir()] == ["checkpoint_000001"]


def test_pruning_keeps_the_newest_and_touches_nothing_that_is_not_ours(run: Path) -> None:
    trial = written(run, 1, 2, 3, 4)
    users = trial / "checkpoint_000000"
    users.mkdir()
    (users / "thesis.txt").write_text("mine")
    gone = checkpoints.prune(run, trial, checkpoints.listed(trial), keep=2)
    assert sorted(path.name for path in gone) == ["checkpoint_000001", "checkpoint_000002"]
    assert (users / "thesis.txt").read_text() == "mine"


def test_pruning_counts_what_is_known_to_be_whole_alone(run: Path) -> None:
    """A copy of an old checkpoint was brought back, and gone on from: the newer ones are damaged."""
    trial = written(run, 2, 10, 45, 46, 47)
    for number in (45, 46, 47):
        (trial / f"checkpoint_{number:06d}" / "algorithm_state.pkl").write_bytes(b"")
    whole = [trial / "checkpoint_000010"]
    for number in (11, 12):
        whole.insert(0, checkpoints.write(run, trial, index(number), save))
        checkpoints.prune(run, trial, whole, keep=3)
    there = {int(path.name[-6:]) for path in checkpoints.listed(trial)}
    assert there == {10, 11, 12, 45, 46, 47}, "2 is older than three whole ones"
    whole.insert(0, checkpoints.write(run, trial, index(13), save))
    assert [path.name[-2:] for path in checkpoints.prune(run, trial, whole, keep=3)] == ["10"]


def test_what_stands_in_a_checkpoints_place_and_is_not_its_own_is_kept(run: Path) -> None:
    trial = written(run, 1)
    other = index(2).model_copy(update={"run": "another"})
    checkpoints.write(run, trial, other, save)
    checkpoints.write(run, trial, index(2), save)
    (trial / "checkpoint_000003" / "learner_group").mkdir(parents=True)
    (trial / "checkpoint_000003" / "rllib_checkpoint.json").write_text("{}")
    checkpoints.write(run, trial, index(3), save)
    kept = sorted(path.name for path in trial.iterdir() if path.name.startswith("not_whole"))
    assert kept == ["not_whole.checkpoint_000002", "not_whole.checkpoint_000003"]
    assert [checkpoints.verify(path).run for path in checkpoints.listed(trial)] == ["0123"] * 3


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_whole_checkpoints_alone(run: Path) -> None:
    rng = random.Random(1)
    with started() as writers:
        for _ in range(8):
            writer = writers.begin("checkpoints", run)
            time.sleep(rng.uniform(0.0, 0.15))
            writers.kill(writer)
            for path in checkpoints.listed(run / "phase_1" / "forex"):
                assert checkpoints.verify(path).name == path.name
    trial = written(run, 999_999)
    checkpoints.prune(run, trial, [trial / "checkpoint_999999"], keep=1)
    assert [path.name for path in trial.iterdir()] == ["checkpoint_999999"], "nothing half-written is left"


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(signatures.KEY_VARIABLE, str(tmp_path / "home" / "key"))
    return tmp_path / "home" / "key"


def test_only_its_writers_key_vouches_for_a_checkpoint(run: Path, key: Path) -> None:
    path = written(run, 1) / "checkpoint_000001"
    assert not signatures.is_ours(path, signatures.user_key())
    signatures.sign(path, signatures.user_key())
    assert signatures.is_ours(path, signatures.user_key())
    assert not signatures.is_ours(path, bytes(32)), "another user's key"
    checkpoint_index = path / checkpoints.INDEX
    checkpoint_index.write_text(checkpoint_index.read_text().replace('"bars": 100', '"bars": 101'))
    assert not signatures.is_ours(path, signatures.user_key()), "an index that was changed"


def test_the_key_is_its_users_alone_and_a_broken_one_is_refused(key: Path) -> None:
    first = signatures.user_key()
    assert signatures.user_key() == first
    assert len(first) == 32
    assert key.stat().st_mode & 0o777 == 0o600
    key.write_bytes(b"short")
    with pytest.raises(RunError, match="expected a key of 32 bytes, found 5"):
        signatures.user_key()


def test_without_a_key_on_this_machine_nothing_is_signed_and_none_is_made(run: Path, key: Path) -> None:
    path = checkpoints.write(run, run / "phase_1" / "forex", index(1), save, signatures.sign_where_keyed)
    assert not (path / checkpoints.SIGNATURE).exists()
    assert not key.exists()
    signatures.user_key()
    path = checkpoints.write(run, run / "phase_1" / "forex", index(2), save, signatures.sign_where_keyed)
    assert signatures.is_ours(path, signatures.user_key())


@pytest.mark.slow
def test_two_processes_that_need_a_key_at_once_get_the_same(key: Path) -> None:
    script = "from mtquant_rllib.training.records import signatures; print(signatures.user_key().hex())"
    env = {**os.environ, signatures.KEY_VARIABLE: str(key)}
    words = [sys.executable, "-c", script]
    started = [subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({process.communicate()[0] for process in started}) == 1
