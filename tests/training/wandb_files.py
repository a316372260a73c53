"""What W&B's own files in a run's folder say, read back record by record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.reporting.weights_and_biases import transaction_log

PROTO: Any = wandb_internal_pb2


def records_of(run: Path, name: str) -> list[Any]:
    """Every record of the W&B run of a trial, over all its files."""
    found = []
    for path in transaction_log.files_of(run, f"{Manifest.read(run).id}-{name}"):
        for content in transaction_log.records(path):
            found.append(PROTO.Record())
            found[-1].ParseFromString(content)
    return found


def kind_of(records: list[Any], kind: str) -> list[Any]:
    return [getattr(record, kind) for record in records if record.WhichOneof("record_type") == kind]


def rows_of(run: Path, name: str) -> list[dict[str, Any]]:
    return [transaction_log.row_of(row) for row in kind_of(records_of(run, name), "history")]


def bars_of(run: Path, name: str) -> list[int]:
    return [row["bars"] for row in rows_of(run, name) if "bars" in row]


def names_of(run: Path) -> set[str]:
    """The W&B runs that there are: `phase_1-forex` and so on."""
    before = f"run-{Manifest.read(run).id}-"
    return {path.stem.removeprefix(before) for path in transaction_log.files_of(run)}
