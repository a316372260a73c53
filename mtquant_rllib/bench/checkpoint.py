"""What a checkpoint costs: to write, to verify and to go on from, beside the update that it follows.

    write_ms      written aside, synced to the disk, checksummed, signed and renamed, as trials do
    plain_ms      RLlib's `save_to_path` alone, which leaves the disk and damage to luck
    verify_ms     every file compared with its checksum
    restore_ms    state loaded into an algorithm that is there
    update_ms     the iteration between two checkpoints
    mb, files     size

PPO has twelve policies on the settings' recipe; SAC has them with so many bars in its replay.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtquant_rllib.bench.setup import endless_run, ray_session
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.training.algorithm.building import build_config
from mtquant_rllib.training.curriculum.phases import JOINT, plan_named
from mtquant_rllib.training.placement.planner import TrialResources
from mtquant_rllib.training.records import checkpoints, ownership, signatures
from mtquant_rllib.training.records.checkpoints import Checkpoint
from mtquant_rllib.training.records.manifest import MarketRecord, versions


@dataclass(frozen=True)
class Sizes:
    """repeats: checkpoints written; replay_bars: bars in SAC's replay."""

    repeats: int = 5
    replay_bars: int = 20_000


def bench_checkpoint(settings: Settings, market: MarketRecord, sizes: Sizes) -> Mapping[str, Any]:
    """Figures of PPO and SAC, medians in milliseconds; see the module's docstring."""
    with ray_session(settings, cpus=2), tempfile.TemporaryDirectory() as folder:
        found = {
            name: _measured(_algorithm(settings, market, name, sizes), Path(folder) / name, sizes.repeats)
            for name in ("ppo", "sac")
        }
    return {**found, "sizes": vars(sizes)}


def _algorithm(settings: Settings, market: MarketRecord, name: str, sizes: Sizes) -> Any:
    tree = settings.model_dump(mode="json")
    tree["recipe"]["algorithms"] = [name] * 3
    tree["resources"] |= {"engine": "batched", "runners": 0, "learners": 0}
    if name == "sac":
        # Collected without learning, which has no part in what a checkpoint holds but for its values.
        tree["sac"] |= {
            "replay_bars": max(tree["sac"]["replay_bars"], sizes.replay_bars),
            "bars_per_iteration": sizes.replay_bars,
            "learning_starts_bars": 2 * sizes.replay_bars,
            "learning_starts_frac": 1.0,
        }
    manifest = endless_run(Settings.model_validate(tree), market)
    config: Any = build_config(plan_named(manifest.load_settings(), 3, JOINT), manifest, TrialResources(1.0, 1.0, 0.0))
    config.training(validations=0)
    return config.build_algo()


def _measured(algorithm: Any, run: Path, repeats: int) -> dict[str, float]:
    ownership.claim(run)
    update_ms = _ms(algorithm.train)
    written: list[Path] = []

    def write() -> None:
        index = Checkpoint(
            run="bench",
            phase=3,
            trial=JOINT,
            iteration=len(written) + 1,
            bars=algorithm.bars_sampled,
            finished=False,
            result={},
            seconds=0.0,
            versions=versions(),
        )
        written.append(
            checkpoints.write(run, run / "trial", index, algorithm.save_to_path, signatures.sign_where_keyed)
        )

    def plainly() -> None:
        with tempfile.TemporaryDirectory(dir=run) as folder:
            algorithm.save_to_path(folder)

    write_ms, plain_ms = [], []
    for _ in range(repeats):
        write_ms.append(_ms(write))
        plain_ms.append(_ms(plainly))
    newest = checkpoints.verify(written[-1])
    figures = {
        "write_ms": statistics.median(write_ms),
        "plain_ms": statistics.median(plain_ms),
        "verify_ms": statistics.median(_ms(lambda: checkpoints.verify(written[-1])) for _ in range(repeats)),
        "restore_ms": _ms(lambda: algorithm.restore_from_path(str(written[-1]))),
        "update_ms": update_ms,
        "mb": sum(record.bytes for record in newest.files.values()) / 2**20,
        "files": float(len(newest.files)),
    }
    algorithm.stop()
    return figures


def _ms(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)
