"""The environment runner of a trial: stock in its seams, counted in bars, columnar in what it returns.

It is a `MultiAgentEnvRunner` (environments, modules, weights and state are RLlib's) whose `sample` is its own:

- it counts **bars**, not turns. Every environment gets its share of the bars asked for and rests once it has
  completed them, so a call returns exactly as many as were asked for, and a budget is met to the bar;
- one forward pass per module and turn serves all environments, and what is kept are columns (`fragments`);
- modules that do not learn act, but leave no rows;
- the noise of a call is seeded by (seed, runner, bars so far). Together with environments whose draws are a pure
  function of their counters this makes a restored runner go on with fresh episodes, the same in every process.

Environments are asked for: `bars_done` (bars completed so far), `seat(runner, environment)` (which of all they are) and
`get_state`/`set_state` of their counters.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.utils.typing import StateDict

from mtquant_rllib.training.fragments import Fragment, Trajectory
from mtquant_rllib.training.seeding import seed_torch

SEATS = "seats"
EPISODES = "episodes"


@dataclass
class _Track:
    """One agent's open row and closed rows since the last cut."""

    module: str
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    observation: np.ndarray | None = None
    decision: tuple[Any, ...] | None = None
    reward: float = 0.0
    bars: int = 0

    def close(self, observation: np.ndarray) -> None:
        """The agent sees again: what it earned since its decision belongs to that decision."""
        if self.decision is not None:
            self.rows.append((self.observation, *self.decision, self.reward, self.bars))
        self.observation, self.decision, self.reward, self.bars = observation, None, 0.0, 0

    def cut(self, terminated: bool) -> Trajectory | None:
        """Take the closed rows; the open one stays and is closed in the next call."""
        if not self.rows:
            return None
        observations, actions, logits, log_probs, rewards, bars = zip(*self.rows)
        self.rows = []
        return Trajectory(
            module=self.module,
            observations=np.stack([*observations, np.asarray(self.observation)]),
            actions=np.stack(actions),
            logits=np.stack(logits),
            log_probs=np.array(log_probs, np.float32),
            rewards=np.array(rewards),
            bars=np.array(bars),
            terminated=terminated,
        )


