"""What market features average to is taken off, and stays with the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.evaluation.backtest.rollout import new_desk, whole
from mtquant_rllib.features import layout
from mtquant_rllib.features.feature_means import FeatureMeans
from mtquant_rllib.training.preparation import centred, for_market, prepare
from mtquant_rllib.training.records.manifest import MarketRecord

SMALL = [
    "embedded.train={paths: 2, years: 4}",
    "embedded.validation={paths: 1, years: 3}",
    "embedded.test={paths: 1, years: 3}",
]


@pytest.fixture(scope="module")
def run() -> tuple[Settings, DeskData]:
    """Settings as a run keeps them, and its training bars."""
    settings = Settings.load(overrides=SMALL)
    record = prepare(settings, None, None)
    kept = centred(settings, record)
    assert prepare(kept, None, None).content == record.content, "the prepared market does not depend on them"
    return kept, DeskData.open(Path(record.data), "train")


@pytest.mark.slow
def test_over_the_training_bars_every_market_feature_is_zero_on_average(run: tuple[Settings, DeskData]) -> None:
    settings, data = run
    rows = np.concatenate([np.arange(segment.start, segment.stop) for segment in data.segments])
    block = np.asarray(data.features.block)[rows]
    assert abs(block.mean((0, 1))[layout.BLOCK.column("cmf")]) > 0.1, "without them it is not"
    centres = FeatureMeans.of(settings)
    assert np.abs(centres.centred_block(block).mean((0, 1))).max() < 0.01
    for number, table in enumerate(data.features.domain):
        assert np.abs(centres.centred_domain(number, np.asarray(table)[rows]).mean(0)).max() < 0.01


def test_every_agent_sees_the_features_without_them(run: tuple[Settings, DeskData]) -> None:
    settings, data = run
    desk = new_desk(settings, data, whole(data.segments))
    plain = settings.model_dump(mode="json")
    plain["desk"]["observation"]["feature_means"] = {}
    as_it_is = new_desk(Settings.model_validate(plain), data, whole(data.segments))
    column = layout.BLOCK.column("cmf")
    cmf = settings.desk.observation.feature_means["cmf"]
    seen, raw = desk.observe_instruments(), as_it_is.observe_instruments()
    np.testing.assert_allclose(seen[:, :, column], raw[:, :, column] - cmf, atol=1e-6)
    private = layout.instrument_layout(settings)["state"]
    np.testing.assert_array_equal(seen[:, :, private], raw[:, :, private])
    own = layout.specialist_layout(settings.universe.domains[0], settings)
    seen, raw = desk.observe_specialist(0), as_it_is.observe_specialist(0)
    for name in ("EURUSD.cmf", "carry"):
        centre = settings.desk.observation.feature_means[name.split(".")[-1]]
        np.testing.assert_allclose(seen[:, own.column(name)], raw[:, own.column(name)] - centre, atol=1e-6)


def test_feature_means_that_stand_in_the_settings_are_left_as_they_are(run: tuple[Settings, DeskData]) -> None:
    settings, _ = run
    decided = for_market(settings, from_files=False)
    assert centred(decided, MarketRecord(kind="synthetic", data="nowhere")) is decided


def test_a_centre_of_no_column_is_refused() -> None:
    settings = Settings.load(overrides=["desk.observation.feature_means={cfm: 0.5}"])
    with pytest.raises(ConfigError, match=r"feature_means\.cfm: there is no such column"):
        FeatureMeans.of(settings)
