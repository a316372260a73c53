"""A folder of plain files that holds all that deciding needs: `system.json` and each member's policies.

    folder/
      system.json                 format, kind, calendar, source, members; SHA-256 of every other file and of itself
      member_00/policy.json       settings with feature means; observations, actions, networks (`policies.exported`)
      member_00/EURUSD.safetensors
      ...                         a single desk or allocator is one member, an ensemble has several

Whoever opens it needs neither Ray nor a pickle. Every byte is compared with its checksum first: a file that was cut or
changed is one error that names it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mtquant_rllib import strict_json
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import RunError
from mtquant_rllib.policies.exported import load_exported
from mtquant_rllib.serving.closes import Calendar
from mtquant_rllib.serving.policies import DecidingPolicies

DOCUMENT = "system.json"
FORMAT = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CalendarEntry(_Part):
    """As `serving.closes.Calendar`."""

    bars_per_year: float
    bars_per_year_of: tuple[float, ...]
    days_per_year: float


class SystemDocument(_Part):
    """`system.json`. source: run, phase, seeds and market that the policies come from. equal_allocation: there is no
    meta-controller yet. files: SHA-256 of each file by its path below the folder. sha256: of this document without
    it."""

    format: Literal[1] = 1
    kind: Literal["desk", "allocator"]
    fingerprint: str
    source: dict[str, Any]
    equal_allocation: bool
    calendar: CalendarEntry
    members: tuple[str, ...] = Field(min_length=1)
    files: dict[str, str]
    sha256: str = ""

    def checksum(self) -> str:
        """SHA-256 of everything but `sha256`."""
        tree = self.model_dump(mode="json", exclude={"sha256"})
        return hashlib.sha256(strict_json.dumps(tree, sort_keys=True).encode()).hexdigest()


def is_exported(folder: Path) -> bool:
    """Whether a folder looks like an exported system."""
    return (folder / DOCUMENT).is_file()


def write_system(
    folder: Path, policies: DecidingPolicies, write_members: Sequence[Callable[[Path], object]]
) -> SystemDocument:
    """Write a system into a folder that is there and empty.

    write_members
        For each member, in order, what writes its policies into the folder that it is given.
    """
    names = tuple(f"member_{number:02d}" for number in range(len(write_members)))
    for name, write in zip(names, write_members, strict=True):
        write(folder / name)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    document = SystemDocument(
        kind="allocator" if policies.settings.universe.allocates else "desk",
        fingerprint=policies.fingerprint,
        source=strict_json.json_values(dict(policies.source)),
        equal_allocation=policies.equal_allocation,
        calendar=CalendarEntry(**vars(policies.calendar)),
        members=names,
        files={path.relative_to(folder).as_posix(): _sha256(path) for path in paths},
    )
    document.sha256 = document.checksum()
    (folder / DOCUMENT).write_text(document.model_dump_json(indent=1) + "\n")
    return document


def open_system(folder: Path) -> DecidingPolicies:
    """The policies of an exported folder.

    Raises
    ------
    RunError
        When the folder is none, of another format, or damaged; it names the file.
    """
    document = _document(folder)
    for name, checksum in document.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise RunError(f"{folder / DOCUMENT}: the file {name!r} does not lie in this folder")
        if _sha256(path) != checksum:
            raise RunError(f"{path}: its content is not what {DOCUMENT} says; export the run again")
    if unlisted := [name for name in document.members if f"{name}/policy.json" not in document.files]:
        raise RunError(f"{folder / DOCUMENT}: it lists no policies of {', '.join(unlisted)}; export the run again")
    members = [load_exported(folder / name) for name in document.members]
    settings: Settings = members[0].settings
    calendar = document.calendar
    if len(calendar.bars_per_year_of) != settings.universe.n_instruments:
        raise RunError(
            f"{folder / DOCUMENT}: calendar.bars_per_year_of has {len(calendar.bars_per_year_of)} numbers; expected "
            f"one for each of {', '.join(settings.universe.symbols)}"
        )
    return DecidingPolicies(
        settings,
        tuple(member.states() for member in members),
        document.equal_allocation,
        Calendar(calendar.bars_per_year, calendar.bars_per_year_of, calendar.days_per_year),
        document.source,
        document.fingerprint,
    )


def _document(folder: Path) -> SystemDocument:
    path = folder / DOCUMENT
    try:
        tree: Mapping[str, Any] = json.loads(path.read_text())
        if isinstance(tree, dict) and tree.get("format") != FORMAT:
            raise RunError(f"{path}: format {tree.get('format')!r}, and this version reads {FORMAT}")
        document = SystemDocument.model_validate(tree)
    except (OSError, ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path}: not readable as an exported system ({reason}); export the run again") from None
    if document.sha256 != document.checksum():
        raise RunError(f"{path}: its content is not what was written; export the run again")
    return document


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); export the run again") from None
