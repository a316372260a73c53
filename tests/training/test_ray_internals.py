"""Every name of Ray's that this project reaches past its settings for is there, does harm when left alone, and does
what is wanted of it when moved."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import ray
from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.trainable.trainable import _TrainingResult
from ray.util import debug

from mtquant_rllib.training.session.ray_internals import bounded_tune_memory, learners_reducing_by, secrets_unsent

SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@pytest.fixture
def sent_whole(ray_session: None) -> Iterator[None]:
    """What this file defines is sent to workers, which do not find the file."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_tune_sends_no_secret_and_what_it_sends_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.tune.execution.class_cache import _ActorClassCache

    for name in SECRETS:
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")

    class Trainable:
        pass

    def sent() -> dict[str, str]:
        return dict(_ActorClassCache().get(Trainable)._default_options["runtime_env"]["env_vars"])

    assert "AWS_SECRET_ACCESS_KEY" in sent(), "Tune no longer sends them by itself: `secrets_unsent` may go"
    with secrets_unsent():
        assert set(sent()) & set(SECRETS) == set()
        assert sent()["RAY_CHDIR_TO_TRIAL_DIR"] == "0"
    assert "AWS_SECRET_ACCESS_KEY" in sent()


class Short(tune.Trainable):
    """Saves as this project's trials do: a checkpoint that Tune did not make."""

    def step(self) -> dict[str, Any]:
        return {"done": self.iteration >= 19}

    def save(self, checkpoint_dir: str | None = None) -> Any:
        folder = Path(self.config["folder"], str(self.iteration))
        folder.mkdir(parents=True)
        return _TrainingResult(checkpoint=tune.Checkpoint(str(folder)), metrics={"training_iteration": self.iteration})


class TuneBacklog(tune.Callback):
    """The most futures and checkpoints that Tune held of a trial."""

    def __init__(self, managers: list[Any]) -> None:
        self.managers, self.futures, self.checkpoints = managers, 0, 0

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        for manager in self.managers:
            backlog = [len(calls) for calls in manager._tracked_actors_to_task_futures.values()]
            self.futures = max([self.futures, *backlog])
        for trial in trials:
            kept = trial.run_metadata.checkpoint_manager._checkpoint_results
            self.checkpoints = max(self.checkpoints, len(kept))


def backlog(folder: Path, monkeypatch: pytest.MonkeyPatch) -> TuneBacklog:
    begin = RayActorManager.__init__
    managers: list[Any] = []

    def noted(manager: Any, *words: Any, **named: Any) -> None:
        begin(manager, *words, **named)
        managers.append(manager)

    watch = TuneBacklog(managers)
    with monkeypatch.context() as patched:
        patched.setattr(RayActorManager, "__init__", noted)
        # Tune copies its callbacks into its records.
        patched.setattr(TuneBacklog, "__getstate__", lambda self: {}, raising=False)
        grid = tune.Tuner(
            Short,
            param_space={"folder": str(folder)},
            run_config=tune.RunConfig(
                storage_path=str(folder),
                callbacks=[watch],
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
                verbose=0,
            ),
        ).fit()
    # A manager that is kept keeps its placement group, in a session that other tests share.
    managers.clear()
    assert not grid.errors
    assert grid[0].checkpoint.path.endswith("/20")
    return watch


@pytest.mark.ray
@pytest.mark.slow
def test_tune_forgets_results_and_checkpoints(
    sent_whole: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: set[str] = set()
    monkeypatch.setattr(debug, "_logged", noted)
    stock = backlog(tmp_path / "rllib", monkeypatch)
    assert stock.futures >= 20, "Tune forgets results by itself: this half of `bounded_tune_memory` may go"
    assert stock.checkpoints == 20
    assert any(text.startswith("tune_func_encode") for text in noted), "Tune notes them no more"
    noted.clear()
    with bounded_tune_memory():
        watch = backlog(tmp_path / "forgotten", monkeypatch)
    assert watch.futures <= 2
    assert watch.checkpoints == 1
    assert not any(text.startswith("tune_func_encode") for text in noted)


@pytest.mark.ray
@pytest.mark.slow
def test_learners_add_up_by_what_they_are_told(sent_whole: None) -> None:
    config = PPOConfig().environment("CartPole-v1").learners(num_learners=2, num_cpus_per_learner=0.5)
    env = gymnasium.make("CartPole-v1")
    with learners_reducing_by("no-such-backend"), pytest.raises(Exception, match="no-such-backend"):
        config.build_learner_group(env=env)
    with learners_reducing_by("gloo"):
        group = config.build_learner_group(env=env)
    try:
        names = [result.get() for result in group.foreach_learner(lambda _: _backend())]
    finally:
        group.shutdown()
    assert names == ["gloo", "gloo"]


def _backend() -> str:
    import torch

    return str(torch.distributed.get_backend())
