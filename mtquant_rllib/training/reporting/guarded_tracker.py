"""A tracker of somebody else's, kept at a distance: it cannot stop the training, slow it down or see a result twice."""

from __future__ import annotations

import logging
import queue
import threading
import time
from functools import cached_property
from typing import Any

from ray.tune import Callback

from mtquant_rllib.config import Settings
from mtquant_rllib.training.result_keys import TRIAL

logger = logging.getLogger("mtquant_rllib.training")


class TrialView:
    """A trial of Tune's as a tracker sees it: named by run, phase and trial, with the run's settings as its
    configuration."""

    def __init__(self, trial: Any, name: str, config: dict[str, Any]) -> None:
        self._trial, self._name, self.config = trial, name, config

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_trial"], name)

    def __str__(self) -> str:
        return self._name

    def __hash__(self) -> int:
        return hash(self._trial.trial_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrialView) and other._trial.trial_id == self._trial.trial_id


class GuardedTracker(Callback):
    """Hands what Tune says to a tracker, in a thread of its own.

    The queue is bounded: where the tracker falls behind by more than `tracking.queue_results`, what comes then is not
    for it. Its first error is told of, and it is left alone from there. The end waits for it `tracking.wait_seconds` at
    most. A trial that restores repeats results: those that were passed on are not passed on again.
    """

    def __init__(self, name: str, tracker: Callback, run: str, phase: int, settings: Settings) -> None:
        self.name, self.run, self.phase = name, run, phase
        self._tracker: Callback | None = tracker
        self._settings = settings
        self._wait_s, self._room = settings.tracking.wait_seconds, settings.tracking.queue_results
        self._last: dict[str, int] = {}
        self._views: dict[str, TrialView] = {}
        self._queue: queue.Queue[tuple[str, dict[str, Any]] | None] | None = None
        self._thread: threading.Thread | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps its callbacks on disk and never reads these back."""
        return {"name": self.name, "run": self.run, "phase": self.phase}

    def setup(self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **info: Any) -> None:
        self._queue = queue.Queue(maxsize=self._room)
        self._thread = threading.Thread(target=self._work, name=f"tracker {self.name}", daemon=True)
        self._thread.start()
        self._hand_on("setup", {**info})

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._hand_on("on_trial_start", self._seen(iteration, trials, trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number = result["training_iteration"]
        if number > self._last.get(trial.trial_id, 0):
            self._last[trial.trial_id] = number
            self._hand_on("on_trial_result", {**self._seen(iteration, trials, trial), "result": dict(result)})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._hand_on("on_trial_complete", self._seen(iteration, trials, trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._hand_on("on_trial_error", self._seen(iteration, trials, trial))

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        if self._thread is None or self._queue is None:
            return
        end = time.monotonic() + self._wait_s
        self._hand_on("on_experiment_end", {"trials": [self._view(trial) for trial in trials]}, self._wait_s)
        self._hand_on("", {}, max(end - time.monotonic(), 0))
        self._thread.join(max(end - time.monotonic(), 0))
        if self._thread.is_alive():
            self._leave(f"it did not finish within tracking.wait_seconds = {self._wait_s:g}")

    def _seen(self, iteration: int, trials: list[Any], trial: Any) -> dict[str, Any]:
        views = [self._view(one) for one in trials]
        return {"iteration": iteration, "trials": views, "trial": self._view(trial)}

    def _view(self, trial: Any) -> TrialView:
        if trial.trial_id not in self._views:
            name = trial.config[TRIAL]
            own = {"run": self.run, "phase": self.phase, "trial": name, **self._config}
            self._views[trial.trial_id] = TrialView(trial, f"{self.run} phase_{self.phase} {name}", own)
        return self._views[trial.trial_id]

    @cached_property
    def _config(self) -> dict[str, Any]:
        return self._settings.model_dump(mode="json")

    def _hand_on(self, call: str, words: dict[str, Any], wait_s: float = 0.0) -> None:
        if self._queue is None or self._tracker is None:
            return
        try:
            self._queue.put((call, words) if call else None, timeout=wait_s) if wait_s else self._queue.put_nowait(
                (call, words) if call else None
            )
        except queue.Full:
            self._leave(f"it is {self._room} results behind")

    def _work(self) -> None:
        assert self._queue is not None
        while (item := self._queue.get()) is not None and (tracker := self._tracker) is not None:
            call, words = item
            try:
                getattr(tracker, call)(**words)
            except Exception as error:
                self._leave(f"{type(error).__name__}: {error}")

    def _leave(self, why: str) -> None:
        if self._tracker is not None:
            self._tracker = None
            said = f"tracker {self.name}: {why}; training goes on without it"
            logger.warning(said)
            print(said, flush=True)
