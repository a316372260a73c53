"""Folders in an object store, through `pyarrow.fs`: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob.

    s3://bucket/path       AWS_* as any AWS tool reads them; AWS_ENDPOINT_URL for another server (MinIO, Ceph, R2)
    gs://bucket/path       the application default credentials of Google Cloud
    az://container/path    AZURE_STORAGE_ACCOUNT, and AZURE_STORAGE_KEY or the machine's own identity;
                           or abfss://container@account.dfs.core.windows.net/path

An object store has no folders that can be renamed and no files that can be appended to. So nothing is worked on there:
a working copy on a disk is, and files go back and forth as a whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar
from urllib.parse import urlsplit

from pyarrow import ArrowInvalid, fs

from mtquant_rllib.errors import RunError
from mtquant_rllib.paths import address_of

P = ParamSpec("P")
T = TypeVar("T")
ENDPOINT_SECONDS = 5
"""How long a store's server may take to accept a connection."""
_THREADS = 8
_PAUSES_S = (0.5, 2.0)
_BLOCK = 1 << 20
_REASON = re.compile(r"AWS Error (\w+)|(PERMISSION_DENIED|UNAUTHENTICATED)")
_CLUTTER = re.compile(r" ?\(Request ID:[^)]*\)| ?Detail:.*")
_FINAL = {
    "ACCESS_DENIED": errno.EACCES,
    "INVALID_ACCESS_KEY_ID": errno.EACCES,
    "SIGNATURE_DOES_NOT_MATCH": errno.EACCES,
    "PERMISSION_DENIED": errno.EACCES,
    "UNAUTHENTICATED": errno.EACCES,
    "NO_SUCH_BUCKET": errno.EPERM,
}
"""What no waiting heals, as the error of an operating system."""
_GONE = ("RESOURCE_NOT_FOUND", "NO_SUCH_KEY")


class FileStat(NamedTuple):
    """What a listing says of a file. modified_ns: since 1970, by the store's clock."""

    bytes: int
    modified_ns: int


@lru_cache(maxsize=64)
def _filesystem(root: str) -> fs.FileSystem:
    """The file system of a bucket. Kept: S3's resolves the bucket's region when it is made."""
    scheme = root.split(":", 1)[0]
    if scheme == "az":
        account = os.environ.get("AZURE_STORAGE_ACCOUNT")
        if not account:
            raise RunError(
                f"{root}: set AZURE_STORAGE_ACCOUNT, or write abfss://container@account.dfs.core.windows.net/path"
            )
        return fs.AzureFileSystem(account_name=account, account_key=os.environ.get("AZURE_STORAGE_KEY"))
    # A small file is one request then, not three.
    query = "?allow_delayed_open=true" if scheme == "s3" else ""
    return fs.FileSystem.from_uri(root + query)[0]


def expect_endpoint(address: str) -> None:
    """Where nothing listens at the server that AWS_ENDPOINT_URL names for an address, say so at once: the library
    itself tries for long. For the beginning of a command; a store that goes away later is waited for.

    Raises
    ------
    RunError
        With the cure.
    """
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not url or not address.startswith("s3:"):
        return
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=ENDPOINT_SECONDS).close()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise RunError(
            f"{address}: nothing answers at AWS_ENDPOINT_URL = {url} ({why}); see to the bucket, its credentials and "
            "the way there"
        ) from error


