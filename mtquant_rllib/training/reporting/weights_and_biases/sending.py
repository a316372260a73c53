"""Which of W&B's files of a run were sent, and sending the others by W&B's own command.

What was sent is noted outside W&B's own folder too, in `wandb_sent.json`: that folder is cleaned by W&B and by people,
and a run that forgot what the service has would tell it everything a second time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mtquant_rllib import durable, strict_json
from mtquant_rllib.training.reporting.weights_and_biases.transaction_log import Logged, files_of, logged

FILE = "wandb_sent.json"
"""In a run's folder: by W&B run, what the service has of it."""
_SYNCED = ".synced"
"""Ending of the empty file that stands beside a transaction log that was sent; W&B's own."""


def unsent(run: Path, wandb_id: str | None = None) -> list[Path]:
    """Transaction logs that are not marked as sent, of one W&B run or of all, in the order in which they were begun."""
    return [path for path in files_of(run, wandb_id) if not _mark(path).exists()]


def mark_sent(run: Path, path: Path) -> None:
    """Note that the service has what a transaction log holds."""
    _mark(path).touch()
    wandb_id, own = path.stem.removeprefix("run-"), Logged()
    own.add(path)
    notes = _notes(run)
    before = notes.get(wandb_id, {})
    notes[wandb_id] = {
        "iteration": max(own.last, int(before.get("iteration", 0))),
        "finished": own.finished,
        **{name: sorted(getattr(own, name) | set(before.get(name, ()))) for name in ("artifacts", "used", "digests")},
    }
    durable.replace_file(run / FILE, strict_json.dumps(notes, indent=1).encode())


def logged_of(run: Path, wandb_id: str) -> Logged:
    """What a W&B run has logged: what its files say, and what the service has of files that are gone."""
    found = logged(run, wandb_id)
    note = _notes(run).get(wandb_id)
    if note is not None:
        found.sent = int(note["iteration"])
        for name in ("artifacts", "used", "digests"):
            getattr(found, name).update(note[name])
        if not files_of(run, wandb_id):
            found.finished = bool(note["finished"])
    return found


def send(run: Path, paths: list[Path], *, quiet: bool = False, patience_s: float | None = None) -> None:
    """Send files one after the other, as far as they are taken: steps follow one another, and `latest` is the last.

    What was sent is noted. quiet: say nothing of it. patience_s: for each file; None for as long as it takes.
    """
    silence = subprocess.DEVNULL if quiet else None
    for path in paths:
        words = [sys.executable, "-P", "-m", "wandb", "sync", "--include-online", str(path)]
        process = subprocess.Popen(
            words, env={**os.environ, "WANDB_DIR": str(run)}, stdin=subprocess.DEVNULL, stdout=silence, stderr=silence
        )
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if not _mark(path).exists():
            return
        mark_sent(run, path)


def _notes(run: Path) -> dict[str, Any]:
    try:
        found = json.loads((run / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _mark(path: Path) -> Path:
    return path.with_name(f"{path.name}{_SYNCED}")
