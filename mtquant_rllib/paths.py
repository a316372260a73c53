"""Names that a person gives: paths of files on a disk, and addresses in an object store."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mtquant_rllib.errors import RunError

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "abfss")
"""Of the object stores that `object_store` reaches."""
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
"""`s3://bucket/x`, and what `Path` makes of it, `s3:/bucket/x`."""


def is_address(name: str | os.PathLike[str]) -> bool:
    """Whether this names something in an object store."""
    found = _ADDRESS.match(os.fspath(name))
    return found is not None and found[1] in SCHEMES


def address_of(name: str | os.PathLike[str]) -> str:
    """The address, with both slashes and none at its end.

    Raises
    ------
    RunError
        When it is none, or names no bucket.
    """
    text = os.fspath(name)
    found = _ADDRESS.match(text)
    if found is None or found[1] not in SCHEMES or not text[found.end() :].strip("/"):
        raise RunError(f"{text}: expected an address such as s3://bucket/path ({', '.join(SCHEMES)})")
    return f"{found[1]}://{text[found.end() :].rstrip('/')}"


def on_disk(name: str | Path, what: str) -> Path:
    """The path of a file or folder on a disk. what: it is, for the error.

    Raises
    ------
    RunError
        When it is an address, which would become a folder named `s3:` here.
    """
    text = os.fspath(name)
    if (address := _ADDRESS.match(text)) is not None:
        known = address[1] in SCHEMES
        cure = "name a folder" if known else f"name a folder, or an address of {', '.join(SCHEMES)}"
        raise RunError(f"{text}: {what} has to lie on a disk, and this is an address ({address[1]}:); {cure}")
    return Path(text)
