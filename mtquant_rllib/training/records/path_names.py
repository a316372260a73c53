"""Names that become folders and files: what is wrong with one, and the types of the fields that hold them in records.

A record of a run is read from disk, where anyone may have written it. A field that names a path is joined to the run's
folder, so its type lets through only a relative path without `..`, and no character that a person would not see.
"""

from __future__ import annotations

import os
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

HIDDEN = {
    "Cc": "a control character",
    "Cf": "an invisible or direction-changing character",
    "Cs": "a byte that is no text",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}
"""Unicode categories whose characters a person does not see in a name, or sees as something else."""

_NAME_MAX = "PC_NAME_MAX"


def shown(name: str) -> str:
    """The name in quotes, with every character that is not plain ASCII escaped, so that a message about it cannot be
    disturbed by it."""
    return ascii(name)


def hidden_character(text: str, categories: tuple[str, ...] = tuple(HIDDEN)) -> str | None:
    """What the first such character of the text is, with its code point, or None."""
    for character in text:
        category = unicodedata.category(character)
        if category in categories:
            return f"{HIDDEN[category]} (U+{ord(character):04X})"
    return None


def name_fault(name: str) -> str | None:
    """Why this cannot be the name of one folder or file, or None. Reads as `NAME ...`."""
    if not name:
        return "is empty"
    if not name.replace(".", "").strip():
        return "consists of dots and spaces only"
    if "/" in name:
        return "contains a /"
    if (found := hidden_character(name)) is not None:
        return f"contains {found}"
    if len(os.fsencode(name)) > (longest := os.pathconf("/", _NAME_MAX)):
        return f"is longer than a file name can be ({longest} bytes)"
    return None


def path_fault(path: str) -> str | None:
    """Why this is no path inside a run's folder, or None. Reads as `PATH ...`."""
    if not path:
        return "is empty"
    if path.startswith("/"):
        return "is an absolute path"
    parts = path.split("/")
    if ".." in parts:
        return "leads upwards (..)"
    return next((f"is no path: a part of it {fault}" for part in parts if (fault := name_fault(part))), None)


def _name(value: str) -> str:
    if (fault := name_fault(value)) is not None:
        raise ValueError(f"{shown(value)} {fault}")
    return value


def _path(value: str) -> str:
    if (fault := path_fault(value)) is not None:
        raise ValueError(f"{shown(value)} {fault}; expected a path inside the run's folder")
    return value


FileName = Annotated[str, AfterValidator(_name)]
"""One component of a path: the name of a trial or a module."""

InnerPath = Annotated[str, AfterValidator(_path)]
"""A path relative to the run's folder that stays inside it, as far as its text tells; `ownership.within` looks at the
links on the way."""

Sha256 = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]
