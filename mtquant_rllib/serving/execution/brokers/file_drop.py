"""A broker that is reached through files: orders are written into one folder, and answers are read from another.

    FOLDER/orders/ORDER.json            the desk writes: an order
    FOLDER/orders/ORDER.cancel.json     the desk writes: what has not filled is to be cancelled
    FOLDER/answers/reports/NUMBER.json  the broker's side writes: report 1, 2, 3, ...
    FOLDER/answers/snapshot.json        the broker's side writes: its record, after each report

Each file appears whole: it is written aside, synced and renamed into place, on both sides. An order that is given again
is the same file with the same content, so it is the same order; the broker's side knows it by its id, also after it has
taken the file away. Names of files are client order ids, which hold letters, digits and `. _ - :` alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_args

from mtquant_rllib import durable, strict_json
from mtquant_rllib.errors import RunError
from mtquant_rllib.paths import on_disk
from mtquant_rllib.serving.execution.brokers.broker import (
    BrokerError,
    BrokerOrder,
    BrokerUnavailable,
    KnownOrder,
    Report,
    ReportKind,
    Snapshot,
)
from mtquant_rllib.serving.orders import Side

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
_REPORT = re.compile(r"[1-9]\d*\.json")
_TEXTS = {"client_order_id", "kind", "reason", "symbol", "side", "currency"}
_WHOLE = {"number", "last_report"}

T = TypeVar("T", Report, KnownOrder)


class FileDropBroker:
    """A `Broker` behind a folder.

    Raises BrokerUnavailable where the folder is away or takes no writes, or where the broker's side has not written its
    record yet; BrokerError for an answer that is none, naming the file.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, on_disk(folder, "a broker's folder")
        self._orders = self._folder / "orders"
        self._reports = self._folder / "answers" / "reports"
        self._snapshot = self._folder / "answers" / "snapshot.json"

    def send(self, order: BrokerOrder) -> None:
        self._drop(f"{_file_name(order.client_order_id)}.json", order.to_dict())

    def cancel(self, client_order_id: str) -> None:
        self._drop(f"{_file_name(client_order_id)}.cancel.json", {"client_order_id": client_order_id})

    def poll(self, after: int) -> Sequence[Report]:
        return [self._report(number) for number in self._numbers() if number > after]

    def snapshot(self) -> Snapshot:
        """The record that the broker's side wrote last; BrokerUnavailable where it has written reports since. An order
        whose file still lies in the folder of orders is the broker's already: it is only not answered yet."""
        tree = self._read(self._snapshot, _snapshot_of)
        if (newest := max(self._numbers(), default=0)) > tree.last_report:
            raise BrokerUnavailable(
                f"{self._name}: {self._snapshot} is of report {tree.last_report}, and there is report {newest}: not "
                "written yet"
            )
        for path in self._listed(self._orders):
            id = path.name.removesuffix(".json")
            if path.suffix == ".json" and not id.endswith(".cancel") and id not in tree.orders:
                found = self._read(path, _order_in_folder)
                tree = Snapshot(
                    tree.last_report, tree.positions, {**tree.orders, id: found}, tree.currency, tree.balance_ccy
                )
        return tree

    def _numbers(self) -> list[int]:
        """Numbers of the reports that are there, in order."""
        return sorted(int(path.stem) for path in self._listed(self._reports) if _REPORT.fullmatch(path.name))

    def _drop(self, name: str, tree: Mapping[str, Any]) -> None:
        try:
            self._orders.mkdir(parents=True, exist_ok=True)
            durable.replace_file(self._orders / name, strict_json.dumps(tree, indent=1).encode())
        except (OSError, RunError) as error:
            raise BrokerUnavailable(f"{self._name}: {error}") from error

    def _listed(self, folder: Path) -> list[Path]:
        if not self._folder.is_dir():
            raise BrokerUnavailable(f"{self._name}: {self._folder}: no such folder")
        try:
            return sorted(folder.iterdir()) if folder.is_dir() else []
        except OSError as error:
            raise BrokerUnavailable(f"{self._name}: {folder}: {error.strerror or error}") from error

    def _report(self, number: int) -> Report:
        report = self._read(self._reports / f"{number}.json", lambda tree: _built(Report, tree))
        if report.number != number or report.kind not in get_args(ReportKind):
            kinds = ", ".join(get_args(ReportKind))
            raise BrokerError(
                f"{self._reports / str(number)}.json: number = {report.number}, kind = {report.kind!r}: expected "
                f"{number}, and one of {kinds}"
            )
        if report.kind in ("filled", "requoted") and report.price is None:
            raise BrokerError(f"{self._reports / str(number)}.json: price: missing")
        return report

    def _read(self, path: Path, build: Callable[[Any], Any]) -> Any:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BrokerUnavailable(f"{self._name}: {path}: {error.strerror or error}") from error
        try:
            return build(json.loads(content))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BrokerError(f"{path}: not an answer of a broker ({error}); see docs/journal.md") from error


def _file_name(client_order_id: str) -> str:
    if not _NAME.fullmatch(client_order_id) or len(client_order_id) > 200:
        raise BrokerError(f"order {client_order_id!r}: its id is no name of a file: letters, digits and . _ - : alone")
    return client_order_id


def _built(kind: type[T], tree: Any) -> T:
    """A report or order of plain values. Raises ValueError, TypeError for what is none."""
    given = dict(tree)
    if unknown := set(given) - {field.name for field in fields(kind)}:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
    for key, value in given.items():
        given[key] = _value(key, value)
    return kind(**given)


def _value(key: str, value: Any) -> Any:
    if key in _TEXTS:
        expected, fits = "text", isinstance(value, str)
    elif key in _WHOLE:
        expected, fits = "a whole number", type(value) is int
    elif key == "is_open":
        expected, fits = "true or false", isinstance(value, bool)
    else:
        expected = "a finite number"
        fits = (type(value) in (int, float) and math.isfinite(value)) or (key == "price" and value is None)
    if not fits:
        raise ValueError(f"{key} = {value!r}: expected {expected}")
    return value


def _snapshot_of(tree: Any) -> Snapshot:
    orders = {str(id): _built(KnownOrder, order) for id, order in tree["orders"].items()}
    if odd := [order.side for order in orders.values() if order.side not in get_args(Side)]:
        raise ValueError(f"side = {odd[0]!r}: expected {' or '.join(get_args(Side))}")
    positions = {str(name): _value("lots", lots) for name, lots in tree["positions"].items()}
    return Snapshot(
        _value("last_report", tree["last_report"]),
        positions,
        orders,
        _value("currency", tree["currency"]),
        _value("balance_ccy", tree["balance_ccy"]),
    )


def _order_in_folder(tree: Any) -> KnownOrder:
    order = {key: tree[key] for key in ("symbol", "side", "lots")}
    return _built(KnownOrder, order | {"filled_lots": 0.0, "is_open": True})