class DeskEnvRunner(MultiAgentEnvRunner):
    """Samples bars. See the module's docstring."""

    # Always there where bars are sampled; RLlib declares them optional.
    config: Any
    env: Any
    module: Any

    def __init__(self, config: AlgorithmConfig, **kwargs: Any) -> None:
        torch.set_num_threads(1)
        super().__init__(config, **kwargs)
        self.bars_sampled = 0
        self._learning: Collection[str] | None = self.config.policies_to_train
        self._explore_frozen: bool = bool(self.config.desk["explore_frozen"])
        self._tracks: list[dict[str, _Track]] = []
        self._turns: list[dict[str, np.ndarray]] = []
        self._returns: list[dict[str, float]] = []
        self._done_returns: list[tuple[float, dict[str, float]]] = []

    def make_env(self) -> None:
        super().make_env()
        for environment, env in enumerate(self.env.envs):
            env.unwrapped.seat(self.worker_index, environment)

    def make_module(self) -> None:
        super().make_module()
        if self.module is not None:
            self.module.foreach_module(lambda _, module: module.eval())

    def sample(  # type: ignore[override]
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[Fragment]:
        """Sample exactly `num_timesteps` bars, spread evenly over the environments.

        Raises
        ------
        ValueError
            When episodes or random actions are asked for: evaluation has its own rollouts.
        """
        if num_episodes is not None or random_actions or num_timesteps is None:
            raise ValueError("this runner samples bars: sample(num_timesteps=...)")
        explore = self.config.explore if explore is None else explore
        seed_torch(self.config.seed or 0, self.worker_index, self.bars_sampled)
        if self._needs_initial_reset or force_reset:
            self._start_over()
        share, rest = divmod(num_timesteps, self.num_envs)
        envs = [env.unwrapped for env in self.env.envs]
        goals = [env.bars_done + share + (index < rest) for index, env in enumerate(envs)]
        kept: list[Trajectory] = []
        with torch.inference_mode():
            active = [index for index, env in enumerate(envs) if env.bars_done < goals[index]]
            while active:
                actions = self._decide(active, explore)
                for index in active:
                    self._play(index, envs[index], actions[index], kept)
                active = [index for index in active if envs[index].bars_done < goals[index]]
        for tracks in self._tracks:
            kept += [cut for track in tracks.values() if (cut := track.cut(terminated=False)) is not None]
        self.bars_sampled += num_timesteps
        self._log_returns()
        return [Fragment(num_timesteps, kept, self._seats())]

    def _decide(self, active: list[int], explore: bool) -> list[dict[str, np.ndarray]]:
        """Actions of every agent on turn in the active environments; one forward pass per module."""
        asked: dict[str, list[tuple[int, str]]] = {}
        for index in active:
            for agent in self._turns[index]:
                asked.setdefault(self._tracks[index][agent].module, []).append((index, agent))
        actions: list[dict[str, np.ndarray]] = [{} for _ in self._turns]
        for name, seats in asked.items():
            module = self.module[name]
            learns = self._learning is None or name in self._learning
            observations = torch.from_numpy(np.stack([self._turns[index][agent] for index, agent in seats]))
            batch = {Columns.OBS: observations}
            if explore and (learns or self._explore_frozen):
                logits = module.forward_exploration(batch)[Columns.ACTION_DIST_INPUTS]
                distribution = module.get_exploration_action_dist_cls().from_logits(logits)
                drawn = distribution.sample()
            else:
                logits = module.forward_inference(batch)[Columns.ACTION_DIST_INPUTS]
                distribution = module.get_inference_action_dist_cls().from_logits(logits).to_deterministic()
                drawn = distribution.sample()
            log_probs = distribution.logp(drawn).numpy() if explore and learns else None
            raw, inputs = drawn.numpy(), logits.numpy()
            legal = np.clip(raw, -1.0, 1.0)
            for row, (index, agent) in enumerate(seats):
                actions[index][agent] = legal[row]
                if log_probs is not None:
                    self._tracks[index][agent].decision = (raw[row], inputs[row], log_probs[row])
        return actions

    def _play(self, index: int, env: Any, actions: dict[str, np.ndarray], kept: list[Trajectory]) -> None:
        """One turn of one environment; at the end of an episode its rows are cut and the next one begins."""
        before = env.bars_done
        observations, rewards, terminateds, truncateds, _ = env.step(actions)
        tracks, returns = self._tracks[index], self._returns[index]
        passed = env.bars_done - before
        for agent, reward in rewards.items():
            returns[agent] = returns.get(agent, 0.0) + reward
            if agent in tracks:
                tracks[agent].reward += reward
        if passed:
            for track in tracks.values():
                track.bars += passed
        ended, cut_off = terminateds.get("__all__", False), truncateds.get("__all__", False)
        if not (ended or cut_off):
            self._turns[index] = observations
            self._see(index, observations)
            return
        for agent, track in tracks.items():
            if track.decision is not None:
                track.close(observations[agent])
            if (cut := track.cut(terminated=bool(ended))) is not None:
                kept.append(cut)
        self._done_returns.append((sum(returns.values()), returns))
        self._begin(index)

    def _see(self, index: int, observations: dict[str, np.ndarray]) -> None:
        tracks = self._tracks[index]
        for agent, observation in observations.items():
            if agent not in tracks:
                tracks[agent] = _Track(self.config.policy_mapping_fn(agent, None))
            tracks[agent].close(observation)

    def _begin(self, index: int) -> None:
        observations, _ = self.env.envs[index].unwrapped.reset()
        self._tracks[index], self._returns[index] = {}, {}
        self._turns[index] = observations
        self._see(index, observations)

    def _start_over(self) -> None:
        self._tracks = [{} for _ in range(self.num_envs)]
        self._turns = [{} for _ in range(self.num_envs)]
        self._returns = [{} for _ in range(self.num_envs)]
        for index in range(self.num_envs):
            self._begin(index)
        self._needs_initial_reset = False

    def _log_returns(self) -> None:
        """Means over the episodes that ended in this call, once per call."""
        if self._done_returns:
            agents = {agent for _, returns in self._done_returns for agent in returns}
            for agent in sorted(agents):
                per_episode = [returns[agent] for _, returns in self._done_returns if agent in returns]
                self.metrics.log_value(("agent_episode_return", agent), float(np.mean(per_episode)), window=1)
            total = float(np.mean([total for total, _ in self._done_returns]))
            self.metrics.log_value("episode_return", total, window=1)
        self.metrics.log_value(EPISODES, len(self._done_returns), reduce="sum")
        self._done_returns = []

    def get_metrics(self) -> dict[str, Any]:
        return self.metrics.reduce()

    def _seats(self) -> dict[str, Any]:
        """Counters of this runner and of its environments: all a replacement needs to draw what comes next."""
        envs = [] if self.env is None else [env.unwrapped.get_state() for env in self.env.envs]
        return {"runner": self.worker_index, "bars": self.bars_sampled, "environments": envs}

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> StateDict:
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(SEATS, components, not_components):
            state[SEATS] = self._seats()
        return state

    def set_state(self, state: StateDict) -> None:
        """Besides RLlib's: take over the counters of the *same* runner. Another runner's are left alone, because
        RLlib hands the local runner's state to a restarted remote one, which would replay the local one's episodes."""
        super().set_state(state)
        seats = state.get(SEATS)
        if seats is None or seats["runner"] != self.worker_index or self.env is None:
            return
        if len(seats["environments"]) != self.num_envs:
            return
        self.bars_sampled = int(seats["bars"])
        for env, counters in zip(self.env.envs, seats["environments"]):
            env.unwrapped.set_state(counters)
        self._needs_initial_reset = True
