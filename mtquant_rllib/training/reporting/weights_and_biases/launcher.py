"""Weights & Biases beside a training: its process is begun, heard and, within a bound, waited for."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mtquant_rllib.config import Settings
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.reporting.weights_and_biases.session import KEPT_OFFLINE
from mtquant_rllib.training.storage import mirror

_FOLLOWER = "mtquant_rllib.training.reporting.weights_and_biases.follower_process"
_ROOT = Path(__file__).resolve().parents[4]
"""Where this package lies."""
_LAST_WORDS_S = 1.0

Tell = Callable[[str], None]

_SPENT: dict[Path, float] = {}
"""Seconds that this process has waited, by run."""
_OFFLINE: set[Path] = set()
"""Runs that are kept offline because the service could not be used: it is not asked twice."""


@contextlib.contextmanager
def followed(run: Path, settings: Settings, tell: Tell) -> Iterator[None]:
    """Keep W&B a copy of the run, or of a sweep's runs, meanwhile, where the settings name it.

    At the end its process has `tracking.wait_seconds` to log and send the rest, less what this process has waited for
    the run before; what it did not come to is on disk, and `mtquant wandb sync` sends it.
    """
    if not any(choice.tracker == "wandb" for choice in settings.tracking.trackers):
        yield
        return
    try:
        process = begun(run, *(["--offline"] if run in _OFFLINE else []))
    except OSError as error:
        tell(
            f"Weights & Biases: its process cannot be started ({error.strerror or error}); training goes on without it"
        )
        yield
        return
    beside = _FollowerProcess(process, run, tell)
    try:
        yield
    finally:
        began = time.monotonic()
        beside.end(max(settings.tracking.wait_seconds - _SPENT.get(run, 0.0), 0.0))
        _SPENT[run] = _SPENT.get(run, 0.0) + time.monotonic() - began


def brought_up(run: Path, tell: Tell) -> None:
    """Log what W&B lacks of a run that is not being trained: an evaluation, say."""
    with mirror.pushing_changes(run), followed(run, Manifest.read(run).load_settings(), tell):
        pass


def begun(run: Path, *words: str) -> subprocess.Popen[str]:
    """The process, which lives until its input is closed, in a session of its own: a Ctrl-C is not for it."""
    # Found where it is found here, and nothing of its name in the current folder in its place.
    found = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-P", "-m", _FOLLOWER, str(run), *words],
        env={**os.environ, "PYTHONPATH": found},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )


class _FollowerProcess:
    """The process, and a thread that passes on what it says and tells when it ends before its time."""

    def __init__(self, process: subprocess.Popen[str], run: Path, tell: Tell) -> None:
        self._process, self._run, self._tell = process, run, tell
        self._killed = False
        self._cure = f"`mtquant wandb sync {mirror.named(run)}`"
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def end(self, wait_s: float) -> None:
        """Let it end, and end it where it takes longer."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self._killed = True
            self._process.kill()
            self._tell(f"Weights & Biases: it took longer than tracking.wait_seconds; {self._cure} sends the rest")
        self._listener.join(_LAST_WORDS_S)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        heard = False
        for line in self._process.stdout:
            heard = True
            if line.strip().endswith(KEPT_OFFLINE):
                _OFFLINE.add(self._run)
                self._tell(f"Weights & Biases: {line.strip()}; training goes on, and {self._cure} sends it")
            else:
                self._tell(f"Weights & Biases: {line.strip()}")
        code = self._process.wait()
        if code and not heard and not self._killed:
            self._tell(
                f"Weights & Biases: its process has ended ({code}); training goes on without it, and {self._cure} "
                "sends what there is"
            )
