"""`mtquant ledger`: show and verify the ledger of trials."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtquant_rllib.commands.command import add_command, add_family
from mtquant_rllib.commands.run_store import print_table, printable
from mtquant_rllib.errors import RunError

if TYPE_CHECKING:
    from mtquant_rllib.training.records.ledger import Entry, Ledger


class DamagedLedger(RunError):
    """A ledger of which some line is not as it was written."""

    exit_code = 1


def add_ledger(commands: Any) -> None:
    kinds = add_family(
        commands,
        "ledger",
        "show every training and every look at bars, from which the number of trials is counted, and verify them",
        "mtquant ledger show && mtquant ledger verify",
        word="WHAT",
        dest="what",
    )
    for name, run, help in (
        ("show", _show, "list the trainings and looks that the ledger of a folder of runs has"),
        ("verify", _verify, "check that no line was changed, taken out or cut off; exit code 1 where one was"),
    ):
        parser = add_command(kinds, name, run, help, f"mtquant ledger {name} runs/")
        parser.add_argument(
            "folder", type=Path, nargs="?", default=Path("runs"), metavar="FOLDER", help="default: %(default)s/"
        )


def _ledger(folder: Path) -> Ledger:
    from mtquant_rllib.training.records.ledger import FILE, Ledger

    if not (folder / FILE).is_file():
        raise RunError(f"{folder / FILE}: no such ledger; the first training in this folder begins one")
    return Ledger(folder / FILE)


def _show(args: argparse.Namespace) -> None:
    contents = _ledger(args.folder).read()
    head = ("line", "time", "who", "what", "run", "bars", "split", "came out")
    print_table(head, [_row(entry) for entry in contents.entries], right=(0,))
    trials = [entry for entry in contents.entries if entry.kind == "training"]
    print(f"{len({entry.values.get('trial') for entry in trials})} different trainings")
    for fault in contents.faults:
        print(f"damaged: {printable(fault)}")


def _row(entry: Entry) -> tuple[str, ...]:
    values = entry.values
    market = values.get("market") or {}
    bars = f"{market.get('first')} to {market.get('last')}" if market.get("kind") == "file" else str(market.get("kind"))
    sharpe = values.get("sharpe_ann")
    outcome = "" if sharpe is None else f"Sharpe {sharpe:.2f}, {values.get('finding', 'no verdict')}"
    what = values.get("why") or entry.kind
    cells = (values.get("time"), values.get("who"), what, values.get("run"), bars, values.get("split") or "", outcome)
    return (str(entry.number), *(printable(str(cell)) for cell in cells))


def _verify(args: argparse.Namespace) -> None:
    ledger = _ledger(args.folder)
    faults = ledger.verify()
    for fault in faults:
        print(f"DAMAGED  {printable(fault)}")
    if faults:
        raise DamagedLedger(f"{ledger.path}: {len(faults)} faults")
    print(f"{ledger.path}: all {len(ledger.read().entries)} lines are as they were written")
