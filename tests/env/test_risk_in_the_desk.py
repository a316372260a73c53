"""Risk has the last word in whole lots: what is ordered, and what fills where not all could, passes every rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as search
from hypothesis import strategies as st
from markets import intraday, smooth

from mtquant_rllib.config import Settings
from mtquant_rllib.env.bar import Bar
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.data import DeskData
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.overseer import Overseer
from mtquant_rllib.env.scene import Scene
from mtquant_rllib.risk.rules import Proposal

SLACK = 1 + 1e-8


class Watched(Overseer):
    """An overseer whose every answer is measured again, as the whole lots that it comes to."""

    def __init__(self, settings: Settings, n_envs: int, scene: Scene) -> None:
        super().__init__(settings, n_envs, scene)
        self._settings = settings
        self.n_judged = self.n_reruns = self.n_unrepairable = 0
        self.breaches: list[str] = []
        self.last_fill: tuple[np.ndarray, np.ndarray] | None = None

    def judge(self, where: str, desk: Desk, weights: np.ndarray, excused: np.ndarray) -> None:
        """`weights` (B, n) against every limit; `excused` bool (B,)."""
        measured = self.manager.measure(
            Proposal(weights, weights, np.ones_like(weights, bool), desk.covariance, desk.correlation, desk.book.equity)
        )
        limits, risk = self.manager.limits, self._settings.risk
        scale = self.breakers.limits().var_limit_scale
        above_floor = measured["gross"] > risk.correlation_floor_frac * risk.gross_budget * SLACK
        found = {
            "var": measured["var"] > limits["var"] * (1.0 if scale is None else scale) * SLACK,
            "correlation": (measured["correlation"] > limits["correlation"] * SLACK) & above_floor,
            "sector": (measured["sector_gross"] > limits["sector_gross"] * SLACK).any(axis=1),
            "gross": measured["gross"] > limits["gross"] * SLACK,
            "margin": measured["margin"] > SLACK,
            "position": (np.abs(weights) > limits["position"] * SLACK).any(axis=1),
        }
        self.n_judged += int((~excused).sum())
        self.breaches += [
            f"{where}: {rule}" for rule, broken in found.items() for _ in range((broken & ~excused).sum())
        ]

    def limit_at_close(self, desk: Desk, proposed: np.ndarray, current: np.ndarray) -> np.ndarray:
        ordered = super().limit_at_close(desk, proposed, current)
        idle = desk.parked | (desk.book.equity <= 0) | (desk.close <= 0).any(axis=1)
        self.n_unrepairable += int((self.unrepairable & ~idle).sum())
        self.judge("close", desk, ordered, self.unrepairable | idle)
        priced = desk.close > 0
        assert not ((ordered * proposed < 0) & priced).any(), "a sign was flipped"
        assert not ((np.abs(ordered) > np.abs(proposed) * SLACK + 1e-12) & priced).any(), "a position has grown"
        standing = self.breakers.limits()
        if standing.no_increase is not None:
            held = np.where(ordered * current > 0, np.abs(current), 0.0)
            assert not (standing.no_increase[:, None] & (np.abs(ordered) > held * SLACK + 1e-12)).any()
        if standing.flatten is not None:
            assert not ordered[standing.flatten].any()
        return ordered


def random_play(monkeypatch, settings, data, n_envs, n_bars, scale, seed) -> tuple[Watched, int]:
    """Random weights under a watched overseer; also counts the bars on which the open was limited again."""
    rng = np.random.default_rng(seed)
    scene = Scene(3, ends_on_halt=False)
    risk = Watched(settings, n_envs, scene)
    desk = Desk(settings, data.tape, data.features, n_envs, scene, risk)
    stretch = data.stretches[0]
    starts = rng.integers(stretch.start, stretch.stop - n_bars - 1, n_envs)
    desk.reset(np.arange(n_envs), [EpisodeDraw(int(start), stretch.stop - 1, 0.0, 0) for start in starts])
    reruns = 0
    limit_fills = Bar._limit_fills

    def limited(bar, wanted, openable, envs):
        nonlocal reruns
        fills = limit_fills(bar, wanted, openable, envs)
        reruns += len(envs)
        value = bar._open_value()
        equity = desk.book.equity
        excused = risk.unrepairable | desk.parked | (equity <= 0) | (value <= 0).any(axis=1)
        excused |= ~np.isin(np.arange(n_envs), envs)
        risk.judge("open", desk, fills * value / np.where(equity > 0, equity, 1.0)[:, None], excused)
        return fills

    monkeypatch.setattr(Bar, "_limit_fills", limited)
    for _ in range(n_bars):
        desk.observe_row()
        new = scale * rng.standard_normal(desk.weight.shape) * (rng.random(desk.weight.shape) < 0.75)
        weights = np.where(rng.random(desk.weight.shape) < 0.5, desk.weight, new)
        desk.stop_atr = rng.uniform(1, 5, desk.weight.shape)
        before = desk.book.equity.copy()
        result = desk.advance_with_weights(weights)
        book = desk.book
        change = (book.pnl_ccy - book.cost_ccy - book.financing_ccy).sum(axis=1)
        np.testing.assert_allclose(book.equity - before, change, rtol=0, atol=1e-9 * np.abs(before).min())
        desk.park(np.flatnonzero(result.terminated | result.truncated))
    return risk, reruns


@pytest.mark.parametrize("start_equity", [100_000, 10_000])
@pytest.mark.parametrize("scale", [0.2, 0.6])
def test_orders_and_limited_fills_pass_every_rule_as_whole_lots(
    monkeypatch, settings, rough_market, start_equity, scale
):
    """With little equity a lot is a large part of a position, and a hedge that loses it can break a limit."""
    settings = Settings.load(overrides=[f"desk.account.start_equity_ccy={start_equity}"])
    risk, reruns = random_play(monkeypatch, settings, DeskData.of(settings, [rough_market]), 64, 80, scale, seed=1)
    assert not risk.breaches, risk.breaches[:5]
    assert risk.n_judged > 3000
    assert reruns > 200
    assert risk.n_unrepairable <= 0.005 * risk.n_judged


def test_orders_pass_every_rule_on_real_bars(monkeypatch, settings, real):
    risk, _ = random_play(monkeypatch, settings, real, 128, 80, 0.4, seed=2)
    assert not risk.breaches, risk.breaches[:5]
    assert risk.n_unrepairable <= 0.005 * risk.n_judged


def test_bars_of_a_few_hours_conserve_money_and_keep_their_trading_day(monkeypatch, settings):
    """Nights are paid on the bars that cross 17:00 in New York, and the day's loss counts from the mark after them."""
    data = DeskData.of(settings, [intraday(settings)])
    risk, _ = random_play(monkeypatch, settings, data, 16, 60, 0.3, seed=3)
    assert not risk.breaches, risk.breaches[:5]

    scene = Scene(3)
    risk = Watched(settings, 1, scene)
    desk = Desk(settings, data.tape, data.features, 1, scene, risk)
    start = data.stretches[0].start
    desk.reset(np.array([0]), [EpisodeDraw(start, start + 60, 0.0, 0)])
    days = 0
    for _ in range(40):
        desk.observe_row()
        equity = desk.book.equity[0]
        desk.stop_atr[:] = 1e9
        desk.advance_with_weights(np.full((1, 8), 0.1))
        row = desk.row[0]
        financing = desk.book.financing_ccy.sum()
        crossed = data.tape.day[row] != data.tape.day[row - 1]
        if crossed:
            days += 1
            assert risk.breakers.day_start_ccy[0] == pytest.approx(equity - financing, rel=1e-12)
        else:
            assert financing == 0
    assert 5 <= days <= 7, "forty bars of four hours"


