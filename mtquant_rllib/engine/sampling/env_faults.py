"""Faults of environments while they are sampled, and how often the same bars are tried again
(`resources.env_retries`).

An environment fails when it raises, or when a reward, an equity or an observation is not finite. The call of `sample`
is then undone as a whole (`runner_snapshot.RunnerBackup`) and repeated with the same noise: after a transient fault the
result is, bit for bit, what it would have been without. A policy that raises or whose outputs are not finite is no
fault of the environments, and is not retried.

Checked are the observation columns that a fragment carries; the others a learner reads from the feature table. A policy
that observes a broken one of those has outputs that are not finite, which is a fault of the environment too; an
attention network instead falls back row by row and logs it (`policies.attention.fallbacks`).
"""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeVar

import numpy as np

from mtquant_rllib.engine.fragments import Fragment
from mtquant_rllib.engine.sampling import policy_batch
from mtquant_rllib.engine.sampling.runner_snapshot import RunnerBackup
from mtquant_rllib.errors import DivergedPolicyError, EnvironmentFailed, MtquantError

logger = logging.getLogger(__name__)

ENV_RETRIES = "env_retries"
"""Key of the metric that counts repeated calls since the last report."""

T = TypeVar("T")


class EnvFault(MtquantError):
    """A reward, equity or observation that is not finite."""


def with_retries(runner: Any, attempt: Callable[[], T], retries: int) -> tuple[T, list[str]]:
    """The result of `attempt`, a call of `sample` of a `BatchedEnvRunner`, and the fault before each repetition.

    Raises
    ------
    EnvironmentFailed
        After so many retries in a row; it names environment, bar, row and quantity.
    DivergedPolicyError
        Where a policy's outputs are not finite, without a retry. Other errors of policies are not caught.
    """
    backup, faults = RunnerBackup.of(runner), list[str]()
    for failures in count():
        try:
            return attempt(), faults
        except Exception as error:
            fault = _environment_fault(runner, error)
            if fault is None:
                raise
            message = f"runner {runner.worker_index or 0}, bars {backup.bars_sampled:,} on: {fault}"
            if failures >= retries:
                raise EnvironmentFailed(
                    f"{message}; it failed {failures + 1} times in a row from the same state (resources.env_retries = "
                    f"{retries}): the fault is in the environment or its market, not a passing one"
                ) from error
            logger.warning("%s; the bars of this call are sampled again (%d of %d)", message, failures + 1, retries)
            faults.append(message)
            backup.restore(runner)
    raise AssertionError("unreachable")


def _environment_fault(runner: Any, error: Exception) -> str | None:
    """A description of the environments' fault; None where the error is not theirs."""
    if isinstance(error, EnvFault):
        return str(error)
    if isinstance(error, DivergedPolicyError):
        return _first_nonfinite_observation([sampler for samplers in runner._samplers for sampler in samplers])
    if any(frame.filename == policy_batch.__file__ for frame in traceback.extract_tb(error.__traceback__)):
        return None
    places = "; ".join(
        f"{_domain_name(part)} at rows {rows.min()} to {rows.max()}"
        for part in runner.env.domain_envs
        if len(rows := part.desk.state.row[part.playing])
    )
    return f"the environments raised {type(error).__name__}: {error} (playing: {places or 'none'})"


def _domain_name(part: Any) -> str:
    domain = part.desk.setup.domain
    return "all domains" if domain is None else str(part.desk.universe.domains[domain].name)


def _first_nonfinite_observation(samplers: Sequence[Any]) -> str | None:
    """The first observation that is not finite; None where a policy's outputs were not finite before. Levels are
    checked in the order of decision, because a policy's outputs are part of what the levels below it observe."""
    for sampler in samplers:
        if sampler.observations is not None and not _is_finite(sampler.observations):
            return _described(sampler)
        if sampler.outputs is not None and not _is_finite(sampler.outputs):
            return None
    return None


def _described(sampler: Any) -> str:
    """Environment, row, column, agent and value of the first number of an observation that is not finite."""
    env, slot, column = np.argwhere(~np.isfinite(sampler.observations))[0].tolist()
    agent = sampler.level.agents[sampler.level.acting_agents(sampler.desk.n_envs)[env, slot]]
    value, row = sampler.observations[env, slot, column], sampler.desk.state.row[env]
    return f"environment {env}, row {row}: column {column} of the observation of {agent} is {value}"


def check_bar(desk: Any, acting: np.ndarray, rewards: np.ndarray) -> None:
    """Check the rewards (B, agents), 0 where an environment did not play, and the equities of a bar.

    Raises
    ------
    EnvFault
        Where one is not finite; it names the first environment.
    """
    equity = desk.book.equity
    if math.isfinite(float(rewards.sum()) + float(equity.sum())):
        return
    for env in np.flatnonzero(acting).tolist():
        row = int(desk.state.row[env])
        if not np.isfinite(rewards[env]).all():
            agent = int(np.argmin(np.isfinite(rewards[env])))
            name, value = desk.universe.agent_ids[agent], rewards[env, agent]
            raise EnvFault(
                f"environment {env}, row {row} ({desk.execution.timestamps[row]}): the reward of {name} is {value}"
            )
        if not math.isfinite(equity[env]):
            raise EnvFault(
                f"environment {env}, row {row} ({desk.execution.timestamps[row]}): the equity is {equity[env]}"
            )


def check_fragment(fragment: Fragment) -> None:
    """Check the observations and actions of a fragment.

    Raises
    ------
    EnvFault
        Where an observation is not finite.
    DivergedPolicyError
        Where only an action or its distribution is not finite.
    """
    for level in fragment.levels:
        for name in ("private", "final", "bootstrap"):
            columns = getattr(level, name)
            if not _is_finite(columns):
                entry, slot, column = np.argwhere(~np.isfinite(columns))[0].tolist()
                at = {"private": level.due, "final": level.truncated}.get(name)
                env = entry if at is None else int(np.nonzero(at)[1][entry])
                row = level.bootstrap_rows[entry] if at is None else level.market_rows[at][entry]
                raise EnvFault(
                    f"environment {env}, row {row}: private column {column} of the observation of agent {slot} of "
                    f"{', '.join(level.agents)} is {columns[entry, slot, column]}"
                )
        if not _is_finite(level.log_probs):
            entry, slot = np.argwhere(~np.isfinite(level.log_probs))[0].tolist()
            module, row = level.modules[level.module_index[entry, slot]], level.market_rows[level.due][entry]
            raise DivergedPolicyError(
                f"the action of {module} at row {row} has log-probability {level.log_probs[entry, slot]}; expected a "
                "finite number: has it diverged?"
            )


def _is_finite(array: np.ndarray) -> bool:
    """Whether all numbers are finite. The sum decides nearly always; only where it overflows are they checked
    singly."""
    return bool(math.isfinite(float(array.sum())) or np.isfinite(array).all())
