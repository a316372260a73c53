"""Environments that fail now and then: what is sampled is what would have been sampled without it, byte for byte."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_EPISODES_LIFETIME,
)

from mtquant_rllib.engine.fragments import Fragment
from mtquant_rllib.engine.sampling.env_faults import ENV_RETRIES
from mtquant_rllib.engine.sampling.runner import REWARD_TERMS, BatchedEnvRunner
from mtquant_rllib.engine.sampling.runner_base import COUNTERS, SNAPSHOT, SampleResult
from mtquant_rllib.errors import DivergedPolicyError, RunError

CALLS = (48, 22, 48, 48, 6, 48)
"""Bars of each call, four environments: the last bar of some is played by some of them."""


def arrays_of(fragment: Fragment) -> dict[str, bytes]:
    return {
        f"{number}/{name}": np.ascontiguousarray(array).tobytes()
        for number, level in enumerate(fragment.levels)
        for name in (field.name for field in dataclasses.fields(level))
        if isinstance(array := getattr(level, name), np.ndarray)
    }


def fault_metrics(sampled: SampleResult) -> dict[str, Any]:
    """Everything of a call's metrics that is not a time."""
    figures = {
        name: sampled.metrics[name].peek(compile=True)
        for name in (
            NUM_ENV_STEPS_SAMPLED,
            NUM_ENV_STEPS_SAMPLED_LIFETIME,
            NUM_EPISODES,
            NUM_EPISODES_LIFETIME,
            "episode_return_mean",
            "episode_len_mean",
        )
        if name in sampled.metrics
    }
    terms = sampled.metrics.get(REWARD_TERMS, {})
    return figures | {name: stats.peek(compile=True) for name, stats in terms.items()}


def calls(runner: BatchedEnvRunner) -> list[tuple[dict[str, bytes], dict[str, Any], Any]]:
    """(columns, metrics, counters) of the calls; columns are the runner's own buffers and are copied."""
    out = []
    for bars in CALLS:
        sampled = runner.sample_bars(bars)
        out.append((arrays_of(sampled.samples[0]), fault_metrics(sampled), sampled.counters))
    return out


class Faulty:
    """Wraps `advance` or an observation of a runner's desks: every k-th call of it goes wrong, in environment 2."""

    def __init__(self, every: int) -> None:
        self.every, self.count, self.faults = every, 0, 0

    def is_next(self) -> bool:
        self.count += 1
        wrong = self.count % self.every == 0
        self.faults += wrong
        return wrong

    def raises(self, desk: Any) -> None:
        advance = desk.advance

        def faulty() -> Any:
            result = advance()
            if self.is_next():
                # After the books have moved: half of a bar has happened.
                raise OSError("the feed is gone")
            return result

        desk.advance = faulty

    def reward(self, desk: Any) -> None:
        advance = desk.advance

        def faulty() -> Any:
            result = advance()
            if self.is_next():
                result.rewards[2, -1] = np.nan
            return result

        desk.advance = faulty

    def equity(self, desk: Any) -> None:
        advance = desk.advance

        def faulty() -> Any:
            result = advance()
            if self.is_next():
                desk.book.equity[2] = np.inf
            return result

        desk.advance = faulty

    def observation(self, desk: Any) -> None:
        observe = desk._observer.instruments

        def faulty(close: Any) -> np.ndarray:
            seen = observe(close)
            if self.is_next():
                seen[2] = np.nan
            return seen

        desk._observer.instruments = faulty

    def private(self, desk: Any) -> None:
        """Where the policy does not look, so that only the column that is kept tells."""
        observe = desk.observe_specialist

        def faulty(domain: int) -> np.ndarray:
            seen = observe(domain)
            if domain == 0 and self.is_next():
                seen[2, -1] = np.nan
            return seen

        desk.observe_specialist = faulty


