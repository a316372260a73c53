"""What a killed driver leaves is ended by the run's next start, and nothing else ever is."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_drivers import alive, descendants, driver, gone, words_of

from mtquant_rllib.training.session import processes, ray_leftovers
from mtquant_rllib.training.session.ray_leftovers import FILE, end_leftovers


@pytest.mark.ray
@pytest.mark.slow
def test_what_a_killed_driver_leaves_is_ended_by_the_next_start_and_nothing_else_is(tmp_path: Path) -> None:
    first = driver(tmp_path, "stay", "compute")
    folder, worker, _ = words_of(first, "READY")
    family = descendants(first.pid)
    stranger = driver(tmp_path / "other", "stay")
    words_of(stranger, "READY")
    others = descendants(stranger.pid)

    refused = driver(tmp_path)
    assert f"process {first.pid} is training this run" in " ".join(words_of(refused, "REFUSED"))

    first.kill()
    first.wait()
    assert alive(int(worker)), "it computes on, its driver dead"
    second = driver(tmp_path)
    own, *_ = words_of(second, "READY")
    assert not [pid for pid in family if alive(pid)]
    assert not Path(folder).exists()
    assert [pid for pid in others if alive(pid)] == others, "another run's session goes on"

    second.wait(timeout=60)
    assert Path(own).is_dir(), "a session that ended as it should keeps its logs"
    assert not (tmp_path / FILE).exists()
    stranger.kill()
    stranger.wait()
    end_leftovers(tmp_path / "other")
    assert gone(others, 1)


def record(run: Path, one: processes.ProcessId, folder: Path, **changed: object) -> None:
    dead = {"pid": 2**22 + 1, "start": 1}
    own = {"pid": one.pid, "start": one.start}
    tree = {"machine": processes.machine_id(), "driver": dead, "folder": str(folder), "processes": [own]}
    ray_leftovers.write_record(run, {**tree, **changed})


@pytest.fixture
def like_ray() -> Iterator[processes.ProcessId]:
    """A process whose command line is like a Ray worker's, and its number and start."""
    process = subprocess.Popen(["ray::Like", "60"], executable="/bin/sleep")
    found = None
    while found is None or not ray_leftovers.is_ray(process.pid):
        found = processes.process(process.pid)
    yield found
    process.kill()
    process.wait()


def test_a_record_that_somebody_else_wrote_ends_nothing(
    tmp_path: Path, like_ray: processes.ProcessId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that came from elsewhere names a process of this user's."""
    with monkeypatch.context() as stranger:
        stranger.setenv("MTQUANT_KEY_FILE", str(tmp_path / "strangers key"))
        record(tmp_path, like_ray, tmp_path)
    assert end_leftovers(tmp_path) == []
    tree = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).unlink()
    record(tmp_path, like_ray, tmp_path / "another")
    ours = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**ours, "folder": tree["folder"]}))
    assert end_leftovers(tmp_path) == [], "one that was changed neither"
    assert processes.alive(like_ray)


def test_a_number_that_another_process_has_by_now_is_left_alone(tmp_path: Path, like_ray: processes.ProcessId) -> None:
    earlier = processes.ProcessId(like_ray.pid, like_ray.start - 1)
    record(tmp_path, earlier, tmp_path)
    assert end_leftovers(tmp_path) == []
    assert processes.alive(like_ray)
    record(tmp_path, like_ray, tmp_path, machine="another boot")
    assert end_leftovers(tmp_path) == []
    assert processes.alive(like_ray)
    record(tmp_path, like_ray, tmp_path)
    assert end_leftovers(tmp_path) == [like_ray]
    assert not processes.alive(like_ray)
    assert not (tmp_path / FILE).exists()


def test_a_recorded_process_that_is_not_rays_is_left_alone(tmp_path: Path) -> None:
    innocent = subprocess.Popen(["sleep", "60"])
    try:
        one = processes.process(innocent.pid)
        assert one is not None
        record(tmp_path, one, tmp_path)
        assert end_leftovers(tmp_path) == []
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


@pytest.mark.parametrize("name", ["mine", "session_2026-01-01_00-00-00_000000_1", "session_latest"])
def test_a_folder_that_is_not_the_dead_drivers_session_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("ray._common.utils.get_default_ray_temp_dir", lambda: str(tmp_path))
    ended = tmp_path / "session_2026-01-01_00-00-00_000000_4194305"
    for folder in (tmp_path / name, ended, tmp_path / "inner" / ended.name):
        folder.mkdir(parents=True, exist_ok=True)
    nobody = processes.ProcessId(2**22 + 1, 1)
    for folder in (tmp_path / name, tmp_path / "inner" / ended.name, ended / ".." / name):
        record(tmp_path, nobody, folder)
        end_leftovers(tmp_path)
        assert folder.is_dir()
    record(tmp_path, nobody, ended)
    end_leftovers(tmp_path)
    assert not ended.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"processes": [{"pid": "x"}]}'])
def test_a_broken_record_does_not_keep_a_run_from_starting(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert end_leftovers(tmp_path) == []
