"""Signatures of checkpoints: those that this user's processes wrote are loaded, others with --trust alone.

RLlib's checkpoints hold pickles, and loading a pickle runs whatever code it names. A run that came from elsewhere, or
was changed on its way, must not do so unasked. Each user has a secret key in a file of their own. It signs the index of
each checkpoint (HMAC-SHA-256), and the index has the checksums of all files. Without a valid signature a checkpoint is
loaded only with `--trust`. The trial signs what it writes where the key can be read; on other machines of a cluster it
cannot, and the process that runs the experiment signs as soon as it hears of the checkpoint.

The key never leaves its file: not into logs, manifests, checkpoints or Ray's environment.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path

from mtquant_rllib import durable, strict_json
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records.checkpoints import INDEX, SIGNATURE

KEY_VARIABLE = "MTQUANT_KEY_FILE"
"""Environment variable that names the key's file, where the home folder does not outlive the machine."""
_BYTES = 32


def key_file() -> Path:
    """$MTQUANT_KEY_FILE, else `mtquant/key` under $XDG_CONFIG_HOME or `~/.config`."""
    named = os.environ.get(KEY_VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "mtquant" / "key"


def user_key() -> bytes:
    """This user's key, made at first use, readable by this user alone.

    Raises
    ------
    RunError
        When it cannot be read or made.
    """
    path = key_file()
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            aside = path.with_name(f".{path.name}.{os.getpid()}")
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_BYTES))
            try:
                os.link(aside, path)
            except FileExistsError:
                pass
            finally:
                aside.unlink()
        key = path.read_bytes()
    except OSError as error:
        raise RunError(
            f"{path}: the key that signs this user's checkpoints cannot be read or made ({error.strerror}); "
            f"name a file that can be written in ${KEY_VARIABLE}"
        ) from None
    if len(key) != _BYTES:
        raise RunError(f"{path}: expected a key of {_BYTES} bytes, found {len(key)}; remove the file to make a new one")
    return key


def code_of(content: bytes, key: bytes) -> str:
    """The keyed signature of some bytes (HMAC-SHA-256)."""
    return hmac.new(key, content, hashlib.sha256).hexdigest()


def sign(checkpoint: Path, key: bytes) -> None:
    """Sign a checkpoint's index."""
    durable.replace_file(checkpoint / SIGNATURE, signature_of((checkpoint / INDEX).read_bytes(), key))


def signature_of(index: bytes, key: bytes) -> bytes:
    """What stands in the signature of a checkpoint with this index."""
    return strict_json.dumps({"hmac_sha256": code_of(index, key)}).encode()


def sign_where_keyed(checkpoint: Path) -> None:
    """Sign a checkpoint's index where this user's key lies on this machine; elsewhere nothing happens."""
    with contextlib.suppress(OSError):
        key = key_file().read_bytes()
        if len(key) == _BYTES:
            sign(checkpoint, key)


def is_ours(checkpoint: Path, key: bytes) -> bool:
    """Whether a checkpoint's index bears this user's signature."""
    try:
        found = json.loads((checkpoint / SIGNATURE).read_text())["hmac_sha256"]
        return hmac.compare_digest(str(found), _code(checkpoint, key))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _code(checkpoint: Path, key: bytes) -> str:
    return code_of((checkpoint / INDEX).read_bytes(), key)