@pytest.mark.slow
@pytest.mark.parametrize("how", ["raises", "reward", "equity", "observation"])
@pytest.mark.parametrize(("phase", "name", "overrides"), [(3, "desk", ()), (1, "forex", ())])
def test_what_is_sampled_is_what_would_have_been_sampled(
    make_config: Callable[..., Any], phase: int, name: str, overrides: tuple[str, ...], how: str
) -> None:
    undisturbed = calls(BatchedEnvRunner(make_config(phase, name, *overrides)))
    runner, faulty = BatchedEnvRunner(make_config(phase, name, *overrides)), Faulty(every=17)
    getattr(faulty, how)(runner.env.domain_envs[0].desk)
    disturbed = calls(runner)
    assert faulty.faults >= 3
    for (columns, metrics, counters), (same_columns, same_metrics, same_counters) in zip(undisturbed, disturbed):
        assert columns == same_columns
        assert metrics == same_metrics
        assert counters == same_counters


@pytest.mark.slow
def test_retries_are_counted_and_told(make_config: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    runner, faulty = BatchedEnvRunner(make_config(3, "desk")), Faulty(every=30)
    faulty.raises(runner.env.domain_envs[0].desk)
    with caplog.at_level(logging.WARNING):
        calls = [runner.sample_bars(40) for _ in range(4)]
    counts = [call.metrics[ENV_RETRIES].peek(compile=True) for call in calls]
    assert counts == [len(call.env_faults) for call in calls]
    assert sum(counts) == faulty.faults > 0
    assert 0 in counts
    assert "OSError: the feed is gone" in next(fault for call in calls for fault in call.env_faults)
    assert "OSError: the feed is gone (playing: all domains at rows" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raises", r"raised OSError: the feed is gone .playing: all domains at rows \d+ to \d+"),
        ("reward", r"environment 2, row \d+ .\d{4}-.*: the reward of US30 is nan"),
        ("equity", r"environment 2, row \d+ .*: the equity is inf"),
        ("observation", r"environment 2, row \d+: column 0 of the observation of EURUSD is nan"),
        ("private", r"environment 2, row \d+: .*column \d+ of the observation of .* is nan"),
    ],
)
def test_a_fault_that_stays_ends_the_trial_and_is_named(make_config: Callable[..., Any], how: str, said: str) -> None:
    runner, faulty = BatchedEnvRunner(make_config(3, "desk", "resources.env_retries=2")), Faulty(every=1)
    getattr(faulty, how)(runner.env.domain_envs[0].desk)
    with pytest.raises(RunError, match=rf"runner 0, bars 0 on: .*{said}.*failed 3 times in a row.*env_retries = 2"):
        runner.sample_bars(40)


@pytest.mark.slow
def test_a_policy_that_diverged_is_not_asked_again(make_config: Callable[..., Any]) -> None:
    runner = BatchedEnvRunner(make_config(3, "desk"))
    runner.sample_bars(8)
    with torch.no_grad():
        next(iter(runner.module["meta_controller"].policy.parameters())).fill_(float("nan"))
    advances: list[int] = []
    desk, advance = runner.env.domain_envs[0].desk, runner.env.domain_envs[0].desk.advance
    desk.advance = lambda: (advances.append(1), advance())[1]
    with pytest.raises(DivergedPolicyError, match="has a policy diverged"):
        runner.sample_bars(40)
    assert len(advances) <= runner.env.settings.desk.decision.meta_every_bars


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "name"), [(3, "desk"), (1, "forex")])
def test_a_replacement_goes_on_from_what_travelled_with_the_last_call(
    make_config: Callable[..., Any], phase: int, name: str
) -> None:
    lost = BatchedEnvRunner(make_config(phase, name))
    for bars in CALLS[:3]:
        last = lost.sample_bars(bars)
    replacement = BatchedEnvRunner(make_config(phase, name))
    replacement.set_state({COUNTERS: {**last.counters, SNAPSHOT: last.snapshot}})
    for bars in CALLS[3:]:
        one, other = (arrays_of(runner.sample_bars(bars).samples[0]) for runner in (lost, replacement))
        assert one == other
