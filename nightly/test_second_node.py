"""A node of a cluster dies in the middle of a phase: its trials go on elsewhere from their checkpoints."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import runs
from table import TABLE, Row

DRIVER = """
import sys
from pathlib import Path
from mtquant_rllib.training.seeding import reexec_with_hash_seed
reexec_with_hash_seed()
from mtquant_rllib.config import Settings
from mtquant_rllib.training.curriculum import train
run, scale, address, overrides = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:]
train(Settings.load(overrides=overrides), run=run, budget_scale=scale, address=address)
print("ENDED", flush=True)
"""
OVERRIDES = ("resources.learner_cpus=1",)


@pytest.mark.parametrize("phase", [1, 3])
def test_a_node_is_lost(
    tmp_path: Path, reference: Callable[..., Path], phase: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    whole = reference(*OVERRIDES)
    for name, value in (("MTQUANT_CACHE", "cache"), ("XDG_CONFIG_HOME", "config")):
        monkeypatch.setenv(name, str(tmp_path / value))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
    other = cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    cluster.wait_for_nodes()
    overrides = (*runs.SMALL, *OVERRIDES)
    words = [sys.executable, "-c", DRIVER, str(tmp_path / "runs" / "x"), runs.SCALE, cluster.address, *overrides]
    driver = runs.listening(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    try:
        assert driver.says(f"phase {phase} {'forex' if phase == 1 else 'desk'}  "), driver.text[-3000:]
        time.sleep(random.Random(phase).uniform(0.0, 1.0))
        cluster.remove_node(other, allow_graceful=False)
        code = driver.end()
        differing = runs.differences(whole, tmp_path / "runs" / "x") if code == 0 else None
        seen = next((line.strip() for line in driver.lines if "starts again" in line), "its trials were elsewhere")
        count, lost = None if differing is None else len(differing), runs.played_again(driver.lines)
        TABLE.add(Row("a second node's raylet is killed", code == 0, code, seen, count, lost))
        assert code == 0, driver.text[-4000:]
        assert not differing, differing[:20]
    finally:
        driver.process.kill()
        cluster.shutdown()
