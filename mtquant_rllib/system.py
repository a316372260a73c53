"""The whole desk as one object, for people who write Python rather than command lines.

    system = HierarchicalTradingSystem(Settings.load("laptop.yaml"))
    system.train(run="runs/mine", budget_scale=0.01)
    print(system.evaluate().report.subject.all_bars.values["sharpe_ann"])

What trains, what decides and what is measured are the same functions that the command line calls. It plays the
bars of its run, with simulated fills. What decides for an account that somebody else keeps, on bars as they come, is
`serving.system.TradingSystem` (`trading_system`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtquant_rllib.config import Settings
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.messages import CommunicationHub
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.env.trading import StepResult
from mtquant_rllib.errors import RunError
from mtquant_rllib.evaluation.backtest.rollout import PolicyPlayer, new_desk, policy_player, whole

if TYPE_CHECKING:
    from mtquant_rllib.serving.system import TradingSystem
    from mtquant_rllib.training.inspection.run_evaluation import RunEvaluation


class HierarchicalTradingSystem:
    """Meta-controller, specialists and instrument agents under one risk manager.

    Parameters
    ----------
    settings
        The desk; `Settings.load()` is the default one.
    run
        Folder of a run whose policies to use; `train` makes one.
    """

    def __init__(self, settings: Settings | None = None, run: str | Path | None = None) -> None:
        from mtquant_rllib.training.records.run_names import run_path

        self.run = None if run is None else run_path(run)
        if settings is None:
            settings = Settings.load() if self.run is None else self._manifest().load_settings()
        self.settings = settings
        self._player: PolicyPlayer | None = None

    def train(
        self,
        *,
        run: str | Path | None = None,
        market: str | Path | None = None,
        macro: str | Path | None = None,
        budget_scale: float = 1.0,
        phase: int | None = None,
        address: str | None = None,
    ) -> Path:
        """Train the curriculum, or one phase of it, and return the run's folder; see `training.curriculum.driver`."""
        from mtquant_rllib.training.curriculum.driver import train

        self.run = train(
            self.settings,
            run=None if run is None else Path(run),
            market=None if market is None else Path(market),
            macro=None if macro is None else Path(macro),
            budget_scale=budget_scale,
            phase=phase,
            address=address,
        )
        self._player = None
        return self.run

    def resume(self, overrides: Sequence[str] = ()) -> Path:
        """Carry on this system's run from where it was stopped."""
        from mtquant_rllib.training.curriculum.driver import resume

        self._player = None
        return resume(self._known_run(), overrides=overrides)

    def evaluate(self, *, split: str = "test", episodes: int | None = None) -> RunEvaluation:
        """Compare the policies with the baselines over a split; also written into the run's folder."""
        from mtquant_rllib.training.inspection.run_evaluation import evaluate_run

        return evaluate_run(self._known_run(), split=split, episodes=episodes)

    def desk(
        self,
        split: str = "test",
        draws: Sequence[EpisodeDraw] | None = None,
        hub: CommunicationHub | None = None,
    ) -> Desk:
        """A desk over a split of the run's market, one environment a segment (or a draw), under the risk manager.

        hub: hears what the levels tell each other.
        """
        data = DeskData.open(Path(self._manifest().market.data), split)
        desk = new_desk(self.settings, data, whole(data.segments) if draws is None else draws)
        desk.hub = hub
        return desk

    def decide(self, desk: Desk) -> np.ndarray:
        """One decision cycle, meta to specialists to instruments, by the policies' means: proposed weights (B, n)."""
        return self._policies()(desk)

    def step(self, desk: Desk) -> StepResult:
        """Decide, then let risk, fills and marks carry the desk to the next close. An environment that has come to the
        end of its bars, or is bankrupt, is taken out of play.

        Raises
        ------
        RunError
            When that is so of all of them.
        """
        over = (desk.state.row >= desk.state.stop_row) | (desk.book.equity <= 0)
        if (over | desk.state.done).all():
            raise RunError("every environment of this desk has come to the end of its bars; system.desk() begins again")
        if (over & ~desk.state.done).any():
            desk.finish(np.flatnonzero(over & ~desk.state.done))
        return desk.advance_with_weights(self.decide(desk))

    def trading_system(self) -> TradingSystem:
        """What decides for an account on bars as they come, with the newest policies of this run."""
        from mtquant_rllib.serving.system import TradingSystem

        return TradingSystem.from_checkpoint(self._known_run())

    def _policies(self) -> PolicyPlayer:
        if self._player is None:
            from mtquant_rllib.training.inspection.opened_policies import last_done
            from mtquant_rllib.training.records import module_states

            manifest, run = self._manifest(), self._known_run()
            phase = last_done(manifest, run)
            folder = manifest.phase(phase).result
            assert folder is not None
            self._player = policy_player(self.settings, module_states.read(run / folder), equal_allocation=phase == 1)
        return self._player

    def _known_run(self) -> Path:
        if self.run is None:
            raise RunError(
                "this system has no run yet: train it, or name one, as in HierarchicalTradingSystem(run='runs/mine')"
            )
        return self.run

    def _manifest(self) -> Any:
        from mtquant_rllib.training.records.manifest import Manifest

        return Manifest.read(self._known_run())
