"""The last lines of a run's log that tell of an error."""

from __future__ import annotations

import re
from pathlib import Path

LOG = "run.log"
_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ")
_TELLS = ("ended: ", "ended by an error", "damaged checkpoint", "storage: ", "waiting for storage", "was lost")
"""How the lines begin, or what they contain, that the curriculum writes when something went wrong."""
_TAIL_BYTES = 256_000
"""The end of the log that is looked through."""


def last_errors(run: Path, most: int) -> list[str]:
    """The last `most` entries, oldest first, each with its time; of an entry of many lines the first and the last."""
    try:
        with open(run / LOG, "rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - _TAIL_BYTES, 0))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    entries: list[list[str]] = []
    for line in text.splitlines():
        if _STAMP.match(line):
            entries.append([line])
        elif entries and line.strip():
            entries[-1].append(line.strip())
    errors = [entry for entry in entries if any(word in entry[0] for word in _TELLS)]
    return [entry[0] if len(entry) == 1 else f"{entry[0]}  [...]  {entry[-1]}" for entry in errors[-most:]]
