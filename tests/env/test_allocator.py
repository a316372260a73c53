"""The allocator on the desk's own core: what it sees, what its weights become, and that it sees no future."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from markets import roughen, smooth

from mtquant_rllib.config import Settings
from mtquant_rllib.env.allocator import Allocator
from mtquant_rllib.env.core_factory import core_for
from mtquant_rllib.env.decisions import allocator_actions, allocator_weights
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.observations.reconstruction import ObservationReconstruction
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.features.layout import ALLOCATOR_ASSET, BLOCK, allocator_layout
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.universe import ALLOCATOR

BARS = 60


@pytest.fixture(scope="module")
def allocation() -> Settings:
    return Settings.load("allocator.yaml")


@pytest.fixture(scope="module")
def market(allocation: Settings) -> MarketData:
    return smooth(allocation, n_years=2.5, seed=6)[0]


@pytest.fixture(scope="module")
def data(allocation: Settings, market: MarketData) -> DeskData:
    return DeskData.of(allocation, [market])


def begun(settings: Settings, data: DeskData, n_envs: int = 1, offset: int = 0) -> Allocator:
    core = core_for(settings, data, n_envs, EpisodeSetup())
    assert isinstance(core, Allocator)
    start = data.segments[0].start + offset
    core.reset(np.arange(n_envs), [EpisodeDraw(start + env, start + env + BARS, 0.0, 0) for env in range(n_envs)])
    return core


def test_the_five_assets_stand_in_three_domains(allocation: Settings) -> None:
    universe = allocation.universe
    assert universe.symbols == ("EURUSD", "USDJPY", "XAUUSD", "WTIUSD", "SPX500")
    assert [domain.symbols for domain in universe.domains] == [universe.symbols[:2], universe.symbols[2:4], ("SPX500",)]
    assert universe.agent_ids == universe.policies() == (ALLOCATOR,)


def test_its_fifty_features_are_those_of_the_blocks_group_by_group(allocation: Settings, data: DeskData) -> None:
    layout = allocator_layout(allocation.universe.symbols)
    assert layout.widths == {"price": 15, "volume": 10, "technical": 15, "momentum": 10}
    core = begun(allocation, data, n_envs=3)
    seen, block = core.observe(), data.features.block[core.state.row]
    assert seen.shape == (3, 50)
    assert seen.dtype == np.float32
    for place, name in enumerate(layout.names):
        symbol, feature = name.split(".")
        asset = allocation.universe.symbols.index(symbol)
        assert np.array_equal(seen[:, place], block[:, asset, BLOCK.column(feature)]), name
    assert {name.split(".")[1] for name in layout.names} == set(ALLOCATOR_ASSET.names)


def test_replay_recalls_the_same_bytes_from_the_row_alone(allocation: Settings, data: DeskData) -> None:
    core = begun(allocation, data, n_envs=4)
    recall = ObservationReconstruction(allocation, data.features, [ALLOCATOR], None)
    nothing = np.zeros((4, 0), dtype=np.float32)
    again = recall(np.zeros(4, dtype=np.int64), core.state.row, np.zeros(4, dtype=np.int64), nothing)
    assert recall.width == 50
    assert not len(recall.private)
    assert np.array_equal(core.observe(), again)


def test_weights_are_a_softmax_of_bounded_logits() -> None:
    weights = allocator_weights(np.array([[1.0, 0.0, 0.0, 0.0, 0.0], [9.0, -9.0, -1.0, -1.0, -1.0]]), logit_scale=3)
    powers = np.exp([[3.0, 0, 0, 0, 0], [3, -3, -3, -3, -3]])
    assert weights == pytest.approx(powers / powers.sum(axis=1, keepdims=True))
    assert weights[1, 0] == pytest.approx(1 / (1 + 4 * np.exp(-6)))


def test_actions_are_the_inverse_of_weights_within_their_bounds() -> None:
    wanted = np.array([[0.5, 0.2, 0.15, 0.1, 0.05], [0.2] * 5])
    assert allocator_weights(allocator_actions(wanted, 3.0), 3.0) == pytest.approx(wanted)
    nearest = allocator_weights(allocator_actions(np.array([[1.0, 0, 0, 0, 0]]), 3.0), 3.0)
    assert nearest[0, 0] == pytest.approx(1 / (1 + 4 * np.exp(-6)))


def test_what_it_decides_is_held_in_whole_lots_after_the_next_open(allocation: Settings, data: DeskData) -> None:
    core = begun(allocation, data)
    raw = np.array([[0.3, -0.2, 0.1, -0.6, 0.0]])
    wanted = allocator_weights(raw, 3.0)
    core.decide(raw)
    assert core.propose() == pytest.approx(wanted)
    close, equity = core.market.unit_value.copy(), core.book.equity.copy()
    core.advance()
    held = core.book.units * close / equity[:, None]
    lot = core.book.lot_units * close / equity[:, None]
    assert (held <= wanted + 1e-12).all()
    assert (wanted - held < lot + 1e-9).all()
    costs = core.book.cost_ccy[0]
    rate = data.execution.money[core.state.row[0], 9]
    assert (costs >= rate * core.book.traded_ccy[0] - 1e-9).all()
    assert costs.sum() > 0


def test_equity_changes_by_price_costs_and_financing_alone(allocation: Settings, data: DeskData) -> None:
    core, rng = begun(allocation, data, n_envs=3), np.random.default_rng(1)
    for _ in range(BARS):
        before = core.book.equity.copy()
        core.decide(rng.uniform(-1, 1, (3, 5)))
        core.advance()
        itemised = (core.book.pnl_ccy - core.book.cost_ccy - core.book.financing_ccy).sum(axis=1)
        assert core.book.equity - before == pytest.approx(itemised, abs=1e-6)
        assert (core.book.units >= 0).all()


def test_the_same_risk_rules_have_the_last_word(allocation: Settings, data: DeskData) -> None:
    core = begun(allocation, data)
    limit = allocation.risk.max_concentration_frac * allocation.risk.gross_budget
    core.decide(np.array([[1.0, -1, -1, -1, -1]]))
    assert core.propose()[0, 0] > 0.98
    core.advance()
    assert core.ordered[0, 0] <= limit + 1e-9


def test_where_a_market_is_closed_no_more_than_the_account_is_invested(market: MarketData) -> None:
    """What is held there stays, and the others share what is left. The desk's own budget would let them borrow."""
    rng = np.random.default_rng(5)
    valid = rng.random(market.valid.shape) > 0.1
    closed = replace(market, valid=valid, bars=np.where(valid[..., None], market.bars, np.nan))

    def most_invested(settings: Settings) -> float:
        core, draws = begun(settings, DeskData.of(settings, [closed]), n_envs=4), np.random.default_rng(2)
        invested = []
        for _ in range(BARS - 1):
            core.decide(draws.uniform(-1, 1, (4, 5)))
            core.advance()
            invested.append(core.weight.sum(axis=1))
        return float(np.max(invested))

    assert most_invested(Settings.load("allocator.yaml")) < 1.03, "a day's move of the marks over 1"
    assert most_invested(Settings.load("allocator.yaml", ["risk.gross_budget=3"])) > 1.2


