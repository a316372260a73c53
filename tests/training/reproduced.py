"""Trains one trial by one process, by two runners and by two learners, and prints what each comes to, iteration by
iteration.

    python reproduced.py FOLDER learner_lost | runners_lost

Beside that: a learner dies while it writes its part of a checkpoint; or a runner's process dies before every iteration,
and in the middle of one.
"""

from __future__ import annotations

from mtquant_rllib.training.session.process_variables import PROCESS_VARIABLES, reexec_with_variables

reexec_with_variables()

import json  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ray  # noqa: E402
import tree  # noqa: E402
from trials import IN_HUNDREDS, Trials, module_hashes  # noqa: E402

BARS = [100, 200, 300, 303]
"""After each iteration: the last batch is cut to end on the budget."""
HOW = {"one process": (0, 0), "two runners": (2, 0), "two learners": (0, 2)}
"""Runners and learners."""

Disturb = Callable[[Any], None]


def pid_of(actor: Any) -> int:
    return ray.get(actor.__ray_call__.remote(lambda runner: os.getpid()))


def first_runner(algorithm: Any) -> Any:
    return algorithm.env_runner_group._worker_manager.actors()[1]


def lost(algorithm: Any) -> None:
    """The process of a runner dies between two calls."""
    os.kill(pid_of(first_runner(algorithm)), signal.SIGKILL)


def replaced(algorithm: Any) -> None:
    """It dies, and Ray has put another in its place before anybody asks, which nobody has told anything."""
    actor = first_runner(algorithm)
    before = pid_of(actor)
    os.kill(before, signal.SIGKILL)
    while True:
        try:
            if pid_of(actor) != before:
                return
        except ray.exceptions.RayActorError:
            time.sleep(0.2)


def killed_at_work(algorithm: Any) -> None:
    """It dies in the middle of a call, which is made to take long enough."""
    actor = first_runner(algorithm)
    slowed = lambda runner: setattr(  # noqa: E731
        runner, "_step_bar", lambda *a, step=runner._step_bar: (time.sleep(0.2), step(*a))[1]
    )
    ray.get(actor.__ray_call__.remote(slowed))
    threading.Timer(0.7, os.kill, (pid_of(actor), signal.SIGKILL)).start()


def trained(run: Path, how: str, disturbances: Sequence[Disturb] = ()) -> tuple[Any, list[str]]:
    """The algorithm at the end of its budget, and the hashes of its modules after each iteration."""
    runners, learners = HOW[how]
    trials = Trials.of(run, *IN_HUNDREDS, f"resources.runners={runners}", f"resources.learners={learners}")
    trials.begin(3, "desk", BARS[-1])
    algorithm, seen = trials.algorithm(3, "desk", 2.0), []
    for number, bars in enumerate(BARS):
        before = pid_of(first_runner(algorithm)) if disturbances else 0
        if disturbances:
            disturbances[number](algorithm)
        began = time.monotonic()
        result = algorithm.train()
        assert result["bars_sampled_lifetime"] == result["env_runners"]["num_env_steps_sampled_lifetime"] == bars
        assert result["done"] == (bars == BARS[-1])
        if disturbances:
            assert pid_of(first_runner(algorithm)) != before, "another process samples now"
            assert disturbances[number] is not killed_at_work or time.monotonic() - began > 0.6, (
                "the call was under way"
            )
        # Arrays that Ray's object store holds cannot be written to. Nothing of a sample may be kept there: it would
        # keep all of it.
        kept = [leaf for leaf in tree.flatten(algorithm._runner_states) if hasattr(leaf, "flags")]
        assert kept
        assert all(array.flags.writeable for array in kept)
        seen.append(str(sorted(module_hashes(algorithm).items())))
    return algorithm, [*seen, str(result["validation"]["sharpe"])]


def saved_while_a_learner_dies(algorithm: Any, folder: Path) -> str:
    """What is said of the checkpoint."""

    def die(learner: Any) -> None:
        type(learner).save_to_path = lambda *words, **named: os.kill(os.getpid(), signal.SIGKILL)

    algorithm.learner_group.foreach_learner(die)
    try:
        algorithm.save_to_path(str(folder))
    except RuntimeError as error:
        return str(error)
    return "it was saved"


def main(folder: Path, what: str) -> None:
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=100 * 2**20, runtime_env={"env_vars": PROCESS_VARIABLES},
    )  # fmt: skip
    found: dict[str, Any] = {}
    for how in HOW:
        algorithm, found[how] = trained(folder / how.replace(" ", "_"), how)
        if how != "two learners":
            algorithm.stop()
    if what == "learner_lost":
        found[what] = saved_while_a_learner_dies(algorithm, folder / "half")
    else:
        algorithm.stop()
        disturbances = (replaced, killed_at_work, lost, replaced)
        _, found[what] = trained(folder / what, "two runners", disturbances)
    print("RESULT", json.dumps(found), flush=True)
    # A learner that waits for one that died would keep this process waiting too.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
