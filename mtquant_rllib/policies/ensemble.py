"""Several desks that act as one: the mean of their actions.

Members differ by their seeds alone. What they agree on is signal more often than what one of them believes, and the
spread of their actions says how sure they are (Lakshminarayanan et al. 2017, deep ensembles).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtquant_rllib.config import Settings
from mtquant_rllib.policies.actor import Array, DeskActor
from mtquant_rllib.policies.attention.fallbacks import FallbackMonitor


class EnsembleActor:
    """Acts like a `DeskActor`: observations in, the members' mean actions out.

    Attributes
    ----------
    fallbacks
        Of all members together.
    disagreement
        Group -> deviation of the members' last actions, of the shape of the actions; 0 for one member.
    """

    def __init__(self, settings: Settings, members: Sequence[Mapping[str, Mapping[str, Any]]]) -> None:
        """members: the module states of each."""
        assert members
        self.fallbacks = FallbackMonitor(settings.tracking.fallback_seconds)
        self.members = [DeskActor(settings, states, self.fallbacks) for states in members]
        self.disagreement: dict[str, Array] = {}

    def act(self, group: str, obs: Array, noise: Array | None = None) -> Array:
        """The mean of the members' actions; as of `DeskActor.act`."""
        actions = np.stack([member.act(group, obs, noise) for member in self.members])
        self.disagreement[group] = actions.std(axis=0)
        mean: Array = actions.mean(axis=0, dtype=np.float32)
        return mean
