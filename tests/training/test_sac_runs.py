"""SAC as the algorithm of a phase: restored to the bit, every phase on either algorithm, and a phase that ends when
validation no longer improves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trials import Trials, digest

from mtquant_rllib.training.curriculum.phases import at_bars
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.result_keys import AVERAGED_SHARPE

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

SETTINGS = (
    "sac.critic.hidden=[16, 16]",
    "sac.batch_size=16",
    "sac.bars_per_gradient_step=1",
    "sac.rollout_bars=20",
    "sac.bars_per_iteration=100",
    "sac.learning_starts_bars=40",
)


def fingerprint(algorithm: Any) -> str:
    """Of weights, targets, alphas, optimisers, replay and its generator, and environments; not of metrics' averages."""
    state = algorithm.learner_group.get_state()["learner"]
    return digest({key: state[key] for key in ("rl_module", "optimizer", "replay")}, algorithm._runner_states)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runners", "learners", "until"),
    [
        (0, 0, 600),
        pytest.param(2, 0, 1200, marks=pytest.mark.nightly),
        pytest.param(0, 2, 400, marks=pytest.mark.nightly),
    ],
)
def test_restored_is_never_having_been_stopped(tmp_path: Path, runners: int, learners: int, until: int) -> None:
    """Hundreds of gradient steps of twelve modules after the checkpoint, by an algorithm that had none of it: the same
    to the bit. Several learners meet three times in every step of every stack, and make 200."""
    processes = (f"resources.runners={runners}", f"resources.learners={learners}", "resources.cpus=2")
    trials = Trials.of(tmp_path / "run", *SETTINGS, "recipe.algorithms=[sac, sac, sac]", *processes)
    trials.begin(3, "desk", 10_000)

    def trained_on(algorithm: Any) -> str:
        while algorithm.bars_sampled < until:
            algorithm.train()
        assert algorithm.learner_group.get_state()["learner"]["replay"]["gradient_steps"] == until - 40
        found = fingerprint(algorithm)
        algorithm.stop()
        return found

    first = trials.algorithm(3, "desk", 2.0)
    while first.bars_sampled < 200:
        first.train()
    first.save_checkpoint(str(tmp_path / "checkpoint"))
    undisturbed = trained_on(first)
    again = trials.algorithm(3, "desk", 2.0)
    assert again.bars_sampled == 0
    again.load_checkpoint(str(tmp_path / "checkpoint"))
    assert again.bars_sampled == 200
    assert trained_on(again) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("algorithms", ["[sac, ppo, sac]", "[ppo, sac, ppo]"])
def test_every_phase_runs_on_either_algorithm_with_the_policies_of_the_one_before(
    tmp_path: Path, algorithms: str
) -> None:
    both = (*SETTINGS, f"recipe.algorithms={algorithms}", "recipe.train_batch_bars=60", "resources.cpus=1")
    trials, folder = Trials.of(tmp_path / "run", *both), None
    for phase, name, learning in ((1, "forex", 4), (2, "desk", 1), (3, "desk", 12)):
        trials.begin(phase, name, 120, folder)
        algorithm = trials.algorithm(phase, name)
        kind = trials.settings.recipe.algorithms[phase - 1]
        have = algorithm.module_states()
        for module, state in (module_states.read(trials.run / folder) if folder else {}).items():
            for key, array in module_states.acting(state).items():
                if key != "policy.rho":
                    assert np.array_equal(have[module][key], array), (phase, module, key)
        while not (result := algorithm.train())["done"]:
            pass
        assert result["bars_sampled_lifetime"] == 120
        after = algorithm.module_states()
        changed = {
            m
            for m in after
            if module_states.sha256(module_states.acting(after[m]))
            != module_states.sha256(module_states.acting(have[m]))
        }
        assert changed == set(algorithm.config.policies_to_train)
        assert len(changed) == learning
        critics = {m for m in after if any(key.startswith("critics.") for key in after[m])}
        assert critics == (changed if kind == "sac" else set())
        if kind == "sac":
            figures = result["learners"]["meta_controller" if phase > 1 else "EURUSD"]
            assert figures["alpha"] > 0
            assert figures["actor_learning_rate"] > 0
        folder = f"phase_{phase}/modules/{name}/last"
        algorithm.stop()


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_a_phase_without_progress_on_validation_ends_early_and_keeps_its_best(
    tmp_path: Path, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Best of five at the second validation; two after it are no better."""
    trials = Trials.of(
        tmp_path / "run",
        *SETTINGS,
        "resources.cpus=1",
        f"recipe.algorithms=[{algorithm}, ppo, ppo]",
        "recipe.train_batch_bars=100",
        "recipe.validations=10",
        "recipe.patience=2",
        "recipe.ema_updates=null",
    )
    trials.begin(1, "forex", 1000)
    built, scores = trials.algorithm(1, "forex"), iter([0.5, 0.7, 0.6, 0.7, 0.1, 0.9])
    monkeypatch.setattr(built, "_validate", lambda modules: {"sharpe": next(scores)})
    results = [built.train()]
    while not results[-1]["done"]:
        results.append(built.train())
    assert results[-1]["early_stopped"]
    assert not results[-2]["early_stopped"]
    assert (built.best["sharpe"], built.best["bars"]) == (0.7, 100)
    assert results[-1]["bars_sampled_lifetime"] == 300
    assert module_states.read(trials.run / "phase_1/modules/forex/last")
    built.stop()


@pytest.mark.slow
def test_the_newest_average_is_handed_over_where_validation_does_not_choose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever validation says: on few bars the best of many is the luckiest."""
    trials = Trials.of(
        tmp_path / "run",
        *SETTINGS,
        "resources.cpus=1",
        "recipe.train_batch_bars=100",
        "recipe.validations=4",
        "recipe.ema_updates=5",
        "recipe.use_final_ema=always",
    )
    trials.begin(1, "forex", 400)
    built, scores = trials.algorithm(1, "forex"), iter(np.linspace(2.0, 0.1, 20))
    monkeypatch.setattr(built, "_validate", lambda modules: {"sharpe": next(scores)})
    result = built.train()
    while not result["done"]:
        result = built.train()
    assert built.best["bars"] == result["bars_sampled_lifetime"] == 400
    assert built.best["sharpe"] == pytest.approx(result["validation"][AVERAGED_SHARPE])
    kept = module_states.read(trials.run / f"phase_1/modules/forex/{at_bars(400)}")
    averaged, last = built._average.of(built.module_states()), built.module_states()
    assert averaged is not None
    for key, array in kept["EURUSD"].items():
        np.testing.assert_array_equal(array, averaged["EURUSD"][key])
    assert any((kept["EURUSD"][key] != last["EURUSD"][key]).any() for key in kept["EURUSD"])
    built.stop()
