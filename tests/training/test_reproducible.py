"""Same seed, same result: two fresh processes agree to the bit, with 0 runners and with 2, with 0 learners and with 2;
restores go on, exactly."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from probes import result_of, started

SETTINGS = [
    "recipe.learning_rates.instruments=1e-3",
    "recipe.phase_learning_rate_fracs=[1, 1, 1]",
    "recipe.learning_rate_final_frac=0",
    "recipe.bars_per_update=100",
    "resources.cpus=2",
]

PROBE = """
begin(3, "desk", 203)

def hashes(algorithm):
    return {name: states.sha256(state) for name, state in algorithm.module_states().items()}

def replaced():
    # Another process takes its place, which nobody has told anything.
    actor = algorithm.env_runner_group._worker_manager.actors()[1]
    pid = ray.get(actor.__ray_call__.remote(lambda runner: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    while True:
        try:
            if ray.get(actor.__ray_call__.remote(lambda runner: os.getpid())) != pid:
                return
        except ray.exceptions.RayActorError:
            time.sleep(0.2)

algorithm = trial(3, "desk", 2.0)
if what == "replaced":
    replaced()
assert algorithm.train()["bars_sampled_lifetime"] == 100
# Arrays that Ray's object store holds cannot be written to. Of a sample nothing may be kept there: it would keep all.
kept = [leaf for leaf in tree.flatten(algorithm._runner_states) if hasattr(leaf, "flags")]
assert kept and all(array.flags.writeable for array in kept)
if what == "a learner lost":
    def die(learner):
        # In the middle of writing its part.
        type(learner).save_to_path = lambda *words, **named: os.kill(os.getpid(), signal.SIGKILL)
    algorithm.learner_group.foreach_learner(die)
    try:
        algorithm.save_to_path(str(run / "half"))
    except RuntimeError as error:
        print("RESULT", error, flush=True)
    os._exit(0)
if what == "restore":
    # Saved in the middle of episodes; two algorithms that are restored go on exactly as the one that was not.
    folder = str(run / "checkpoint")
    algorithm.save_checkpoint(folder)
    at_save = hashes(algorithm)
    algorithm.train()
    undisturbed = hashes(algorithm)
    for used in (False, False, True):
        if not used:
            algorithm.stop()
            algorithm = trial(3, "desk", 2.0)
        # One that has gone on goes back, too: its weights are newer than those that it gets.
        algorithm.load_checkpoint(folder)
        assert hashes(algorithm) == at_save, "the restored modules are the saved ones"
        result = algorithm.train()
        assert result["bars_sampled_lifetime"] == 200
        assert hashes(algorithm) == undisturbed, "it goes on as if it had never stopped"
        rate = result["learners"]["EURUSD"]["default_optimizer_learning_rate"]
        assert abs(rate - 1e-3 * (1 - 100 / 203)) < 1e-9, rate
if what == "replaced":
    replaced()
if what in ("killed", "lost"):
    # The process of a runner dies, between two calls or in the middle of one. Its replacement stands where it stood.
    actors = algorithm.env_runner_group._worker_manager.actors()
    pid = ray.get(actors[1].__ray_call__.remote(lambda runner: os.getpid()))
    began = time.monotonic()
    if what == "killed":
        slowed = lambda runner: setattr(runner, "_step_bar", lambda *a, play=runner._step_bar: (time.sleep(0.2),
        play(*a))[1]) ray.get(actors[1].__ray_call__.remote(slowed)) threading.Timer(0.7, os.kill, (pid,
        signal.SIGKILL)).start()
    else:
        os.kill(pid, signal.SIGKILL)
    result = algorithm.train()
    assert what == "lost" or time.monotonic() - began > 0.6, "the call was under way"
    assert ray.get(algorithm.env_runner_group._worker_manager.actors()[1].__ray_call__.remote(
        lambda runner: os.getpid())) != pid, "another process samples now"
    assert result["env_runners"]["num_env_steps_sampled_lifetime"] == 200
    what = "restore"
    assert result["bars_sampled_lifetime"] == 200
result = algorithm.train()
if what != "restore":
    assert result["bars_sampled_lifetime"] == 200 and not result["done"]
    result = algorithm.train()
assert result["bars_sampled_lifetime"] == 203 and result["done"], "the last batch is cut to end on the budget"
print("RESULT", sorted(hashes(algorithm).items()), result["validation"]["sharpe"])
algorithm.stop()
ray.shutdown()
"""


def probe(folder: Path, runners: int, what: str = "run", learners: int = 0) -> subprocess.Popen[str]:
    settings = [*SETTINGS, f"resources.runners={runners}", f"resources.learners={learners}"]
    return started(folder, PROBE, what, *settings)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("runners", "learners"), [(0, 0), (2, 0), (0, 2)])
def test_two_fresh_processes_with_one_seed_agree_to_the_bit(tmp_path: Path, runners: int, learners: int) -> None:
    first, second = (probe(tmp_path / name, runners, learners=learners) for name in "ab")
    assert result_of(first) == result_of(second)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("runners", "learners"),
    [(0, 0), pytest.param(2, 0, marks=pytest.mark.nightly), pytest.param(0, 2, marks=pytest.mark.nightly)],
)
def test_a_restored_trial_goes_on_in_the_middle_of_its_episodes(tmp_path: Path, runners: int, learners: int) -> None:
    result_of(probe(tmp_path / "a", runners, "restore", learners))


@pytest.mark.ray
@pytest.mark.slow
def test_a_learner_that_is_lost_leaves_no_checkpoint_that_looks_whole(tmp_path: Path) -> None:
    said = result_of(probe(tmp_path / "a", 0, "a learner lost", learners=2))
    assert said == "RESULT 1 of 2 learners were lost while a checkpoint was written: it is not whole"


@pytest.mark.ray
@pytest.mark.slow
def test_a_runner_that_is_lost_changes_nothing(tmp_path: Path) -> None:
    """Killed between two calls, in the middle of one, and replaced by Ray before the next, the first one too: the same
    states as where nobody was."""
    whats = ("run", "lost", "killed", "replaced")
    undisturbed, *disturbed = (result_of(probe(tmp_path / what, 2, what)) for what in whats)
    assert disturbed == [undisturbed] * 3
