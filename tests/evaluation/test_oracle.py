"""The oracle's raw actions say its conviction and nothing else, in the desk's own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from mtquant_rllib.agents.groups import INSTRUMENTS
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env import decisions
from mtquant_rllib.evaluation.backtest.oracle import oracle_actions, oracle_targets
from mtquant_rllib.universe import META

SETTINGS = Settings.load()
UNIVERSE, DECISION = SETTINGS.universe, SETTINGS.desk.decision


def test_conviction_is_the_forecast_in_its_own_deviations_times_the_slope_clipped() -> None:
    sigma = np.array([[0.01, 0.02]])
    mu = sigma * np.array([[0.03, -0.04]])  # root mean square .0354: z = .85, -1.13
    np.testing.assert_allclose(oracle_targets(mu, sigma, 0.5), [[0.4243, -0.5657]], atol=1e-4)
    np.testing.assert_allclose(oracle_targets(mu, sigma, 1.0), [[0.8485, -1.0]], atol=1e-4)
    np.testing.assert_allclose(oracle_targets(7 * mu, sigma, 0.5), oracle_targets(mu, sigma, 0.5))


def test_without_a_planted_part_the_oracle_stays_out() -> None:
    np.testing.assert_array_equal(oracle_targets(np.zeros((3, 8)), np.ones((3, 8)), 0.5), np.zeros((3, 8)))


def test_raw_actions_carry_the_conviction_through_all_three_levels() -> None:
    conviction = np.random.default_rng(0).uniform(-1, 1, (5, UNIVERSE.n_instruments))
    raw = oracle_actions(conviction, SETTINGS)
    allocation, appetite = decisions.meta_decision(raw[META][:, 0], DECISION)
    np.testing.assert_allclose(allocation, 1 / UNIVERSE.n_domains)
    np.testing.assert_allclose(appetite, 1.0)
    signal, urgency, stop_atr = decisions.instrument_decision(raw[INSTRUMENTS], DECISION)
    np.testing.assert_allclose(urgency, SETTINGS.synthetic.oracle.urgency)
    np.testing.assert_allclose(stop_atr, DECISION.stop_atr_max)
    for part, specialist in zip(UNIVERSE.domain_slices, UNIVERSE.specialists):
        intent, confidence = decisions.specialist_decision(raw[specialist][:, 0], DECISION)
        blend = decisions.conviction(intent, confidence[:, None], signal[:, part])
        np.testing.assert_allclose(blend, conviction[:, part])


def test_every_raw_action_is_one_an_agent_could_take() -> None:
    raw = oracle_actions(np.ones((2, UNIVERSE.n_instruments)), SETTINGS)
    for action in raw.values():
        assert np.abs(action).max() == pytest.approx(1.0)
