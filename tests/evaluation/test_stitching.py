"""Stretches of time stitched to one record, differences of Sharpe ratios on the same bars, desks that act as one."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.evaluation.backtest.baselines import weight_rules
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.backtest.rollout import PolicyPlayer, RulePlayer, closes_of, play, whole
from mtquant_rllib.evaluation.backtest.stitching import stitched
from mtquant_rllib.evaluation.statistics.bootstrap import sharpe_difference_interval
from mtquant_rllib.market.splits import time_splits
from mtquant_rllib.market.synthetic import synthesise
from mtquant_rllib.policies.actor import DeskActor
from mtquant_rllib.policies.ensemble import EnsembleActor
from mtquant_rllib.policies.initial_weights import initial_states
from mtquant_rllib.training.walk_forward.folds import expanding_folds

SETTINGS = Settings.load()


@pytest.fixture(scope="module")
def data() -> DeskData:
    markets = synthesise(SETTINGS, n_paths=1, n_years=4, seed=3, variant="default").markets
    return DeskData.of(SETTINGS, markets)


@pytest.fixture(scope="module")
def halves(data: DeskData) -> tuple[Record, Record]:
    (segment,) = data.segments
    middle = (segment.start + segment.stop) // 2
    parts = [(segment.start, middle), (middle, segment.stop)]
    rule = RulePlayer(weight_rules(SETTINGS)["long_all"], closes_of(data))
    one, two = (
        play(SETTINGS, data, rule, whole([replace(segment, start=start, stop=stop)]), name="book")
        for start, stop in parts
    )
    return one, two


@pytest.mark.slow
def test_a_stitched_record_has_every_return_and_still_adds_up(halves: tuple[Record, Record]) -> None:
    whole_record = stitched(halves)
    returns = np.concatenate([record.returns for record in halves], axis=1)
    np.testing.assert_allclose(whole_record.returns, returns, atol=1e-12)
    assert whole_record.conservation_error() < 1e-12
    grown = np.prod([record.equity_ccy[0, -1] / record.equity_start_ccy[0] for record in halves])
    assert whole_record.equity_ccy[0, -1] == pytest.approx(grown * whole_record.equity_start_ccy[0])
    assert (np.diff(whole_record.timestamps) > np.timedelta64(0)).all()
    assert whole_record.breaker_trips.sum() == sum(record.breaker_trips.sum() for record in halves)


def test_stretches_that_overlap_are_refused(halves: tuple[Record, Record]) -> None:
    one, two = halves
    with pytest.raises(ValueError, match="begins before the one before it ends"):
        stitched([two, one])


@pytest.mark.slow
def test_the_interval_of_a_difference_covers_the_truth_as_often_as_it_says() -> None:
    """Two books that share most of their noise: the interval is far narrower than that of either alone."""
    config = SETTINGS.evaluation.bootstrap.model_copy(update={"resamples": 300})
    rng, covered, widths = np.random.default_rng(0), 0, []
    per_year, truth = 252.0, 0.5
    for _ in range(200):
        common, own = rng.normal(size=1500), rng.normal(size=1500)
        other = 0.01 * common
        subject = 0.01 * (np.sqrt(0.96) * common + 0.2 * own) + 0.01 * truth / np.sqrt(per_year)
        interval = sharpe_difference_interval(subject, other, per_year, config, rng)
        covered += interval.lower <= truth <= interval.upper
        widths.append(interval.upper - interval.lower)
    assert 0.88 <= covered / 200 <= 0.99
    assert np.median(widths) < 0.6 * 2 * 1.96 * np.sqrt(per_year / 1500)


def test_a_book_less_itself_is_nothing() -> None:
    returns = np.random.default_rng(0).normal(size=400)
    interval = sharpe_difference_interval(
        returns, returns, 252.0, SETTINGS.evaluation.bootstrap, np.random.default_rng(0)
    )
    assert (interval.estimate, interval.lower, interval.upper) == (0.0, 0.0, 0.0)


@pytest.mark.slow
def test_an_ensemble_acts_by_the_mean_of_its_members(data: DeskData) -> None:
    """One member is that desk, to the last digit; of two, the action is halfway and they disagree."""
    states = [initial_states(SETTINGS.model_copy(update={"seed": seed})) for seed in (0, 1)]
    draws = whole(data.segments)
    alone = play(SETTINGS, data, PolicyPlayer(DeskActor(SETTINGS, states[0])), draws, name="desk")
    same = play(SETTINGS, data, PolicyPlayer(EnsembleActor(SETTINGS, states[:1])), draws, name="desk")
    np.testing.assert_array_equal(alone.equity_ccy, same.equity_ccy)
    actor = EnsembleActor(SETTINGS, states)
    obs = np.random.default_rng(0).normal(size=(5, 8, 61)).astype(np.float32)
    acted = actor.act("instruments", obs)
    each = [DeskActor(SETTINGS, own).act("instruments", obs) for own in states]
    np.testing.assert_allclose(acted, (each[0] + each[1]) / 2, atol=1e-6)
    np.testing.assert_allclose(actor.disagreement["instruments"], np.abs(each[0] - each[1]) / 2, atol=1e-6)


def test_folds_expand_and_their_tests_follow_each_other() -> None:
    folds = expanding_folds(dt.date(2011, 1, 1), dt.date(2022, 12, 30), 6, 2.0)
    assert len(folds) == 6
    assert folds[0].train_until < dt.date(2009, 1, 5)
    for one, other in pairwise(folds):
        assert one.test_until == other.validation_until
        assert one.train_until < other.train_until
        assert abs((other.test_until - other.validation_until).days - 730) <= 1
    assert folds[-1].test_until == dt.date(2022, 12, 30)
    with pytest.raises(ConfigError, match="a month for each"):
        expanding_folds(dt.date(2011, 1, 1), dt.date(2011, 6, 1), 6, 2.0)


@pytest.mark.slow
def test_a_fold_is_cut_at_its_dates(data: DeskData) -> None:
    (market,) = synthesise(SETTINGS, n_paths=1, n_years=9, seed=3, variant="default").markets
    last = market.timestamps[-1].astype("datetime64[D]").astype(dt.date)
    for fold in expanding_folds(last - dt.timedelta(days=700), last, 7, 1.0):
        settings = Settings.load(overrides=[f"{key}={value}" for key, value in fold.values.items()])
        splits = time_splits(market, settings.market.splits)
        days = market.timestamps.astype("datetime64[D]")
        assert days[splits["train"].stop - 1] <= np.datetime64(fold.train_until)
        assert days[splits["test"].start] > np.datetime64(fold.validation_until)
        assert days[splits["test"].stop - 1] <= np.datetime64(fold.test_until)
