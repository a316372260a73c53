"""The two copies of a run's manifest on disk: `manifest.json` and `manifest.backup.json`, each with a checksum.

The checksum tells three cases apart. A copy that is no JSON any more, or not there, is damaged, and the other is used
and the damage named. A copy that is JSON and differs from its checksum was edited, and is refused with what was
changed: the run would no longer be what it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mtquant_rllib import durable, strict_json
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records import damage_warnings
from mtquant_rllib.training.records.path_names import shown

FILE = "manifest.json"
BACKUP = "manifest.backup.json"
CHECKSUM = "checksum"
_DIFFERENCES_SHOWN = 4
_VALUE_SHOWN = 40
"""Characters of a changed value that a message quotes."""


def is_run(run: Path) -> bool:
    """Whether a manifest, or its second copy, is there, whole or not."""
    return (run / FILE).exists() or (run / BACKUP).exists()


def checksum(tree: Any) -> str:
    """SHA-256 of the canonical JSON: keys sorted, no blanks, ASCII."""
    canonical = strict_json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def write(run: Path, tree: dict[str, Any]) -> None:
    """Write both copies, one after the other: at every moment one of them is whole."""
    content = strict_json.dumps({**tree, CHECKSUM: checksum(tree)}, indent=1).encode()
    durable.replace_file(run / FILE, content)
    durable.replace_file(run / BACKUP, content)


@dataclass(frozen=True)
class _Copy:
    """One copy as it was found. tree: without its checksum; why: what is wrong with it."""

    state: Literal["whole", "changed", "damaged", "missing"]
    tree: dict[str, Any]
    why: str = ""


def load(run: Path, trust: bool = False) -> dict[str, Any]:
    """The manifest as plain JSON, from its second copy where the first is damaged or missing.

    trust: take what was edited.

    Raises
    ------
    RunError
        When both copies are damaged or missing, or the manifest was edited.
    """
    first = _look(run / FILE)
    if first.state == "whole":
        return first.tree
    second = _look(run / BACKUP)
    if first.state == "changed":
        if second.state == "whole" and second.tree == first.tree:
            damage_warnings.warn(f"{run / FILE}: its checksum is damaged; {BACKUP}, which says the same, is used")
            return second.tree
        if trust:
            damage_warnings.warn(f"{run / FILE}: {_changes(first, second)}; it is used as it is, on trust")
            return first.tree
        cure = (
            f"put it back (cp {run / BACKUP} {run / FILE})"
            if second.state == "whole"
            else "put it back from a copy of your own"
        )
        raise RunError(
            f"{run / FILE}: {_changes(first, second)}, so the run is no longer what it was; {cure}, or accept it as it "
            "is now with --trust"
        )
    if second.state == "whole" or (trust and second.state == "changed"):
        damage_warnings.warn(
            f"{run / FILE}: {first.why}; {BACKUP} is used in its place, as of {second.tree.get('updated', 'unknown')}"
        )
        return second.tree
    if first.state == second.state == "missing":
        raise FileNotFoundError(run / FILE)
    raise RunError(
        f"{run}: {FILE} {first.why} and {BACKUP} {second.why}, so nothing says what this run is; put one of them back "
        "from a copy, or train a new run under another name (its policies/ and curves/ are left as they are)"
    )


def _look(path: Path) -> _Copy:
    if not path.exists():
        return _Copy("missing", {}, "is missing")
    if not path.is_file():
        # A pipe, say, would be waited for without end.
        return _Copy("damaged", {}, "is no file")
    try:
        tree = json.loads(path.read_bytes().decode("utf-8"))
        if not isinstance(tree, dict):
            raise ValueError(f"expected an object, found {type(tree).__name__}")
        if tree.pop(CHECKSUM, None) == checksum(tree):
            return _Copy("whole", tree)
        return _Copy("changed", tree, "differs from its checksum")
    except OSError as error:
        return _Copy("damaged", {}, f"cannot be read ({error.strerror})")
    except (ValueError, RecursionError) as error:
        return _Copy("damaged", {}, f"is damaged ({error})")


def _changes(first: _Copy, second: _Copy) -> str:
    if second.state != "whole":
        return "it was changed after it was written (it differs from its checksum)"
    if not (found := list(_differences(first.tree, second.tree, ()))):
        return "it was changed after it was written (its checksum is gone)"
    more = f" and {len(found) - _DIFFERENCES_SHOWN} more" if len(found) > _DIFFERENCES_SHOWN else ""
    return f"it was changed after it was written ({'; '.join(found[:_DIFFERENCES_SHOWN])}{more}, says {BACKUP})"


def _differences(now: Any, then: Any, place: tuple[str, ...]) -> Iterator[str]:
    if isinstance(now, dict) and isinstance(then, dict):
        for key in sorted(now.keys() | then.keys()):
            yield from _differences(now.get(key), then.get(key), (*place, key))
    elif now != then:
        yield f"{shown('.'.join(place))[1:-1]} is {_brief(now)} and was {_brief(then)}"


def _brief(value: Any) -> str:
    text = strict_json.dumps(value)
    return text if len(text) <= _VALUE_SHOWN else f"{text[:_VALUE_SHOWN]}..."
