"""Policies as plain files: one `MODULE.safetensors` each, and `policy.json`, which says all that a stranger needs.

    out/
      policy.json            format, run, versions; each agent's file, observation and action; each file's network
      EURUSD.safetensors     the arrays of that policy, by the names of its torch parameters

No pickle is written or read, so a folder of unknown origin can be opened: its numbers may be wrong, its code cannot
run. `load_exported` rebuilds the torch policies; any other program reads the arrays by a safetensors reader of its own.
A policy maps an observation to `[mean | log deviation]`; the desk acts by the mean, clipped to [-1, 1].
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mtquant_rllib.agents.groups import group_of
from mtquant_rllib.config import Settings
from mtquant_rllib.config.loader import validate
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.policies.actor import POLICY_PREFIX, Array, DeskActor, ModuleState
from mtquant_rllib.policies.networks import GaussianPolicy
from mtquant_rllib.policies.registry import build_policy, network_configs

DOCUMENT = "policy.json"
SUFFIX = ".safetensors"
FORMAT = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ObservationBlock(_Part):
    """Contiguous columns of an observation: from `start`, `width` of them."""

    name: str
    start: int
    width: int
    columns: tuple[str, ...]


class Component(_Part):
    """One number of an action; see `agents.groups`."""

    name: str
    meaning: str


class AgentEntry(_Part):
    """An agent: the module that decides for it (several agents may share one), what it sees and what it says."""

    module: str
    file: str
    observation_width: int
    observation: tuple[ObservationBlock, ...]
    action: tuple[Component, ...]


class ArrayEntry(_Part):
    dtype: str
    shape: tuple[int, ...]


class ModuleEntry(_Part):
    """A policy network: its file with the SHA-256 of it, the hash of the module state that it was taken from, the entry
    of `policies.registry` that it is built by, and its arrays."""

    file: str
    sha256: str
    state_sha256: str
    network: str
    shape: dict[str, Any]
    options: dict[str, Any]
    arrays: dict[str, ArrayEntry]


class PolicyDocument(_Part):
    """`policy.json`. source: the run, phase and market that the policies come from; settings: those of the run, from
    which an observation is made and an action carried out."""

    format: Literal[1] = 1
    acting: str = "a policy maps an observation to [mean | log deviation]; the action is the mean, clipped to [-1, 1]"
    source: dict[str, Any]
    agents: dict[str, AgentEntry]
    modules: dict[str, ModuleEntry]
    settings: dict[str, Any]


@dataclass(frozen=True)
class ExportedPolicies:
    """The policies of a folder. policies: module -> network, in evaluation mode and without gradients."""

    document: PolicyDocument
    policies: Mapping[str, GaussianPolicy]

    @cached_property
    def settings(self) -> Settings:
        """The run's. Raises ConfigError when this version of the project knows other ones."""
        return validate(Settings, self.document.settings, f"settings in {DOCUMENT}")

    def act(self, agent: str, obs: Array) -> Array:
        """The agent's actions (B, A), by its policy's mean, for observations (B, width)."""
        policy = self.policies[self.document.agents[agent].module]
        with torch.inference_mode():
            # A copy: where an array begins in memory decides how sums are rounded, and the same numbers shall give the
            # same bytes.
            mean, _ = policy(torch.tensor(obs, dtype=torch.float32)).chunk(2, dim=-1)
            actions: Array = mean.clamp(-1.0, 1.0).numpy()
        return actions

    def actor(self) -> DeskActor:
        """All policies as the desk asks them, equally built ones as one batched product."""
        return DeskActor(self.settings, self.states())

    def states(self) -> dict[str, dict[str, np.ndarray]]:
        """Module -> the policy's part of its state, by the names of a run's module states."""
        return {
            module: {f"{POLICY_PREFIX}{name}": item.numpy() for name, item in policy.state_dict().items()}
            for module, policy in self.policies.items()
        }


