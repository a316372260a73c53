"""Every decision that a network did not take itself is counted, and told with who, when and why, at a bounded pace."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from mtquant_rllib.agents.groups import group_of
from mtquant_rllib.config import Settings
from mtquant_rllib.policies.actor import DeskActor
from mtquant_rllib.policies.attention.fallbacks import FallbackMonitor, summary
from mtquant_rllib.policies.registry import build_policy, network_configs
from mtquant_rllib.universe import META

SMALL = (
    "networks.attention.width=16",
    "networks.attention.heads=2",
    "networks.attention.classifier.hidden=[8]",
    "networks.attention.policy_heads.hidden=8",
    "networks.names.meta=attention",
)
B = 6


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def settings_with(*overrides: str) -> Settings:
    return Settings.load(overrides=[*SMALL, *overrides])


def policy_of(settings: Settings) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_policy(network_configs(settings)[META])


def actor_of(settings: Settings) -> DeskActor:
    state = {f"policy.{key}": value for key, value in policy_of(settings).state_dict().items()}
    return DeskActor(settings, {META: state})


def observations(settings: Settings, rows: int = B) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, group_of(settings, META).observation.width), np.float32)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    # A run of the curriculum in the same process keeps the package's lines to itself.
    logging.getLogger("mtquant_rllib").propagate = True
    caplog.set_level(logging.INFO, "mtquant_rllib")
    return caplog


def test_broken_numbers_are_a_warning_that_names_their_columns(lines: pytest.LogCaptureFixture) -> None:
    settings = settings_with("networks.attention.mixture.min_confidence=0.01")
    actor, obs = actor_of(settings), observations(settings)
    obs[2, 0], obs[4, 0], obs[4, 1] = np.nan, np.inf, np.nan
    actor.fallbacks.bars = 1234
    assert np.isfinite(actor.act(META, obs)).all()
    assert actor.fallbacks.counts() == {META: {"none": 4, "unsure": 0, "not_finite": 2, "equal": 0}}
    (record,) = lines.records
    assert record.levelno == logging.WARNING
    first = next(iter(network_configs(settings)[META]["shape"]["groups"]))[0]
    assert record.getMessage() == (
        "bar 1,234: meta_controller: in 2 of 6 decisions its global head alone answered (not_finite: broken numbers in "
        f"{first}[0], {first}[1])"
    )


def test_low_confidence_is_information_and_every_row_of_it_counts(lines: pytest.LogCaptureFixture) -> None:
    settings = settings_with("networks.attention.mixture.min_confidence=1.0")
    actor = actor_of(settings)
    actor.act(META, observations(settings))
    assert actor.fallbacks.counts()[META]["unsure"] == B
    (record,) = lines.records
    assert record.levelno == logging.INFO
    assert "in 6 of 6 decisions" in record.getMessage()
    assert "unsure" in record.getMessage()
    assert summary(actor.fallbacks.counts()) == [record.getMessage().removeprefix("bar 0: ")]


def test_a_network_without_any_number_left_answers_with_equal_weight_and_says_so(
    lines: pytest.LogCaptureFixture,
) -> None:
    settings = settings_with()
    policy, watch = policy_of(settings), FallbackMonitor(0)
    with torch.no_grad():
        policy.network.heads.bias_PA[-1] = torch.nan
    watch.attach(META, policy)
    answer = policy(torch.from_numpy(observations(settings)))
    assert (answer[:, :4] == 0).all()
    assert watch.counts()[META]["equal"] == B
    assert [record.levelno for record in lines.records] == [logging.WARNING]
    assert "(equal: its global head gave no number)" in lines.records[0].getMessage()


def test_a_line_on_one_reason_comes_once_in_a_while_and_holds_all_since_the_last(
    lines: pytest.LogCaptureFixture,
) -> None:
    settings = settings_with("networks.attention.mixture.min_confidence=1.0")
    clock = Clock()
    policy, watch = policy_of(settings), FallbackMonitor(60, clock)
    watch.attach(META, policy)
    obs = torch.from_numpy(observations(settings))
    policy(obs)
    for clock.now in (1, 30, 59):
        policy(obs)
    broken = obs.clone()
    broken[0, 0] = torch.nan
    policy(broken)  # another reason need not wait
    clock.now = 60
    policy(obs)
    said = [record.getMessage() for record in lines.records]
    assert len(said) == 3, said
    assert "in 6 of 6 decisions" in said[0]
    assert "in 1 of 30 decisions" in said[1]
    assert "in 29 of 30 decisions" in said[2], "three silent batches, five of the broken one, and the last"


def test_rows_that_do_not_decide_and_rehearsals_are_not_counted() -> None:
    settings = settings_with("networks.attention.mixture.min_confidence=1.0")
    actor, obs = actor_of(settings), observations(settings)
    actor.fallbacks.rows = np.arange(B) < 2
    actor.act(META, obs)
    actor.fallbacks.rows = None
    with actor.fallbacks.muted():
        actor.act(META, obs)
    assert actor.fallbacks.take()[META]["unsure"] == 2
    assert actor.fallbacks.take()[META]["unsure"] == 0, "taken is taken"
    assert actor.fallbacks.counts()[META]["unsure"] == 2


def test_remembered_answers_and_cheaper_ones_are_counted_like_others() -> None:
    for inference in ("{precision: int8, cached_rows: 0}", "{precision: bfloat16, cached_rows: 50}"):
        settings = settings_with("networks.attention.mixture.min_confidence=1.0", f"evaluation.inference={inference}")
        actor, obs = actor_of(settings), observations(settings)
        obs[0, 0] = np.nan
        for _ in range(2):
            actor.act(META, obs)
        assert actor.fallbacks.counts()[META] == {"none": 0, "unsure": 2 * (B - 1), "not_finite": 2, "equal": 0}


def test_a_plain_network_is_left_alone() -> None:
    watch = FallbackMonitor(0)
    watch.attach(META, policy_of(Settings.load()))
    assert watch.counts() == {}
