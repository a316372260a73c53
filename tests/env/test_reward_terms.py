"""A reward term of one's own, as docs/extending.md has it: named in the settings, paid in every phase, told in the
curves."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from markets import smooth
from pydantic import ValidationError
from small_runs import written

from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.training import Reward
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.rewards.custom_terms import custom_terms
from mtquant_rllib.env.risk_layer import RiskLayer
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.features.building import build_features
from mtquant_rllib.portfolio.execution_data import ExecutionData
from mtquant_rllib.training.curriculum.phases import expect_trainable

B = 3
BROKEN = """
import numpy as np


class Raises:
    name = "raises"

    def __call__(self, bar):
        raise ValueError("boom")


class Shape:
    name = "shape"

    def __call__(self, bar):
        return bar.appetite


class NotANumber:
    name = "not_a_number"

    def __call__(self, bar):
        return np.full_like(bar.streams, np.nan)


class Writes:
    name = "writes"

    def __call__(self, bar):
        bar.streams[:] = 1
        return bar.streams


class Slash:
    name = "a/b"

    def __call__(self, bar):
        return bar.streams
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(written(tmp_path))
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("reward", get_args(Reward))
def test_it_is_added_to_the_rewards_in_units_of_the_target(home: Path, reward: Reward) -> None:
    plain, own = Settings.load(), Settings.load(home / "my_reward.yaml")
    market = smooth(plain)
    features, execution = build_features(plain, market, None), ExecutionData.build(plain, market)
    setup = EpisodeSetup(reward)
    desks = [Desk(one, execution, features, B, setup, RiskLayer(one, B, setup)) for one in (plain, own)]
    start = features.warmup
    draws = [EpisodeDraw(start=start, stop=start + 40, allocation=0.3, active_instrument=0) for _ in range(B)]
    for desk in desks:
        desk.reset(np.arange(B), draws)
    rng, traded = np.random.default_rng(0), 0.0
    for _ in range(20):
        weights = rng.uniform(-0.2, 0.2, (B, plain.universe.n_instruments))
        equity = desks[1].book.equity.copy()
        without, with_it = (desk.advance_with_weights(weights.copy()) for desk in desks)
        turnover = desks[1].book.traded_ccy / equity[:, None]
        expected = np.empty_like(without.rewards)
        expected[:, 0] = turnover.sum(axis=1)
        for d, part in enumerate(plain.universe.domain_slices):
            expected[:, 1 + d] = turnover[:, part].sum(axis=1)
        expected[:, 1 + plain.universe.n_domains :] = turnover
        sigma = 0.20 / np.sqrt(execution.bars_per_year)
        np.testing.assert_allclose(with_it.rewards, without.rewards - 0.001 * expected / sigma, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(with_it.terms["turnover"], -0.001 * expected[:, 0], rtol=1e-12)
        traded += turnover.sum()
    assert traded > 1


@pytest.mark.slow
def test_the_joint_phases_terms_make_up_the_portfolios_reward(home: Path) -> None:
    settings = Settings.load(home / "my_reward.yaml")
    market = smooth(settings)
    features, execution = build_features(settings, market, None), ExecutionData.build(settings, market)
    setup = EpisodeSetup()
    desk = Desk(settings, execution, features, B, setup, RiskLayer(settings, B, setup))
    start = features.warmup
    desk.reset(
        np.arange(B), [EpisodeDraw(start=start, stop=start + 60, allocation=0.3, active_instrument=0) for _ in range(B)]
    )
    rng = np.random.default_rng(1)
    for _ in range(40):
        result = desk.advance_with_weights(rng.uniform(-0.5, 0.5, (B, settings.universe.n_instruments)))
        assert set(result.terms) == {"return", "drawdown", "edits", "var_excess", "turnover"}
        paid = sum(result.terms.values()) / desk.reward.sigma_target
        np.testing.assert_allclose(result.rewards[:, 0], paid, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("term", "said"),
    [
        ({"term": "my_rewardz:Turnover"}, "cannot be imported"),
        ({"term": "my_rewards:Turnovr"}, "has no attribute 'Turnovr'"),
        ({"term": "my_rewards:Turnover", "options": {"scale": 2}}, "cannot be made with options"),
        ({"term": "fractions:Fraction"}, "is no term: expected a `name`"),
        ({"term": "turnover"}, "no installed package offers 'turnover'"),
        ({"term": ":Turnover"}, "expected the full name of a module"),
        ({"term": "broken_terms:Raises"}, "rewards.terms: raises fails: ValueError: boom"),
        ({"term": "broken_terms:Shape"}, r"shape returns an array of shape \(2,\); expected \(2, 12\)"),
        ({"term": "broken_terms:NotANumber"}, "not_a_number returns a number that is not finite"),
        ({"term": "broken_terms:Writes"}, "writes fails: ValueError: .*read-only"),
        ({"term": "broken_terms:Slash"}, "is no term: expected a `name` of letters"),
        ({"term": "broken_module:Term"}, "broken_module:Term: RuntimeError: no use"),
        ({"term": "my_rewards:Turnover", "weight": float("nan")}, "finite"),
    ],
)
def test_what_is_no_term_is_refused_with_its_cure(home: Path, term: dict[str, Any], said: str) -> None:
    (home / "broken_terms.py").write_text(BROKEN)
    (home / "broken_module.py").write_text("raise RuntimeError('no use')")
    for module in ("broken_terms", "broken_module"):
        sys.modules.pop(module, None)
    tree = Settings.load().model_dump(mode="json")
    tree["rewards"]["terms"] = [term]
    with pytest.raises((ConfigError, ValidationError), match=said):
        expect_trainable(Settings.model_validate(tree), 3)


@pytest.mark.slow
def test_an_evaluation_asks_no_term(home: Path) -> None:
    settings = Settings.load(home / "my_reward.yaml")
    market = smooth(settings)
    features, execution = build_features(settings, market, None), ExecutionData.build(settings, market)
    setup = EpisodeSetup(ends_on_halt=False, custom_terms=False)
    desk = Desk(settings, execution, features, B, setup, RiskLayer(settings, B, setup))
    start = features.warmup
    desk.reset(
        np.arange(B), [EpisodeDraw(start=start, stop=start + 9, allocation=0.3, active_instrument=0) for _ in range(B)]
    )
    assert "turnover" not in desk.advance_with_weights(np.full((B, 8), 0.1)).terms


def test_two_terms_of_one_name_are_refused(home: Path) -> None:
    tree = Settings.load(home / "my_reward.yaml").model_dump(mode="json")
    tree["rewards"]["terms"] *= 2
    with pytest.raises(ConfigError, match="another term is called 'turnover'"):
        custom_terms(Settings.model_validate(tree))


@pytest.mark.slow
@pytest.mark.ray
def test_it_reaches_training_and_its_curves(all_extensions: Path) -> None:
    with open(all_extensions / "runs" / "all" / "curves" / "phase_1_forex.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    (column,) = [name for name in rows[-1] if name.endswith("turnover")]
    assert float(rows[-1][column]) < 0
