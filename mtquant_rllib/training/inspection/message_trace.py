"""What the levels of a run's desk told each other over a split, as one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from mtquant_rllib.env.messages import MESSAGES, CommunicationHub, Message
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.evaluation.backtest import rollout
from mtquant_rllib.evaluation.report.bar_tables import write_parquet
from mtquant_rllib.training.inspection.opened_policies import open_policies
from mtquant_rllib.training.records.ownership import within

FILE = "messages.parquet"
_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
"""By the annotation of a message's field."""


@dataclass(frozen=True)
class MessageTrace:
    """path: of the table. counts: messages by (kind, sender, receiver)."""

    path: Path
    counts: Mapping[tuple[str, str, str], int]


def trace_run(run: Path, *, split: str = "test", phase: int | None = None, out: Path | None = None) -> MessageTrace:
    """Play the run's policies over a split, as `evaluate_run` does, and write every message that was sent.

    One row a message: timestamp of the close at which it was sent, kind, bar, environment, sender, receiver, and the
    values of its kind; those of other kinds are null.

    Parameters
    ----------
    phase
        The policies after this phase; by default after the last that is done.
    out
        The file; by default `RUN/messages/SPLIT/messages.parquet`.

    Raises
    ------
    ConfigError
        For an allocator, which has nobody to talk to.
    """
    opened = open_policies(run, split, phase=phase)
    settings, data = opened.settings, opened.data
    if settings.allocator is not None:
        raise ConfigError("mtquant trace: an allocator decides alone and sends no messages")
    path = within(opened.run, opened.run / "messages" / split / FILE) if out is None else out
    draws = rollout.whole(data.segments)
    desk = rollout.new_desk(settings, data, draws)
    sent: list[tuple[Any, Message]] = []
    hub = CommunicationHub(tracing=False, journal_messages=1, envs=range(len(draws)))
    for kind in MESSAGES.values():
        hub.subscribe(
            kind, lambda message: sent.append((data.execution.timestamps[desk.state.row[message.env]], message))
        )
    desk.hub = hub
    player = opened.player()
    for _ in range(max(draw.stop - draw.start for draw in draws)):
        if desk.state.done.all():
            break
        playing, before = ~desk.state.done, len(sent)
        result = desk.advance_with_weights(player(desk))
        # An environment that is through goes on beside the others, and says nothing that counts.
        sent[before:] = [(timestamp, message) for timestamp, message in sent[before:] if playing[message.env]]
        desk.finish((result.terminated | result.truncated).nonzero()[0])
    opened.looked("messages")
    counts = Counter((message.kind, message.sender, message.receiver) for _, message in sent)
    return MessageTrace(write_parquet(_table(sent), path), dict(sorted(counts.items())))


def _table(sent: list[tuple[Any, Message]]) -> pa.Table:
    columns = {"timestamp": pa.timestamp("s"), "kind": pa.string()}
    for kind in MESSAGES.values():
        columns |= {field.name: _TYPES[str(field.type)] for field in fields(kind)}
    rows = [message.to_dict() for _, message in sent]
    arrays = {
        name: pa.array([row.get(name) for row in rows], kind) for name, kind in columns.items() if name != "timestamp"
    }
    return pa.table({"timestamp": pa.array([timestamp for timestamp, _ in sent], columns["timestamp"]), **arrays})
