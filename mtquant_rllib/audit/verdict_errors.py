"""`mtquant audit verdict`: how often the verdict claims skill where there is none, and sees it where there is.

Every row is a share of worlds with its exact interval (Clopper and Pearson 1934). A claim is a verdict *earns* or
*beats the rules*. Where a book is the best of several trials, the verdict knows how many there were; the row of trials
that nobody counted shows what that is worth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from mtquant_rllib.audit.findings import Leak, LeakFound
from mtquant_rllib.audit.simulated_worlds import SimulatedMarket, null_worlds
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.evaluation.statistics.sharpe_tests import sharpe_influence
from mtquant_rllib.evaluation.statistics.verdict import Outcome, judge_returns
from mtquant_rllib.market.bars import MarketData

CLAIMS = (Outcome.EARNS, Outcome.BEATS)


@dataclass(frozen=True)
class Share:
    """Of worlds, with the two ends of its exact interval."""

    estimate: float
    lower: float
    upper: float

    def __str__(self) -> str:
        return f"{self.estimate:.1%} [{self.lower:.1%}, {self.upper:.1%}]"


@dataclass(frozen=True)
class ErrorRate:
    """One kind of world.

    sharpe_ann
        Planted; 0 where there is none.
    trials, counted
        Trials of which the best was judged, and whether the verdict was told how many.
    claims, beats, loses
        Shares of the worlds: skill is claimed; the rules are said to be beaten too; the book is said to lose.
    """

    sharpe_ann: float
    trials: int
    counted: bool
    worlds: int
    claims: Share
    beats: Share
    loses: Share


@dataclass(frozen=True)
class ErrorRates:
    """market: whose bars; rates of every kind of world; highest: share of false claims that is allowed."""

    market: str
    years: float
    rates: tuple[ErrorRate, ...]
    highest: float

    def lines(self) -> Iterator[str]:
        yield f"{self.market}, records of {self.years:g} years; at most {self.highest:.0%} false claims are allowed"
        yield (
            f"{'true Sharpe':<12}{'trials':<16}{'worlds':>6}  {'claims skill':<22}{'beats the rules':<22}{'loses':<20}"
        )
        for rate in self.rates:
            trials = f"{rate.trials}" if rate.trials == 1 else f"best of {rate.trials}"
            trials += "" if rate.counted else ", uncounted"
            yield (
                f"{rate.sharpe_ann:<12g}{trials:<16}{rate.worlds:>6}  {rate.claims!s:<22}{rate.beats!s:<22}"
                f"{rate.loses!s:<20}"
            )

    def raise_if_too_high(self) -> None:
        """Raises LeakFound where skill is claimed too often on worlds without it."""
        for rate in self.rates:
            if rate.sharpe_ann == 0 and rate.counted and rate.claims.estimate > self.highest:
                how = f"skill is claimed on {rate.claims} of worlds without it; at most {self.highest:.0%} are allowed"
                raise LeakFound(str(Leak("the verdict", "", None, None, how)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def verdict_errors(
    settings: Settings, market: MarketData | None, name: str, on_progress: Callable[[str], None] = lambda line: None
) -> ErrorRates:
    """Judge worlds on the synthetic null market, or on blocks of a real one."""
    config, rule = settings.evaluation.error_rates, settings.evaluation.verdict
    plans = [(0.0, config.null_worlds), *((sharpe, config.planted_worlds) for sharpe in config.planted_sharpes)]
    rates = []
    for number, (sharpe, n_worlds) in enumerate(plans):
        on_progress(f"{n_worlds} worlds with a true Sharpe of {sharpe:g}")
        found: dict[tuple[int, bool], Counter[Outcome]] = {}
        for world in null_worlds(settings, market, n_worlds, seed=(settings.seed + 1) * 100_000 * (number + 1)):
            for trials in config.trials:
                for counted in (True,) if trials == 1 or sharpe else (True, False):
                    counter = found.setdefault((trials, counted), Counter())
                    counter[_judged(settings, world, sharpe, trials, counted)] += 1
        rates += [_rate(sharpe, trials, counted, n_worlds, counts) for (trials, counted), counts in found.items()]
    return ErrorRates(name, config.years, tuple(rates), rule.significance + config.max_excess)


def _judged(settings: Settings, world: SimulatedMarket, sharpe: float, trials: int, counted: bool) -> Outcome:
    """The verdict on the best of the world's first so many books."""
    books = world.planted(sharpe)[:trials]
    best = int(np.nanargmax(sharpe_influence(books)[1]))
    verdict = judge_returns(
        books[best],
        world.rules,
        world.bars_per_year,
        settings.evaluation.verdict,
        trials=books if counted and trials > 1 else None,
    )
    assert verdict is not None, "a random book moves"
    return verdict.finding


def _rate(sharpe: float, trials: int, counted: bool, n_worlds: int, counts: Counter[Outcome]) -> ErrorRate:
    claims = sum(counts[finding] for finding in CLAIMS)
    shares = (_share(count, n_worlds) for count in (claims, counts[Outcome.BEATS], counts[Outcome.LOSES]))
    return ErrorRate(sharpe, trials, counted, n_worlds, *shares)


def _share(count: int, of: int) -> Share:
    interval = stats.binomtest(count, of).proportion_ci(0.95, method="exact")
    return Share(count / of, float(interval.low), float(interval.high))