def test_it_sets_no_stops(allocation: Settings, data: DeskData) -> None:
    core = begun(allocation, data)
    for _ in range(BARS - 1):
        core.decide(np.zeros((1, 5)))
        core.advance()
        assert not core.stopped.any()
    assert (core.book.units > 0).all()


@pytest.mark.parametrize("kind", ["regime_aware", "differential_sharpe"])
def test_many_environments_are_many_single_ones(kind: str, data: DeskData) -> None:
    settings = Settings.load("allocator.yaml", [f"allocator.reward={kind}"])
    together, rng = begun(settings, data, n_envs=3), np.random.default_rng(2)
    apart = [begun(settings, data, offset=env) for env in range(3)]
    for _ in range(BARS - 3):
        raw = rng.uniform(-1, 1, (3, 5))
        together.decide(raw)
        both = together.advance()
        for env, one in enumerate(apart):
            one.decide(raw[env : env + 1])
            assert np.array_equal(both.rewards[env : env + 1], one.advance().rewards)
            assert np.array_equal(together.book.units[env], one.book.units[0])


def test_the_plain_reward_is_the_differential_sharpe_of_net_return_in_reference_bars(data: DeskData) -> None:
    settings = Settings.load("allocator.yaml", ["allocator.reward=differential_sharpe"])
    core = begun(settings, data)
    core.decide(np.zeros((1, 5)))
    result = core.advance()
    z = result.portfolio_return[0] / (0.10 / np.sqrt(data.execution.bars_per_year))
    # A = 0 and B = 1 at the start: D = z.
    assert result.rewards[0, 0] == pytest.approx(z)


def test_the_regime_aware_reward_is_the_sum_of_its_terms_in_reference_bars(
    allocation: Settings, data: DeskData
) -> None:
    core = begun(allocation, data, n_envs=2)
    core.decide(np.array([[0.5, -0.5, 0, 0, 1], [0, 0, 0, 0, 0.0]]))
    result = core.advance()
    sigma = 0.10 / np.sqrt(data.execution.bars_per_year)
    assert result.rewards[:, 0] == pytest.approx(sum(result.terms.values()) / sigma)
    assert result.terms["regime_return"] / result.portfolio_return == pytest.approx(
        [[1.2, 0.8, 0.6, 1.0][label] for label in data.features.regime[core.state.row - 1]]
    )


def test_bars_after_a_row_change_nothing_up_to_it(allocation: Settings, market: MarketData) -> None:
    """The referee: everything observed, ordered, filled and rewarded up to a row is the same to the byte, whatever
    comes later."""
    rough = roughen(Settings.load(), smooth(Settings.load(), n_years=2.5, seed=6)[0], seed=3)
    names = [Settings.load().universe.symbols.index(symbol) for symbol in allocation.universe.symbols]
    kept = replace(
        rough,
        symbols=allocation.universe.symbols,
        bars=rough.bars[:, names],
        valid=rough.valid[:, names],
        stale_open=rough.stale_open[:, names],
        volume_proxy=rough.volume_proxy[names],
    )
    first = DeskData.of(allocation, [kept])
    cut = first.segments[0].start + 30
    bars = kept.bars.copy()
    bars[cut + 1 :, :, :4] *= np.linspace(1.1, 1.4, len(bars) - cut - 1)[:, None, None]
    bars[cut + 1 :, :, 4] *= 3
    second = DeskData.of(allocation, [replace(kept, bars=bars)])
    traces = []
    for data in (first, second):
        core = begun(allocation, replace(data, segments=first.segments))
        rng, trace = np.random.default_rng(5), b""
        while core.state.row[0] < cut:
            seen = core.observe()
            core.decide(rng.uniform(-1, 1, (1, 5)) + seen[:, :5])
            result = core.advance()
            for array in (seen, core.ordered, core.book.units, core.book.equity, result.rewards):
                trace += np.ascontiguousarray(array).tobytes()
        traces.append(trace + core.observe().tobytes())
    assert traces[0] == traces[1]
