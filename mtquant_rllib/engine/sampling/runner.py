"""The batched environment runner: B environments stepped as arrays, one forward pass per level and bar.

It keeps RLlib's `MultiAgentEnvRunner` interface (configuration, modules, weights, state, health, metrics, restarts,
evaluation) and samples without environment objects, episode objects or connectors. A bar is

    for each level, where it is due:  observe -> policy -> decide
    advance; where an episode has ended, begin the next one

- `sample` returns exactly the bars it is asked for; modules that do not learn act by their mean and are not recorded.
- The noise of a call is a function of (seed, runner, bars so far); episodes are one of (seed, runner, environment,
  episode). A restored runner begins new episodes, the same in every process, or given a snapshot (`snapshot_of`)
  continues in the middle of them, bit for bit.
- After the last bar the levels decide once more, for the bootstrap observations, and are rolled back.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_context import EnvContext
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_EPISODES_LIFETIME,
    SAMPLE_TIMER,
    WEIGHTS_SEQ_NO,
)

from mtquant_rllib.engine.fragments import Fragment
from mtquant_rllib.engine.randomness import NOISE, generator
from mtquant_rllib.engine.sampling import runner_snapshot as snapshots
from mtquant_rllib.engine.sampling.env_faults import ENV_RETRIES, check_bar, check_fragment, with_retries
from mtquant_rllib.engine.sampling.episode_callbacks import EpisodeCallbacks
from mtquant_rllib.engine.sampling.exploration import ActionSampler
from mtquant_rllib.engine.sampling.policy_batch import PolicyBatch
from mtquant_rllib.engine.sampling.regime_metrics import regimes_sampled
from mtquant_rllib.engine.sampling.rollout_buffer import (
    BootstrapObservations,
    EpisodeFlags,
    GroupSampler,
    level_columns,
    log_module_steps,
)
from mtquant_rllib.engine.sampling.runner_base import BarRunner
from mtquant_rllib.engine.sampling.vector_env import DomainEnvs, VectorEnv
from mtquant_rllib.env.levels import Level
from mtquant_rllib.env.trading import Trading

REWARD_TERMS = "reward_terms"
"""Key of the mean of each named reward term over the bars of a call."""
REGIMES = "regimes"
"""Key of the `regime_metrics` of the bars of a call."""
EVALUATION_SEED_OFFSET = 1_000_000
"""RLlib's own distance between the seeds of training and evaluation runners."""