def write_exported(
    folder: Path,
    settings: Settings,
    states: Mapping[str, ModuleState],
    hashes: Mapping[str, str],
    source: dict[str, Any],
    agents: Sequence[str],
) -> PolicyDocument:
    """Write the policies of these agents into a folder that is there and empty.

    Parameters
    ----------
    states, hashes
        Module states and their hashes, by module.
    source
        Where they come from, as plain values.
    """
    configs = network_configs(settings)
    entries, modules = {}, {}
    for agent in agents:
        module = settings.universe.policy_of(agent, settings.networks.sharing)
        entries[agent] = _agent(settings, agent, module)
        if module in modules:
            continue
        arrays = {
            key.removeprefix(POLICY_PREFIX): np.require(item, requirements="C")
            for key, item in states[module].items()
            if key.startswith(POLICY_PREFIX)
        }
        content = save(arrays, metadata={"module": module, "format": f"mtquant_rllib policy {FORMAT}"})
        (folder / f"{module}{SUFFIX}").write_bytes(content)
        modules[module] = ModuleEntry(
            file=f"{module}{SUFFIX}",
            sha256=hashlib.sha256(content).hexdigest(),
            state_sha256=hashes[module],
            arrays={key: ArrayEntry(dtype=str(item.dtype), shape=item.shape) for key, item in arrays.items()},
            **{key: configs[module][key] for key in ("network", "shape", "options")},
        )
    document = PolicyDocument(source=source, agents=entries, modules=modules, settings=settings.model_dump(mode="json"))
    (folder / DOCUMENT).write_text(document.model_dump_json(indent=1) + "\n")
    return document


def _agent(settings: Settings, agent: str, module: str) -> AgentEntry:
    group = group_of(settings, agent)
    columns = group.observation
    blocks = [
        ObservationBlock(name=group, start=columns[group].start, width=len(names), columns=names)
        for group, names in columns.groups
    ]
    action = [Component(name=part.name, meaning=part.meaning) for part in group.actions]
    return AgentEntry(
        module=module,
        file=f"{module}{SUFFIX}",
        observation_width=columns.width,
        observation=tuple(blocks),
        action=tuple(action),
    )


def load_exported(folder: str | Path) -> ExportedPolicies:
    """The torch policies of a folder that `mtquant runs export-policy` wrote.

    Raises
    ------
    RunError
        When the folder is none, of another format, or damaged; it names the file.
    """
    folder = Path(folder)
    try:
        tree = json.loads((folder / DOCUMENT).read_text())
        if isinstance(tree, dict) and tree.get("format") != FORMAT:
            raise RunError(f"{folder / DOCUMENT}: format {tree.get('format')!r}, and this version reads {FORMAT}")
        document = PolicyDocument.model_validate(tree)
    except (OSError, ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{folder}: no exported policies here ({reason}); expected {DOCUMENT}") from None
    unknown = {entry.module for entry in document.agents.values()} - set(document.modules)
    if unknown:
        raise RunError(f"{folder / DOCUMENT}: its agents name modules that it does not have: {', '.join(unknown)}")
    return ExportedPolicies(document, {name: _policy(folder, entry) for name, entry in document.modules.items()})


def _policy(folder: Path, entry: ModuleEntry) -> GaussianPolicy:
    path = folder / entry.file
    if Path(entry.file).name != entry.file:
        raise RunError(f"{folder / DOCUMENT}: the file {entry.file!r} does not lie in this folder")
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise RunError(f"{path}: its content is not what {DOCUMENT} says; export the policies again")
        weights = {name: torch.from_numpy(array.copy()) for name, array in load(content).items()}
        policy = build_policy({"network": entry.network, "shape": entry.shape, "options": entry.options})
        policy.load_state_dict(weights, strict=True)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: cannot be read as safetensors ({error}); export the policies again") from None
    except (RuntimeError, TypeError, ConfigError) as error:
        raise RunError(f"{path}: its arrays do not fit the network {entry.network!r} of {DOCUMENT}: {error}") from None
    return policy.eval().requires_grad_(False)
