"""The terms of the regime-aware reward with a pencil, and the promise that nobody can live on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from markets import smooth

from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.allocator import RegimeAwareConfig
from mtquant_rllib.env.allocator import Allocator
from mtquant_rllib.env.core_factory import core_for
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.env.rewards.regime_aware import SHAPING, TERMS, BarView, RegimeAwareReward
from mtquant_rllib.features.regimes import Regime

pytestmark = pytest.mark.slow

EQUAL, SINGLE = np.full(5, 0.2), np.eye(5)[4]


def bar(weights: np.ndarray, regime: Regime, **given: float) -> BarView:
    view = BarView(
        net_return=np.array([0.01]),
        cost=np.array([2e-6]),
        traded=np.array([0.01]),
        weights=np.array([weights]),
        moves=np.array([[1.0, -1.0, 0.5, 4.0, -0.5]]),
        volatility_ann=np.array([0.15]),
        index_beta=np.array([0.5]),
        regime=np.array([regime]),
    )
    return replace(view, **{name: np.array([value]) for name, value in given.items()})


@pytest.fixture(scope="module")
def allocation() -> Settings:
    return Settings.load("allocator.yaml", ["embedded.train={paths: 2, years: 4}"])


@pytest.fixture(scope="module")
def reward(allocation: Settings) -> RegimeAwareReward:
    assert allocation.allocator is not None
    return RegimeAwareReward(allocation.allocator.regime_aware)


def terms(reward: RegimeAwareReward, view: BarView) -> dict[str, float]:
    return {name: float(values[0]) for name, values in reward(view).items()}


def test_function_weight_and_metric_share_one_name() -> None:
    assert list(TERMS) == list(RegimeAwareConfig.model_fields)
    assert set(SHAPING) == set(TERMS) - {"regime_return"}


def test_terms_of_a_bull_bar(reward: RegimeAwareReward) -> None:
    # s = .2 * (1 - 1 + .5 + 2 - .5) / 2 = .2; the fourth move is clipped at 2.
    found = terms(reward, bar(EQUAL, Regime.BULL))
    assert found == pytest.approx(
        {
            "regime_return": 0.012,
            "bull_momentum": 4e-5 * np.tanh(1.0),
            "bear_defence": 0.0,
            "volatile_diversification": 0.0,
            "momentum": 4e-5 * np.tanh(0.6),
            "volatility": -4e-5 * 0.5,
            "diversification": 0.0,
            "action_change": 1e-5 * np.tanh(0.1),  # a hair under half the cost
        },
        abs=1e-15,
    )


def test_terms_of_a_bear_and_of_a_volatile_bar(reward: RegimeAwareReward) -> None:
    bear, volatile = (terms(reward, bar(SINGLE, regime)) for regime in (Regime.BEAR, Regime.VOLATILE))
    assert bear["regime_return"] == pytest.approx(0.008)
    assert bear["bear_defence"] == pytest.approx(2e-5 * np.tanh(1.5))
    assert bear["momentum"] == pytest.approx(4e-5 * np.tanh(-0.75))
    assert bear["volatility"] == pytest.approx(-6e-5 * 0.5)
    assert bear["diversification"] == pytest.approx(-6e-5)
    assert volatile["regime_return"] == pytest.approx(0.006)
    assert volatile["volatile_diversification"] == pytest.approx(0.0, abs=1e-15)
    assert volatile["momentum"] == pytest.approx(0.3 * 4e-5 * np.tanh(-0.5))
    assert volatile["volatility"] == pytest.approx(-12e-5 * 0.5)
    assert volatile["diversification"] == pytest.approx(-8e-5)


@pytest.mark.parametrize("regime", list(Regime))
def test_equal_weights_earn_nothing_from_diversification(reward: RegimeAwareReward, regime: Regime) -> None:
    assert terms(reward, bar(EQUAL, regime))["diversification"] == pytest.approx(0.0, abs=1e-18)
    assert terms(reward, bar(SINGLE, regime))["diversification"] < 0


def test_a_calm_book_pays_no_volatility_and_a_wild_one_pays_at_most_twice(reward: RegimeAwareReward) -> None:
    assert terms(reward, bar(EQUAL, Regime.SIDEWAYS, volatility_ann=0.05))["volatility"] == 0
    assert terms(reward, bar(EQUAL, Regime.SIDEWAYS, volatility_ann=0.9))["volatility"] == pytest.approx(-8e-5)


@pytest.mark.parametrize("cost", [0.0, 1e-7, 1e-6, 1e-4])
def test_a_trade_gets_back_at_most_half_its_cost(reward: RegimeAwareReward, cost: float) -> None:
    paid = terms(reward, bar(EQUAL, Regime.BULL, cost=cost, traded=2.0))["action_change"]
    assert paid == pytest.approx(min(1e-5, cost / 2))


def test_an_empty_book_earns_nothing(reward: RegimeAwareReward) -> None:
    """It stands out of a falling market, and pays more for not being spread."""
    empty = np.zeros(5)
    for regime in Regime:
        found = terms(reward, bar(empty, regime, net_return=0.0, volatility_ann=0.0, index_beta=0.0, traded=0.0))
        gains = {name for name, paid in found.items() if paid > 0}
        assert gains == ({"bear_defence"} if regime == Regime.BEAR else set())
        assert sum(found.values()) < 0


# -- reference policies, played ----------------------------------------------------------------------------------------

BARS = 400


@pytest.fixture(scope="module")
def market(allocation: Settings) -> DeskData:
    return DeskData.of(allocation, smooth(allocation, n_paths=2, n_years=3.2, seed=4))


def _policies(core: Allocator) -> dict[str, np.ndarray | None]:
    """Raw actions (5,) by name; None draws them anew each bar."""
    one = {f"all_{symbol}": 2 * np.eye(5)[i] - 1 for i, symbol in enumerate(core.universe.symbols)}
    return {"equal_weight": np.zeros(5), "random": None, "flip_flop": None, "trend": None, **one}


def _play(settings: Settings, data: DeskData) -> dict[str, tuple[Allocator, dict[str, np.ndarray], np.ndarray]]:
    played = {}
    for name, fixed in _policies(core_for(settings, data, 1, EpisodeSetup())).items():  # type: ignore[arg-type]
        core = core_for(settings, data, 2, EpisodeSetup(ends_on_halt=False))
        assert isinstance(core, Allocator)
        draws = [EpisodeDraw(part.start, part.start + BARS, 0.0, 0) for part in data.segments]
        core.reset(np.arange(2), draws)
        rng, kept, costs = np.random.default_rng(0), {term: np.zeros((BARS, 2)) for term in TERMS}, np.zeros((BARS, 2))
        returns = np.zeros((BARS, 2))
        for t in range(BARS):
            raw = np.broadcast_to(fixed, (2, 5)) if fixed is not None else None
            if name == "random":
                raw = rng.uniform(-1, 1, (2, 5))
            elif name == "flip_flop":
                raw = np.broadcast_to((2 * np.eye(5)[[0, 4]] - 1)[t % 2], (2, 5))
            elif name == "trend":
                raw = np.clip(core._blocks[core.state.row[:, None], core._move_columns], -1, 1)
            assert raw is not None
            before = core.book.equity.copy()
            core.decide(raw)
            returns[t] = core.advance().portfolio_return
            costs[t] = core.book.cost_ccy.sum(axis=1) / before
            for term, values in core.terms.items():
                kept[term][t] = values
        played[name] = (core, {**kept, "net_return": returns}, costs)
    return played


@pytest.fixture(scope="module")
def played(allocation: Settings, market: DeskData) -> dict[str, tuple[Allocator, dict[str, np.ndarray], np.ndarray]]:
    return _play(allocation, market)


def test_shaping_is_worth_little_to_every_reference_policy(
    played: dict[str, tuple[Allocator, dict[str, np.ndarray], np.ndarray]],
) -> None:
    for name, (core, kept, _) in played.items():
        per_year = core.execution.bars_per_year
        shaping = sum(kept[term] for term in SHAPING)
        ratio = np.mean(shaping) * per_year / (np.std(kept["net_return"]) * np.sqrt(per_year))
        assert ratio <= 0.1, f"{name}: {ratio:.3f}"


def test_holding_equal_weights_is_paid_by_no_bar(
    played: dict[str, tuple[Allocator, dict[str, np.ndarray], np.ndarray]],
) -> None:
    """What lots and a day's drift leave of it is a ten-thousandth of the term's weight a bar, and never a gain."""
    kept = played["equal_weight"][1]["diversification"]
    assert kept.max() <= 0
    assert kept.mean() > -4e-5 * 0.02


def test_churn_never_pays(played: dict[str, tuple[Allocator, dict[str, np.ndarray], np.ndarray]]) -> None:
    for name in ("random", "flip_flop"):
        _, kept, costs = played[name]
        assert (kept["action_change"] <= costs / 2 + 1e-9).all()
        assert costs.mean() > 5 * kept["action_change"].mean()


def test_every_term_speaks_on_a_real_market(
    played: dict[str, tuple[Allocator, dict[str, np.ndarray], np.ndarray]],
) -> None:
    kept = played["random"][1]
    for term in TERMS:
        assert np.abs(kept[term]).max() > 0, term
