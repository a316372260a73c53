"""SAC as the algorithm of a phase: killed and resumed to the bit in fresh processes, every phase on either algorithm,
and a phase that ends when validation no longer improves."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from probes import result_of, started

SETTINGS = [
    "sac.critic.hidden=[16, 16]",
    "sac.batch_size=16",
    "sac.bars_per_update=1",
    "sac.bars_per_round=20",
    "sac.bars_per_iteration=100",
    "sac.learning_starts_bars=40",
]

FINGERPRINT = """
def digest(item, into):
    if isinstance(item, dict):
        for key in sorted(item, key=str):
            into.update(str(key).encode())
            digest(item[key], into)
    elif isinstance(item, (list, tuple)):
        for part in item:
            digest(part, into)
    elif item is None or isinstance(item, str):
        into.update(str(item).encode())
    else:
        into.update(np.asarray(item).tobytes())

def fingerprint(algorithm):
    # Weights, targets, alphas, optimisers, replay and its generator; not the averages of metrics.
    state = algorithm.learner_group.get_state()["learner"]
    into = hashlib.sha256()
    digest({key: state[key] for key in ("rl_module", "optimizer", "replay")}, into)
    digest(algorithm._runner_states, into)
    return into.hexdigest()
"""

KILLED = f"""{FINGERPRINT}
begin(3, "desk", 10_000)
algorithm = trial(3, "desk", 1.0)
checkpoint = str(run / "checkpoint")
if what == "resume":
    algorithm.load_checkpoint(checkpoint)
    assert algorithm.bars_sampled == 200
else:
    algorithm.train(); algorithm.train()
    algorithm.save_checkpoint(checkpoint)
    if what == "killed":
        algorithm.train()
        os.kill(os.getpid(), signal.SIGKILL)
until = 400 if settings.resources.learners else 1200
while algorithm.bars_sampled < until:
    algorithm.train()
assert algorithm.learner_group.get_state()["learner"]["replay"]["gradient_steps"] == until - 40
print("RESULT", fingerprint(algorithm))
"""

PHASES = """
folder = None
for phase, name, learning in ((1, "forex", 4), (2, "desk", 1), (3, "desk", 12)):
    begin(phase, name, 120, folder)
    algorithm = trial(phase, name, 1.0)
    kind = settings.recipe.algorithms[phase - 1]
    given = states.read(run / folder) if folder else {}
    have = algorithm.module_states()
    for module, state in given.items():
        for key, array in states.acting(state).items():
            if key != "policy.rho":
                assert np.array_equal(have[module][key], array), (phase, module, key)
    while not (result := algorithm.train())["done"]:
        pass
    assert result["bars_sampled_lifetime"] == 120
    after = algorithm.module_states()
    changed = {m for m in after if states.sha256(states.acting(after[m])) != states.sha256(states.acting(have[m]))}
    assert changed == set(algorithm.config.policies_to_train) and len(changed) == learning, changed
    critics = {m for m in after if any(key.startswith("critics.") for key in after[m])}
    assert critics == (changed if kind == "sac" else set()), (phase, critics)
    if kind == "sac":
        figures = result["learners"]["meta_controller" if phase > 1 else "EURUSD"]
        assert figures["alpha"] > 0 and figures["actor_learning_rate"] > 0
    folder = f"phase_{phase}/modules/{name}/last"
    algorithm.stop()
print("RESULT done")
"""

PATIENCE = """
begin(1, "forex", 1000)
algorithm = trial(1, "forex", 1.0)
scores = iter([0.5, 0.7, 0.6, 0.7, 0.1, 0.9])
algorithm._validate = lambda modules: {"sharpe": next(scores)}
results = [algorithm.train()]
while not results[-1]["done"]:
    results.append(algorithm.train())
assert results[-1]["gave_up"] and not results[-2]["gave_up"]
assert algorithm.best["sharpe"] == 0.7 and algorithm.best["bars"] == 100, algorithm.best
assert results[-1]["bars_sampled_lifetime"] == 300, results[-1]["bars_sampled_lifetime"]
assert states.read(run / "phase_1/modules/forex/last")
print("RESULT done")
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("runners", "learners"),
    [(0, 0), pytest.param(2, 0, marks=pytest.mark.nightly), pytest.param(0, 2, marks=pytest.mark.nightly)],
)
def test_killed_and_resumed_is_never_having_been_killed(tmp_path: Path, runners: int, learners: int) -> None:
    """1,000 gradient steps of twelve modules after the checkpoint, in another process: the same to the bit. Several
    learners meet three times in every step of every stack, and make 200."""
    processes = (f"resources.runners={runners}", f"resources.learners={learners}", "resources.cpus=3")
    sac = (*SETTINGS, "recipe.algorithms=[sac, sac, sac]", *processes)
    undisturbed = result_of(started(tmp_path / "a", KILLED, "run", *sac))
    killed = started(tmp_path / "b", KILLED, "killed", *sac)
    killed.communicate(timeout=400)
    assert killed.returncode == -signal.SIGKILL
    assert result_of(started(tmp_path / "b", KILLED, "resume", *sac)) == undisturbed


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("algorithms", ["[sac, ppo, sac]", "[ppo, sac, ppo]"])
def test_every_phase_runs_on_either_algorithm_with_the_policies_of_the_one_before(
    tmp_path: Path, algorithms: str
) -> None:
    both = (*SETTINGS, f"recipe.algorithms={algorithms}", "recipe.bars_per_update=60", "resources.cpus=1")
    result_of(started(tmp_path / "a", PHASES, "run", *both))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_a_phase_without_progress_on_validation_ends_early_and_keeps_its_best(tmp_path: Path, algorithm: str) -> None:
    """Best of five at the second validation; two after it are no better."""
    result_of(
        started(
            tmp_path / "a",
            PATIENCE,
            "run",
            *SETTINGS,
            "resources.cpus=1",
            f"recipe.algorithms=[{algorithm}, ppo, ppo]",
            "recipe.bars_per_update=100",
            "recipe.validations=10",
            "recipe.patience=2",
            "recipe.average_updates=null",
        )
    )
