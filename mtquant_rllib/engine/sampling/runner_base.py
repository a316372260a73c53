"""What both engines' runners add to RLlib's: sampling by bars, and counters from which a replacement continues.

RLlib's checkpoints hold only the local runner's state, and a restarted runner is given the local one's. So random draws
here are functions of counters, and each runner returns its counters with its samples: the algorithm keeps them by
runner index.
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
from mtquant_rllib.engine.process_memory import freeze_long_lived_objects, trim_memory
from mtquant_rllib.engine.process_use import ProcessUse, process_use
from mtquant_rllib.engine.rllib_seeding import seeding_without_compiler
from mtquant_rllib.policies.attention.fallbacks import FallbackMonitor

COUNTERS = "counters"
SNAPSHOT = "snapshot"
FALLBACKS = "fallbacks"
"""Key of the metrics that count each module's decisions by fall-back (`policies.attention.fallbacks`)."""


@dataclass
class SampleResult:
    """The result of one call: samples for the learner, their bars, reduced metrics, the runner's counters and snapshot.

    A replacement continues bit for bit from `{**counters, SNAPSHOT: snapshot}`. env_faults: faults of environments
    after which bars were sampled again. use: what the runner's process has used since its first call.
    """

    samples: list[Any]
    bars: int
    metrics: dict[str, Any]
    counters: dict[str, Any]
    snapshot: dict[str, Any] | None = None
    env_faults: list[str] = field(default_factory=list)
    use: ProcessUse | None = None


class BarRunner(MultiAgentEnvRunner):
    """A runner that samples by bars. Subclasses maintain `bars_sampled` and the counters of their environments."""

    # RLlib declares them optional; they exist wherever bars are sampled.
    config: Any
    env: Any
    module: Any
    bars_sampled: int = 0
    env_faults: Sequence[str] = ()
    """Of the last call."""
    prepared_by: str | None = None
    """Who has set the state of this process; None in a process that has replaced another one."""
    _cpu_s_before: float | None = None
    """CPU seconds before the first call: imports, environments and modules."""
    fallbacks: FallbackMonitor

    def __init__(self, config: Any, **kwargs: Any) -> None:
        with seeding_without_compiler():
            super().__init__(config, **kwargs)

    @cached_property
    def environment_config(self) -> EnvironmentConfig:
        return EnvironmentConfig.of(self.config.env_config)

    @cached_property
    def trial(self) -> TrialConfig:
        trial: TrialConfig = self.config.trial
        return trial

    def make_module(self) -> None:
        super().make_module()
        self.fallbacks = FallbackMonitor(self.environment_config.settings.tracking.fallback_seconds)
        if self.module is not None:
            self.module.foreach_module(lambda _, module: module.eval())
            for name in list(self.module.keys()):
                self.fallbacks.attach(name, self.module[name].policy)

    def sample_bars(self, bars: int) -> SampleResult:
        """Sample exactly `bars` bars, spread evenly over the environments."""
        first_call = self._cpu_s_before is None
        if self._cpu_s_before is None:
            self._cpu_s_before = process_use().cpu_s
        before = self.fallbacks.bars = self.bars_sampled
        samples = self.sample_with_retries(bars) if bars else []
        for name, counts in self.fallbacks.take().items():
            for reason, count in counts.items():
                self.metrics.log_value((FALLBACKS, name, reason), count, reduce="sum")
        if self.worker_index:  # The local runner's process is the trial's.
            if first_call:
                freeze_long_lived_objects()
            trim_memory()
        sampled, use = self.bars_sampled - before, process_use()
        return SampleResult(
            samples,
            sampled,
            self.get_metrics(),
            self.counters(),
            self.snapshot(),
            list(self.env_faults if bars else ()),
            replace(use, cpu_s=use.cpu_s - self._cpu_s_before),
        )

    def sample_with_retries(self, bars: int) -> list[Any]:
        """Sample; runners that can undo a call override this to survive transient faults of environments."""
        return self.sample(num_timesteps=bars)

    def counters(self) -> dict[str, Any]:
        """Counters of this runner and of its environments: what a replacement needs to make the same random draws."""
        return {"runner": self.worker_index, "bars": self.bars_sampled, "environments": self.environment_counters()}

    def snapshot(self) -> dict[str, Any] | None:
        """The episodes in progress; None for a runner that cannot continue in the middle of them."""
        return None

    def restore_snapshot(self, state: dict[str, Any]) -> bool:
        """False where episodes in progress cannot go on: they were played on other bars or under other rules."""
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
        """Load a state, with counters only of the *same* runner: RLlib gives the local runner's state to a restarted
        remote one, which would repeat the local one's episodes.

        Weights are always loaded. RLlib loads only those with a newer sequence number, so that an algorithm that goes
        back to an earlier checkpoint would keep its present weights."""
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
        if counters.get(SNAPSHOT) is not None and self.restore_snapshot(counters[SNAPSHOT]):
            self._needs_initial_reset = False
