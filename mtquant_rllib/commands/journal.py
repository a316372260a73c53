"""`mtquant journal`: verify, show and replay the journal of a trading process."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtquant_rllib.commands.command import add_command, add_family
from mtquant_rllib.commands.run_store import print_table, printable
from mtquant_rllib.errors import RunError

if TYPE_CHECKING:
    from mtquant_rllib.serving.execution.journal_file import Event
    from mtquant_rllib.serving.execution.trading_state import TradingState

_LONGEST_BODY = 100
"""Characters of an event's body in the table; `--json` has all of it."""


def add_journal(commands: Any) -> None:
    kinds = add_family(
        commands,
        "journal",
        "verify, show and replay the journal of a trading process, also while it trades",
        "mtquant journal verify desk.journal && mtquant journal replay desk.journal",
        word="WHAT",
        dest="what",
    )
    for name, run, help, example in (
        (
            "verify",
            _verify,
            "check that no event was changed, taken out, put in or moved; exit code 1 where one was",
            "",
        ),
        ("show", _show, "list events", " --kind report --last 20"),
        (
            "replay",
            _replay,
            "fold the events to the state that they add up to: positions, orders, account",
            " --until 100",
        ),
    ):
        parser = add_command(kinds, name, run, help, f"mtquant journal {name} desk.journal{example}")
        parser.add_argument("path", type=Path, metavar="PATH", help="the journal")
        parser.add_argument("--json", action="store_true", help="print JSON")
        if name == "verify":
            parser.add_argument(
                "--noted",
                metavar="HASH",
                help="a hash that was noted earlier; an error where the journal has it no more",
            )
        if name == "show":
            parser.add_argument("--kind", metavar="KIND", help="events of this kind alone")
            parser.add_argument("--last", type=_count, metavar="N", help="the last N of them")
        if name == "replay":
            parser.add_argument("--until", type=_count, metavar="NUMBER", help="up to this event (default: all)")


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise RunError(f"{text}: expected at least 1")
    return number


def _events(path: Path) -> tuple[list[Event], list[str]]:
    """(events, faults); what cannot be folded is a fault too."""
    from mtquant_rllib.serving.execution.journal_file import DamagedJournal, checked, opened_to_read
    from mtquant_rllib.serving.execution.trading_state import fold

    with opened_to_read(path) as connection:
        events, faults = checked(connection)
    if not faults:
        try:
            fold(events)
        except DamagedJournal as error:
            faults.append(str(error))
    return events, faults


def _whole_events(path: Path) -> list[Event]:
    from mtquant_rllib.serving.execution.journal_file import DamagedJournal

    events, faults = _events(path)
    if faults:
        raise DamagedJournal(f"{path}: {faults[0]} ({len(faults)} in all: mtquant journal verify)")
    return events


def _verify(args: argparse.Namespace) -> None:
    from mtquant_rllib.serving.execution.journal_file import DamagedJournal

    events, faults = _events(args.path)
    if args.noted is not None and args.noted not in {event.hash for event in events}:
        faults.append(f"no event has the noted hash {args.noted}: events were cut off or written anew")
    head = events[-1].hash if events else None
    if args.json:
        _print_json({"path": str(args.path), "events": len(events), "hash": head, "faults": faults})
    else:
        for fault in faults:
            print(f"DAMAGED  {printable(fault)}")
    if faults:
        raise DamagedJournal(f"{args.path}: {len(faults)} faults")
    if not args.json:
        print(f"{args.path}: all {len(events)} events are as they were written; the last has the hash {head}")


def _show(args: argparse.Namespace) -> None:
    from mtquant_rllib.serving.execution.trading_state import KINDS

    if args.kind is not None and args.kind not in KINDS:
        raise RunError(f"--kind {args.kind}: expected one of {', '.join(KINDS)}")
    events = [event for event in _whole_events(args.path) if args.kind in (None, event.kind)]
    events = events if args.last is None else events[-args.last :]
    if args.json:
        _print_json([event.to_dict() for event in events])
        return
    print_table(("event", "time", "kind", "what"), [_row(event) for event in events], right=(0,))


def _row(event: Event) -> tuple[str, ...]:
    text = event.text if len(event.text) <= _LONGEST_BODY else f"{event.text[: _LONGEST_BODY - 3]}..."
    return str(event.number), printable(event.time_utc), printable(event.kind), printable(text)


def _replay(args: argparse.Namespace) -> None:
    from mtquant_rllib.serving.execution.trading_state import fold

    events = _whole_events(args.path)
    if args.until is not None and args.until > len(events):
        raise RunError(f"--until {args.until}: the journal has {len(events)} events")
    state = fold(events[: args.until])
    if args.json:
        print(state.to_json())
    else:
        _print_state(state)


def _print_state(state: TradingState) -> None:
    print(f"after event {state.number}, {len(state.decisions)} decisions, {len(state.children)} orders at brokers")
    for name, body in (("account", state.account), ("breakers", state.breakers), ("stage", state.capital_stage)):
        if body is not None:
            print(f"{name}: {', '.join(f'{key} {printable(str(value))}' for key, value in body.items())}")
    held = [
        (printable(broker), printable(symbol), str(steps), f"{state.cash_quote.get(broker, {}).get(symbol, 0.0):.2f}")
        for broker, positions in state.positions.items()
        for symbol, steps in positions.items()
    ]
    print_table(("broker", "symbol", "lot steps", "cash from fills"), held, right=(2, 3)) if held else print("flat")
    orders = [
        (printable(child.id), child.side, f"{child.filled_steps}/{child.lot_steps}", str(child.state))
        for child in state.open_orders()
    ]
    if orders:
        print_table(("open order", "side", "filled", "state"), orders, right=(2,))
    for id, reason in state.refused.items():
        print(f"refused: {printable(id)}: {printable(reason)}")


def _print_json(tree: Any) -> None:
    from mtquant_rllib import strict_json

    print(strict_json.dumps(tree, indent=1))
