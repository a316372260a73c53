"""Counts and reports the decisions in which an attention network fell back on its global head, or on none.

An attention network falls back row by row instead of failing (`regime_network.Fallback`). A `FallbackMonitor` is
attached to networks that decide, counts their decisions by `Fallback`, and logs a line for fall-backs: at most one line
per agent and reason in some seconds, with the count since the line before. An unclear regime is information; a number
that is not finite is a warning, which names its columns.

Learners' passes are not decisions, and no monitor is attached to them.
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

from mtquant_rllib.policies.attention.policy import AttentionPolicy
from mtquant_rllib.policies.attention.regime_network import Fallback, RegimeOutput
from mtquant_rllib.policies.networks import GroupedShape

logger = logging.getLogger(__name__)

REASONS = tuple(fallback.name.lower() for fallback in Fallback)
"""Names of the counts; `none` is no fall-back."""

Counts = Mapping[str, Mapping[str, int]]
"""Module or agent -> reason -> decisions."""

_COLUMNS_NAMED = 3
"""Columns that are not finite which a line names; it counts the others."""


@dataclass
class _Tally:
    """Counts of decisions by `Fallback`: all, those at the last `take`, and those at the last log line of each
    reason."""

    total: np.ndarray = field(default_factory=lambda: np.zeros(len(Fallback), dtype=np.int64))
    taken: np.ndarray = field(default_factory=lambda: np.zeros(len(Fallback), dtype=np.int64))
    logged: np.ndarray = field(default_factory=lambda: np.zeros((len(Fallback), len(Fallback)), dtype=np.int64))
    logged_at: dict[int, float] = field(default_factory=dict)


class FallbackMonitor:
    """See the module's docstring.

    Parameters
    ----------
    every_s
        Least seconds between two lines of one agent and reason.
    clock
        Returns seconds.

    Attributes
    ----------
    bars
        Bar number in the log lines; set by the caller.
    rows
        bool (B,): rows of the next batches that are decisions; None for all.
    """

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._tallies: dict[str, _Tally] = {}
        self._muted = False
        self.bars = 0
        self.rows: np.ndarray | None = None

    def attach(self, name: str, policy: nn.Module) -> None:
        """Monitor a policy from now on; does nothing for one without fall-backs."""
        if not isinstance(policy, AttentionPolicy):
            return
        self._tallies.setdefault(name, _Tally())

        def hook(_: nn.Module, inputs: tuple[Any, ...], output: RegimeOutput) -> None:
            self.record(name, policy.shape, inputs[0], output.fallback_B)

        policy.network.register_forward_hook(hook)

    @contextlib.contextmanager
    def muted(self) -> Iterator[None]:
        """A context in which passes are not counted as decisions."""
        before, self._muted = self._muted, True
        try:
            yield
        finally:
            self._muted = before

    def record(self, name: str, shape: GroupedShape, obs_BF: Tensor, fallback_B: Tensor) -> None:
        """Count one batch of outputs."""
        if self._muted:
            return
        if self.rows is not None:
            rows_B = torch.from_numpy(self.rows).to(fallback_B.device)
            obs_BF, fallback_B = obs_BF[rows_B], fallback_B[rows_B]
        counts = torch.bincount(fallback_B.long(), minlength=len(Fallback)).cpu().numpy()
        tally = self._tallies.setdefault(name, _Tally())
        tally.total += counts
        for reason in (Fallback.UNSURE, Fallback.NOT_FINITE, Fallback.EQUAL):
            if counts[reason] and self._may_log(tally, reason):
                level = logging.INFO if reason is Fallback.UNSURE else logging.WARNING
                own_B = fallback_B == int(reason)
                new, tally.logged[reason] = tally.total - tally.logged[reason], tally.total
                logger.log(
                    level,
                    "bar %s: %s",
                    f"{self.bars:,}",
                    fallback_message(
                        name, reason, int(new[reason]), int(new.sum()), _nonfinite_columns(shape, obs_BF[own_B])
                    ),
                )

    def _may_log(self, tally: _Tally, reason: Fallback) -> bool:
        now = self._clock()
        if now - tally.logged_at.get(reason, -np.inf) < self._every_s:
            return False
        tally.logged_at[reason] = now
        return True

    def counts(self) -> Counts:
        """All decisions so far."""
        return {name: _named(tally.total) for name, tally in self._tallies.items()}

    def take(self) -> Counts:
        """Decisions since the last call."""
        new = {}
        for name, tally in self._tallies.items():
            new[name] = _named(tally.total - tally.taken)
            tally.taken = tally.total.copy()
        return new


def fallback_message(name: str, reason: Fallback, count: int, decisions: int, columns: str = "") -> str:
    """One line: the agent or module, its fall-backs of so many decisions, and the reason."""
    why = {
        Fallback.UNSURE: "its global head alone answered (unsure: no regime is likely enough)",
        Fallback.NOT_FINITE: "its global head alone answered (not_finite: "
        + (f"broken numbers in {columns})" if columns else "its classifier or a regime's head gave no number)"),
        Fallback.EQUAL: "no head answered, all logits are 0 (equal: its global head gave no number)",
    }[reason]
    return f"{name}: in {count:,} of {decisions:,} decisions {why}"


def summary(counts: Counts) -> list[str]:
    """A line for each agent and reason that occurred."""
    return [
        fallback_message(name, reason, own[reason.name.lower()], sum(own.values()))
        for name, own in counts.items()
        for reason in Fallback
        if reason is not Fallback.NONE and own[reason.name.lower()]
    ]


def _named(counts: np.ndarray) -> dict[str, int]:
    return dict(zip(REASONS, counts.tolist()))


def _nonfinite_columns(shape: GroupedShape, obs_BF: Tensor) -> str:
    """Columns that are not finite in any of the rows, as group and position within it."""
    columns = (~obs_BF.isfinite()).any(dim=0).nonzero().flatten().tolist()
    names = [f"{group}[{place}]" for group, width in shape.groups for place in range(width)]
    more = len(columns) - _COLUMNS_NAMED
    return ", ".join(names[column] for column in columns[:_COLUMNS_NAMED]) + (f" and {more} more" if more > 0 else "")
