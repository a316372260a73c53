"""The table: stacking, masks, cache, memory map, and errors that help."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError, MarketDataError
from mtquant_rllib.features import building
from mtquant_rllib.features.building import build_features, content_hash
from mtquant_rllib.features.layout import BLOCK, MACRO, domain_layout
from mtquant_rllib.market.bars import OPEN, MarketData

Walk = Callable[..., MarketData]


def test_shapes_and_types(walk: Walk, settings: Settings) -> None:
    table = build_features(settings, [walk(400, seed) for seed in (1, 2, 3)], None)
    rows = 3 * 400
    assert table.block.shape == (rows, 8, BLOCK.width)
    assert [array.shape for array in table.domain] == [(rows, 8), (rows, 6), (rows, 7)]
    assert table.macro.shape == (rows, MACRO.width)
    assert table.covariance.shape == (rows, 36)
    assert table.correlation.shape == (rows, 28)
    assert table.block.dtype == table.macro.dtype == np.float32
    assert table.covariance.dtype == table.vol_ann.dtype == np.float64
    assert len(table) == rows
    # The 252nd own bar of the index for a third of 756 bars; the instruments' block has its 251st.
    assert table.warmup == 251


@pytest.mark.parametrize("masked", [False, True])
def test_no_array_holds_a_nan(walk: Walk, settings: Settings, masked: bool) -> None:
    table = build_features(settings, [walk(500, 1, masked)], None)
    for array in (
        table.block,
        table.macro,
        table.correlation,
        table.covariance,
        table.vol_ann,
        table.atr,
        *table.domain,
    ):
        assert np.isfinite(array).all()


@pytest.mark.slow
def test_paths_built_together_equal_paths_built_alone(walk: Walk, settings: Settings) -> None:
    markets = [walk(400, seed, masked=seed == 2) for seed in (1, 2, 3)]
    together = build_features(settings, markets, None)
    for p, market in enumerate(markets):
        alone = build_features(settings, [market], None)
        rows = slice(p * 400, (p + 1) * 400)
        np.testing.assert_array_equal(together.block[rows], alone.block)
        np.testing.assert_array_equal(together.domain[0][rows], alone.domain[0])
        np.testing.assert_array_equal(together.regime[rows], alone.regime)
        np.testing.assert_array_equal(together.covariance[rows], alone.covariance)


@pytest.mark.slow
def test_chunks_do_not_matter(walk: Walk, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    markets = [walk(300, seed) for seed in range(3)]
    whole = build_features(settings, markets, None)
    monkeypatch.setattr(building, "_CHUNK_CELLS", 1)
    np.testing.assert_array_equal(build_features(settings, markets, None).block, whole.block)


@pytest.mark.slow
def test_a_holiday_repeats_the_last_features_and_disturbs_no_window(walk: Walk, settings: Settings) -> None:
    market = walk(450, seed=4)
    # A row on which only gold is closed, squeezed into the same series of gold bars.
    closed = 350
    gold = 3
    bars, valid = market.bars.copy(), market.valid.copy()
    bars[closed + 1 :, gold] = market.bars[closed:-1, gold]
    bars[closed, gold] = np.nan
    valid[closed, gold] = False
    table = build_features(settings, [replace(market, bars=bars, valid=valid)], None)
    plain = build_features(settings, [market], None)
    np.testing.assert_array_equal(table.block[closed, gold], table.block[closed - 1, gold])
    np.testing.assert_array_equal(table.block[closed + 1 :, gold], plain.block[closed:-1, gold])
    np.testing.assert_array_equal(table.atr[closed + 1 :, gold], plain.atr[closed:-1, gold])


@pytest.mark.slow
def test_the_cache_is_read_back_and_mapped(walk: Walk, settings: Settings, tmp_path: Path) -> None:
    markets = [walk(400, seed) for seed in (1, 2)]
    memory, disk = build_features(settings, markets, None), build_features(settings, markets, tmp_path)
    assert disk.folder is not None
    assert isinstance(disk.block, np.memmap)
    assert not disk.block.flags.writeable
    for name in ("block", "macro", "regime", "covariance", "vol_ann", "correlation_shift"):
        np.testing.assert_array_equal(getattr(memory, name), getattr(disk, name))
    assert disk.warmup == memory.warmup
    assert [path.name for path in tmp_path.iterdir()] == [content_hash(settings, markets)]


def test_a_second_build_does_not_compute(
    walk: Walk, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = walk(300)
    build_features(settings, [market], tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(building, "_build", refuse)
    build_features(settings, [market], tmp_path)
    with pytest.raises(AssertionError, match="built again"):
        build_features(settings, [walk(300, seed=1)], tmp_path)


@pytest.mark.slow
def test_two_builders_at_once_end_with_one_table(
    walk: Walk, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = walk(300)
    build = building._build

    def while_another_finishes(*args):
        monkeypatch.setattr(building, "_build", build)
        build_features(settings, [market], tmp_path)
        return build(*args)

    monkeypatch.setattr(building, "_build", while_another_finishes)
    table = build_features(settings, [market], tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert np.isfinite(table.block).all()


def test_a_failed_build_leaves_nothing(walk: Walk, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(MarketDataError, match="too few"):
        build_features(settings, [walk(200)], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_hash_sees_bars_flags_and_settings(walk: Walk, settings: Settings) -> None:
    market = walk(300)
    bars = market.bars.copy()
    bars[299, 7, OPEN] *= 1 + 1e-12
    variants = [
        (settings, market),
        (settings, replace(market, bars=bars)),
        (settings, replace(market, volume_proxy=~market.volume_proxy)),
        (Settings.load(overrides=["features.block_clip=4"]), market),
        (Settings.load(overrides=["portfolio_risk.correlation_window=90"]), market),
    ]
    assert len({content_hash(chosen, [one]) for chosen, one in variants}) == len(variants)


def test_a_mapped_table_travels_by_name(walk: Walk, settings: Settings, tmp_path: Path) -> None:
    table = build_features(settings, [walk(300)], tmp_path)
    parcel = pickle.dumps(table)
    assert len(parcel) < 1000
    np.testing.assert_array_equal(pickle.loads(parcel).block, table.block)


@pytest.mark.slow
def test_a_macro_column_of_the_same_name_replaces_the_proxy(walk: Walk, settings: Settings) -> None:
    market = walk(500)
    feed = np.random.default_rng(1).standard_normal((500, 1))
    fed = replace(
        market, macro=np.hstack([market.macro, feed]), macro_columns=(*market.macro_columns, "geopolitical_risk")
    )
    plain, replaced = (build_features(settings, [one], None).domain[1] for one in (market, fed))
    own = domain_layout(settings.universe.domain_named("commodities"), settings)
    column = own.column("geopolitical_risk")
    others = [j for j in range(plain.shape[1]) if j != column]
    np.testing.assert_array_equal(plain[:, others], replaced[:, others])
    window = feed[500 - 252 :, 0]
    assert replaced[-1, column] == pytest.approx((feed[-1, 0] - window.mean()) / window.std(ddof=1), abs=1e-5)


def test_without_macro_prices_stand_in_and_missing_rates_are_said_aloud(walk: Walk, settings: Settings) -> None:
    market = walk(500)
    bare = replace(market, macro=np.empty((500, 0)), macro_columns=())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        table = build_features(settings, [bare], None)
    assert {"rate_3m", "rate_2y", "rate_10y"} <= {word for one in said for word in str(one.message).split("'")}
    macro = table.macro[table.warmup :]
    assert macro[:, 0].std() > 0
    assert macro[:, 1].std() > 0
    assert (macro[:, 2:] == 0).all()


def test_mismatched_histories_are_refused(walk: Walk, settings: Settings) -> None:
    with pytest.raises(MarketDataError, match="share their time axis"):
        build_features(settings, [walk(300), walk(301)], None)
    with pytest.raises(MarketDataError, match="no history"):
        build_features(settings, [], None)


def test_a_role_must_name_an_instrument() -> None:
    with pytest.raises(ConfigError, match=r"features\.roles\.oil: UKOIL has no row under symbols"):
        Settings.load(overrides=["features.roles.oil=UKOIL"])


def test_an_instrument_without_bars_is_named(walk: Walk, settings: Settings) -> None:
    market = walk(400)
    bars, valid = market.bars.copy(), market.valid.copy()
    bars[:, 4], valid[:, 4] = np.nan, False
    with pytest.raises(MarketDataError, match="no bar of WTIUSD; every instrument"):
        build_features(settings, [replace(market, bars=bars, valid=valid)], None)


@pytest.mark.slow
def test_real_bars_fill_the_range_but_rarely_the_clip(real_bars: MarketData, settings: Settings) -> None:
    table = build_features(settings, [real_bars], None)
    values = table.block[table.warmup :]
    assert np.isfinite(values).all()
    assert (np.abs(values) > 3).mean() < 0.002
    assert (values.reshape(-1, BLOCK.width).std(axis=0) > 0.25).all()
    for array in table.domain:
        known = array[table.warmup :]
        assert np.isfinite(known).all()
        assert ((known.std(axis=0) > 0.25) & (known.std(axis=0) < 1.6)).all()


@pytest.mark.slow
def test_the_negative_oil_price_leaves_no_nan(real_bars: MarketData, settings: Settings) -> None:
    table = build_features(settings, [real_bars], None)
    days = np.flatnonzero(real_bars.timestamps.astype("datetime64[M]") == np.datetime64("2020-04"))
    oil = settings.universe.symbols.index("WTIUSD")
    assert np.nanmin(real_bars.bars[days, oil, 3]) < 0
    assert np.isfinite(table.block[days[0] :, oil]).all()
    assert np.isfinite(table.vol_ann[days[0] :, oil]).all()
    assert table.vol_ann[days[-1], oil] > 1