class BatchedEnvRunner(BarRunner):
    """See the module's docstring."""

    def __init__(self, config: AlgorithmConfig, **kwargs: Any) -> None:
        torch.set_num_threads(1)
        super().__init__(config, **kwargs)
        self.bars_sampled = 0
        self._samplers: list[list[GroupSampler]] = []
        if self.env is not None and self.module is not None:
            self._samplers = [
                [self._sampler(level, part.desk) for level in part.levels] for part in self.env.domain_envs
            ]
        sac = self.trial.sac
        self._min_std_by_regime = None if sac is None else np.array(sac.min_std_by_regime.in_order, dtype=np.float32)
        n_agents = 0 if self.env is None else len(self.env.settings.universe.agent_ids)
        self._returns = np.zeros((self.num_envs, n_agents))
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)
        self._began = np.zeros(self.num_envs)
        self._term_sums: dict[str, float] = {}
        self._episode_callbacks = EpisodeCallbacks(self, self._callbacks)

    # -- RLlib's interface --------------------------------------------------------------------------------------------

    def make_env(self) -> None:
        own = self.environment_config
        seed = (self.config.seed or 0) if own.seed is None else own.seed
        if self.config.in_evaluation:
            seed += EVALUATION_SEED_OFFSET
        self.num_envs = self.config.num_envs_per_env_runner
        self.env = VectorEnv(own, self.num_envs, self.worker_index or 0, seed)
        self._needs_initial_reset = True
        self._call_back("on_environment_created", env=self.env, env_context=EnvContext(self.config.env_config, 0))

    def get_spaces(self) -> dict[str, tuple[gym.Space, gym.Space]]:
        if self.env is None:
            return self.spaces
        env = self.env
        modules = {
            self.config.policy_mapping_fn(agent, None): (space, env.single_action_space[agent])
            for agent, space in env.single_observation_space.items()
        }
        return {
            INPUT_ENV_SPACES: (env.observation_space, env.action_space),
            INPUT_ENV_SINGLE_SPACES: (env.single_observation_space, env.single_action_space),
            **modules,
        }

    def get_metrics(self) -> dict[str, Any]:
        return self.metrics.reduce()

    def environment_counters(self) -> list[dict[str, Any]]:
        return [] if self.env is None else self.env.get_state()

    def set_environment_counters(self, counters: list[dict[str, Any]]) -> None:
        self.env.set_state(counters)

    def snapshot(self) -> dict[str, Any]:
        """The episodes in progress (`runner_snapshot.snapshot_of`)."""
        return snapshots.snapshot_of(self)

    def restore_snapshot(self, state: dict[str, Any]) -> bool:
        return snapshots.restore_snapshot(self, state)

    # -- sampling -----------------------------------------------------------------------------------------------------

    def sample_with_retries(self, bars: int) -> list[Fragment]:
        """Sample; where an environment fails, sample the same bars again (`env_faults`)."""
        retries = self.environment_config.settings.resources.env_retries
        fragments, self.env_faults = with_retries(self, lambda: self.sample(num_timesteps=bars), retries)
        self.metrics.log_value(ENV_RETRIES, len(self.env_faults), reduce="sum")
        return fragments

    def sample(  # type: ignore[override]
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[Fragment]:
        """Sample exactly `num_timesteps` bars, spread evenly over the environments, or, for evaluation, until
        `num_episodes` episodes have ended, of which only metrics are kept."""
        explore = self.config.explore if explore is None else explore
        if num_timesteps is None and num_episodes is None:
            num_timesteps = self.config.get_rollout_fragment_length(self.worker_index) * self.num_envs
        self.metrics.log_value(WEIGHTS_SEQ_NO, self._weights_seq_no, window=1)
        with self.metrics.log_time(SAMPLE_TIMER), torch.inference_mode():
            if self._needs_initial_reset or force_reset or num_episodes is not None:
                self._start_over()
            for samplers in self._samplers:
                for sampler in samplers:
                    sampler.policies = PolicyBatch([self.module[name] for name in sampler.modules], sampler.members)
            noise = generator(self.config.seed or 0, self.worker_index or 0, self.bars_sampled, NOISE)
            sample_actions = ActionSampler(noise, explore, random_actions)
            if num_timesteps is not None:
                fragment = self._sample_bars(num_timesteps, sample_actions)
                check_fragment(fragment)
            else:
                assert num_episodes is not None
                fragment = self._sample_episodes(num_episodes, sample_actions)
        self.bars_sampled += fragment.bars
        self._count(fragment.bars)
        self._call_back("on_sample_end", samples=[fragment])
        return [fragment]

    def _call_back(self, which: str, **kwargs: Any) -> None:
        """Call the configuration's callbacks, classes and functions."""
        functions = getattr(self.config, f"callbacks_{which}")
        make_callback(
            which, self._callbacks, functions, kwargs={"env_runner": self, "metrics_logger": self.metrics, **kwargs}
        )

    def _sample_bars(self, bars: int, sample_actions: ActionSampler) -> Fragment:
        share, rest = divmod(bars, self.num_envs)
        n_bars = share + (rest > 0)
        for samplers in self._samplers:
            for sampler in samplers:
                sampler.prepare(self.num_envs, n_bars)
        flags = [EpisodeFlags(self.num_envs, n_bars) for _ in self._samplers]
        all_envs = np.ones(self.num_envs, dtype=bool)
        # The remainder rotates, so that calls for fewer bars than environments reach all of them in turn.
        extra_envs = (np.arange(self.num_envs) - self.bars_sampled) % self.num_envs < rest
        for bar in range(n_bars):
            self._step_bar(bar + 1, all_envs if bar < share else extra_envs, sample_actions, flags)
        sampled = regimes_sampled((own, part.desk.features) for own, part in zip(flags, self.env.domain_envs))
        for name, value in sampled.items():
            self.metrics.log_value((REGIMES, name), value, window=1)
        levels = [
            level_columns(sampler, own, bootstrap)
            for samplers, part, own in zip(self._samplers, self.env.domain_envs, flags)
            for sampler, bootstrap in self._bootstrap(samplers, part, sample_actions)
        ]
        return Fragment(bars, levels, runner=self.worker_index or 0)

    def _sample_episodes(self, episodes: int, sample_actions: ActionSampler) -> Fragment:
        """Play until so many episodes have ended; the next call begins new ones."""
        for samplers in self._samplers:
            for sampler in samplers:
                sampler.rollout = sampler.pending = None
        all_envs = np.ones(self.num_envs, dtype=bool)
        bars = ended = 0
        while ended < episodes:
            ended += self._step_bar(0, all_envs, sample_actions, None)
            bars += self.num_envs
        self._needs_initial_reset = True
        return Fragment(bars)

    def _step_bar(
        self, row: int, stepped: np.ndarray, sample_actions: ActionSampler, flags: list[EpisodeFlags] | None
    ) -> int:
        """Step the environments `stepped`, bool (B,), by one bar. row: of the buffers that it is written to, 0 for
        none. Returns how many episodes ended."""
        over = np.zeros(self.num_envs, dtype=bool)
        ended_early = np.zeros(self.num_envs, dtype=bool)
        for number, (part, samplers) in enumerate(zip(self.env.domain_envs, self._samplers)):
            acting = part.playing & stepped
            if not acting.any():
                continue
            unstepped = part.playing & ~stepped
            with part.desk.rolled_back(np.flatnonzero(unstepped)) if unstepped.any() else contextlib.nullcontext():
                if flags is not None:
                    flags[number].market_rows[row] = part.desk.state.row
                    flags[number].active_instrument[row] = part.active_instrument()
                for sampler in samplers:
                    self._decide(sampler, row, acting, sample_actions)
                result = part.desk.advance()
                for name, values in result.terms.items():
                    self._term_sums[name] = self._term_sums.get(name, 0.0) + float(values[acting].sum())
                rewards = np.where(acting[:, None], result.rewards, 0.0)
                terminated, truncated = result.terminated & acting, result.truncated & acting
            check_bar(part.desk, acting, rewards)
            self._returns += rewards
            if flags is not None:
                own = flags[number]
                own.bars[row], own.terminated[row], own.truncated[row] = acting, terminated, truncated
                self._reward(samplers, row, rewards, truncated)
            over |= terminated | truncated
            ended_early |= terminated
        self._lengths += stepped
        self.env.bars_done += stepped
        if self._episode_callbacks.wanted_each_step:
            for env in np.flatnonzero(stepped).tolist():
                self._episode_callbacks.stepped(env, int(self._lengths[env]), self._returns_of(env))
        ended = np.flatnonzero(over)
        if len(ended):
            self._finish(ended, ended_early)
        return len(ended)

    def _decide(
        self, sampler: GroupSampler, row: int, acting: np.ndarray, sample_actions: ActionSampler
    ) -> np.ndarray | None:
        """Let a level decide in the environments where it is due. Returns its observations, or None where it is nowhere
        due."""
        level = sampler.level
        due = level.due() & acting
        if not due.any():
            return None
        observations = sampler.observations = level.observe()
        agents = None if level.acting is None else level.acting()
        assert sampler.policies is not None
        if due.all():
            inputs = sampler.policies(observations, agents)
        else:
            inputs = np.zeros((self.num_envs, level.n_acting, 2 * level.n_actions), dtype=np.float32)
            inputs[due] = sampler.policies(observations[due], None if agents is None else agents[due])
        sampler.outputs = inputs
        by_regime, regime = self._min_std_by_regime, sampler.desk.features.regime
        min_std = None if by_regime is None else by_regime[regime[sampler.desk.state.row]]
        raw = sample_actions(inputs, sampler.explores(), min_std)
        level.decide(raw)
        rollout = sampler.rollout
        if rollout is not None and row:
            rollout.due[row] = due
            rollout.private[row] = observations[..., level.state_columns]
            rollout.actions[row] = raw
            rollout.action_dist_inputs[row] = inputs
            rollout.module_index[row] = sampler.module_index()
        return observations

    def _reward(self, samplers: list[GroupSampler], row: int, rewards: np.ndarray, truncated: np.ndarray) -> None:
        for sampler in samplers:
            rollout = sampler.rollout
            if rollout is None:
                continue
            agent_index = sampler.agent_index()
            rollout.rewards[row] = np.take_along_axis(rewards, agent_index, axis=1)
            if truncated.any():
                rollout.final.append(sampler.level.observe()[truncated][..., sampler.level.state_columns])
                rollout.final_module_index.append(sampler.module_index()[truncated])

    def _returns_of(self, env: int) -> dict[str, float]:
        """The sum of rewards so far of each agent that plays in an environment."""
        part = next(part for part in self.env.domain_envs if part.playing[env])
        agents = [level.agents[slot] for level in part.levels for slot in level.acting_agents(self.num_envs)[env]]
        index = self.env.settings.universe.agent_ids.index
        return {agent: float(self._returns[env, index(agent)]) for agent in agents}

    def _finish(self, envs: np.ndarray, terminated: np.ndarray) -> None:
        """Log the episodes that have ended in `envs` and begin the next ones. terminated: and not truncated, bool
        (B,)."""
        now = time.perf_counter()
        mapping = self.config.policy_mapping_fn
        # Of more episodes with the same agents than a metric's window holds, the first would be dropped at once.
        n_dropped = len(envs) - self.config.metrics_num_episodes_for_smoothing
        if self._episode_callbacks.wanted or any(
            level.acting for part in self.env.domain_envs for level in part.levels
        ):
            n_dropped = 0
        for env in envs[max(n_dropped, 0) :].tolist():
            returns = self._returns_of(env)
            modules: dict[str, float] = {}
            for agent, value in returns.items():
                modules[mapping(agent, None)] = modules.get(mapping(agent, None), 0.0) + value
            length = int(self._lengths[env])
            self._log_episode_metrics(
                length,
                sum(returns.values()),
                now - self._began[env],
                returns,
                modules,
                dict.fromkeys(returns, length),
            )
            if self._episode_callbacks.wanted:
                self._episode_callbacks.ended(env, length, returns, bool(terminated[env]))
        self.metrics.log_value(NUM_EPISODES, len(envs), reduce="sum")
        self.metrics.log_value(NUM_EPISODES_LIFETIME, len(envs), reduce="lifetime_sum")
        self._begin(envs)

    def _begin(self, envs: np.ndarray) -> None:
        self.env.begin(envs)
        self._returns[envs] = 0.0
        self._lengths[envs] = 0
        self._began[envs] = time.perf_counter()
        self._call_episode_start(envs)

    def _call_episode_start(self, envs: np.ndarray) -> None:
        if self._episode_callbacks.wanted:
            self._episode_callbacks.started(envs, self.env.episodes_begun[envs] - 1)

    def _start_over(self) -> None:
        self.env.start_over()
        self._returns[:], self._lengths[:], self._began[:] = 0.0, 0, time.perf_counter()
        for samplers in self._samplers:
            for sampler in samplers:
                sampler.pending = None
        self._needs_initial_reset = False
        self._call_episode_start(np.arange(self.num_envs))

    # -- columns ------------------------------------------------------------------------------------------------------

    def _sampler(self, level: Level, desk: Trading) -> GroupSampler:
        mapped = [self.config.policy_mapping_fn(agent, None) for agent in level.agents]
        modules = tuple(dict.fromkeys(mapped))
        to_train = self.config.policies_to_train
        learns = to_train if callable(to_train) else lambda name, _: to_train is None or name in to_train
        learning = np.array([bool(learns(name, None)) for name in modules])
        exploring = learning | self.trial.explore_frozen
        labels = any(self.module[name].policy.has_auxiliary_losses for name, own in zip(modules, learning) if own)
        members = np.array([modules.index(name) for name in mapped])
        return GroupSampler(level, desk, modules, members, learning, exploring, labels)

    def _bootstrap(
        self, samplers: list[GroupSampler], part: DomainEnvs, sample_actions: ActionSampler
    ) -> list[tuple[GroupSampler, BootstrapObservations]]:
        """What each learning level will observe next, after the decisions of the levels above it."""
        last = max((number for number, sampler in enumerate(samplers) if sampler.learns), default=-1)
        bootstraps = []
        # Decisions change what is observed (an allocation its own utilisation), and are rolled back.
        with part.desk.rolled_back(np.arange(self.num_envs)), self.fallbacks.muted():
            for number, sampler in enumerate(samplers[: last + 1]):
                due = sampler.level.due() & part.playing
                observations = self._decide(sampler, 0, part.playing, sample_actions) if number < last else None
                if sampler.learns:
                    if observations is None:
                        shape = (self.num_envs, sampler.level.n_acting, sampler.level.group.observation.width)
                        observations = sampler.level.observe() if due.any() else np.zeros(shape, np.float32)
                    private = observations[..., sampler.level.state_columns]
                    rows, active = part.desk.state.row.copy(), part.active_instrument()
                    modules = sampler.module_index()
                    bootstraps.append((sampler, BootstrapObservations(private, modules, due, rows, active)))
        return bootstraps

    def _count(self, bars: int) -> None:
        """Log RLlib's counters, in bars."""
        metrics = self.metrics
        self.num_env_steps_sampled_lifetime += bars
        metrics.log_value(NUM_ENV_STEPS_SAMPLED, bars, reduce="sum")
        metrics.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, bars, reduce="lifetime_sum", with_throughput=True)
        if bars:
            self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=bars)
        for name, total in self._term_sums.items():
            metrics.log_value((REWARD_TERMS, name), total / max(bars, 1), window=1)
        self._term_sums = {}
        log_module_steps(metrics, self._samplers)
