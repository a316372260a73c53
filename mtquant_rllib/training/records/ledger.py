"""The ledger of trials: every training and every look at a market's bars, one line each, beside the runs.

    runs/mtquant_ledger.jsonl

Whoever tries often enough finds something; how often is what nobody remembers. So each training of other settings and
each evaluation adds a line, none is ever changed, and the number of trials in every deflated figure is counted here: no
setting or option says it. Lines are chained: each holds the hash of the one before it, and an evaluation keeps the hash
of its own line, so that a line that is changed, taken out or cut off is noticed (`mtquant ledger verify`).

Runs in an object store have the ledger of this machine's working copies of them.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import getpass
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtquant_rllib import durable, strict_json
from mtquant_rllib.config import Settings
from mtquant_rllib.config.search_space import settings_with
from mtquant_rllib.env.prepared.data import market_of
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records import ownership
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.version import VERSION

FILE = "mtquant_ledger.jsonl"
RECEIPT = "ledger.json"
"""In the folder of an evaluation: number and hash of its line."""
TRAINING, LOOK, HOLDOUT = "training", "look", "holdout"
_NO_TRIAL = (
    "resources", "tracking", "checkpoints", "evaluation", "search", "serving",
    "risk.var_methods.interval_confidence", "risk.var_methods.resamples", "risk.stress",
    "desk.observation.feature_means",
)  # fmt: skip
"""Settings that shape no policy, or follow from the bars."""
SEEDS, SEEDS_AND_SPLITS = ("seed",), ("seed", "market.splits")
"""What makes no other trial of a sweep's run, whose seeds are averaged, and of a walk-forward test's, whose folds are
stitched together: none of them is chosen."""
_FIRST = "0" * 64


@dataclass(frozen=True)
class Entry:
    """One line. hash: of its bytes. values: what it says, `kind`, `run` and `market` among it."""

    number: int
    hash: str
    values: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.values.get("kind"))


@dataclass(frozen=True)
class LedgerEntries:
    """entries: those that can be read. faults: what is wrong with the file, line by line; empty where nothing is."""

    entries: tuple[Entry, ...]
    faults: tuple[str, ...]

    def trials_on(self, market: Mapping[str, Any]) -> int:
        """How many different trainings there were on a market, or on other bars of the same instruments and days."""
        found = (entry.values for entry in self.entries if entry.kind == TRAINING)
        return len({one.get("trial") for one in found if same_market(one.get("market"), market)})

    def has_training_of(self, manifest: Manifest) -> bool:
        """Whether the training of a run stands there: by itself, or as a part of a sweep, whose seeds are one trial."""
        found = [entry.values for entry in self.entries if entry.kind == TRAINING]
        if manifest.part_of is None:
            return any(one.get("run_id") == manifest.id for one in found)
        settings, scale = manifest.load_settings(), manifest.budget_scale
        own = {trial_id(settings, scale, leave_out=path) for path in (SEEDS, SEEDS_AND_SPLITS)}
        return any(one.get("part_of") == manifest.part_of and one.get("trial") in own for one in found)

    def opened(self, market: Mapping[str, Any]) -> Entry | None:
        """The line that opened a market's last holdout; None while it is closed."""
        found = (entry for entry in self.entries if entry.kind == HOLDOUT)
        return next((one for one in found if same_market(one.values.get("market"), market)), None)


class Ledger:
    """The ledger at a path; the file is made with its first line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def beside(cls, run: Path) -> Ledger:
        """That of a run: in the folder that the run lies in. A sweep's runs have the sweep's."""
        folder = run.resolve().parent
        if (folder / ownership.SWEEP).is_file() or (folder / ownership.REMOTE).is_file():
            folder = folder.parent
        return cls(folder / FILE)

    def append(
        self,
        kind: str,
        run: str,
        market: Mapping[str, Any],
        *,
        after: Callable[[LedgerEntries], None] | None = None,
        **what: Any,
    ) -> Entry:
        """Add a line, synced to the disk; processes that add at the same time take turns.

        after: called with what stands there while nobody else can add to it; what it raises leaves the file as it is.

        Raises
        ------
        RunError
            When the file cannot be written, or is a symbolic link.
        """
        with durable.named_errors(self.path):
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(self.path, flags, 0o666), "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                before = file.read()
                lines = before.splitlines()
                if after is not None:
                    after(_contents(lines))
                values = {
                    "number": len(lines) + 1,
                    "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
                    "who": _user(),
                    "version": VERSION,
                    "kind": kind,
                    "run": run,
                    "market": dict(market),
                    **what,
                    "previous": _hash(lines[-1]) if lines else _FIRST,
                }
                line = strict_json.dumps(values, separators=(",", ":"), default=str).encode()
                # Where the power went in the middle of a line, the next one begins on its own.
                torn = b"" if not before or before.endswith(b"\n") else b"\n"
                file.write(torn + line + b"\n")
                file.flush()
                os.fsync(file.fileno())
        return Entry(values["number"], _hash(line), values)

    def read(self) -> LedgerEntries:
        """Everything that can be read; an empty ledger where there is none yet."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            lines = []
        return _contents(lines)

    def verify(self) -> tuple[str, ...]:
        """What is wrong with the file, and with the receipts that evaluations beside it keep of their lines."""
        contents = self.read()
        hashes = {entry.number: entry.hash for entry in contents.entries}
        faults = list(contents.faults)
        for receipt in sorted(self.path.parent.glob(f"**/evaluation/*/{RECEIPT}")):
            try:
                kept = json.loads(receipt.read_bytes())
                number, digest = int(kept["number"]), str(kept["hash"])
            except (OSError, ValueError, KeyError, TypeError):
                faults.append(f"{receipt}: not readable")
                continue
            if hashes.get(number) != digest:
                gone = "is gone" if number not in hashes else "is another"
                faults.append(f"line {number}, of which {receipt.parent} keeps the hash, {gone}")
        return tuple(faults)


