"""Environments that fail while they are sampled: what counts as a failure, and sampling the same bars again.

An environment fails when it raises, or when a reward, an equity or an observation is not a finite number. The call of
sampling is then taken back as a whole (`runner_snapshot.Before`) and made again with the same noise: where the fault
was a passing one, what comes out is what would have come out without it, bit for bit. A policy that fails or answers
with something that is no number is not the environments' fault, and is not tried again.

Of an observation a fragment carries the columns that the feature table does not know; those are looked at. The others a
learner reads from the table itself. A policy that was shown a broken one of those answers with none, which fails the
environment too; or it is an attention network, which falls back row by row, and says so (`policies.fallbacks`).
"""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeVar

import numpy as np

from mtquant_rllib.engine.columns import Fragment
from mtquant_rllib.engine.sampling import policy_batch
from mtquant_rllib.engine.sampling.runner_snapshot import Before
from mtquant_rllib.errors import DivergedPolicyError, EnvironmentFailed, MtquantError

logger = logging.getLogger(__name__)

ENV_RETRIES = "env_retries"
"""Key of the metric that counts calls made again since the last report."""

T = TypeVar("T")


class EnvFault(MtquantError):
    """An environment whose answer is not a finite number."""


def retried(runner: Any, attempt: Callable[[], T], retries: int) -> tuple[T, list[str]]:
    """What `attempt` returns, a call of sampling of a `BatchedEnvRunner`, and why it was made again, each time.

    Raises
    ------
    RunError
        Where it failed once more after so many retries in a row: naming environment, bar, row and quantity.
    DivergedPolicyError
        At once, where a policy is to blame. Other errors of policies as they are.
    """
    before, told = Before.of(runner), list[str]()
    for failures in count():
        try:
            return attempt(), told
        except Exception as error:
            fault = _blamed(runner, error)
            if fault is None:
                raise
            said = f"runner {runner.worker_index or 0}, bars {before.bars_sampled:,} on: {fault}"
            if failures >= retries:
                raise EnvironmentFailed(
                    f"{said}; it failed {failures + 1} times in a row from the same state (resources.env_retries = "
                    f"{retries}): the fault is in the environment or its market, not a passing one"
                ) from error
            logger.warning("%s; the bars of this call are sampled again (%d of %d)", said, failures + 1, retries)
            told.append(said)
            before.put_back(runner)
    raise AssertionError("unreachable")


def _blamed(runner: Any, error: Exception) -> str | None:
    """What is wrong with the environments, in words; None where they are not to blame."""
    if isinstance(error, EnvFault):
        return str(error)
    if isinstance(error, DivergedPolicyError):
        return _first_to_blame([sampler for samplers in runner._samplers for sampler in samplers])
    if any(frame.filename == policy_batch.__file__ for frame in traceback.extract_tb(error.__traceback__)):
        return None
    places = "; ".join(
        f"{_whose(part)} at rows {rows.min()} to {rows.max()}"
        for part in runner.env.domain_envs
        if len(rows := part.desk.state.row[part.playing])
    )
    return f"the environments raised {type(error).__name__}: {error} (playing: {places or 'none'})"


def _whose(part: Any) -> str:
    domain = part.desk.setup.domain
    return "all domains" if domain is None else str(part.desk.universe.domains[domain].name)


def _first_to_blame(samplers: Sequence[Any]) -> str | None:
    """What was seen that is no number; None where a policy was the first to say such a thing. A policy's answer is part
    of what the levels below it see, so they are asked in the order of decision."""
    for sampler in samplers:
        if sampler.seen is not None and not _is_finite(sampler.seen):
            return _bad_look(sampler)
        if sampler.answered is not None and not _is_finite(sampler.answered):
            return None
    return None


def _bad_look(sampler: Any) -> str:
    env, seat, column = np.argwhere(~np.isfinite(sampler.seen))[0].tolist()
    agent = sampler.level.agents[sampler.level.seated(sampler.desk.n_envs)[env, seat]]
    value, row = sampler.seen[env, seat, column], sampler.desk.state.row[env]
    return f"environment {env}, row {row}: column {column} of the observation of {agent} is {value}"


def check_bar(desk: Any, acting: np.ndarray, rewards: np.ndarray) -> None:
    """After a bar: rewards (B, agents), 0 where an environment did not play, and equities are numbers.

    Raises
    ------
    EnvFault
        Naming the first environment whose are not.
    """
    equity = desk.book.equity
    if math.isfinite(float(rewards.sum()) + float(equity.sum())):
        return
    for env in np.flatnonzero(acting).tolist():
        row = int(desk.state.row[env])
        if not np.isfinite(rewards[env]).all():
            agent = int(np.argmin(np.isfinite(rewards[env])))
            who, value = desk.universe.agent_ids[agent], rewards[env, agent]
            raise EnvFault(
                f"environment {env}, row {row} ({desk.execution.stamps[row]}): the reward of {who} is {value}"
            )
        if not math.isfinite(equity[env]):
            raise EnvFault(f"environment {env}, row {row} ({desk.execution.stamps[row]}): the equity is {equity[env]}")


def check_fragment(fragment: Fragment) -> None:
    """After a call: what was seen and done is numbers.

    Raises
    ------
    EnvFault
        Where an observation is not.
    DivergedPolicyError
        Where only an action or its distribution is not.
    """
    for level in fragment.levels:
        for name in ("private", "final", "bootstrap"):
            seen = getattr(level, name)
            if not _is_finite(seen):
                look, seat, column = np.argwhere(~np.isfinite(seen))[0].tolist()
                at = {"private": level.due, "final": level.truncated}.get(name)
                env = look if at is None else int(np.nonzero(at)[1][look])
                row = level.bootstrap_rows[look] if at is None else level.market_rows[at][look]
                raise EnvFault(
                    f"environment {env}, row {row}: private column {column} of the observation of seat {seat} of "
                    f"{', '.join(level.agents)} is {seen[look, seat, column]}"
                )
        if not _is_finite(level.log_probs):
            look, seat = np.argwhere(~np.isfinite(level.log_probs))[0].tolist()
            raise DivergedPolicyError(
                f"the action of {level.modules[level.seats[look, seat]]} at row {level.market_rows[level.due][look]} "
                f"has log-probability {level.log_probs[look, seat]}; expected a finite number: has it diverged?"
            )


def _is_finite(array: np.ndarray) -> bool:
    """One sum tells of nearly all arrays; one that overflows is looked at number by number."""
    return bool(math.isfinite(float(array.sum())) or np.isfinite(array).all())