def test_a_quiet_desk_is_left_alone(settings, calm):
    """Small books pass as proposed, to the lot, and nothing is on the record."""
    scene = Scene(3)
    risk = Overseer(settings, 1, scene)
    desk = Desk(settings, calm.tape, calm.features, 1, scene, risk)
    start = calm.stretches[0].start
    desk.reset(np.array([0]), [EpisodeDraw(start, start + 40, 0.0, 0)])
    for _ in range(20):
        desk.observe_row()
        weights = np.full((1, 8), 0.03)
        wanted = desk.units_of(weights)
        desk.advance_with_weights(weights)
        assert risk.edits(0) == []
        np.testing.assert_array_equal(np.where(desk.stopped, wanted, desk.book.units), wanted)


@search(max_examples=25, deadline=None)
@given(weights=st.lists(st.floats(-3, 3), min_size=8, max_size=8))
def test_every_edit_is_on_record(weights):
    settings, data = _stage()
    scene = Scene(3)
    risk = Overseer(settings, 1, scene)
    desk = Desk(settings, data.tape, data.features, 1, scene, risk)
    start = data.stretches[0].start
    desk.reset(np.array([0]), [EpisodeDraw(start, start + 40, 0.0, 0)])
    desk.observe_row()
    ordered = risk.limit_at_close(desk, np.array([weights]), desk.weight)
    lots = desk.weight_of(desk.units_of(np.array([weights])))
    changed = np.abs(ordered - lots)[0] > 1e-9
    edits = {edit.instrument: edit for edit in risk.edits(0)}
    for i, symbol in enumerate(settings.universe.symbols):
        if changed[i]:
            assert risk.rule[0, i] != 0, symbol
        if symbol in edits:
            assert edits[symbol].proposed == weights[i]
            assert abs(edits[symbol].executed) <= abs(weights[i])
            assert edits[symbol].rule


_STAGE: list = []


def _stage():
    if not _STAGE:
        settings = Settings.load()
        _STAGE.extend([settings, DeskData.of(settings, smooth(settings, n_years=1.3))])
    return _STAGE
