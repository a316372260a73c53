"""`mtquant export`: a run as a folder that decides without it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mtquant_rllib.commands.command import DEFAULT_CONFIG, add_command
from mtquant_rllib.errors import ConfigError


def add_export(commands: Any) -> None:
    export = add_command(
        commands,
        "export",
        _export,
        "write everything that a run, or an ensemble, needs to decide: safetensors and JSON, without pickles or Ray",
        "mtquant export runs/real --to systems/real",
    )
    export.add_argument("run_folder", metavar="RUN", help="the run's folder, or its name under runs/; or an ensemble's")
    export.add_argument(
        "--to", type=Path, metavar="FOLDER", help="a new or empty folder (default: exports/ and the run's name)"
    )
    export.add_argument(
        "--phase", type=int, choices=(1, 2, 3), help="policies after this phase (default: the newest that is done)"
    )


def _export(args: argparse.Namespace) -> None:
    if args.config != DEFAULT_CONFIG or args.overrides:
        raise ConfigError("mtquant export: a run decides with its own settings; --config and --set have no place here")
    from mtquant_rllib.serving.exporting import export_system

    folder, document = export_system(args.run_folder, args.to, phase=args.phase)
    members = f", {len(document.members)} members" if len(document.members) > 1 else ""
    print(f"{document.kind} {document.fingerprint}, policies after phase {document.source['phase']}{members}: {folder}")
    print(f"in Python: mtquant_rllib.TradingSystem.from_checkpoint({str(folder)!r})")
