"""A run's policies after a phase, together with the bars that they are looked at on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtquant_rllib.config import Settings
from mtquant_rllib.config.loader import apply_overrides, validate
from mtquant_rllib.env.prepared.data import UNSEEN, DeskData, market_of
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.evaluation.backtest.rollout import PolicyPlayer, policy_player
from mtquant_rllib.policies.ensemble import EnsembleActor
from mtquant_rllib.training.inspection.unseen_bars import UnseenBars
from mtquant_rllib.training.preparation import prepare, restored
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.ledger import LOOK, Entry, Ledger, open_holdout
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.records.run_names import existing_run
from mtquant_rllib.training.search.record import is_ensemble, is_sweep, members_of
from mtquant_rllib.training.storage import mirror


def last_done(manifest: Manifest, run: Path) -> int:
    """The last phase whose policies the run has. Raises RunError when there is none."""
    for phase in sorted(map(int, manifest.phases), reverse=True):
        result = manifest.phase(phase).result
        if manifest.phase(phase).status == "done" and result is not None and module_states.exists(run / result):
            return phase
    raise RunError(f"{run}: no phase of this run is done yet; carry it on with `mtquant resume {run}`")


@dataclass(frozen=True)
class OpenedRun:
    """A run's policies after a phase, and the split on which they are looked at."""

    run: Path
    phase: int
    settings: Settings
    own: Settings
    """The run's own settings, where those it is looked at with are others."""
    data: DeskData
    members: tuple[Mapping[str, module_states.ModuleState], ...]
    """Module states of each member of an ensemble; of a run those of its one desk."""
    facts: Mapping[str, Any]
    seed: int
    manifests: tuple[Manifest, ...]
    """Of each member."""
    folder: Path
    """The prepared market."""

    @property
    def states(self) -> Mapping[str, module_states.ModuleState]:
        """Those of the one desk. Raises RunError for an ensemble."""
        if len(self.members) > 1:
            raise RunError(
                f"{self.run}: it is an ensemble, which acts by the mean of its members; name one of them, such as "
                f"{members_of(self.run)[0]}"
            )
        return self.members[0]

    def player(self) -> PolicyPlayer:
        """The desk, or the ensemble, acting by its means. After phase 1 there is no meta-controller yet."""
        equal = self.phase == 1
        if len(self.members) == 1:
            return policy_player(self.settings, self.states, equal_allocation=equal)
        actor = EnsembleActor(self.settings, self.members)
        return PolicyPlayer(actor, equal_allocation=equal and not self.settings.universe.allocates)

    @property
    def market(self) -> dict[str, Any]:
        """Which market that is, as the ledger names it."""
        return market_of(self.folder)

    def looked(self, why: str, **what: Any) -> Entry:
        """Note in the ledger that these policies were looked at on this split, why, and what came out."""
        own = {"why": why, "split": self.facts["split"], "phase": self.phase, "seed": self.seed}
        return Ledger.beside(self.run).append(LOOK, self.run.name, self.market, **own, **what)


def open_policies(run: Path, split: str, *, unseen: UnseenBars | None = None, **how: Any) -> OpenedRun:
    """Parameters as of `evaluate_run`. A last holdout is opened once everything else is read.

    Raises
    ------
    RunError
        When the folder is no run, the phase is not done or none of the run's, or the holdout is open already.
    """
    run = existing_run(run)
    opened = (_open_ensemble if is_sweep(run) else _open_run)(run, split, unseen=unseen, **how)
    if unseen is not None and unseen.holdout:
        open_holdout(opened.run, opened.market, str(opened.own.market.splits.holdout_from))
    return opened


def _open_ensemble(run: Path, split: str, **how: Any) -> OpenedRun:
    run = run.resolve()
    if not is_ensemble(run):
        raise RunError(f"{run}: a sweep holds runs; name one of them, such as {run / 'trial_00_seed_0'}")
    members = [_open_run(member, split, **how) for member in members_of(run)]
    first = members[0]
    if differing := next((one for one in members if one.phase != first.phase), None):
        raise RunError(
            f"{run}: {differing.run.name} is done with phase {differing.phase}, the first member with {first.phase}"
        )
    return replace(
        first,
        run=run,
        members=tuple(one.states for one in members),
        facts={**first.facts, "run": run.name, "members": len(members)},
        manifests=tuple(one.manifests[0] for one in members),
    )


def _open_run(
    run: Path,
    split: str,
    *,
    phase: int | None = None,
    settings: Settings | None = None,
    overrides: Sequence[str] = (),
    unseen: UnseenBars | None = None,
) -> OpenedRun:
    run = run.resolve()
    manifest = Manifest.read(run)
    own, as_trained = settings is None and not overrides, manifest.load_settings()
    if settings is None:
        settings = validate(Settings, apply_overrides(manifest.settings, overrides), str(run))
    held = as_trained.market.splits.holdout_from
    if held is not None and settings.market.splits.holdout_from != held:
        raise ConfigError(
            f"market.splits.holdout_from: this run holds out its bars from {held} on; they are played once, by "
            "`mtquant evaluate --holdout`, and no other day can be named for them"
        )
    phase = last_done(manifest, run) if phase is None else phase
    if str(phase) not in manifest.phases:
        raise RunError(f"{run}: there is no phase {phase} in this run; its phases are {', '.join(manifest.phases)}")
    folder = manifest.phase(phase).result
    if folder is None:
        raise RunError(f"{run}: phase {phase} is not done; the last that is done is phase {last_done(manifest, run)}")
    mirror.pull_market(run, manifest.market.data)
    facts = {
        "run": run.name,
        "phase": phase,
        "split": split if unseen is None else UNSEEN,
        "seed": manifest.seed,
        "market": manifest.market.bars or f"synthetic market ({settings.embedded.variant})",
    }
    if unseen is not None:
        facts["market"] = str(unseen.market)
        prepared = unseen.prepared(settings, manifest)
        data = DeskData.open(prepared, UNSEEN)
    else:
        market = restored(settings, manifest.market) if own else prepare(settings, *manifest.market.files)
        prepared = Path(market.data)
        data = DeskData.open(prepared, split)
    return OpenedRun(
        run,
        phase,
        settings,
        as_trained,
        data,
        (module_states.read(run / folder),),
        facts,
        manifest.seed,
        (manifest,),
        prepared,
    )
