"""What a desk is asked to play, who may limit it, and what a bar gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from mtquant_rllib.env.trading import Trading


@dataclass(frozen=True)
class Scene:
    """Which part of the desk plays.

    phase
        1: one specialist and, per episode, one of its instruments, at a drawn allocation and full appetite. 2, 3: all.
    domain
        Index of the domain in phase 1, else None.
    ends_on_halt
        A full trading halt ends the episode after its flattening fill (training) or is lifted the next day
        (evaluation).
    """

    phase: int
    domain: int | None = None
    ends_on_halt: bool = True


class Oversight(Protocol):
    """Whoever has the last word. `None` in its place lets every proposal through.

    rule
        int8 (B, n): what bound each instrument in the bar, 0 where nothing did.
    """

    rule: np.ndarray

    def reset(self, envs: np.ndarray) -> None: ...

    def limit_at_close(self, desk: Trading, proposed: np.ndarray, current: np.ndarray) -> np.ndarray:
        """Weights (B, n) that may be ordered, each a share in [0, 1] of what is proposed."""

    def limit_at_open(
        self,
        desk: Trading,
        envs: np.ndarray,
        wanted: np.ndarray,
        held: np.ndarray,
        fillable: np.ndarray,
        openable: np.ndarray,
        attempt: int,
    ) -> np.ndarray:
        """The same at the fill, for the environments `envs` in which not all can fill as ordered. `attempt` counts
        how often whole lots have been made of what it let through; answers must settle, at nothing at the latest."""

    def begin_day(self, new_day: np.ndarray, equity: np.ndarray, flat: np.ndarray) -> None: ...

    def mark(self, equity: np.ndarray, weights: np.ndarray, playing: np.ndarray) -> np.ndarray:
        """Show a mark; returns the environments (bool (B,)) whose orders must be limited again at this open."""

    def after_fills(self, tradable: np.ndarray, playing: np.ndarray, flat: np.ndarray) -> None: ...

    def episode_is_over(self) -> np.ndarray:
        """Environments (B,) whose trading is halted for good and whose book is flat."""

    def alert_level(self, desk: Trading) -> np.ndarray:
        """(B, n) in [0, 1]."""

    def var_forecast(self) -> np.ndarray:
        """VaR of the executed book that the rule used, (B,), fraction of equity."""


@dataclass
class StepResult:
    """One bar. Arrays are views of the desk's own state: copy what must outlive the next step.

    rewards (B, n_agents), terminated and truncated (B,), net return of the bar (B,), and where the reward has named
    terms, each of them (B,).
    """

    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    portfolio_return: np.ndarray
    terms: Mapping[str, np.ndarray] = field(default_factory=dict)
