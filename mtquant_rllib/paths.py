"""Paths that a person names: of files on a disk, not addresses of an object store."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mtquant_rllib.errors import RunError

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
"""`s3://bucket/x`, and what `Path` makes of it, `s3:/bucket/x`."""


def on_disk(name: str | Path, what: str) -> Path:
    """The path of a file or folder on a disk. what: it is, for the error.

    Raises
    ------
    RunError
        When it is an address, which would become a folder named `s3:` here.
    """
    text = os.fspath(name)
    if (address := _ADDRESS.match(text)) is not None:
        raise RunError(
            f"{text}: {what} has to lie on a disk, and this is an address ({address[1]}:). Name a folder; on a cluster "
            "one that every node mounts (NFS, EFS, Filestore, Azure Files), and copy it to the object store and back "
            "with its own tool (aws s3 sync, gcloud storage rsync, azcopy sync)"
        )
    return Path(text)
