"""`lineage.json` in the folder of a run of a population: which trials' states it took over, and its values since."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mtquant_rllib import durable, strict_json

FILE = "lineage.json"


def read(run: Path) -> list[dict[str, Any]]:
    """By round; empty where it took over none."""
    try:
        found: list[dict[str, Any]] = json.loads((run / FILE).read_bytes())
    except FileNotFoundError:
        return []
    return found


def newest_round(run: Path) -> int:
    """The round in which it last took over a state; 0 for none."""
    return max((int(one["round"]) for one in read(run)), default=0)


def note(run: Path, taken: dict[str, Any]) -> None:
    """Written once all of the state is there, so that a process that is killed meanwhile takes over again."""
    durable.replace_file(run / FILE, strict_json.dumps([*read(run), taken], indent=1).encode())
