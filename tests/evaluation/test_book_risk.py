"""A book of one's own: checked against the rules that the desk trades under, and stressed."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize
from small_runs import FIVE_DAYS, bars_file

from mtquant_rllib.cli import main
from mtquant_rllib.config import Settings
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.evaluation.book_risk import check_file
from mtquant_rllib.evaluation.book_risk.book_file import BookFile, read_book
from mtquant_rllib.evaluation.book_risk.check import check_book
from mtquant_rllib.evaluation.book_risk.market_risk import MarketRisk, daily_returns, market_risk
from mtquant_rllib.evaluation.book_risk.stress_test import stress_book
from mtquant_rllib.market.synthetic import synthesise
from mtquant_rllib.risk.stress import reverse_stress, shocked
from mtquant_rllib.risk.var import parametric_var

SETTINGS = Settings.load()
SYMBOLS = SETTINGS.universe.symbols
BALANCED = {"EURUSD": 0.3, "XAUUSD": 0.2, "SPX500": 0.2, "WTIUSD": -0.1}


@pytest.fixture(scope="module")
def history():  # type: ignore[no-untyped-def]
    return synthesise(SETTINGS, n_paths=1, n_years=3, seed=4, variant="default").markets[0]


@pytest.fixture(scope="module")
def market(history) -> MarketRisk:  # type: ignore[no-untyped-def]
    return market_risk(SETTINGS, history)


def test_it_sees_what_the_desk_sees(history, market: MarketRisk) -> None:  # type: ignore[no-untyped-def]
    data = DeskData.of(SETTINGS, [history])
    packed = np.asarray(data.features.covariance[-1])
    np.testing.assert_array_equal(market.covariance[np.triu_indices(8)], packed)
    days, returns = daily_returns(history)
    closes = history.bars[:, :, 3]
    np.testing.assert_allclose(returns[-1], closes[-1] / closes[-2] - 1)
    assert len(days) == len(returns)
    day = dt.date.fromisoformat(str(history.timestamps[-50].astype("datetime64[D]")))
    assert market_risk(SETTINGS, history, day).days[-1] == np.datetime64(day)


def test_a_book_within_its_limits_passes_and_its_components_add_up(market: MarketRisk) -> None:
    found = check_book(SETTINGS, market, BookFile(BALANCED, {}), 100_000)
    assert found.passes
    assert all(one.executed == pytest.approx(one.weight) for one in found.positions)
    weights = BookFile(BALANCED, {}).row(SYMBOLS)
    var = float(parametric_var(weights, market.covariance, 0.95))
    assert sum(one.component for one in found.positions) == pytest.approx(var)
    assert found.measures["var"] == pytest.approx(var)
    by_method = {one.method: one for one in found.tails}
    assert by_method["Monte Carlo, normal"].var == pytest.approx(var, rel=0.05)
    assert all(one.shortfall > one.var > 0 for one in found.tails)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"SPX500": 0.9}, "concentration"),
        ({"EURUSD": 0.7, "GBPUSD": 0.6}, "forex: gross 1.3 exceeds 1.2"),
        (dict.fromkeys(SYMBOLS, 0.45), "gross 3.6 exceeds 3"),
    ],
)
def test_a_book_beyond_a_limit_says_which_and_what_would_be_allowed(
    market: MarketRisk, weights: dict[str, float], said: str
) -> None:
    found = check_book(SETTINGS, market, BookFile(weights, {}), 100_000)
    assert any(said in reason for reason in found.reasons)
    executed = {one.symbol: one.executed for one in found.positions}
    again = check_book(SETTINGS, market, BookFile(executed, {}), 100_000)
    assert again.passes
    assert found.edits


def test_scenarios_add_up_and_trip_the_breakers_they_should(market: MarketRisk) -> None:
    weights = BookFile({"SPX500": 0.5, "NAS100": 0.5, "XAUUSD": 0.2}, {}).row(SYMBOLS)
    found = stress_book(SETTINGS, market, weights)
    named = {one.name: one for one in found.scenarios}
    crash = named["equity -20%"]
    assert (crash.loss, crash.breaker) == (pytest.approx(0.2), 4)
    assert named["equity -20%, gold +5%, oil -10%"].loss == pytest.approx(0.19)
    for one in found.scenarios:
        if one.kind == "shock":
            assert sum(one.by_instrument.values()) == pytest.approx(one.loss)
    assert [one.loss for one in found.scenarios] == sorted((one.loss for one in found.scenarios), reverse=True)
    assert found.correlated_var >= found.parametric_var
    assert set(found.missing) <= set(SETTINGS.risk.stress.windows)


def test_a_shock_of_a_domain_gives_way_to_one_of_its_symbols() -> None:
    returns = dict(zip(SYMBOLS, shocked(SETTINGS.universe, {"equity": -0.2, "NAS100": -0.3})))
    assert returns["SPX500"] == returns["US30"] == -0.2
    assert returns["NAS100"] == -0.3
    assert returns["EURUSD"] == 0
    odd = Settings.load(overrides=["risk.stress.shocks={odd: {DAX: -0.1}}"])
    nothing = MarketRisk(np.datetime64(0, "s"), np.eye(8), np.eye(8), np.array([], "datetime64[D]"), np.zeros((0, 8)))
    with pytest.raises(ConfigError, match="no such instrument or domain; expected one of forex"):
        stress_book(odd, nothing, np.ones(8))


def test_the_reverse_stress_is_the_nearest_of_all_shocks_that_do_the_harm(market: MarketRisk) -> None:
    weights = BookFile(BALANCED, {}).row(SYMBOLS)
    found = reverse_stress(weights, market.covariance, 0.15)
    assert -(weights @ found.returns) == pytest.approx(0.15)
    inverse = np.linalg.inv(market.covariance)
    own = float(found.returns @ inverse @ found.returns)
    assert own == pytest.approx(found.deviations**2)
    solved = optimize.minimize(
        lambda x: x @ inverse @ x * 1e-4,
        np.full(8, -0.1),
        constraints={"type": "eq", "fun": lambda x: weights @ x + 0.15},
        options={"maxiter": 1000, "ftol": 1e-12},
    )
    assert own <= solved.fun * 1e4 * (1 + 1e-3)
    assert np.isinf(reverse_stress(np.zeros(8), market.covariance, 0.15).deviations)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("symbol,size\nEURUSD,1\n", "expected symbol and either weight"),
        ("symbol,weight\nDOGE,1\n", "line 2: 'DOGE' is none of EURUSD"),
        ("symbol,weight\nGOLD,1\nXAUUSD,1\n", "line 3: XAUUSD stands there twice"),
        ("symbol,weight\nEURUSD,lots\n", "line 2: weight is 'lots'"),
        ("symbol,weight\nEURUSD,inf\n", "line 2: weight is 'inf'"),
        ("", "found columns none"),
    ],
)
def test_a_book_that_cannot_be_read_is_refused_by_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "book.csv").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_book(tmp_path / "book.csv", SETTINGS, 100_000)


def test_books_come_in_money_too_and_with_what_is_held(tmp_path: Path) -> None:
    (tmp_path / "book.csv").write_text("Symbol, notional_ccy ,current\nGOLD,-25000,1000\nEUR/USD,50000,\n")
    found = read_book(tmp_path / "book.csv", SETTINGS, 100_000)
    assert found.weights == {"XAUUSD": -0.25, "EURUSD": 0.5}
    assert found.current == {"XAUUSD": 0.01}


@pytest.mark.slow
def test_the_commands_end_with_one_where_the_book_breaks_a_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = bars_file(tmp_path, dict.fromkeys(SYMBOLS, FIVE_DAYS), years=4)
    (tmp_path / "book.csv").write_text("symbol,weight\nSPX500,0.9\n")
    words = ["risk", "check", str(tmp_path / "book.csv"), "--market", str(bars), "--json", str(tmp_path / "c.json")]
    assert main(words) == 1
    said = capsys.readouterr()
    assert "exceeds 0.75 (concentration)" in said.err
    assert max(map(len, said.out.splitlines())) <= 80
    tree = json.loads((tmp_path / "c.json").read_text())
    assert tree["limits"]["largest position"] == 0.75
    assert check_file(tmp_path / "book.csv", bars).reasons == tuple(tree["reasons"])
    assert main(["risk", "stress", str(tmp_path / "book.csv"), "--market", str(bars), "--at", "2015-06-30"]) == 0
    assert "which halts the desk" in capsys.readouterr().out
    assert main(["risk", "check", str(tmp_path / "book.csv"), "--market", str(bars), "--at", "June"]) == 2
    assert main(["risk", "check", str(tmp_path / "book.csv"), "--market", str(bars), "--at", "2012-02-01"]) == 2
