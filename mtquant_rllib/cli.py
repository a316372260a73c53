"""`mtquant`: the command line. Heavy imports wait until a command needs them, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from mtquant_rllib.commands.ablate import add_ablation
from mtquant_rllib.commands.audit import add_audit
from mtquant_rllib.commands.bench.measurements import add_benches
from mtquant_rllib.commands.compare import add_comparison
from mtquant_rllib.commands.data import add_data
from mtquant_rllib.commands.doctor import add_doctor
from mtquant_rllib.commands.export import add_export
from mtquant_rllib.commands.journal import add_journal
from mtquant_rllib.commands.ledger import add_ledger
from mtquant_rllib.commands.risk import add_risk
from mtquant_rllib.commands.run_store import add_run_store
from mtquant_rllib.commands.runs import add_inspection, add_judging, add_training
from mtquant_rllib.commands.sweep import add_sweep
from mtquant_rllib.commands.walk_forward import add_walk_forward
from mtquant_rllib.commands.wandb import add_wandb
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.version import VERSION


class _Parser(argparse.ArgumentParser):
    """argparse that names the nearest right word when one is wrong."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message}{self._nearest(message)}\n{self.format_usage().strip()}")

    def _nearest(self, message: str) -> str:
        wrong = re.search(r"invalid choice: '?([^'\s]+)|unrecognized arguments: (\S+)", message)
        if wrong is None:
            return ""
        word = (wrong[1] or wrong[2]).split("=")[0]
        commands, options = _words(self)
        near = difflib.get_close_matches(word, sorted(options if word.startswith("-") else commands), n=1, cutoff=0.5)
        return f"; did you mean {near[0]}?" if near else ""


def _words(parser: argparse.ArgumentParser) -> tuple[set[str], set[str]]:
    """Commands and options of a parser and of those below it."""
    commands: set[str] = set()
    options: set[str] = set()
    for action in parser._actions:
        options.update(action.option_strings)
        if isinstance(action.choices, dict):
            for name, below in action.choices.items():
                more = _words(below)
                commands |= {name, *more[0]}
                options |= more[1]
    return commands, options


class _UsageError(MtquantError):
    """A command line that cannot be read."""


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mtquant",
        description="Twelve RLlib policies trade eight instruments as one desk, with risk having the last word.",
        epilog="example:\n  mtquant train --run runs/first --budget-scale 0.02 && mtquant evaluate runs/first",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    add_data(commands)
    add_training(commands)
    add_sweep(commands)
    add_walk_forward(commands)
    add_ablation(commands)
    add_doctor(commands)
    add_run_store(commands)
    add_ledger(commands)
    add_journal(commands)
    add_risk(commands)
    add_audit(commands)
    add_benches(commands)
    add_judging(commands)
    add_comparison(commands)
    add_inspection(commands)
    add_export(commands)
    add_wandb(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it is done, else a clear message and its code: 2 refused, 1 failed, 128 + a signal's
    number."""
    try:
        args = build_parser().parse_args(argv)
        args.handler(args)
    except MtquantError as error:
        print(f"mtquant: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("mtquant: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read what is printed has had enough; Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return 0


if __name__ == "__main__":
    sys.exit(main())
