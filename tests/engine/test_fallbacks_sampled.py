"""Sampling counts who took each decision of an attention network, on both engines, and the counts reach the results."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mtquant_rllib.engine.rllib_reference import RLlibEnvRunner
from mtquant_rllib.engine.sampling.runner import BatchedEnvRunner
from mtquant_rllib.engine.sampling.runner_base import FALLBACKS
from mtquant_rllib.training.reporting.fallback_lines import FallbackLines

ATTENDS = (
    "networks.names.meta=attention",
    "networks.attention.width=16",
    "networks.attention.heads=2",
    "networks.attention.classifier.hidden=[8]",
    "networks.attention.policy_heads.hidden=8",
)


def counted(runner: Any, bars: int) -> dict[str, dict[str, int]]:
    metrics = runner.sample_bars(bars).metrics[FALLBACKS]
    return {module: {reason: int(item.peek()) for reason, item in own.items()} for module, own in metrics.items()}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["batched", "rllib"])
@pytest.mark.parametrize(("least", "reason"), [("1.0", "unsure"), ("0.01", "none")])
def test_every_decision_of_the_meta_controller_is_counted_once(
    make_config: Any, engine: str, least: str, reason: str
) -> None:
    config = make_config(
        3, "desk", *ATTENDS, f"networks.attention.mixture.min_confidence={least}", f"resources.engine={engine}"
    )
    runner = (BatchedEnvRunner if engine == "batched" else RLlibEnvRunner)(config=config, worker_index=0)
    # Four environments, 20 bars each: it decides at bars 0, 5, 10 and 15, and nobody else attends.
    counts = counted(runner, 80)
    assert counts == {"meta_controller": {**dict.fromkeys(("none", "unsure", "not_finite", "equal"), 0), reason: 16}}


@pytest.mark.slow
def test_broken_observations_while_sampling_are_counted_and_told_with_agent_bar_and_columns(
    make_config: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(3, "desk", *ATTENDS, "networks.attention.mixture.min_confidence=0.01")
    runner = BatchedEnvRunner(config=config, worker_index=0)
    runner.sample_bars(40)
    level = runner._samplers[0][0].level
    assert level.agents == ("meta_controller",)
    whole = level.observe

    def broken() -> np.ndarray:
        obs = whole().copy()
        # A column of the market, which a fragment does not carry: one of the desk's own state would be a failure.
        assert obs.shape[2] - 1 not in level.state_columns
        obs[1, 0, -1] = np.nan
        return obs

    object.__setattr__(level, "observe", broken)
    logging.getLogger("mtquant_rllib").propagate = True
    with caplog.at_level(logging.INFO, "mtquant_rllib"):
        sampled = runner.sample_bars(40)
    # Ten bars of four environments: two decisions of the one whose numbers are broken, six of the others.
    counts = {reason: int(item.peek()) for reason, item in sampled.metrics[FALLBACKS]["meta_controller"].items()}
    assert counts == {"none": 6, "unsure": 0, "not_finite": 2, "equal": 0}
    (record,) = [record for record in caplog.records if "meta_controller" in record.getMessage()]
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("bar 40: meta_controller: in 1 of 12 decisions")
    assert "broken numbers in" in record.getMessage()
    assert all(np.isfinite(level.actions).all() for level in sampled.samples[0].levels)


def test_a_runs_log_tells_of_them_at_a_bounded_pace(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("mtquant_rllib").propagate = True
    lines = FallbackLines(2, every_s=1000)
    result = {
        "bars_sampled_lifetime": 2048,
        "env_runners": {FALLBACKS: {"meta_controller": {"none": 90, "unsure": 8, "not_finite": 2, "equal": 0}}},
    }
    with caplog.at_level(logging.INFO, "mtquant_rllib"):
        for _ in range(3):
            lines.on_trial_result(1, [], SimpleNamespace(config={"trial": "desk"}), result)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("phase 2 desk, bar 2,048: meta_controller: in 8 of 100 decisions")
    assert said[1].startswith("phase 2 desk, bar 2,048: meta_controller: in 2 of 100 decisions")
    assert [record.levelno for record in caplog.records] == [logging.INFO, logging.WARNING]
    lines.every_s = 0
    caplog.clear()
    with caplog.at_level(logging.INFO, "mtquant_rllib"):
        lines.on_trial_result(1, [], SimpleNamespace(config={"trial": "desk"}), result)
    assert "in 24 of 300 decisions" in caplog.records[0].getMessage(), "what was not said is not lost"
