"""Things of one's own that settings name: `package.module:NAME`, or the name under which an installed package offers
them (an entry point). What settings name is found wherever the settings are: in the driver and on every worker."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from mtquant_rllib.errors import ConfigError


def extension(setting: str, name: str, group: str) -> Any:
    """What `name` stands for.

    Parameters
    ----------
    setting
        Where the name stands, for errors.
    group
        Of the entry points that offer such things.

    Raises
    ------
    ConfigError
        When there is no such thing, with what could be done about it.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        offered = {point.name: point for point in entry_points(group=group)}
        if name not in offered:
            there = ", ".join(sorted(offered)) or "none"
            raise ConfigError(
                f"{setting}: no installed package offers {name!r} (offered: {there}); or name it module:NAME"
            )
        return offered[name].load()
    try:
        if not module or module.startswith("."):
            raise ImportError("expected the full name of a module before the colon")
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ConfigError(
            f"{setting}: {name} cannot be imported ({error}); install its package, or put its folder on PYTHONPATH, "
            "on every machine"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"{setting}: {name}: {error}") from error
    except Exception as error:
        # A module of one's own may raise whatever it likes while it is imported.
        raise ConfigError(f"{setting}: {name}: {type(error).__name__}: {error}") from error


def code_hash(compute: Any) -> str:
    """Hash of the file that a function, what a partial calls, or an object's class stands in."""
    found = inspect.unwrap(compute.func if isinstance(compute, functools.partial) else compute)
    if not (inspect.isroutine(found) or inspect.isclass(found)):
        found = type(found)
    try:
        source = Path(inspect.getsourcefile(found) or "").read_bytes()
    except (TypeError, OSError):
        source = f"{found.__module__}.{found.__qualname__}".encode()
    return hashlib.blake2b(source, digest_size=16).hexdigest()
