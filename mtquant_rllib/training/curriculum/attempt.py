"""An attempt: one call of `train` or `resume`, to its end or interruption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mtquant_rllib.training.placement.node_readiness import Readiness
from mtquant_rllib.training.placement.nodes import Node
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.session.interruption import Interruption
from mtquant_rllib.training.session.ray_session import SessionNodes
from mtquant_rllib.training.storage import mirror

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Attempt:
    """What all phases of an attempt share."""

    run: Path
    manifest: Manifest
    machines: SessionNodes
    readiness: Readiness
    interruption: Interruption
    trusted: bool
    """Load checkpoints that do not bear this user's signature."""
    tell: Tell

    @property
    def name(self) -> str:
        """How a person names the run: by its folder, or its address in an object store."""
        return mirror.named(self.run)

    def nodes(self) -> list[Node]:
        """The nodes that are there and can train this run."""
        return self.readiness.usable(self.machines.nodes())
