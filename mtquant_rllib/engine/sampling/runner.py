"""The batched environment runner: B environments stepped as arrays, one forward pass per level and bar.

It is RLlib's `MultiAgentEnvRunner` in its seams (configuration, modules, weights, state, health, metrics, restarts,
evaluation) and its own in how it samples: no environment objects, no episode objects, no connectors. A bar is

    for each level, where it is due:  observe -> policy -> decide
    advance, and where an episode has ended, begin the next one

- `sample` counts **bars** and returns exactly as many as it is asked for, as one `Fragment` of columns.
- Modules that do not learn act by their mean, and nothing of them is kept.
- The noise of a call is a function of (seed, runner, bars so far); episodes are one of (seed, runner, environment,
  episode). A restored runner goes on with fresh episodes, the same in every process, or where it is handed what stood
  (`snapshot_of`) in the middle of them, as if nothing had happened.
- After the last bar the levels decide once more without consequence, so that every decision's successor is seen just
  as it would be by the next call. Only what is held on (a controller that decides every five bars) is left to the
  next fragment.
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
    NUM_MODULE_STEPS_SAMPLED,
    NUM_MODULE_STEPS_SAMPLED_LIFETIME,
    SAMPLE_TIMER,
    WEIGHTS_SEQ_NO,
)

from mtquant_rllib.engine.columns import Fragment
from mtquant_rllib.engine.randomness import NOISE, generator
from mtquant_rllib.engine.sampling import runner_snapshot as snapshots
from mtquant_rllib.engine.sampling.env_faults import ENV_RETRIES, check_bar, check_fragment, retried
from mtquant_rllib.engine.sampling.episode_callbacks import EpisodeCallbacks
from mtquant_rllib.engine.sampling.exploration import Draw
from mtquant_rllib.engine.sampling.policy_batch import PolicyBatch
from mtquant_rllib.engine.sampling.regime_metrics import regimes_sampled
from mtquant_rllib.engine.sampling.rollout_buffer import BootstrapObservations, EpisodeFlags, GroupSampler, columns_of
from mtquant_rllib.engine.sampling.runner_base import BarRunner
from mtquant_rllib.engine.sampling.vector_env import DomainEnvs, VectorEnv
from mtquant_rllib.env.levels import Level
from mtquant_rllib.env.trading import Trading

REWARD_TERMS = "reward_terms"
"""Key of the mean of each named reward term over the bars of a call."""
REGIMES = "regimes"
"""Key of what `regime_metrics` says of the bars of a call."""
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
        self._sigma_floor = None if sac is None else np.array(sac.sigma_floor.by_regime, dtype=np.float32)
        n_agents = 0 if self.env is None else len(self.env.settings.universe.agent_ids)
        self._returns = np.zeros((self.num_envs, n_agents))
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)
        self._began = np.zeros(self.num_envs)
        self._term_sums: dict[str, float] = {}
        self._episode_callbacks = EpisodeCallbacks(self, self._callbacks)

    # -- RLlib's seams ------------------------------------------------------------------------------------------------

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
        """Episodes in progress: the desks, who plays where, and the decisions held on."""
        return snapshots.snapshot_of(self)

    def restore_snapshot(self, state: dict[str, Any]) -> None:
        snapshots.restore_snapshot(self, state)

    # -- sampling -----------------------------------------------------------------------------------------------------

    def sample_surely(self, bars: int) -> list[Fragment]:
        """Sample, and where an environment fails sample the same bars again (`env_faults`)."""
        most = self.environment_config.settings.resources.env_retries
        fragments, self.env_faults = retried(self, lambda: self.sample(num_timesteps=bars), most)
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
        """Sample exactly `num_timesteps` bars, spread evenly over the environments, or until `num_episodes` episodes
        have ended. Of episodes nothing is kept but their statistics: they are for evaluation."""
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
            draw = Draw(noise, explore, random_actions)
            if num_timesteps is not None:
                fragment = self._sample_bars(num_timesteps, draw)
                check_fragment(fragment)
            else:
                assert num_episodes is not None
                fragment = self._sample_episodes(num_episodes, draw)
        self.bars_sampled += fragment.bars
        self._count(fragment.bars)
        self._call_back("on_sample_end", samples=[fragment])
        return [fragment]

    def _call_back(self, which: str, **kwargs: Any) -> None:
        """Callbacks of the configuration, classes and functions."""
        functions = getattr(self.config, f"callbacks_{which}")
        make_callback(
            which, self._callbacks, functions, kwargs={"env_runner": self, "metrics_logger": self.metrics, **kwargs}
        )

    def _sample_bars(self, bars: int, draw: Draw) -> Fragment:
        share, rest = divmod(bars, self.num_envs)
        n_bars = share + (rest > 0)
        for samplers in self._samplers:
            for sampler in samplers:
                sampler.prepare(self.num_envs, n_bars)
        flags = [EpisodeFlags(self.num_envs, n_bars) for _ in self._samplers]
        everyone = np.ones(self.num_envs, dtype=bool)
        # What is left over goes round: rounds of fewer bars than environments reach all of them in turn.
        some = (np.arange(self.num_envs) - self.bars_sampled) % self.num_envs < rest
        for bar in range(n_bars):
            self._play(bar + 1, everyone if bar < share else some, draw, flags)
        sampled = regimes_sampled((own, part.desk.features) for own, part in zip(flags, self.env.domain_envs))
        for name, figure in sampled.items():
            self.metrics.log_value((REGIMES, name), figure, window=1)
        levels = [
            columns_of(sampler, own, bootstrap)
            for samplers, part, own in zip(self._samplers, self.env.domain_envs, flags)
            for sampler, bootstrap in self._rehearse(samplers, part, draw)
        ]
        return Fragment(bars, levels, runner=self.worker_index or 0)

    def _sample_episodes(self, episodes: int, draw: Draw) -> Fragment:
        """Play until so many have ended; the environments then start over with the next call."""
        for samplers in self._samplers:
            for sampler in samplers:
                sampler.rollout = sampler.held = None
        everyone = np.ones(self.num_envs, dtype=bool)
        bars = ended = 0
        while ended < episodes:
            ended += self._play(0, everyone, draw, None)
            bars += self.num_envs
        self._needs_initial_reset = True
        return Fragment(bars)

    def _play(self, row: int, asked: np.ndarray, draw: Draw, flags: list[EpisodeFlags] | None) -> int:
        """One bar of the environments `asked`. Returns how many episodes ended."""
        over = np.zeros(self.num_envs, dtype=bool)
        failed = np.zeros(self.num_envs, dtype=bool)
        for number, (part, samplers) in enumerate(zip(self.env.domain_envs, self._samplers)):
            acting = part.playing & asked
            if not acting.any():
                continue
            aside = part.playing & ~asked
            with part.desk.resting(np.flatnonzero(aside)) if aside.any() else contextlib.nullcontext():
                if flags is not None:
                    flags[number].market_rows[row], flags[number].turns[row] = part.desk.state.row, part.turns()
                for sampler in samplers:
                    self._decide(sampler, row, acting, draw)
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
            failed |= terminated
        self._lengths += asked
        self.env.bars_done += asked
        if self._episode_callbacks.wanted_each_step:
            for env in np.flatnonzero(asked).tolist():
                self._episode_callbacks.stepped(env, int(self._lengths[env]), self._returns_of(env))
        ended = np.flatnonzero(over)
        if len(ended):
            self._finish(ended, failed)
        return len(ended)

    def _decide(self, sampler: GroupSampler, row: int, acting: np.ndarray, draw: Draw) -> np.ndarray | None:
        """Let a level decide where it is due; returns what it saw, or None where nobody was."""
        level = sampler.level
        due = level.due() & acting
        if not due.any():
            return None
        observations = sampler.seen = level.observe()
        seats = None if level.seats is None else level.seats()
        assert sampler.policies is not None
        if due.all():
            inputs = sampler.policies(observations, seats)
        else:
            inputs = np.zeros((self.num_envs, level.n_seats, 2 * level.n_actions), dtype=np.float32)
            inputs[due] = sampler.policies(observations[due], None if seats is None else seats[due])
        sampler.answered = inputs
        floor = self._sigma_floor
        least = None if floor is None else floor[sampler.desk.features.regime[sampler.desk.state.row]]
        raw = draw(inputs, sampler.explores(), least)
        level.decide(raw)
        rollout = sampler.rollout
        if rollout is not None and row:
            rollout.due[row] = due
            rollout.private[row] = observations[..., level.state_columns]
            rollout.actions[row] = raw
            rollout.inputs[row] = inputs
            rollout.seats[row] = sampler.seated()
        return observations

    def _reward(self, samplers: list[GroupSampler], row: int, rewards: np.ndarray, truncated: np.ndarray) -> None:
        for sampler in samplers:
            rollout = sampler.rollout
            if rollout is None:
                continue
            streams = sampler.streams()
            rollout.rewards[row] = np.take_along_axis(rewards, streams, axis=1)
            if truncated.any():
                rollout.final.append(sampler.level.observe()[truncated][..., sampler.level.state_columns])
                rollout.final_seats.append(sampler.seated()[truncated])

    def _returns_of(self, env: int) -> dict[str, float]:
        """Sum of rewards of each agent that plays in an environment."""
        part = next(part for part in self.env.domain_envs if part.playing[env])
        agents = [level.agents[seat] for level in part.levels for seat in level.seated(self.num_envs)[env]]
        index = self.env.settings.universe.agent_ids.index
        return {agent: float(self._returns[env, index(agent)]) for agent in agents}

    def _finish(self, envs: np.ndarray, failed: np.ndarray) -> None:
        """Close the books of ended episodes and begin the next ones. failed: terminated, not cut off, (B,)."""
        now = time.perf_counter()
        mapping = self.config.policy_mapping_fn
        # Of more episodes with the same agents than a statistic's window holds, the first would be forgotten at once.
        forgotten = len(envs) - self.config.metrics_num_episodes_for_smoothing
        if self._episode_callbacks.wanted or any(level.seats for part in self.env.domain_envs for level in part.levels):
            forgotten = 0
        for env in envs[max(forgotten, 0) :].tolist():
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
                self._episode_callbacks.ended(env, length, returns, bool(failed[env]))
        self.metrics.log_value(NUM_EPISODES, len(envs), reduce="sum")
        self.metrics.log_value(NUM_EPISODES_LIFETIME, len(envs), reduce="lifetime_sum")
        self._begin(envs)

    def _begin(self, envs: np.ndarray) -> None:
        self.env.begin(envs)
        self._returns[envs] = 0.0
        self._lengths[envs] = 0
        self._began[envs] = time.perf_counter()
        self._tell_started(envs)

    def _tell_started(self, envs: np.ndarray) -> None:
        if self._episode_callbacks.wanted:
            self._episode_callbacks.started(envs, self.env.episodes_begun[envs] - 1)

    def _start_over(self) -> None:
        self.env.start_over()
        self._returns[:], self._lengths[:], self._began[:] = 0.0, 0, time.perf_counter()
        for samplers in self._samplers:
            for sampler in samplers:
                sampler.held = None
        self._needs_initial_reset = False
        self._tell_started(np.arange(self.num_envs))

    # -- columns ------------------------------------------------------------------------------------------------------

    def _sampler(self, level: Level, desk: Trading) -> GroupSampler:
        mapped = [self.config.policy_mapping_fn(agent, None) for agent in level.agents]
        modules = tuple(dict.fromkeys(mapped))
        to_train = self.config.policies_to_train
        learns = to_train if callable(to_train) else lambda name, _: to_train is None or name in to_train
        learning = np.array([bool(learns(name, None)) for name in modules])
        exploring = learning | self.trial.explore_frozen
        taught = any(self.module[name].policy.teaches for name, own in zip(modules, learning) if own)
        members = np.array([modules.index(name) for name in mapped])
        return GroupSampler(level, desk, modules, members, learning, exploring, taught)

    def _rehearse(
        self, samplers: list[GroupSampler], part: DomainEnvs, draw: Draw
    ) -> list[tuple[GroupSampler, BootstrapObservations]]:
        """What each learning level would see next, after the decisions above it."""
        last = max((number for number, sampler in enumerate(samplers) if sampler.learns), default=-1)
        bootstraps = []
        # Decisions leave traces in what is observed (an allocation in its own utilisation): they are taken back.
        with part.desk.resting(np.arange(self.num_envs)), self.fallbacks.muted():
            for number, sampler in enumerate(samplers[: last + 1]):
                due = sampler.level.due() & part.playing
                seen = self._decide(sampler, 0, part.playing, draw) if number < last else None
                if sampler.learns:
                    if seen is None:
                        shape = (self.num_envs, sampler.level.n_seats, sampler.level.group.observation.width)
                        seen = sampler.level.observe() if due.any() else np.zeros(shape, np.float32)
                    private = seen[..., sampler.level.state_columns]
                    rows = part.desk.state.row.copy()
                    bootstraps.append(
                        (sampler, BootstrapObservations(private, sampler.seated(), due, rows, part.turns()))
                    )
        return bootstraps

    def _count(self, bars: int) -> None:
        """RLlib's counters, in bars."""
        metrics = self.metrics
        self.num_env_steps_sampled_lifetime += bars
        metrics.log_value(NUM_ENV_STEPS_SAMPLED, bars, reduce="sum")
        metrics.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, bars, reduce="lifetime_sum", with_throughput=True)
        if bars:
            self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=bars)
        for name, total in self._term_sums.items():
            metrics.log_value((REWARD_TERMS, name), total / max(bars, 1), window=1)
        self._term_sums = {}
        for samplers in self._samplers:
            for sampler in samplers:
                if sampler.rollout is None:
                    continue
                seats = sampler.rollout.seats[1:][sampler.rollout.due[1:]]
                for number, module in enumerate(sampler.modules):
                    steps = int((seats == number).sum())
                    metrics.log_value((NUM_MODULE_STEPS_SAMPLED, module), steps, reduce="sum")
                    metrics.log_value((NUM_MODULE_STEPS_SAMPLED_LIFETIME, module), steps, reduce="lifetime_sum")
