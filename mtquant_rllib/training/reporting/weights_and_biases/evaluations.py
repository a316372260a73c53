"""Evaluations in W&B: a run each, of job type `evaluation`, with every book as a table, equity and drawdown of all
books, and the files as an artifact made from the policies that were judged."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from pathlib import Path
from typing import Any, Protocol

from mtquant_rllib import durable
from mtquant_rllib.evaluation.report.output import REPORT
from mtquant_rllib.training.curriculum.phases import plan_phase
from mtquant_rllib.training.inspection.evaluation_folder import FOLDER
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.reporting.weights_and_biases import artifacts
from mtquant_rllib.training.reporting.weights_and_biases.identity import Identity, identity_of_evaluation
from mtquant_rllib.training.reporting.weights_and_biases.transaction_log import Logged

_CURVES = {"equity": "equity.csv", "drawdown": "drawdown.csv"}
_TABLES = {"books": "books.csv", "parts": "parts.csv", "regimes": "regimes.csv", "reward_terms": "reward_terms.csv"}
_POINTS = 1000
"""Most points of a drawn curve."""


class LoggedRuns(Protocol):
    """What knows the W&B runs: the follower."""

    def logged_of(self, wandb_id: str) -> Logged: ...

    def opened(self, identity: Identity) -> Any: ...

    def close(self, wandb_id: str) -> None: ...


def reports(run: Path) -> list[Path]:
    """The evaluations that there are."""
    found = (run / FOLDER).rglob(REPORT)
    return sorted(report for report in found if not report.parent.name.startswith(durable.HALF))


def follow(run: Path, manifest: Manifest, report: Path, runs: LoggedRuns) -> None:
    """Log an evaluation unless W&B has it. A folder is one W&B run; what is evaluated into it again is the
    next row of its history, and the next version of its artifact."""
    identity = identity_of_evaluation(manifest, _name_of(run, report.parent))
    digest = hashlib.sha256(report.read_bytes()).hexdigest()
    if digest in runs.logged_of(identity.id).digests:
        return
    _log(runs.opened(identity), run, manifest, report.parent, digest)
    runs.logged_of(identity.id).digests.add(digest)
    runs.close(identity.id)


def _log(begun: Any, run: Path, manifest: Manifest, folder: Path, digest: str) -> None:
    import wandb

    report = json.loads((folder / REPORT).read_text())
    phase = int(report["context"]["facts"].get("phase", 0))
    artifacts.use(begun, artifacts.market(manifest), ["latest"])
    # To use an artifact makes it the latest: policies that others came after are left where they are.
    for plan in plan_phase(manifest.load_settings(), phase) if phase == _last_done(manifest) else ():
        if (policies := artifacts.policies(run, manifest, plan)) is not None:
            artifacts.use(begun, policies, [f"phase_{phase}"])
    row: dict[str, Any] = {"digest": digest}
    for book in report["books"]:
        for name, value in book["all_bars"]["values"].items():
            if isinstance(value, int | float):
                row[f"{book['name']}/{name}"] = value
    for name, file in _TABLES.items():
        if (folder / file).is_file():
            columns, rows = _typed(folder / file)
            row[f"tables/{name}"] = wandb.Table(columns=columns, data=rows)
    for name, file in _CURVES.items():
        if (folder / file).is_file():
            row[f"curves/{name}"] = _chart(folder / file, name)
    for picture in sorted(folder.glob("*.png")):
        row[f"pictures/{picture.stem}"] = wandb.Image(str(picture))
    for page in sorted(folder.glob("*.html")):
        row[f"pages/{page.stem}"] = wandb.Html(page.read_text())
    begun.log(row)
    made = wandb.Artifact(
        artifacts.evaluation_name(manifest, _name_of(run, folder)),
        type="evaluation",
        metadata=report["context"]["facts"],
    )
    made.add_dir(str(folder))
    begun.log_artifact(made, aliases=["latest", f"phase_{phase}"])


def _last_done(manifest: Manifest) -> int:
    return max((int(number) for number, record in manifest.phases.items() if record.status == "done"), default=0)


def _name_of(run: Path, folder: Path) -> str:
    """`test`, or for folders in folders `test-phase_2`."""
    return "-".join(folder.relative_to(run / FOLDER).parts)


def _typed(path: Path) -> tuple[list[Any], list[Any]]:
    """A CSV with numbers as numbers and None for what is empty or no number that JSON knows."""
    with open(path, newline="", encoding="utf-8") as file:
        columns, *rows = list(csv.reader(file))
    values: list[list[Any]] = [[_value(text) for text in row] for row in rows]
    # A column of W&B's has one type.
    for column in range(len(columns)):
        if any(isinstance(row[column], str) for row in values):
            for row, text in zip(values, rows, strict=True):
                row[column] = text[column]
    return columns, values


def _value(text: str) -> Any:
    try:
        value = float(text)
    except ValueError:
        return text or None
    return value if math.isfinite(value) else None


def _chart(path: Path, title: str) -> Any:
    """All books in one picture, every n-th bar and the last."""
    import wandb

    columns, rows = _typed(path)
    every = math.ceil(len(rows) / _POINTS)
    kept = rows[::every] if (len(rows) - 1) % every == 0 else [*rows[::every], rows[-1]]
    return wandb.plot.line_series(
        xs=[row[0] for row in kept],
        ys=[[row[number] for row in kept] for number in range(1, len(columns))],
        keys=columns[1:],
        title=title,
        xname=columns[0],
    )
