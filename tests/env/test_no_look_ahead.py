"""The referee over the whole step: change everything after row t, and nothing up to t changes by a bit: no observation,
no proposal, no decision of risk, no fill, no money."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from markets import scramble_after, smooth

from mtquant_rllib.config import Settings
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.env.risk_layer import RiskLayer
from mtquant_rllib.market.bars import MarketData


class Policy:
    """A fixed, jumpy function of what is observed."""

    def __init__(self, settings: Settings) -> None:
        self._matrices: dict[tuple[int, int], np.ndarray] = {}
        self._settings = settings

    def __call__(self, observation: np.ndarray, n_actions: int) -> np.ndarray:
        width = observation.shape[-1]
        if (width, n_actions) not in self._matrices:
            draw = np.random.default_rng([width, n_actions]).standard_normal((width, n_actions))
            self._matrices[width, n_actions] = draw / np.sqrt(width)
        return np.sin(3 * observation.astype(np.float64) @ self._matrices[width, n_actions])


def record(settings: Settings, market: MarketData, start: int, t: int) -> list[dict[str, bytes]]:
    """Everything that is seen, decided and booked from row `start` up to the decision at row t."""
    data = DeskData.of(settings, [market])
    setup = EpisodeSetup(ends_on_halt=False)
    risk = RiskLayer(settings, 1, setup)
    desk = Desk(settings, data.execution, data.features, 1, setup, risk)
    desk.reset(np.array([0]), [EpisodeDraw(start, len(market) - 1, 0.0, 0)])
    policy, log = Policy(settings), []
    while True:
        bar = {"meta": desk.observe_meta()}
        desk.decide_meta(policy(bar["meta"], 4))
        for d, domain in enumerate(settings.universe.domains):
            bar[f"specialist {d}"] = seen = desk.observe_specialist(d)
            desk.decide_specialist(d, policy(seen, 3 * len(domain.symbols) + 1))
        bar["instruments"] = seen = desk.observe_instruments()
        desk.decide_instruments(policy(seen, 3))
        proposed = desk.propose()
        bar["proposed"] = proposed
        if desk.state.row[0] == t:
            # The decision of risk on what is known now; the bar that answers it has yet to come.
            bar["ordered"] = risk.limit_at_close(desk.book, desk.market, proposed, desk.weight)
            bar["rule"] = risk.rule
            log.append({name: np.ascontiguousarray(array).tobytes() for name, array in bar.items()})
            return log
        result = desk.advance_with_weights(proposed)
        book = desk.book
        bar |= {
            "ordered": desk.ordered,
            "rule": risk.rule,
            "units": book.units,
            "stop": book.stop,
            "equity": book.equity,
            "traded": book.traded_ccy,
            "cost": book.cost_ccy,
            "rewards": result.rewards,
        }
        log.append({name: np.ascontiguousarray(array).tobytes() for name, array in bar.items()})


def assert_nothing_changes(settings: Settings, market: MarketData, start: int, t: int) -> None:
    truth = record(settings, market, start, t)
    other = record(settings, scramble_after(market, t, seed=t), start, t)
    assert len(truth) == len(other) == t - start + 1
    differences = [(k, name) for k, bar in enumerate(truth) for name, value in bar.items() if other[k][name] != value]
    assert not differences, (
        f"{len(differences)} differences, the first at row {start + differences[0][0]}: {differences[0][1]}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("t", [300, 420, 561, 562, 900])
def test_nothing_changes_on_a_rough_synthetic_market(settings, rough_market, rough, t):
    assert_nothing_changes(settings, rough_market, max(rough.segments[0].start, t - 120), t)


@pytest.mark.slow
@pytest.mark.parametrize("date", ["2009-03-12", "2017-12-29", "2020-04-17", "2020-04-20", "2021-07-01"])
def test_nothing_changes_on_real_bars(settings, real_market, real, date):
    t = int(np.searchsorted(real_market.timestamps, np.datetime64(date)))
    assert_nothing_changes(settings, real_market, max(real.segments[0].start, t - 120), t)


def fills_at(settings: Settings, market: MarketData, t: int) -> np.ndarray:
    """Units after the fills of row t + 1 of 48 random books that were built over the ten bars before, (48, n)."""
    data = DeskData.of(settings, [market])
    n_envs, setup = 48, EpisodeSetup(ends_on_halt=False)
    desk = Desk(settings, data.execution, data.features, n_envs, setup, RiskLayer(settings, n_envs, setup))
    desk.reset(np.arange(n_envs), [EpisodeDraw(t - 10, t + 5, 0.0, 0)] * n_envs)
    rng, fill = np.random.default_rng(t), desk.book.fill
    seen: list[np.ndarray] = []

    def noted(target_units: np.ndarray, price: np.ndarray) -> None:
        seen.append(target_units.copy())
        fill(target_units, price)

    desk.book.fill = noted  # type: ignore[method-assign]
    for _ in range(11):
        new = 0.5 * rng.standard_normal(desk.weight.shape)
        desk.state.stop_atr = rng.uniform(1.0, 5.0, desk.weight.shape)
        desk.advance_with_weights(np.where(rng.random(desk.weight.shape) < 0.6, desk.weight, new))
    assert desk.state.row[0] == t + 1
    return seen[-1]


@pytest.mark.slow
@pytest.mark.parametrize("t", [330, 455, 562, 700])
def test_what_fills_at_an_open_knows_nothing_of_the_bar_that_it_opens(settings, rough_market, t):
    """The open stays and the rest of the bar changes: the same orders fill, stops and breakers included."""
    bars = rough_market.bars.copy()
    has_open = rough_market.valid[t + 1] & ~rough_market.stale_open[t + 1]
    # Half of the instruments gap, so that breakers fire and bands refuse.
    gap = np.where(np.arange(len(has_open)) % 2 == 0, 0.9, 1.0)
    bars[t + 1 :, :, :4] *= gap[:, None]
    gapped = replace(rough_market, bars=bars)
    other = bars.copy()
    open_ = bars[t + 1, :, 0]
    other[t + 1, :, 1:4] = open_[:, None] * np.array([1.4, 0.7, 1.3])
    one = fills_at(settings, gapped, t)
    two = fills_at(settings, replace(gapped, bars=other), t)
    np.testing.assert_array_equal(one[:, has_open], two[:, has_open])
    assert one.any()


@pytest.mark.slow
def test_the_referee_would_notice(settings, rough_market, rough):
    """A leak of a single row shows: scrambling one row earlier changes what is seen at t."""
    start, t = rough.segments[0].start, rough.segments[0].start + 40
    truth = record(settings, rough_market, start, t)
    other = record(settings, scramble_after(rough_market, t - 1, seed=0), start, t)
    assert truth[-2]["proposed"] == other[-2]["proposed"]
    for name in ("meta", "specialist 0", "instruments", "proposed"):
        assert truth[-1][name] != other[-1][name], name
    assert truth[-2]["equity"] != other[-2]["equity"], "the bar after a decision fills and marks it"


@pytest.mark.slow
def test_histories_side_by_side_do_not_see_each_other(settings):
    first, second = smooth(settings, n_paths=2, n_years=1.3)
    together = DeskData.of(settings, [first, second])
    other = DeskData.of(settings, [first, scramble_after(second, 0, seed=0)])
    rows = slice(0, len(first))
    for name in ("block", "macro", "correlation", "covariance", "vol_ann", "atr", "regime"):
        np.testing.assert_array_equal(
            getattr(together.features, name)[rows], getattr(other.features, name)[rows], err_msg=name
        )
    np.testing.assert_array_equal(together.execution.money[rows], other.execution.money[rows])
