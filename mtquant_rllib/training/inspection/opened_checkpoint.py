"""The policies of one RLlib checkpoint of a run, between two phases or after one.

A checkpoint holds pickles, and a pickle runs what it names: it is opened by RLlib, and only where its files are whole
and its index bears this user's signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mtquant_rllib.config import Settings
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.preparation import restored
from mtquant_rllib.training.records import checkpoints, module_states, signatures
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.records.manifest_file import is_run
from mtquant_rllib.training.storage import mirror
from mtquant_rllib.universe import META

_MODULES = Path("learner_group") / "learner" / "rl_module"
"""Where RLlib keeps the modules in a checkpoint."""


@dataclass(frozen=True)
class OpenedCheckpoint:
    """run: the folder of the run. trial, bars: whose checkpoint it is, and how far it was. states: module states of all
    policies that decide. data: the split of the run's market."""

    run: Path
    phase: int
    trial: str
    bars: int
    seed: int
    settings: Settings
    states: Mapping[str, module_states.ModuleState]
    data: DeskData


def open_checkpoint(folder: Path, split: str) -> OpenedCheckpoint:
    """The policies of a checkpoint folder that lies in its run.

    Raises
    ------
    RunError
        When it lies in no run, is damaged, another run's or not signed by this user, or holds the policies of some
        agents only.
    """
    folder = folder.resolve()
    run = next((parent for parent in folder.parents if is_run(parent)), None)
    if run is None:
        raise RunError(
            f"{folder}: this checkpoint lies in no run, whose settings and market it needs; expected one such as "
            "runs/NAME/phase_3/joint/checkpoint_000012"
        )
    manifest = Manifest.read(run)
    index = checkpoints.verify(folder)
    if index.run != manifest.id:
        raise RunError(f"{folder}: this is a checkpoint of another run than {run.name}; move it back to its own")
    if not signatures.is_ours(folder, signatures.user_key()):
        raise RunError(
            f"{folder}: this checkpoint was not signed by you, and loading it would run code that it names; export "
            f"the run where it was trained (`mtquant export`), or bring the key of that machine "
            f"({signatures.key_file()}, or ${signatures.KEY_VARIABLE})"
        )
    settings = manifest.load_settings()
    states = _states(folder)
    needed = settings.universe.policies(settings.networks.sharing)
    missing = [name for name in needed if name not in states and not (name == META and index.phase == 1)]
    if missing:
        raise RunError(
            f"{folder}: this checkpoint of {index.trial} holds the policies of {', '.join(states)}, and none of "
            f"{', '.join(missing)}; name the run, whose phases put them together"
        )
    mirror.pull_market(run, manifest.market.data)
    data = DeskData.open(Path(restored(settings, manifest.market).data), split)
    return OpenedCheckpoint(run, index.phase, index.trial, index.bars, manifest.seed, settings, states, data)


def _states(folder: Path) -> dict[str, module_states.ModuleState]:
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

    modules = MultiRLModule.from_checkpoint(folder / _MODULES)
    return {name: module_states.as_arrays(modules[name].get_state()) for name in modules.keys()}  # noqa: SIM118
