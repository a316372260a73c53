"""What all tests share: threads, folders, one Ray session a process, and runs that several of them look at; and how the
tests are shared out where several processes run them (`make test`)."""

from __future__ import annotations

import os

# Before torch is imported, here and in every process that a test starts: threads that wait for each other by counting
# cost more than they bring on networks as small as these, and several processes share the machine.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import README_SNIPPET, TINY_CONFIG, extended, python

SHARED_RUNS = ("all_extensions", "five_lines", "watched", "allocator_run")
"""Fixtures of a session that train a run."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that look at the same run share a process, so that it is trained once, and so do those of a file. Tests
    that start Ray come first, as they take longest. (pytest-xdist reads the marks in a hook of the same name, which
    must come after this one.)"""
    for item in items:
        if item.get_closest_marker("ray"):
            runs = [name for name in SHARED_RUNS if name in item.fixturenames]  # type: ignore[attr-defined]
            item.add_marker(pytest.mark.xdist_group(runs[0] if runs else item.path.stem))
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache of prepared markets and one key for all processes of this run of the tests, none of them the user's."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTQUANT_CACHE", str(shared / "cache"))
        patch.setenv("XDG_CONFIG_HOME", str(shared / "config"))
        yield


@pytest.fixture(autouse=True)
def log_of_nobody() -> None:
    """A run that was trained in this process keeps the package's log for itself; every test finds it as at first."""
    log = logging.getLogger("mtquant_rllib")
    for handler in [one for one in log.handlers if isinstance(one, logging.FileHandler)]:
        log.removeHandler(handler)
        handler.close()
    log.propagate = True
    log.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def ray_session(own_folders: None) -> Iterator[None]:
    """The session of all tests that need no more than trials and learners. What begins a session of its own does so
    in a process of its own."""
    import ray

    from mtquant_rllib.training.session.process_variables import PROCESS_VARIABLES

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=100 * 2**20, runtime_env={"env_vars": PROCESS_VARIABLES},
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def no_session_of_others(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session that tests share is open in this process or not, by which tests came before: those that start no Ray
    find none."""
    if request.node.get_closest_marker("ray") is None and "ray" in sys.modules:
        monkeypatch.setattr(sys.modules["ray"], "is_initialized", lambda: False)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, ray_session: None) -> None:
    """Lets `mtquant_rllib.cli.main` train in this process and in its session: it starts no interpreter anew."""
    monkeypatch.setenv("PYTHONHASHSEED", "0")


@pytest.fixture(scope="session")
def five_lines(own_folders: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the README's five lines were run, as a script: `five.txt` is what they said, `tiny.yaml`
    their settings (SAC in phase 1, PPO afterwards), `runs/mine` the run. Never to be changed."""
    folder = tmp_path_factory.mktemp("five_lines")
    (folder / "tiny.yaml").write_text(TINY_CONFIG)
    lines = [
        *README_SNIPPET.replace("laptop.yaml", "tiny.yaml").splitlines(),
        "print(type(system.step(system.desk())).__name__)",
    ]
    (folder / "five.py").write_text("\n    ".join(["if __name__ == '__main__':", *lines]) + "\n")
    done = python(folder, "five.py")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (folder / "five.txt").write_text(done.stdout)
    return folder


@pytest.fixture(scope="session")
def all_extensions(own_folders: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with everything that docs/extending.md adds to a desk, trained through all phases and judged:
    `runs/all`, and its report, `report.json`."""
    return extended(tmp_path_factory.mktemp("all_extensions"))
