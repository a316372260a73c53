"""Shared parts of commands: help with an example, settings, checks of files, a reproducible process, JSON output."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtquant_rllib.errors import RunError
from mtquant_rllib.paths import is_address, on_disk

if TYPE_CHECKING:
    from mtquant_rllib.config import Settings

DEFAULT_CONFIG = "default.yaml"


def add_family(commands: Any, name: str, help: str, example: str, *, word: str, dest: str) -> Any:
    """A command that is followed by another word (`word` in the usage); returns where its commands are added."""
    family = _add_parser(commands, name, help, example)
    return family.add_subparsers(dest=dest, metavar=word, required=True, parser_class=type(family))


def add_command(commands: Any, name: str, run: Callable[[argparse.Namespace], None], help: str, example: str) -> Any:
    parser = _add_parser(commands, name, help, example)
    parser.set_defaults(handler=run)
    parser.add_argument("--config", metavar="FILE", default=DEFAULT_CONFIG, help="settings file (default: %(default)s)")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="override a setting; repeatable",
    )
    return parser


def _add_parser(commands: Any, name: str, help: str, example: str) -> Any:
    return commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def settings_of(args: argparse.Namespace) -> Settings:
    from mtquant_rllib.config import Settings

    return Settings.load(args.config, args.overrides)


def check_files(*paths: Path | None) -> None:
    """Raises RunError for a path that is given and not there, or is none. What an address names is asked for later."""
    for path in paths:
        if path is not None and not is_address(path) and not on_disk(path, "a market file").exists():
            raise RunError(f"{path}: no such file or folder")


def reproducible() -> None:
    """Go on in a process whose hashes are the same every time; returns where they are already."""
    from mtquant_rllib.training.session.process_variables import reexec_with_variables

    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    reexec_with_variables()


def write_json(path: Path, tree: Any) -> None:
    from mtquant_rllib import strict_json

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(strict_json.dumps(tree, indent=1, default=str) + "\n")
