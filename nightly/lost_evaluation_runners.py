"""Open a checkpoint and evaluate it while its evaluation runners are killed; print a digest of
its states after one more update.

python lost_evaluation_runners.py CHECKPOINT KILLS
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

import ray
from ray.rllib.algorithms.algorithm import Algorithm
from runs import digest, leaves

RUNNERS = 2
EPISODES = 4
PATIENCE_S = 90.0


def main(checkpoint: Path, kills: int) -> None:
    started = Algorithm.from_checkpoint(checkpoint)
    config = started.config.copy(copy_frozen=False)
    started.stop()
    config.env_runners(num_cpus_per_env_runner=0.25).evaluation(
        evaluation_num_env_runners=RUNNERS,
        evaluation_duration=EPISODES,
        evaluation_config={"explore": False, "env_config": {**config.env_config, "split": "validation"}},
    )
    algorithm = Algorithm.from_checkpoint(checkpoint, config=config)
    for _ in range(kills):
        group = algorithm.eval_env_runner_group
        pids = group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
        assert len(pids) == RUNNERS, pids
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert algorithm.evaluate()["env_runners"]["num_episodes"] >= EPISODES
        deadline = time.monotonic() + PATIENCE_S
        while group.num_healthy_remote_workers() < RUNNERS:
            assert time.monotonic() < deadline, "one of the evaluation runners did not come back"
            algorithm.evaluate()
    algorithm.train()
    states = [(path, digest(value)) for path, value in leaves(algorithm.module_states(), "")]
    print("STATES", hashlib.sha256(repr(states).encode()).hexdigest())
    algorithm.stop()


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    main(Path(sys.argv[1]), int(sys.argv[2]))
