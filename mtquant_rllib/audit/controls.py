"""`mtquant audit controls`: checks of the whole chain on markets whose truth is known.

A ridge regression (`linear_trader`) learns on training paths and trades on test paths, through the settings' own core,
costs and risk rules. On the planted market it must earn its share of an oracle who knows the exact mean; on the null
market nothing before costs; where a column tells the next bar it must fail the null test, or the test would not see a
leak; and every multiple of the costs must leave it less. Where settings plant a structure for the desk as a whole, its
oracle must gain over the best parts what the settings say. Policies are held to the same by experiments/controls.py,
which trains them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mtquant_rllib.audit.changed_settings import changed
from mtquant_rllib.audit.findings import LeakFound
from mtquant_rllib.audit.linear_trader import LinearTrader
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.prepared.data import DeskData, prepare_embedded, truth
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.backtest.rollout import oracle_player, play, whole
from mtquant_rllib.evaluation.backtest.structure_oracles import structure_players
from mtquant_rllib.evaluation.statistics.bootstrap import (
    Interval,
    gain_interval,
    pooled_sharpe_interval,
    share_of_oracle,
)
from mtquant_rllib.evaluation.trained_controls import passes_null
from mtquant_rllib.portfolio import execution_data as channel


@dataclass(frozen=True)
class Control:
    """A question, whether it came out as it must, and the figures that say so."""

    name: str
    passed: bool
    figures: str


@dataclass(frozen=True)
class ControlsReport:
    """years: test years of each market."""

    years: float
    controls: tuple[Control, ...]

    def lines(self) -> Iterator[str]:
        yield f"a ridge regression on {self.years:.0f} test years, through the core, its costs and its risk rules"
        width = max(len(control.name) for control in self.controls)
        for control in self.controls:
            yield f"{control.name:<{width}}  {'as it must' if control.passed else 'FAILED':<10}  {control.figures}"

    def raise_if_failed(self) -> None:
        """Raises LeakFound, naming the controls that did not come out as they must."""
        failed = [control for control in self.controls if not control.passed]
        if failed:
            raise LeakFound("; ".join(f"{control.name}: {control.figures}" for control in failed))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def audit_controls(
    settings: Settings, cache: Path, on_progress: Callable[[str], None] = lambda line: None
) -> ControlsReport:
    """All controls, on markets that are drawn and prepared below `cache`."""
    config, controls = settings.evaluation.controls, []
    on_progress("the planted market")
    planted = _Market(settings, "planted", cache)
    trader, oracle = planted.trade(), planted.oracle()
    share = share_of_oracle(trader.returns, oracle.returns, *planted.how()).share
    found = f"share of the oracle's net Sharpe {_percent(share)}, of at least {config.min_share:.0%}"
    controls.append(Control("what is planted is found", share.lower >= config.min_share, found))

    if settings.synthetic.planted.structures:
        on_progress("the structures of the planted market")
        gain, stated = planted.gain(), _stated_gain(settings)
        passed = gain.lower > 0 and (stated is None or abs(gain.estimate - stated) <= config.gain_tolerance)
        figures = f"net Sharpe {_text(gain)}" + ("" if stated is None else f", stated as {stated:g}")
        controls.append(Control("the oracle gains over the best parts", passed, figures))

    on_progress("costs")
    nets = [planted.sharpes(trader)["net"]]
    nets += [planted.sharpes(planted.trade(costs=multiple))["net"] for multiple in config.cost_multiples[1:]]
    falling = all(after.estimate < before.estimate for before, after in pairwise(nets))
    figures = ", ".join(f"x{multiple:g} {_text(net)}" for multiple, net in zip(config.cost_multiples, nets))
    controls.append(Control("costs cost", falling, f"net Sharpe at {figures}"))

    on_progress("the null market, without and with a leak")
    null = _Market(settings, "null", cache)
    for name, leak, passes in (("nothing is found in nothing", 0.0, True), ("a leak wins", config.leak_loading, False)):
        book = null.sharpes(null.trade(leak=leak))
        figures = f"gross Sharpe {_text(book['gross'])}, net {_text(book['net'])}"
        controls.append(Control(name, passes_null(book, settings.evaluation.null_test) is passes, figures))
    return ControlsReport(planted.years, tuple(controls))


def _stated_gain(settings: Settings) -> float | None:
    """`oracle_gain` of the structure that is planted; None where there are several, which were measured one by one."""
    planted = settings.synthetic.planted
    gains = [getattr(planted, name).oracle_gain for name in planted.structures]
    return gains[0] if len(gains) == 1 else None


class _Market:
    """A control market: prepared, traded, measured."""

    def __init__(self, settings: Settings, variant: str, cache: Path) -> None:
        config = settings.evaluation.controls
        train = {"paths": config.train_paths, "years": config.train_years}
        test = {"paths": config.test_paths, "years": config.test_years}
        sizes = {"train": train, "validation": {**test, "paths": 1}, "test": test}
        self._settings = changed(settings, embedded={"variant": variant, **sizes})
        self._folder = prepare_embedded(self._settings, cache)
        self._test = DeskData.open(self._folder, "test")
        self.years = sum(s.stop - s.start for s in self._test.segments) / self._test.execution.bars_per_year

    def trade(self, *, leak: float = 0.0, costs: float = 1.0) -> Record:
        """The linear trader's book on the test paths."""
        train, sigma = DeskData.open(self._folder, "train"), truth(self._folder, "train")[1]
        trader = LinearTrader(self._settings, train, sigma, leak)
        return self._play(trader.forecast(self._test, truth(self._folder, "test")[1]), costs)

    def oracle(self) -> Record:
        """The book of who knows the exact mean."""
        return self._play(truth(self._folder, "test")[0], 1.0)

    def gain(self) -> Interval:
        """What the oracle of the structures gains in net Sharpe over the best parts."""
        draws = whole(self._test.segments)
        books = {
            name: play(self._settings, self._test, player, draws, name=name)
            for name, player in structure_players(self._settings, self._folder, "test").items()
        }
        return gain_interval(books["oracle"].returns, books["parts"].returns, *self.how())

    def _play(self, mean: np.ndarray, costs: float) -> Record:
        settings = changed(
            self._settings,
            desk={"cost": {"impact_coefficient": costs * self._settings.desk.cost.impact_coefficient}},
        )
        execution = self._test.execution
        if costs != 1.0:
            money = np.array(execution.money)
            money[:, channel.COST] *= costs
            execution = replace(execution, money=money)
        data = replace(self._test, execution=execution)
        player = oracle_player(settings, mean, truth(self._folder, "test")[1], data)
        return play(settings, data, player, whole(data.segments), name="trader")

    def sharpes(self, record: Record) -> Mapping[str, Interval]:
        """Pooled net and gross Sharpe."""
        return {
            "net": pooled_sharpe_interval(record.returns, *self.how()),
            "gross": pooled_sharpe_interval(record.gross_returns, *self.how()),
        }

    def how(self) -> tuple[float, Any, np.random.Generator]:
        """Bars a year, bootstrap and generator of every interval: all meet the same resamples."""
        bars_per_year = self._test.execution.bars_per_year
        return bars_per_year, self._settings.evaluation.bootstrap, np.random.default_rng(self._settings.seed)


def _text(interval: Interval) -> str:
    return f"{interval.estimate:.2f} [{interval.lower:.2f}, {interval.upper:.2f}]"


def _percent(interval: Interval) -> str:
    return f"{interval.estimate:.0%} [{interval.lower:.0%}, {interval.upper:.0%}]"
