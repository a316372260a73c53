"""The batched desk and a ledger in plain Python agree on every bar: the same units, the same stops, the same money."""

from __future__ import annotations

import numpy as np
import pytest
from reference import Ledger

from mtquant_rllib.config import Settings
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.env.risk_layer import RiskLayer
from mtquant_rllib.market.bars import MarketData


def random_weights(desk: Desk, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Half of the positions are kept; the others become new ones, flips, or nothing."""
    new = scale * rng.standard_normal(desk.weight.shape) * (rng.random(desk.weight.shape) < 0.75)
    return np.where(rng.random(desk.weight.shape) < 0.5, desk.weight, new)


def new_desk(settings: Settings, data: DeskData, start: int, stop: int, limited: bool) -> Desk:
    setup = EpisodeSetup(ends_on_halt=False)
    desk = Desk(settings, data.execution, data.features, 1, setup, RiskLayer(settings, 1, setup) if limited else None)
    desk.reset(np.array([0]), [EpisodeDraw(start, stop, 0.0, 0)])
    return desk


def assert_agree(desk: Desk, ledger: Ledger) -> None:
    book, row = desk.book, int(desk.state.row[0])
    assert row == ledger.t
    np.testing.assert_allclose(book.units[0], ledger.units, rtol=1e-12, err_msg=f"units at row {row}")
    stops = [np.nan if level is None else level for level in ledger.stop]
    np.testing.assert_allclose(book.stop[0], stops, rtol=1e-12, err_msg=f"stops at row {row}")
    scale = 1e-9 * max(abs(ledger.equity), 1.0)
    for name in ("pnl", "cost", "financing"):
        mine = getattr(ledger, name)
        np.testing.assert_allclose(
            getattr(book, f"{name}_ccy")[0], mine, rtol=0, atol=scale, err_msg=f"{name}, row {row}"
        )
    assert abs(book.equity[0] - ledger.equity) <= scale, row


def play_both(
    settings: Settings, market: MarketData, data: DeskData, start: int, bars: int, seed: int, scale: float
) -> dict:
    """Random weights through the desk without limits and through the ledger; counts of what happened on the way."""
    rng = np.random.default_rng(seed)
    desk = new_desk(settings, data, start, start + bars, limited=False)
    ledger = Ledger(settings, market, data.features.atr, data.features.sigma_day, start)
    seen = dict.fromkeys(("stops", "flips", "masked", "refused", "stale", "negative", "bars"), 0)
    for _ in range(bars):
        weights = random_weights(desk, rng, scale)
        desk.state.stop_atr = rng.uniform(1.0, 3.0, desk.state.stop_atr.shape)
        before = desk.book.units[0].copy()
        targets = np.array(ledger.orders(weights[0].tolist()))
        np.testing.assert_allclose(desk.book.units_for(weights, desk.market.unit_value)[0], targets, rtol=1e-12)
        ledger.bar(targets.tolist(), desk.state.stop_atr[0].tolist())
        desk.advance_with_weights(weights)
        assert_agree(desk, ledger)
        after, row = desk.book.units[0], ledger.t
        seen["bars"] += 1
        seen["stops"] += int(((after == 0) & (before * targets > 0)).sum())
        seen["flips"] += int((before * after < 0).sum())
        seen["masked"] += int(((before != 0) & ~market.valid[row]).sum())
        seen["refused"] += int((market.valid[row] & (np.abs(after) < np.abs(targets)) & (after != 0)).sum())
        seen["stale"] += int((market.stale_open[row] & (before != after)).sum())
        seen["negative"] += int(((np.array(ledger.last) < 0) & (after != 0)).sum())
        if ledger.equity <= 0:
            break
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_desk_and_the_ledger_agree_on_a_rough_market(settings, rough_market, rough, seed):
    segment = rough.segments[0]
    seen = play_both(settings, rough_market, rough, segment.start, segment.stop - 1 - segment.start, seed, scale=0.12)
    # The comparison means something only where these things happened.
    assert seen["bars"] > 300
    assert min(seen[name] for name in ("stops", "flips", "masked", "stale")) > 10, seen
    assert seen["negative"] > 0, seen


@pytest.mark.slow
def test_the_desk_and_the_ledger_agree_through_a_bankruptcy(settings, rough_market, rough):
    """Twenty times levered books do not last; the debt is the same to the cent."""
    segment = rough.segments[0]
    for seed in range(3):
        play_both(settings, rough_market, rough, segment.start, segment.stop - 1 - segment.start, seed, scale=4.0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_desk_and_the_ledger_agree_on_real_bars(settings, real_market, real, seed):
    segment = real.segments[0]
    # From where everybody is traded: the ledger knows no instruments that arrive later.
    start = max(real.features.warm_from) + seed * 1700
    seen = play_both(settings, real_market, real, start, min(1800, segment.stop - 1 - start), seed, scale=0.12)
    assert min(seen[name] for name in ("stops", "flips", "masked", "stale")) > 10, seen


@pytest.mark.slow
def test_the_desk_and_the_ledger_agree_on_the_day_oil_closed_below_zero(settings, real_market, real):
    day = int(np.searchsorted(real_market.timestamps, np.datetime64("2020-04-20")))
    seen = [play_both(settings, real_market, real, day - 15, 40, seed, scale=0.2)["negative"] for seed in range(4)]
    assert sum(seen) > 0


class FillsOnRecord:
    """Notes the units that a desk's orders came to at the fill, after risk and the market had their say."""

    def __init__(self, desk: Desk) -> None:
        self.target = np.zeros(len(desk.universe.symbols))
        fill = desk.book.fill

        def noted(target_units: np.ndarray, price: np.ndarray) -> None:
            self.target = target_units[0].copy()
            fill(target_units, price)

        desk.book.fill = noted  # type: ignore[method-assign]


def replay_fills(
    settings: Settings, market: MarketData, data: DeskData, start: int, bars: int, seed: int, scale: float
) -> int:
    """With risk: its fills, taken from the record, against raw bars. Returns bars on which a breaker stood."""
    rng = np.random.default_rng(seed)
    desk = new_desk(settings, data, start, start + bars, limited=True)
    ledger = Ledger(settings, market, data.features.atr, data.features.sigma_day, start)
    record, halted = FillsOnRecord(desk), 0
    for _ in range(bars):
        weights = random_weights(desk, rng, scale)
        desk.state.stop_atr = rng.uniform(1.0, 3.0, desk.state.stop_atr.shape)
        equity = desk.book.equity[0]
        desk.advance_with_weights(weights)
        ledger.bar(record.target.tolist(), desk.state.stop_atr[0].tolist(), checked=True)
        assert_agree(desk, ledger)
        book = desk.book
        change = (book.pnl_ccy - book.cost_ccy - book.financing_ccy).sum()
        assert abs(book.equity[0] - equity - change) <= 1e-9 * equity
        halted += int(desk.risk.breakers.level[0] > 0)  # type: ignore[attr-defined]
        if book.equity[0] <= 0:
            break
    return halted


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "scale"), [(0, 0.1), (1, 0.5)])
def test_equity_is_the_sum_of_recorded_fills_against_raw_bars(settings, rough_market, rough, seed, scale):
    segment = rough.segments[0]
    replay_fills(settings, rough_market, rough, segment.start, segment.stop - 1 - segment.start, seed, scale)


@pytest.mark.slow
def test_equity_is_the_sum_of_recorded_fills_against_real_bars(settings, real_market, real):
    day = int(np.searchsorted(real_market.timestamps, np.datetime64("2020-04-20")))
    halted = sum(replay_fills(settings, real_market, real, day - 150, 250, seed, 0.5) for seed in range(3))
    assert halted > 0
