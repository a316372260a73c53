"""What an account does not report is reconstructed from the bar's prices, by the rules that `Position` and `Portfolio`
state."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from serving_fixtures import Served

from mtquant_rllib import strict_json
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.risk.breakers import Breakers
from mtquant_rllib.serving.account import Portfolio
from mtquant_rllib.serving.closes import PreparedBars
from mtquant_rllib.serving.system import TradingSystem


def portfolios_of(served: Served, bars: int, *, beside: TradingSystem | None = None) -> list[Portfolio]:
    """Decide on some bars; the account at each close. beside: a system that is told equity and units of that account
    alone, and whose decisions nobody fills."""
    system, account = served.system(), served.account()
    decision, portfolios = None, []
    for market in PreparedBars.over(system.settings, served.data, served.first(bars)):
        if decision is not None:
            account.fill(decision, market.closes())
        portfolio, positions = account.portfolio(), account.positions()
        decision = system.step(market, portfolio, positions)
        portfolios.append(portfolio)
        if beside is not None:
            units = {symbol: position.units for symbol, position in positions.items()}
            beside.step(market, replace(portfolio, results=None, breakers=None), units)
    return portfolios


def test_an_account_survives_json_to_the_last_digit(desk: Served) -> None:
    for portfolio in portfolios_of(desk, 12):
        back = Portfolio.from_dict(json.loads(strict_json.dumps(portfolio.to_dict())))
        assert back.results == portfolio.results
        assert back.breakers is not None
        assert portfolio.breakers is not None
        for name, array in portfolio.breakers.items():
            np.testing.assert_array_equal(back.breakers[name], array)
            assert back.breakers[name].dtype == array.dtype
    with pytest.raises(MtquantError, match="not a portfolio"):
        Portfolio.from_dict({"equity_ccy": 1.0})


@pytest.mark.slow
def test_equity_and_units_alone_lead_to_the_results_that_the_account_had(desk: Served) -> None:
    """Costs, financing and stops are shared out instead of known one by one, so domains' results move a little; those
    of the account are exact."""
    beside = desk.system()
    portfolios = portfolios_of(desk, 40, beside=beside)
    arrays, domain_of = beside.state().arrays, dict(zip(beside.symbols, beside.settings.universe.domain_of))
    equity = np.array([portfolio.equity_ccy for portfolio in portfolios])
    np.testing.assert_array_equal(arrays["state/daily.returns"][0], (equity[1:] / equity[:-1] - 1)[-30:])
    np.testing.assert_allclose(arrays["state/drawdown.value"][0, 0], equity[-1] / equity[0], rtol=1e-9)
    known = np.zeros((len(portfolios) - 1, beside.settings.universe.n_domains))
    for bar, portfolio in enumerate(portfolios[1:]):
        for symbol, one in (portfolio.results or {}).items():
            known[bar, domain_of[symbol]] += (one.pnl_ccy - one.cost_ccy - one.financing_ccy) / equity[bar]
    estimated = arrays["state/record.returns"][0, : len(known)]
    assert np.abs(estimated - known).sum() < 0.2 * np.abs(known).sum()


def test_what_was_paid_in_is_no_result(desk: Served) -> None:
    def states(deposit: float) -> dict[str, np.ndarray]:
        system, account = desk.system(), desk.account()
        market = PreparedBars(system.settings, desk.data, desk.segment.start)
        system.step(market, account.portfolio(), {})
        market.advance()
        portfolio = Portfolio(account.portfolio().equity_ccy + deposit, "USD", transfers_ccy=deposit)
        system.step(market, portfolio, {})
        return dict(system.state().arrays)

    without, with_deposit = states(0.0), states(25_000.0)
    assert with_deposit["state/book.equity"] == without["state/book.equity"] + 25_000.0
    for name in ("state/daily.returns", "state/drawdown.value", "state/record.total"):
        np.testing.assert_array_equal(with_deposit[name], without[name])


def test_money_that_nothing_explains_is_refused(desk: Served) -> None:
    system, account = desk.system(), desk.account()
    market = PreparedBars(system.settings, desk.data, desk.segment.start)
    system.step(market, account.portfolio(), {})
    market.advance()
    with pytest.raises(MtquantError, match="although nothing was held; expected transfers_ccy"):
        system.step(market, Portfolio(account.portfolio().equity_ccy + 25_000.0, "USD"), {})


def test_a_loss_of_the_day_trips_the_breakers_of_a_system_that_marks_them_itself(desk: Served) -> None:
    """The reference is the state machine alone: a day that begins at the last close and ends 6% lower."""
    settings = desk.policies.settings
    system = desk.system()
    market = PreparedBars(settings, desk.data, desk.segment.start)
    first = system.step(market, Portfolio(100_000.0, "USD"), {"EURUSD": 40_000.0})
    assert first.breaker_level == 0
    market.advance()
    decision = system.step(market, Portfolio(94_000.0, "USD"), {"EURUSD": 40_000.0})
    alone = Breakers(settings.risk.breakers, np.array([100_000.0]), settings.universe.n_instruments)
    fired = alone.mark(np.array([94_000.0]), np.zeros((1, settings.universe.n_instruments)))
    assert decision.breaker_level == fired[0] == 1


def test_a_new_position_has_the_entry_and_the_stop_of_an_order_that_filled_at_the_bars_price(desk: Served) -> None:
    system, account = desk.system(), desk.account()
    market = PreparedBars(system.settings, desk.data, desk.segment.start)
    decision = system.step(market, account.portfolio(), {})
    market.advance()
    account.fill(decision, market.closes())
    positions = account.positions()
    held = {symbol: position.units for symbol, position in positions.items()}
    system.step(market, replace(account.portfolio(), results=None, breakers=None), held)
    arrays = system.state().arrays
    for symbol, position in positions.items():
        i = system.symbols.index(symbol)
        assert arrays["state/book.entry"][0, i] == position.entry
        assert arrays["state/book.stop"][0, i] == position.stop
        assert arrays["state/book.bars_held"][0, i] == position.bars_held
    assert len(positions) > 2
