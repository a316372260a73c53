"""A run's policies into a folder of plain files (`policies.exported`)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mtquant_rllib
from mtquant_rllib import durable
from mtquant_rllib.errors import RunError
from mtquant_rllib.policies.exported import PolicyDocument, write_exported
from mtquant_rllib.training.inspection.opened_run import opened
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.manifest import Manifest, versions
from mtquant_rllib.training.run_store.verification import UNREADABLE


def export_policies(
    run: Path, out: Path, *, phase: int | None = None, agents: Sequence[str] | None = None
) -> PolicyDocument:
    """Export the policies that a phase of the run hands over, and return what `policy.json` says.

    Parameters
    ----------
    out
        A new or empty folder; it appears whole or not at all.
    phase
        By default the last that is done.
    agents
        Some of them; by default all that have a policy after that phase.

    Raises
    ------
    RunError
        When the phase is not done, an agent has no policy after it, module states are damaged, or `out` is not empty.
    """
    out = Path(os.path.abspath(out))
    expect_free(out, "--out")
    manifest, settings = opened(run)
    phase = _done(run, manifest, phase)
    result = run / str(manifest.phase(phase).result)
    hashes = module_states.index(result)["modules"]
    sharing, universe = settings.networks.sharing, settings.universe
    there = [agent for agent in universe.agent_ids if universe.policy_of(agent, sharing) in hashes]
    if missing := [agent for agent in agents or () if agent not in there]:
        raise RunError(
            f"--agent {', '.join(missing)}: no such policy after phase {phase}; there are {', '.join(there)}"
        )
    wanted = [agent for agent in there if agents is None or agent in agents]
    modules = {name: _read(result, name) for name in {universe.policy_of(agent, sharing): None for agent in wanted}}
    source = _source(manifest, phase)
    with appearing_whole(out, "--out") as half:
        return write_exported(half, settings, modules, hashes, source, wanted)


def expect_free(out: Path, option: str) -> None:
    """Raises RunError when something is at the place of a folder that is to be written, other than an empty folder.
    option: of the command line, for the message."""
    if os.path.lexists(out) and not (out.is_dir() and not out.is_symlink() and not any(out.iterdir())):
        raise RunError(f"{option} {out}: something is there; name a new or empty folder")


@contextmanager
def appearing_whole(out: Path, option: str) -> Iterator[Path]:
    """A folder to write into, which takes its place `out` when the block is through, and never in part. Raises RunError
    when the storage is full or away; option: of the command line, for the message."""
    half = durable.temporary_path(out)
    try:
        half.mkdir(parents=True)
        yield half
        half.replace(out)
    except OSError as error:
        raise RunError(f"{option} {out}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _read(folder: Path, module: str) -> module_states.ModuleState:
    try:
        return module_states.read(folder, [module])[module]
    except UNREADABLE as error:
        raise RunError(f"{folder / module}.npz: cannot be read ({error}); the file is damaged") from None


def _done(run: Path, manifest: Manifest, phase: int | None) -> int:
    done = [number for number in sorted(map(int, manifest.phases)) if manifest.phase(number).status == "done"]
    if not done:
        raise RunError(f"{run}: no phase of this run is done yet; carry it on with `mtquant resume {run}`")
    if phase is None:
        return done[-1]
    if phase not in done:
        raise RunError(f"{run}: phase {phase} is not done; those that are: {', '.join(map(str, done))}")
    return phase


def _source(manifest: Manifest, phase: int) -> dict[str, Any]:
    trials = manifest.phase(phase).trials
    return {
        "run": manifest.name,
        "run_id": manifest.id,
        "created": manifest.created,
        "seed": manifest.seed,
        "phase": phase,
        "best_sharpe": {name: trial.best_sharpe for name, trial in trials.items()},
        "bars": {name: trial.bars for name, trial in trials.items()},
        "market": manifest.market.content,
        "trained_with": manifest.versions,
        "exported_with": {**versions(), "commit": _commit()},
    }


def _commit() -> str | None:
    """Of the checkout that this package lies in; None where it is installed elsewhere."""
    checkout = Path(mtquant_rllib.__file__).parent.parent
    if not (checkout / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=checkout,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
