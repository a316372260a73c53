"""RLlib's episode callbacks for a runner that has no episode objects.

A configuration's `on_episode_start`, `_step` and `_end` are called as RLlib's own runner calls them, with an
`EpisodeView` for the episode. Without callbacks no view is built; a callback of every step costs a Python call per bar
and environment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.utils import force_list

START, STEP, END = "on_episode_start", "on_episode_step", "on_episode_end"


@dataclass
class EpisodeView:
    """The part of an RLlib episode that callbacks commonly use.

    id_
        Runner, environment and number of the episode.
    returns
        Sum of rewards so far of each agent that plays.
    custom_data
        Storage for callbacks, kept for the episode.
    """

    id_: str
    returns: dict[str, float] = field(default_factory=dict)
    is_terminated: bool = False
    is_truncated: bool = False
    custom_data: dict[str, Any] = field(default_factory=dict)
    length: int = 0

    @property
    def is_done(self) -> bool:
        return self.is_terminated or self.is_truncated

    def get_return(self) -> float:
        """Sum over agents, undiscounted."""
        return sum(self.returns.values())

    def __len__(self) -> int:
        return self.length


class EpisodeCallbacks:
    """Calls the episode callbacks of a `BatchedEnvRunner`'s configuration."""

    def __init__(self, runner: Any, callbacks: Iterable[RLlibCallback]) -> None:
        self._runner = runner
        self._objects = {
            which: [one for one in callbacks if getattr(type(one), which) is not getattr(RLlibCallback, which)]
            for which in (START, STEP, END)
        }
        self._functions = {
            which: list(force_list(getattr(runner.config, f"callbacks_{which}"))) for which in (START, STEP, END)
        }
        self.views: dict[int, EpisodeView] = {}
        self.wanted = any(self._objects.values()) or any(self._functions.values())
        self.wanted_each_step = bool(self._objects[STEP] or self._functions[STEP])

    def _call(self, which: str, env: int, **more: Any) -> None:
        runner = self._runner
        shared = {
            "episode": self.views[env],
            "env_runner": runner,
            "metrics_logger": runner.metrics,
            "env": runner.env,
            "rl_module": runner.module,
            "env_index": env,
        }
        make_callback(which, self._objects[which], self._functions[which], kwargs={**shared, **more})

    def started(self, envs: np.ndarray, numbers: np.ndarray) -> None:
        """Call for the start of the episodes `numbers` in the environments `envs`."""
        for env, number in zip(envs.tolist(), numbers.tolist()):
            self.views[env] = EpisodeView(f"{self._runner.worker_index or 0}_{env}_{number}")
            self._call(START, env)

    def stepped(self, env: int, length: int, returns: dict[str, float]) -> None:
        self.views[env].length, self.views[env].returns = length, returns
        self._call(STEP, env)

    def ended(self, env: int, length: int, returns: dict[str, float], terminated: bool) -> None:
        view = self.views[env]
        view.length, view.returns = length, returns
        view.is_terminated, view.is_truncated = terminated, not terminated
        self._call(END, env, prev_episode_chunks=[])
