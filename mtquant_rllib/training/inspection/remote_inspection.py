"""Evaluates or explains a run on a node of a cluster, as a Ray task."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mtquant_rllib.errors import MtquantError, RunError
from mtquant_rllib.training.placement.node_readiness import Readiness
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.records.run_names import existing_run
from mtquant_rllib.training.search.record import is_ensemble, members_of
from mtquant_rllib.training.session.ray_session import joined
from mtquant_rllib.training.storage import mirror

T = TypeVar("T")


def on_cluster(address: str, run: Path, look: Callable[..., T], tell: Callable[[str], None], **named: Any) -> T:
    """What `look(run, **named)` returns from a process on the node with the most idle CPUs. Its `files`, by kind, are
    those that this machine sees.

    Raises
    ------
    MtquantError
        Whatever `look` raises; when no cluster answers, or no node of it can see the run.
    """
    run = run.resolve()
    manifest = Manifest.read(members_of(run)[0] if is_ensemble(run) else run)
    settings = manifest.load_settings()
    with joined(settings, address) as machines:
        nodes = Readiness(run, Path(manifest.market.data), tell).usable(machines.nodes())
        free = machines.free()
        best = max(nodes, key=lambda node: free.get(str(node.id), {}).get("CPU", 0.0))
        tell(f"on {best} of the cluster at {address}")
        there = NodeAffinitySchedulingStrategy(str(best.id), soft=False)
        task: Any = ray.remote(num_cpus=0, max_retries=0)(_look).options(scheduling_strategy=there)
        try:
            done = ray.get(task.remote(mirror.named(run), look, named))
        except RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, MtquantError) else RunError(f"{best}: {cause}")) from error
        except RayError as error:
            raise RunError(f"{best}: the process there has ended ({type(error).__name__}); try again") from error
    run = existing_run(mirror.named(run)).resolve()
    return dataclasses.replace(done, files={kind: run / path for kind, path in done.files.items()})


def _look(name: str, look: Callable[..., Any], named: dict[str, Any]) -> Any:
    run = existing_run(name).resolve()
    with mirror.pushing_changes(run):
        done = look(run, **named)
    return dataclasses.replace(done, files={kind: Path(path).relative_to(run) for kind, path in done.files.items()})
