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

algorithm = trial(3, "desk", 2.0)
assert algorithm.train()["bars_sampled_lifetime"] == 100
if what == "restore":
    folder = str(run / "checkpoint")
    algorithm.save_checkpoint(folder)
    seats = {k: [env["episodes_begun"] for env in v["environments"]] for k, v in algorithm._seats.items()}
    first = [hashes(algorithm), algorithm.train()["bars_sampled_lifetime"]]
    again = []
    for _ in range(2):
        algorithm.stop()
        algorithm = trial(3, "desk", 2.0)
        algorithm.load_checkpoint(folder)
        assert [hashes(algorithm), 200] == first, "the restored modules are the saved ones"
        result = algorithm.train()
        assert result["bars_sampled_lifetime"] == 200
        again.append(hashes(algorithm))
        rate = result["learners"]["EURUSD"]["default_optimizer_learning_rate"]
        assert abs(rate - 1e-3 * (1 - 100 / 203)) < 1e-9, rate
        for index, begun in algorithm._seats.items():
            later = [env["episodes_begun"] for env in begun["environments"]]
            assert all(b > a for a, b in zip(seats[index], later)), "episodes are fresh"
    assert again[0] == again[1], "two restores of one checkpoint go on alike"
if what == "killed":
    # The process of a runner dies in the middle of a call; what it had sampled is lost with it, and not counted.
    actors = algorithm.env_runner_group._worker_manager.actors()
    pid = ray.get(actors[1].__ray_call__.remote(lambda runner: os.getpid()))
    slowed = lambda runner: setattr(runner, "_play", lambda *a, play=runner._play: (time.sleep(0.2), play(*a))[1])
    ray.get(actors[1].__ray_call__.remote(slowed))
    threading.Timer(0.7, os.kill, (pid, signal.SIGKILL)).start()
    began = time.monotonic()
    results = [algorithm.train()]
    assert time.monotonic() - began > 0.6, "the call was under way"
    while not results[-1]["done"]:
        results.append(algorithm.train())
    counts = [result["bars_sampled_lifetime"] for result in results]
    assert counts[0] == 150, "the share of the killed runner is missing"
    assert counts[-1] == 203
    assert [result["env_runners"]["num_env_steps_sampled_lifetime"] for result in results] == counts
    assert algorithm._seats[2]["bars"] + algorithm._seats[1]["bars"] == 203
    print("RESULT killed")
    algorithm.stop()
    raise SystemExit
if what == "lost":
    begun = {k: [env["episodes_begun"] for env in v["environments"]] for k, v in algorithm._seats.items()}
    ray.kill(algorithm.env_runner_group._worker_manager.actors()[1], no_restart=False)
    results = [algorithm.train()]
    while not results[-1]["done"]:
        results.append(algorithm.train())
    assert results[0]["bars_sampled_lifetime"] == 150, "the share of the lost runner is missing"
    assert results[-1]["bars_sampled_lifetime"] == 203
    assert algorithm._seats[2]["bars"] + algorithm._seats[1]["bars"] == 203
    for index, seats in algorithm._seats.items():
        assert all(env["episodes_begun"] >= past for env, past in zip(seats["environments"], begun[index]))
    print("RESULT lost")
    algorithm.stop()
    raise SystemExit
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
@pytest.mark.parametrize(("runners", "learners"), [(0, 0), (2, 0), (0, 2)])
def test_a_restored_trial_goes_on_with_fresh_episodes_and_the_rate_of_its_bar(
    tmp_path: Path, runners: int, learners: int
) -> None:
    result_of(probe(tmp_path / "a", runners, "restore", learners))


@pytest.mark.ray
@pytest.mark.slow
def test_a_lost_runner_is_replaced_where_it_stood_and_the_budget_is_still_met(tmp_path: Path) -> None:
    result_of(probe(tmp_path / "a", 2, "lost"))


@pytest.mark.ray
@pytest.mark.slow
def test_a_runner_killed_while_it_samples_costs_its_share_and_no_more(tmp_path: Path) -> None:
    result_of(probe(tmp_path / "a", 2, "killed"))
