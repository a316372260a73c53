"""Tune's own controller over trials that live in this process: its decisions in the order of a real experiment, without
a Ray session. Two trials run at a time."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune
from ray.train._internal import storage as ray_storage
from ray.tune.execution import tune_controller
from ray.tune.experiment import Trial

SIDE_BY_SIDE = 2


_HANDLE = SimpleNamespace(get_auto_filled_metrics=SimpleNamespace(remote=lambda **named: {}))
"""What Tune asks an actor's handle as soon as it has it."""


class Actors:
    """What Tune's controller asks of its manager of actors, answered at once and in turn."""

    def __init__(self, resource_manager: Any = None) -> None:
        self._waiting: collections.deque[Any] = collections.deque()
        self._events: collections.deque[Callable[[], None]] = collections.deque()
        self._live_actors_to_ray_actors_resources: dict[Any, tuple[Any, None]] = {}

    def add_actor(
        self, cls: Any, resource_request: Any, kwargs: Any, on_start: Any, on_stop: Any, on_error: Any
    ) -> Any:
        tracked = _Tracked(make=lambda: cls(**kwargs), on_start=on_start, on_stop=on_stop, gone=False)
        self._waiting.append(tracked)
        return tracked

    def next(self, timeout: float | None = None) -> bool:
        if self._waiting and len(self._live_actors_to_ray_actors_resources) < SIDE_BY_SIDE:
            tracked = self._waiting.popleft()
            if not tracked.gone:
                tracked.actor = tracked.make()
                self._live_actors_to_ray_actors_resources[tracked] = (_HANDLE, None)
                tracked.on_start(tracked)
            return True
        if not self._events:
            return False
        self._events.popleft()()
        return True

    def schedule_actor_task(
        self,
        tracked_actor: Any,
        method_name: str,
        args: Any = (),
        kwargs: Any = None,
        on_result: Any = None,
        on_error: Any = None,
        _return_future: bool = False,
    ) -> Any:
        if tracked_actor not in self._live_actors_to_ray_actors_resources:
            return None
        actor = tracked_actor.actor

        def answer() -> None:
            if tracked_actor.gone or on_result is None:
                return
            try:
                found = getattr(actor, method_name)(*args, **(kwargs or {}))
            except RuntimeError as error:
                on_error(tracked_actor, error)
            else:
                on_result(tracked_actor, found)

        self._events.append(answer)
        return SimpleNamespace()

    def remove_actor(self, tracked_actor: Any, kill: bool = False, stop_future: Any = None) -> bool:
        tracked_actor.gone = True
        there = self._live_actors_to_ray_actors_resources.pop(tracked_actor, None)
        self._events.append(lambda: tracked_actor.on_stop(tracked_actor))
        return there is not None

    def clear_actor_task_futures(self, tracked_actor: Any) -> None:
        pass

    def is_actor_started(self, tracked_actor: Any) -> bool:
        return tracked_actor in self._live_actors_to_ray_actors_resources

    def get_live_actors_resources(self) -> dict[str, float]:
        return {}

    def cleanup(self) -> None:
        pass

    num_pending_actors = property(lambda self: len(self._waiting))
    num_live_actors = property(lambda self: len(self._live_actors_to_ray_actors_resources))
    num_total_actors = property(lambda self: len(self._waiting) + self.num_live_actors)
    num_actor_tasks = property(lambda self: len(self._events))


class _Tracked(SimpleNamespace):
    """Hashable, by identity."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other

    def set_on_stop(self, on_stop: Any) -> None:
        self.on_stop = on_stop or (lambda tracked: None)

    def set_on_error(self, on_error: Any) -> None:
        pass


def run(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    trainable: type[tune.Trainable],
    configs: Sequence[dict[str, Any]],
    scheduler: Any,
    callbacks: Sequence[tune.Callback],
    until: Callable[[Any], bool] = lambda controller: False,
    max_failures: int = 0,
) -> Any:
    """Step an experiment to its end, or until it is to be cut off as by a kill; its controller. A trial fails by a
    RuntimeError."""
    monkeypatch.setattr(tune_controller, "RayActorManager", Actors)
    monkeypatch.setattr(tune_controller, "PlacementGroupResourceManager", lambda: None)
    monkeypatch.setattr(tune_controller, "_get_max_pending_trials", lambda search: 100)
    monkeypatch.setattr(ray_storage, "_get_ray_train_session_dir", lambda: str(folder / "session"))
    tune.register_trainable(trainable.__name__, trainable)
    storage = ray_storage.StorageContext(str(folder), "tune")
    controller: Any = tune_controller.TuneController(
        scheduler=scheduler, callbacks=list(callbacks), storage=storage, checkpoint_period=1e9
    )
    controller._class_cache = SimpleNamespace(get=lambda cls: cls)
    for config in configs:
        controller.add_trial(
            Trial(
                trainable.__name__,
                config=dict(config),
                storage=storage,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
                max_failures=max_failures,
                trial_name_creator=lambda trial: trial.config["trial"],
                trial_dirname_creator=lambda trial: trial.config["trial"],
            )
        )
    for _ in range(5000):
        if controller.is_finished() or until(controller):
            return controller
        controller.step()
    raise AssertionError([(trial.config["trial"], trial.status) for trial in controller.get_trials()])
