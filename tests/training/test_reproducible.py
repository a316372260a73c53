"""Same seed, same result: two fresh processes agree to the bit, with 0 runners and with 2, with 0 learners and with 2;
restores go on, exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trials import IN_HUNDREDS, Trials, module_hashes

PROGRAM = Path(__file__).with_name("reproduced.py")
HOW = ("one process", "two runners", "two learners")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What two fresh interpreters come to, at the same time; string hashes are salted anew in each."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONHASHSEED", "OMP_NUM_THREADS")}
    folder = tmp_path_factory.mktemp("reproduced")
    started = [
        subprocess.Popen(
            [sys.executable, PROGRAM, folder / what, what],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for what in ("learner_lost", "runners_lost")
    ]  # fmt: skip
    results = []
    for process in started:
        out, err = process.communicate(timeout=500)
        lines = [line for line in out.splitlines() if line.startswith("RESULT")]
        assert lines, f"{out[-2000:]}\n{err[-4000:]}"
        results.append(json.loads(lines[0].removeprefix("RESULT")))
    first, second = results
    return first, second


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_two_fresh_processes_with_one_seed_agree_to_the_bit(found: tuple[dict, dict], how: str) -> None:
    first, second = found
    assert first[how] == second[how]
    assert len(set(first[how])) == 5, "it learns"


@pytest.mark.ray
@pytest.mark.slow
def test_a_learner_that_is_lost_leaves_no_checkpoint_that_looks_whole(found: tuple[dict, dict]) -> None:
    said = "1 of 2 learners were lost while a checkpoint was written: it is not whole"
    assert found[0]["learner_lost"] == said


@pytest.mark.ray
@pytest.mark.slow
def test_a_runner_that_is_lost_changes_nothing(found: tuple[dict, dict]) -> None:
    """Replaced by Ray before the next call, the first one too, killed in the middle of one and between two: the same
    states after every iteration as where nobody was, in another process."""
    assert found[1]["runners_lost"] == found[0]["two runners"]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("runners", "learners"),
    [(0, 0), pytest.param(2, 0, marks=pytest.mark.nightly), pytest.param(0, 2, marks=pytest.mark.nightly)],
)
def test_a_restored_trial_goes_on_in_the_middle_of_its_episodes(
    ray_session: None, tmp_path: Path, runners: int, learners: int
) -> None:
    """Two algorithms that are restored go on exactly as the one that was not."""
    processes = (f"resources.runners={runners}", f"resources.learners={learners}")
    trials, folder = Trials.of(tmp_path / "run", *IN_HUNDREDS, *processes), str(tmp_path / "checkpoint")
    trials.begin(3, "desk", 203)
    algorithm = trials.algorithm(3, "desk", 2.0)
    assert algorithm.train()["bars_sampled_lifetime"] == 100
    algorithm.save_checkpoint(folder)
    at_save = module_hashes(algorithm)
    algorithm.train()
    undisturbed = module_hashes(algorithm)
    for used in (False, False, True):
        if not used:
            algorithm.stop()
            algorithm = trials.algorithm(3, "desk", 2.0)
        # One that has gone on goes back, too: its weights are newer than those that it gets.
        algorithm.load_checkpoint(folder)
        assert module_hashes(algorithm) == at_save, "the restored modules are the saved ones"
        result = algorithm.train()
        assert result["bars_sampled_lifetime"] == 200
        assert module_hashes(algorithm) == undisturbed, "it goes on as if it had never stopped"
        rate = result["learners"]["EURUSD"]["default_optimizer_learning_rate"]
        assert rate == pytest.approx(1e-3 * (1 - 100 / 203), abs=1e-9)
    result = algorithm.train()
    assert result["bars_sampled_lifetime"] == 203
    assert result["done"], "the last batch is cut to end on the budget"
    algorithm.stop()
