"""The setup of an environment's episodes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EpisodeSetup:
    """Which part of the desk plays.

    phase
        1: one specialist and, per episode, one of its instruments, at a drawn allocation and full appetite. 2, 3: all.
    domain
        Index of the domain in phase 1, else None.
    ends_on_halt
        A full trading halt ends the episode after its flattening fill (training) or is lifted the next day
        (evaluation).
    custom_terms
        Whether custom reward terms are computed: in training, not in evaluation.
    """

    phase: int
    domain: int | None = None
    ends_on_halt: bool = True
    custom_terms: bool = True
