"""With `features.others_lag_bars` an agent sees others' columns as they were, and its own instruments' as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.features.building import build_features
from mtquant_rllib.features.lagging import delayed, of_others
from mtquant_rllib.features.layout import DOMAIN_COLUMNS, READS_MACRO, domain_layout
from mtquant_rllib.market.bars import CLOSE, HIGH, MarketData

Walk = Callable[..., MarketData]
LATE = Settings.load(overrides=["features.others_lag_bars=1"])


def test_rows_come_so_many_bars_later_and_are_known_later() -> None:
    rows = np.array([[1.0], [2.0], [3.0], [4.0]])
    np.testing.assert_array_equal(delayed(rows, 2), [[1], [1], [1], [2]])
    np.testing.assert_array_equal(delayed(np.array([False, True, True]), 1), [False, False, True])
    assert delayed(rows, 0) is rows


def test_own_columns_of_a_domain_are_those_of_its_instruments_alone(settings: Settings) -> None:
    own = {
        domain.name: {
            name
            for name, late in zip(domain_layout(domain, settings).names, of_others(domain, settings, set()))
            if not late
        }
        for domain in settings.universe.domains
    }
    assert own == {
        "forex": {"fx_volatility"},
        "commodities": set(),
        "equity": {"breadth", "valuation", "earnings_season", "growth_value"},
    }
    assert {name for names in DOMAIN_COLUMNS.values() for name in names} >= READS_MACRO


def test_what_a_macro_column_takes_the_place_of_is_of_others(settings: Settings) -> None:
    equity = settings.universe.domain_named("equity")
    late = dict(zip(domain_layout(equity, settings).names, of_others(equity, settings, {"breadth"})))
    assert late["breadth"]
    assert not late["valuation"]


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_the_table_holds_others_a_bar_late_within_each_history(walk: Walk, settings: Settings, masked: bool) -> None:
    markets = [walk(700, seed=seed, masked=masked) for seed in (1, 2)]
    now, late = (build_features(one, markets, None) for one in (settings, LATE))
    assert now.columns.seen_correlation == now.columns.correlation
    for name in ("block", "sizing", "correlation_shift", "regime", "proxy_return", "correlation"):
        assert getattr(now, name).tobytes() == getattr(late, name).tobytes(), name
    assert late.warmup == now.warmup + (not masked), "with holidays the blocks are what is waited for"
    before = {"macro": now.macro, "seen_correlation": now.seen_correlation}
    after = {"macro": late.macro, "seen_correlation": late.seen_correlation}
    for number, domain in enumerate(settings.universe.domains):
        foreign = of_others(domain, settings, set())
        before[domain.name], after[domain.name] = (table.domain[number][:, foreign] for table in (now, late))
        assert now.domain[number][:, ~foreign].tobytes() == late.domain[number][:, ~foreign].tobytes()
    for name, columns in before.items():
        for start in (0, 700):
            rows = slice(start, start + 700)
            np.testing.assert_array_equal(after[name][rows][1:], columns[rows][:-1], err_msg=name)


def test_what_an_instrument_did_on_this_bar_is_seen_by_its_own_specialist_alone(walk: Walk) -> None:
    """The index closes elsewhere: the equity specialist sees it at once, the others and the meta-controller a bar
    later; so it is with a macro series."""
    market, row = walk(500, seed=3), 420
    index = market.symbols.index("SPX500")
    bars, macro = market.bars.copy(), market.macro.copy()
    bars[row, index, CLOSE] *= 1.05
    bars[row, index, HIGH] *= 1.06
    macro[row] *= 1.1
    seen = {}
    for name, one in (("before", market), ("after", replace(market, bars=bars, macro=macro))):
        data = DeskData.of(LATE, [one])
        desk = Desk(LATE, data.execution, data.features, 1, EpisodeSetup())
        desk.reset(np.array([0]), [EpisodeDraw(row, row + 5, 0.0, 0)])
        views = []
        for _ in range(2):
            parts = [desk.observe_specialist(d) for d in range(3)]
            views.append([desk.observe_meta(), *parts, desk.observe_instruments()[:, 0]])
            desk.advance_with_weights(np.zeros((1, 8)))
        seen[name] = views
    changed = [
        [not np.array_equal(one, other) for one, other in zip(seen["before"][bar], seen["after"][bar])]
        for bar in range(2)
    ]
    # meta-controller, forex, commodities, equity, and EURUSD's own agent
    assert changed[0] == [False, False, False, True, False]
    assert changed[1] == [True, True, True, True, False]


def test_the_risk_rules_see_correlations_at_once(walk: Walk, settings: Settings) -> None:
    market = walk(500, seed=4)
    rows = {}
    for name, one in (("now", settings), ("late", LATE)):
        data = DeskData.of(one, [market])
        desk = Desk(one, data.execution, data.features, 1, EpisodeSetup())
        desk.reset(np.array([0]), [EpisodeDraw(420, 430, 0.0, 0)])
        rows[name] = desk.market
    np.testing.assert_array_equal(rows["now"].correlation, rows["late"].correlation)
    np.testing.assert_array_equal(rows["now"].covariance, rows["late"].covariance)


def test_means_of_features_fit_the_table(walk: Walk) -> None:
    means = ["features.others_lag_bars=2", "desk.observation.feature_means={breadth: 0.5, carry: 0.25}"]
    settings = Settings.load(overrides=means)
    data = DeskData.of(settings, [walk(500, seed=5)])
    desk = Desk(settings, data.execution, data.features, 1, EpisodeSetup())
    desk.reset(np.array([0]), [EpisodeDraw(420, 430, 0.0, 0)])
    plain = data.features.domain[2][420, 0]
    assert desk.observe_specialist(2)[0, 0] == pytest.approx(plain - 0.5, abs=1e-6)
    late = data.features.domain[0][420, domain_layout(settings.universe.domains[0], settings).column("carry")]
    shown = desk.observe_specialist(0)[0, domain_layout(settings.universe.domains[0], settings).column("carry")]
    assert shown == pytest.approx(late - 0.25, abs=1e-6)
    np.testing.assert_array_equal(desk.market.correlation[0], data.features.correlation[420])


def test_an_allocator_has_no_others() -> None:
    with pytest.raises(ConfigError, match="others_lag_bars = 1: an allocator weighs all that it sees"):
        Settings.load("allocator.yaml", ["features.others_lag_bars=1"])
