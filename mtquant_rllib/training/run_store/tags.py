"""Tags of a run: words by which runs are found and compared together. They shape nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mtquant_rllib import durable, strict_json
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.records.ownership import within
from mtquant_rllib.training.records.path_names import name_fault, shown

FILE = "tags.json"


def tags_of(run: Path) -> tuple[str, ...]:
    """Of a run, in alphabetical order; none where the file is not there or cannot be read."""
    try:
        found = json.loads((run / FILE).read_bytes())
    except (OSError, ValueError):
        return ()
    return tuple(sorted({tag for tag in found if isinstance(tag, str)})) if isinstance(found, list) else ()


def change_tags(run: Path, add: Iterable[str] = (), remove: Iterable[str] = ()) -> tuple[str, ...]:
    """Add and remove tags, and return those that the run has then.

    Raises
    ------
    ConfigError
        When a tag is none: it is made like a run's name.
    """
    for tag in add:
        if (fault := name_fault(tag)) is not None:
            raise ConfigError(f"tag {shown(tag)}: it {fault}; expected letters, digits, - and _")
    tags = sorted({*tags_of(run), *add} - set(remove))
    durable.replace_file(within(run, run / FILE), strict_json.dumps(tags).encode())
    return tuple(tags)
