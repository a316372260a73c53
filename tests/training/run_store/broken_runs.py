"""Ways to break a run as kills and bad disks do, and to ask the command line about it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtquant_rllib.cli import main
from mtquant_rllib.training.records import manifest_file

NEWEST, BEFORE = "checkpoint_000004", "checkpoint_000003"
"""Names of the last two checkpoints of the run's trials."""


def mtquant(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mtquant_rllib.cli", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def unfinish(run: Path) -> None:
    """As a kill leaves it between the last checkpoints and the manifest, its forex trial an update short."""

    def changed(tree: dict[str, Any]) -> dict[str, Any]:
        tree["phases"]["1"] |= {"status": "running", "result": None}
        for trial in tree["phases"]["1"]["trials"].values():
            trial |= {"bars": 0, "best": None, "best_sharpe": None, "best_bars": None, "last": None, "hashes": {}}
        return tree

    rewrite(run, changed)
    shutil.rmtree(run / "policies")
    shutil.rmtree(run / "phase_1" / "forex" / NEWEST)


def rewrite(run: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change a run's manifest as this project itself would, with its checksum and its second copy."""
    tree = json.loads((run / manifest_file.FILE).read_text())
    tree.pop(manifest_file.CHECKSUM)
    manifest_file.write(run, change(tree))


def both_copies(run: Path) -> list[Path]:
    return [run / manifest_file.FILE, run / manifest_file.BACKUP]


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
