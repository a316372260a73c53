"""The referee of look-ahead: nothing up to a row changes by a bit when everything after it changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.features.building import build_features
from mtquant_rllib.features.table import FeatureTable
from mtquant_rllib.market.bars import MarketData

Walk = Callable[..., MarketData]
Scramble = Callable[[MarketData, int, int], MarketData]

PARTS = ("correlation", "macro", "covariance", "vol_ann", "sigma_day", "atr")


def arrays_of(table: FeatureTable) -> dict[str, np.ndarray]:
    stored = {item.name: getattr(table, item.name) for item in fields(table)}
    named = {name: array for name, array in stored.items() if isinstance(array, np.ndarray)}
    named |= {name: getattr(table, name) for name in PARTS}
    return named | {f"domain[{d}]": array for d, array in enumerate(table.domain)}


def assert_same_until(t: int, before: FeatureTable, after: FeatureTable) -> None:
    """Byte-identical up to row t in every path, and different later: a comparison that cannot fail proves nothing."""
    length = before.n_rows_per_path
    for name, array in arrays_of(before).items():
        other = arrays_of(after)[name]
        for path in range(before.n_paths):
            rows = slice(path * length, path * length + t + 1)
            assert array[rows].tobytes() == other[rows].tobytes(), f"{name} sees beyond row {t} in path {path}"
        if name != "regime":  # a label may well stay what it is
            assert not np.array_equal(array, other), f"{name} did not react at all"


@pytest.mark.slow
@pytest.mark.parametrize("t", [320, 555, 640])
@pytest.mark.parametrize("masked", [False, True])
def test_nothing_of_random_walks_sees_a_later_row(
    walk: Walk, scramble: Scramble, settings: Settings, t: int, masked: bool
) -> None:
    markets = [walk(700, seed=seed, masked=masked) for seed in (1, 2)]
    scrambled = [scramble(market, t, 10 + seed) for seed, market in enumerate(markets)]
    assert_same_until(t, build_features(settings, markets, None), build_features(settings, scrambled, None))


@pytest.mark.slow
def test_nothing_of_hourly_bars_sees_a_later_row(walk: Walk, scramble: Scramble, settings: Settings) -> None:
    market = walk(2800, seed=3, masked=True, hourly=True)
    t = 2690
    before = build_features(settings, [market], None)
    assert_same_until(t, before, build_features(settings, [scramble(market, t, 5)], None))


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["fixed", "adaptive"])
def test_neither_detector_sees_a_later_row(walk: Walk, scramble: Scramble, settings: Settings, detector: str) -> None:
    chosen = Settings.load(overrides=[f"features.regimes.detector={detector}"])
    market, t = walk(600, seed=4, masked=True), 450
    before, after = (build_features(chosen, [one], None) for one in (market, scramble(market, t, 6)))
    assert before.regime[: t + 1].tobytes() == after.regime[: t + 1].tobytes()
    assert before.regime_confidence[: t + 1].tobytes() == after.regime_confidence[: t + 1].tobytes()


@pytest.mark.slow
def test_history_that_ends_at_a_row_gives_that_rows_features(walk: Walk, settings: Settings) -> None:
    """A decision taken live, with nothing after it, sees what training saw."""
    market, t = walk(700, seed=8, masked=True), 600
    whole, live = build_features(settings, [market], None), build_features(settings, [market.rows(0, t + 1)], None)
    assert live.warmup == whole.warmup
    for name, array in arrays_of(whole).items():
        np.testing.assert_array_equal(array[: t + 1], arrays_of(live)[name], err_msg=name)


@pytest.mark.slow
def test_a_feature_that_looks_one_row_ahead_is_caught(
    walk: Walk, scramble: Scramble, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mtquant_rllib.features import block
    from mtquant_rllib.features.registry import Feature

    def leak(own_bars):
        return np.roll(own_bars.r, -1, axis=0)

    registry = block.feature
    monkeypatch.setitem(registry._features, "ret1", Feature("ret1", "price", "tomorrow's return", leak))
    market, t = walk(500, seed=9), 400
    before, after = (build_features(settings, [one], None) for one in (market, scramble(market, t, 7)))
    with pytest.raises(AssertionError, match="block sees beyond row 400"):
        assert_same_until(t, before, after)


@pytest.mark.slow
@pytest.mark.parametrize("t", [2300, 4500, 5263, 5900])
def test_nothing_of_the_real_bars_sees_a_later_row(
    real_bars: MarketData, scramble: Scramble, settings: Settings, t: int
) -> None:
    before = build_features(settings, [real_bars], None)
    assert_same_until(t, before, build_features(settings, [scramble(real_bars, t, t)], None))


@pytest.mark.slow
def test_nothing_of_real_hourly_bars_sees_a_later_row(scramble: Scramble, settings: Settings) -> None:
    if "MTQUANT_BARS" not in os.environ:
        pytest.skip("MTQUANT_BARS is not set: no folder of real bars")
    from mtquant_rllib.market.importing.importers import load_market

    folder = Path(os.environ["MTQUANT_BARS"])
    market, _ = load_market(settings, folder / "hourly.parquet", None)
    # Daily macro series end before these bars begin: plain ones stand in.
    rng = np.random.default_rng(0)
    macro = np.exp(0.01 * np.cumsum(rng.standard_normal((len(market), 5)), axis=0)) * [19, 100, 4, 4, 4]
    market = replace(market, macro=macro, macro_columns=("vix", "dxy", "rate_3m", "rate_2y", "rate_10y"))
    t = len(market) - 400
    before = build_features(settings, [market], None)
    assert_same_until(t, before, build_features(settings, [scramble(market, t, 1)], None))