@contextlib.contextmanager
def _answered(address: str) -> Iterator[None]:
    """What the store's library raises, as an OSError with a number and one line."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        text = " ".join(str(error).split())
        found = _REASON.search(text)
        reason = next(filter(None, found.groups()), "") if found else ""
        if reason in _GONE:
            raise FileNotFoundError(errno.ENOENT, "no such file", address) from error
        said = _CLUTTER.sub("", text).strip()[:300]
        raise OSError(_FINAL.get(reason, errno.EIO), said, address) from error


def _tried_again(transfer: Callable[P, T]) -> Callable[P, T]:
    """Once more, and once again, where the store failed for a moment."""

    @wraps(transfer)
    def attempts(*words: P.args, **named: P.kwargs) -> T:
        for wait in _PAUSES_S:
            try:
                return transfer(*words, **named)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                time.sleep(wait)
        return transfer(*words, **named)

    return attempts


@dataclass(frozen=True)
class Store:
    """A folder in an object store; paths are relative to it.

    Every method raises OSError where the store does not answer or refuses: EACCES and EPERM where waiting cannot help.
    """

    address: str
    filesystem: fs.FileSystem
    base: str

    @classmethod
    def at(cls, name: str | os.PathLike[str]) -> Store:
        """The folder at an address, whether anything is there or not.

        Raises
        ------
        RunError
            When it is no address, or of an unknown form.
        """
        address = address_of(name)
        scheme, _, rest = address.partition("://")
        bucket, _, path = rest.partition("/")
        try:
            with _answered(address):
                filesystem = _filesystem(f"{scheme}://{bucket}")
        except (ArrowInvalid, ValueError) as error:
            raise RunError(f"{address}: {str(error).splitlines()[0]}") from None
        container = bucket.split("@")[0]
        return cls(address, filesystem, f"{container}/{path}" if path else container)

    def _place(self, path: str) -> str:
        return f"{self.base}/{path}" if path else self.base

    @_tried_again
    def files(self, below: str = "") -> dict[str, FileStat]:
        """Every file below a folder, by its path; empty where there is nothing.

        Raises
        ------
        RunError
            When a name would lead out of a folder on a disk: anybody may have written it.
        """
        with _answered(self.address):
            found = self.filesystem.get_file_info(
                fs.FileSelector(self._place(below), recursive=True, allow_not_found=True)
            )
        start = len(self.base) + 1
        files = {
            info.path[start:]: FileStat(info.size, info.mtime_ns or 0)
            for info in found
            if info.type is fs.FileType.File and not info.path.endswith("/")
        }
        for path in files:
            if any(part in ("", ".", "..") for part in path.split("/")) or "\0" in path:
                raise RunError(f"{self.address}: {path!a} is no name for a file, and nothing is brought here")
        return files

    @_tried_again
    def stat(self, path: str = "") -> FileStat | None:
        """Of one file; None where there is none."""
        with _answered(self.address):
            (info,) = self.filesystem.get_file_info([self._place(path)])
        return FileStat(info.size, info.mtime_ns or 0) if info.type is fs.FileType.File else None

    @_tried_again
    def read(self, path: str) -> bytes | None:
        """A file's content; None where it is not there."""
        try:
            with _answered(self.address), self.filesystem.open_input_stream(self._place(path)) as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None

    @_tried_again
    def write(self, path: str, content: bytes) -> None:
        """Put a file there, as a whole or not at all."""
        with _answered(self.address), self.filesystem.open_output_stream(self._place(path)) as file:
            file.write(content)

    @_tried_again
    def upload(self, source: Path, path: str) -> None:
        """Put a file of this machine there."""
        with (
            _answered(self.address),
            open(source, "rb") as own,
            self.filesystem.open_output_stream(self._place(path)) as file,
        ):
            while block := own.read(_BLOCK):
                file.write(block)

    @_tried_again
    def download(self, path: str, target: Path) -> None:
        """Bring a file here: beside its place, then renamed, so that nobody sees a part of it."""
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}")
        try:
            with (
                _answered(self.address),
                self.filesystem.open_input_stream(self._place(path)) as file,
                open(aside, "wb") as own,
            ):
                while block := file.read(_BLOCK):
                    own.write(block)
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)

    @_tried_again
    def remove_file(self, path: str) -> None:
        with _answered(self.address), contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(self._place(path))

    @_tried_again
    def remove_folder(self, path: str) -> None:
        with _answered(self.address), contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_dir(self._place(path))

    def probe(self) -> None:
        """Write a file, read it, remove it."""
        path, word = f".mtquant-probe-{secrets.token_hex(4)}", secrets.token_bytes(64)
        self.write(path, word)
        try:
            if self.read(path) != word:
                raise OSError(errno.EIO, "what was written is not what is read", self.address)
        finally:
            self.remove_file(path)


def in_parallel(transfer: Callable[[str], None], paths: Iterable[str]) -> None:
    """Move several files at a time. Raises the first error."""
    paths = list(paths)
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(transfer, paths):
            pass


def downloaded(name: str | os.PathLike[str], folder: Path) -> Path:
    """A file of an object store, or a folder of files, as a copy below `folder` that is as new as the original.

    Raises
    ------
    RunError
        When nothing is there.
    OSError
        When the store does not answer.
    """
    expect_endpoint(address_of(name))
    store = Store.at(name)
    target = folder / Path(store.base).name
    single = store.stat()
    files: dict[str, FileStat] = {"": single} if single is not None else store.files()
    if not files:
        raise RunError(f"{store.address}: no such file or folder")
    places = {path: target / path if path else target for path in files}
    stale = [path for path, stat in files.items() if not _is_copy(places[path], stat)]
    in_parallel(lambda path: _copied(store, path, places[path], files[path]), stale)
    if single is None:
        _forget_others(target, [places[path] for path in files])
    return target


def _copied(store: Store, path: str, place: Path, stat: FileStat) -> None:
    store.download(path, place)
    os.utime(place, ns=(stat.modified_ns, stat.modified_ns))


def _is_copy(place: Path, stat: FileStat) -> bool:
    try:
        found = place.stat()
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == stat


def _forget_others(folder: Path, known: Sequence[Path]) -> None:
    """Remove copies of files that are no longer there."""
    for path in set(folder.rglob("*")) - set(known):
        if path.is_file():
            path.unlink()