def training_begins(
    run: Path,
    manifest: Manifest,
    *,
    part_of: str | None = None,
    leave_out: tuple[str, ...] = (),
    changes: Mapping[str, Any] | None = None,
) -> None:
    """Note that a run is trained, unless a line says so already.

    Parameters
    ----------
    part_of
        The sweep or walk-forward test that the run belongs to.
    leave_out
        As of `trial_id`.
    changes
        Settings that it goes on with in place of the manifest's, by dotted path.
    """
    ledger, settings = Ledger.beside(run), settings_with(manifest.load_settings(), dict(changes or {}))
    own: dict[str, Any] = {
        "trial": trial_id(settings, manifest.budget_scale, leave_out=leave_out),
        **({"run_id": manifest.id} if part_of is None else {"part_of": part_of}),
    }
    known = (entry.values for entry in ledger.read().entries if entry.kind == TRAINING)
    if not any(own.items() <= one.items() for one in known):
        name = run.name if part_of is None else f"{part_of}/{run.name}"
        facts: dict[str, Any] = {
            "seed": manifest.seed,
            "budget_scale": manifest.budget_scale,
            "phases": manifest.wanted,
        }
        ledger.append(TRAINING, name, market_of(Path(manifest.market.data)), **own, **facts)


def trials_behind(run: Path, evaluation: Path) -> int:
    """Different trainings on the bars of an evaluation of a run, by now: at least 1, which is what it is where the
    ledger does not know the evaluation."""
    contents = Ledger.beside(run).read()
    try:
        number = int(json.loads((evaluation / RECEIPT).read_bytes())["number"])
    except (OSError, ValueError, KeyError, TypeError):
        return 1
    looks = (entry.values.get("market") for entry in contents.entries if entry.number == number)
    return max([1, *(contents.trials_on(market) for market in looks if isinstance(market, Mapping))])


def open_holdout(run: Path, market: Mapping[str, Any], first: str) -> None:
    """Open a market's last holdout, the bars from a day on, for one look.

    Raises
    ------
    RunError
        When it is open already, by any run: a second look would make it one more set of bars to choose by.
    """
    ledger, holdout = Ledger.beside(run), {**market, "first": first}

    def expect_closed(contents: LedgerEntries) -> None:
        if (opened := contents.opened(holdout)) is not None:
            raise RunError(
                f"the last holdout of these bars was opened on {str(opened.values.get('time'))[:10]} by run "
                f"{opened.values.get('run')} (line {opened.number} of {ledger.path}), and opens once; hold out newer "
                "bars, or judge the run on its test split"
            )

    ledger.append(HOLDOUT, run.name, holdout, after=expect_closed)


def trial_id(settings: Settings, budget_scale: float, *, leave_out: tuple[str, ...] = ()) -> str:
    """What makes a training a trial of its own: settings that shape a policy, and the budget. The same training again
    is the same trial.

    leave_out: settings that do not count as others, by dotted path: the seed, where seeds are averaged and none is
    chosen.
    """
    tree = settings.model_dump(mode="json")
    for path in (*_NO_TRIAL, *leave_out):
        *above, last = path.split(".")
        part = tree
        for key in above:
            part = part[key]
        part.pop(last, None)
    text = strict_json.dumps({"settings": tree, "budget_scale": budget_scale}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def same_market(one: Any, other: Mapping[str, Any]) -> bool:
    """Whether two markets, as prepared folders describe them, are the same world: the same synthetic one, or bars of
    some of the same instruments over days that both have. A file with another month in it is no other market."""
    if not isinstance(one, Mapping) or one.get("kind") != other.get("kind"):
        return False
    if one.get("kind") != "file":
        return one.get("content") == other.get("content")
    shared = set(one.get("symbols", ())) & set(other.get("symbols", ()))
    return bool(shared) and max(one["first"], other["first"]) <= min(one["last"], other["last"])


def _contents(lines: Sequence[bytes]) -> LedgerEntries:
    """What the lines of a ledger say, and what is wrong with them."""
    entries, faults, previous = [], [], _FIRST
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            if not isinstance(values, dict):
                raise ValueError("no table")
        except ValueError as error:
            faults.append(f"line {number} is not readable ({error})")
        else:
            entries.append(Entry(number, _hash(line), values))
            if values.get("previous") != previous:
                faults.append(f"line {number} does not follow the one before it: a line was changed or taken out")
            elif values.get("number") != number:
                faults.append(f"line {number} calls itself number {values.get('number')}")
        previous = _hash(line)
    return LedgerEntries(tuple(entries), tuple(faults))


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"
