"""`mtquant doctor`: what would keep a run from training, found before it starts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mtquant_rllib.commands.command import add_command
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.paths import is_address
from mtquant_rllib.training.records.run_names import RUNS, run_path


class DoctorFailed(MtquantError):
    """Some check failed."""

    exit_code = 1


def add_doctor(commands: Any) -> None:
    doctor = add_command(
        commands,
        "doctor",
        _doctor,
        "check settings, market, storage, machines and tracker before a run, and name the cure of what is wrong; exit "
        "code 1 where something is",
        "mtquant doctor --address auto --run /mnt/shared/runs/first --set resources.runners=4",
    )
    doctor.add_argument(
        "--market", type=Path, metavar="FILE", help="bars, file or folder (default: the embedded market)"
    )
    doctor.add_argument("--macro", type=Path, metavar="FILE", help="macro series")
    doctor.add_argument("--run", metavar="NAME", help="the run's folder, or its address in an object store")
    doctor.add_argument("--address", metavar="HOST:PORT", help="a Ray cluster, `auto` for the one of this machine")


def _doctor(args: argparse.Namespace) -> None:
    run = RUNS if args.run is None else args.run if is_address(args.run) else run_path(args.run)
    from mtquant_rllib.doctor.checklist import examine

    failed = 0
    checks = examine(args.config, args.overrides, bars=args.market, macro=args.macro, run=run, address=args.address)
    for finding in checks:
        print(finding.line(), flush=True)
        failed += finding.level == "failed"
    if failed:
        raise DoctorFailed(f"{failed} check{'s' if failed > 1 else ''} failed")
