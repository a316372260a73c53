"""Who plays an environment's episodes, and what they are paid."""

from __future__ import annotations

from dataclasses import dataclass

from mtquant_rllib.config.sections.training import Reward


@dataclass(frozen=True)
class EpisodeSetup:
    """Which part of the desk plays, and for which reward.

    reward
        Of the desk's agents (`env.rewards.desk`); the allocator has its own.
    domain
        Index of the domain that plays alone: its specialist and, per episode, one of its instruments, at a drawn
        allocation and full appetite. None: everybody plays.
    ends_on_halt
        A full trading halt ends the episode after its flattening fill (training) or is lifted the next day
        (evaluation).
    custom_terms
        Whether custom reward terms are computed: in training, not in evaluation.
    """

    reward: Reward = "risk_adjusted"
    domain: int | None = None
    ends_on_halt: bool = True
    custom_terms: bool = True
