"""Counts and reports the decisions in which an attention network fell back on its global head, or on none.

An attention network degrades row by row instead of failing (`regime_network.Fallback`). A `FallbackWatch` listens to
such networks while they decide, counts every decision by `Fallback`, and writes a line when one fell back: at most
one line of an agent and a reason in some seconds, with the count since the line before. A regime that is not clear is
information; a number that is none is a warning, with the columns it stood in.

Where learners compute the same networks nobody listens: those are not decisions.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mtquant_rllib.policies.attention_policy import AttentionPolicy
from mtquant_rllib.policies.networks import GroupedShape
from mtquant_rllib.policies.regime_network import Fallback, RegimeAnswer

logger = logging.getLogger(__name__)

REASONS = tuple(fallback.name.lower() for fallback in Fallback)
"""Names of the counts; `none` is no fall-back."""

Counts = Mapping[str, Mapping[str, int]]
"""Module or agent -> reason -> decisions."""

_COLUMNS_NAMED = 3
"""Broken columns that a line names; the others it counts."""


@dataclass
class _Tally:
    """Decisions by `Fallback`: all, and those that were there when they were last taken, and last told of by reason."""

    total: np.ndarray = field(default_factory=lambda: np.zeros(len(Fallback), dtype=np.int64))
    taken: np.ndarray = field(default_factory=lambda: np.zeros(len(Fallback), dtype=np.int64))
    said: np.ndarray = field(default_factory=lambda: np.zeros((len(Fallback), len(Fallback)), dtype=np.int64))
    said_at: dict[int, float] = field(default_factory=dict)


class FallbackWatch:
    """See the module's docstring.

    Parameters
    ----------
    every_s
        Least seconds between two lines on the same agent and reason.
    clock
        Seconds.

    Attributes
    ----------
    bars
        What the lines call the present: whoever plays sets it.
    rows
        bool (B,): which rows of the next batches are decisions; None for all of them.
    """

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._tallies: dict[str, _Tally] = {}
        self._muted = False
        self.bars = 0
        self.rows: np.ndarray | None = None

    def attach(self, name: str, policy: nn.Module) -> None:
        """Listen to a policy from now on; one without a network that falls back is left alone."""
        if not isinstance(policy, AttentionPolicy):
            return
        self._tallies.setdefault(name, _Tally())

        def hook(_: nn.Module, inputs: tuple[Any, ...], answer: RegimeAnswer) -> None:
            self.hear(name, policy.shape, inputs[0], answer.fallback_B)

        policy.network.register_forward_hook(hook)

    @contextlib.contextmanager
    def muted(self) -> Iterator[None]:
        """What is asked meanwhile is no decision."""
        before, self._muted = self._muted, True
        try:
            yield
        finally:
            self._muted = before

    def hear(self, name: str, shape: GroupedShape, obs_BF: Tensor, fallback_B: Tensor) -> None:
        """Take in one batch of answers."""
        if self._muted:
            return
        if self.rows is not None:
            rows_B = torch.from_numpy(self.rows).to(fallback_B.device)
            obs_BF, fallback_B = obs_BF[rows_B], fallback_B[rows_B]
        counts = torch.bincount(fallback_B.long(), minlength=len(Fallback)).cpu().numpy()
        tally = self._tallies.setdefault(name, _Tally())
        tally.total += counts
        for reason in (Fallback.UNSURE, Fallback.NOT_FINITE, Fallback.EQUAL):
            if counts[reason] and self._may_speak(tally, reason):
                level = logging.INFO if reason is Fallback.UNSURE else logging.WARNING
                mine_B = fallback_B == int(reason)
                news, tally.said[reason] = tally.total - tally.said[reason], tally.total
                logger.log(
                    level,
                    "bar %s: %s",
                    f"{self.bars:,}",
                    told(name, reason, int(news[reason]), int(news.sum()), _broken(shape, obs_BF[mine_B])),
                )

    def _may_speak(self, tally: _Tally, reason: Fallback) -> bool:
        now = self._clock()
        if now - tally.said_at.get(reason, -np.inf) < self._every_s:
            return False
        tally.said_at[reason] = now
        return True

    def counts(self) -> Counts:
        """All decisions so far."""
        return {name: _named(tally.total) for name, tally in self._tallies.items()}

    def take(self) -> Counts:
        """Decisions since the last call."""
        fresh = {}
        for name, tally in self._tallies.items():
            fresh[name] = _named(tally.total - tally.taken)
            tally.taken = tally.total.copy()
        return fresh


def told(name: str, reason: Fallback, count: int, decisions: int, broken: str = "") -> str:
    """One line: who, how often, and why."""
    why = {
        Fallback.UNSURE: "its global head alone answered (unsure: no regime is likely enough)",
        Fallback.NOT_FINITE: "its global head alone answered (not_finite: "
        + (f"broken numbers in {broken})" if broken else "its classifier or a regime's head gave no number)"),
        Fallback.EQUAL: "nobody answered, all logits are 0 (equal: its global head gave no number)",
    }[reason]
    return f"{name}: in {count:,} of {decisions:,} decisions {why}"


def summary(counts: Counts) -> list[str]:
    """A line for each agent and reason that there was, for whoever prints them."""
    return [
        told(name, reason, own[reason.name.lower()], sum(own.values()))
        for name, own in counts.items()
        for reason in Fallback
        if reason is not Fallback.NONE and own[reason.name.lower()]
    ]


def _named(counts: np.ndarray) -> dict[str, int]:
    return dict(zip(REASONS, counts.tolist()))


def _broken(shape: GroupedShape, obs_BF: Tensor) -> str:
    """Columns that are not finite in any of the rows, as group and position within it."""
    columns = (~obs_BF.isfinite()).any(dim=0).nonzero().flatten().tolist()
    names = [f"{group}[{place}]" for group, width in shape.groups for place in range(width)]
    more = len(columns) - _COLUMNS_NAMED
    return ", ".join(names[column] for column in columns[:_COLUMNS_NAMED]) + (f" and {more} more" if more > 0 else "")
