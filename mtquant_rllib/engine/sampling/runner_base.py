"""What both engines' runners add to RLlib's: bars counted, and counters from which a replacement goes on.

Checkpoints of RLlib hold the local runner's state alone, and a restarted runner is handed the local one's. So random
draws here are functions of counters, and the counters of every runner travel with what it samples: the algorithm keeps
them by runner index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.utils.typing import StateDict

from mtquant_rllib.config.environment import EnvironmentConfig
from mtquant_rllib.config.trial import TrialConfig
from mtquant_rllib.engine.process_use import ProcessUse, process_use
from mtquant_rllib.policies.fallbacks import FallbackWatch

COUNTERS = "counters"
SNAPSHOT = "snapshot"
FALLBACKS = "fallbacks"
"""Key of the metrics that count, module by module, who took its decisions (`policies.fallbacks`)."""


@dataclass
class Sampled:
    """One call's result: samples for the learner, the bars in them, reduced metrics, the runner's counters, and
    where it stands after them: `{**counters, SNAPSHOT: snapshot}` is what a replacement goes on from to the bit.

    env_faults: why environments failed on the way, where the bars were then sampled again. use: what the runner's
    process has used since its first call.
    """

    samples: list[Any]
    bars: int
    metrics: dict[str, Any]
    counters: dict[str, Any]
    snapshot: dict[str, Any] | None = None
    env_faults: list[str] = field(default_factory=list)
    use: ProcessUse | None = None


class BarRunner(MultiAgentEnvRunner):
    """A runner that is asked for bars. Subclasses keep `bars_sampled` and the counters of their environments."""

    # Always there where bars are sampled; RLlib declares them optional.
    config: Any
    env: Any
    module: Any
    bars_sampled: int = 0
    env_faults: Sequence[str] = ()
    """Of the last call."""
    prepared_by: str | None = None
    """Who has put this process where it stands; a process that took another's place was put nowhere."""
    _cpu_s_before: float | None = None
    """What the process had used before its first call: imports, and making environments and modules."""
    fallbacks: FallbackWatch

    @cached_property
    def environment_config(self) -> EnvironmentConfig:
        return EnvironmentConfig.of(self.config.env_config)

    @cached_property
    def trial(self) -> TrialConfig:
        trial: TrialConfig = self.config.trial
        return trial

    def make_module(self) -> None:
        super().make_module()
        self.fallbacks = FallbackWatch(self.environment_config.settings.tracking.fallback_seconds)
        if self.module is not None:
            self.module.foreach_module(lambda _, module: module.eval())
            for name in list(self.module.keys()):
                self.fallbacks.attach(name, self.module[name].policy)

    def sample_bars(self, bars: int) -> Sampled:
        """Sample exactly so many bars, spread evenly over the environments."""
        if self._cpu_s_before is None:
            self._cpu_s_before = process_use().cpu_s
        before = self.fallbacks.bars = self.bars_sampled
        samples = self.sample_surely(bars) if bars else []
        for name, counts in self.fallbacks.take().items():
            for reason, count in counts.items():
                self.metrics.log_value((FALLBACKS, name, reason), count, reduce="sum")
        sampled, use = self.bars_sampled - before, process_use()
        return Sampled(
            samples,
            sampled,
            self.get_metrics(),
            self.counters(),
            self.snapshot(),
            list(self.env_faults if bars else ()),
            replace(use, cpu_s=use.cpu_s - self._cpu_s_before),
        )

    def sample_surely(self, bars: int) -> list[Any]:
        """Sample; runners that can take a call back outlive environments that fail now and then."""
        return self.sample(num_timesteps=bars)

    def counters(self) -> dict[str, Any]:
        """Counters of this runner and of its environments: all a replacement needs to draw what comes next."""
        return {"runner": self.worker_index, "bars": self.bars_sampled, "environments": self.environment_counters()}

    def snapshot(self) -> dict[str, Any] | None:
        """Episodes in progress, for whoever wants to go on in the middle of them; None where that is not to be had."""
        return None

    def restore_snapshot(self, state: dict[str, Any]) -> None:
        raise NotImplementedError

    def environment_counters(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    def set_environment_counters(self, counters: list[dict[str, Any]]) -> None:
        raise NotImplementedError

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> StateDict:
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(COUNTERS, components, not_components):
            state[COUNTERS] = self.counters()
        return state

    def set_state(self, state: StateDict) -> None:
        """Besides RLlib's: take over the counters of the *same* runner. Another runner's are left alone, because
        RLlib hands the local runner's state to a restarted remote one, which would replay the local one's episodes.

        And take the weights that are given. RLlib's takes those alone that are newer than the runner's, and one whose
        algorithm goes back to an earlier checkpoint would go on with those that it came from."""
        if COMPONENT_RL_MODULE in state:
            self._weights_seq_no = 0
        super().set_state(state)
        counters = state.get(COUNTERS)
        if counters is None or counters["runner"] != self.worker_index or self.env is None:
            return
        if len(counters["environments"]) != self.num_envs:
            return
        self.bars_sampled = int(counters["bars"])
        self.set_environment_counters(counters["environments"])
        self._needs_initial_reset = True
        if counters.get(SNAPSHOT) is not None:
            self.restore_snapshot(counters[SNAPSHOT])
            self._needs_initial_reset = False
