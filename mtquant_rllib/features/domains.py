"""Domain features: 8, 6 and 7 of forex, commodities and equity, and five of a domain of another name.

Where no feed gives a quantity, it is a proxy from prices and macro, never a constant. A macro column of the same name
(`geopolitical_risk`, say) replaces the proxy: its rolling score over a year takes the column's place.

Notation, beside that of `own_bars.py`: R_k is the k-bar return of an instrument / (s sqrt k); D_k the k-row sum of
changes of a series / (its EWMA deviation of span 60, lagged, * sqrt k); z_n, mean_n over rows of the common axis.
Windows speak from a third of their bars on.
"""

from __future__ import annotations

import numpy as np

from mtquant_rllib.config import Settings
from mtquant_rllib.features import indicators as ind
from mtquant_rllib.features.cohorts import ListingCohorts
from mtquant_rllib.features.layout import PER_INSTRUMENT, ROLES_READ, domain_columns, domain_layout
from mtquant_rllib.features.macro import AlignedMacro, finish
from mtquant_rllib.features.own_bars import InstrumentBars, OwnBars, on_common_rows
from mtquant_rllib.features.own_features import own_features
from mtquant_rllib.features.registry import Feature, Registry
from mtquant_rllib.universe import Domain

forex, commodities, equity = Registry(), Registry(), Registry()
DOMAIN_FEATURES = {"forex": forex, "commodities": commodities, "equity": equity}
own_domain = Registry()
"""Of a domain that is none of these."""

_REPLACEMENT_WINDOW = 252


class DomainView:
    """What domain features may read: own bars of every instrument, macro series, the timestamps; all up to each row.

    `valid` is bool (T, P, n) in the order of `settings.universe.symbols`.
    """

    def __init__(
        self,
        settings: Settings,
        domain: Domain,
        by_symbol: dict[str, InstrumentBars],
        valid: np.ndarray,
        macro: AlignedMacro,
    ) -> None:
        self.settings = settings
        self.config = settings.features
        self.domain = domain
        self.by_symbol = by_symbol
        self.valid = valid
        self.macro = macro
        self.roles = settings.features.roles

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and histories, (T, P)."""
        return self.macro.shape

    def minimum(self, window: int) -> int:
        return self.config.domain_minimum(window)

    def own(self, symbol: str, compute) -> np.ndarray:
        """A quantity of one instrument's own bars on the common rows, (T, P)."""
        return self.by_symbol[symbol].spread(compute)

    def move(self, symbol: str, bars: int) -> np.ndarray:
        """R_k."""
        return self.own(symbol, lambda own_bars: own_bars.move(bars))

    def both(self, a: str, b: str, compute, *arrays: np.ndarray) -> np.ndarray:
        """Compute on the rows on which two instruments have bars."""
        symbols = self.settings.universe.symbols
        mask = self.valid[:, :, symbols.index(a)] & self.valid[:, :, symbols.index(b)]
        return on_common_rows(mask, compute, *arrays)

    def drift(self, x: np.ndarray, bars: int) -> np.ndarray:
        """D_k of a series on the common rows."""
        return scaled_drift(x, bars, self.config.volatility_span_bars, self.minimum)

    def excess(self, x: np.ndarray, window: int) -> np.ndarray:
        """x minus its mean of the window."""
        return x - ind.rolling_mean(x, window, self.minimum(window))

    @property
    def index_returns_20(self) -> np.ndarray:
        return self.move(self.roles.index, 20)

    @property
    def rate_spreads(self) -> list[np.ndarray]:
        """2-year rate minus the other currency's policy rate, percentage points, for each pair of the domain."""
        account = self.settings.desk.account.currency
        spreads = []
        for symbol in self.domain.symbols:
            row = self.settings.symbols[symbol]
            foreign = row.base if row.quote == account else row.quote
            spreads.append(self.macro.rate_2y - self.macro.policy_rate(foreign))
        return spreads


def scaled_drift(x: np.ndarray, bars: int, span: int, minimum) -> np.ndarray:
    """Sum of the last `bars` changes of x / (their lagged EWMA deviation * sqrt bars)."""
    steps = ind.change(x)
    deviation = np.sqrt(ind.ewma(steps**2, span, minimum(span)))
    return ind.ratio(ind.rolling_sum(steps, bars, minimum(bars)), ind.lag(deviation) * np.sqrt(bars))


def features_of_domain(domain: Domain, settings: Settings) -> tuple[Feature, ...]:
    """A domain's features in the order of its columns, those of one's own after the others."""
    own = own_features(f"domains.{domain.name}", settings.features.own.domains.get(domain.name, {}))
    registry = DOMAIN_FEATURES.get(domain.name, own_domain)
    return tuple(own[name] if name in own else registry[name] for name in domain_columns(domain, settings))


def domain_features(view: DomainView, cohorts: ListingCohorts) -> tuple[np.ndarray, np.ndarray]:
    """All features of the view's domain: float32 (T, P, width), clipped, and bool (T, P), from where all are known that
    read no instrument which arrives later; the others are 0 until they are known."""
    columns: list[np.ndarray] = []
    waits: list[bool] = []
    for item in features_of_domain(view.domain, view.settings):
        parts = item.compute(view)
        columns += list(np.moveaxis(parts, -1, 0)) if item.name.endswith(PER_INSTRUMENT) else [parts]
        waits += [cohorts.since_the_first(_instruments_read(item.name, view))] * (len(columns) - len(waits))
    names = domain_layout(view.domain, view.settings).names
    for j, name in enumerate(names):
        if name in view.macro.columns:
            columns[j] = view.macro.z(view.macro.columns[name], _REPLACEMENT_WINDOW)
    return finish([np.broadcast_to(column, view.macro.shape) for column in columns], view.config.domain_clip, waits)


def _instruments_read(column: str, view: DomainView) -> list[int]:
    """The domain's own instruments, and those in a role that a built-in column reads."""
    roles = (getattr(view.roles, role) for role in ROLES_READ.get(column, ()))
    symbols = view.settings.universe.symbols
    return [symbols.index(symbol) for symbol in {*view.domain.symbols, *roles}]


# Forex


@own_domain("domain", "z252(ln DXY)")
@forex("domain", "z252(ln DXY)")
def dollar_index(v: DomainView) -> np.ndarray:
    return v.macro.dollar_score


@forex("domain", "(2-year rate - foreign policy rate of the previous year-end) / 1.5", name="rate_spread_*")
def rate_spread(v: DomainView) -> np.ndarray:
    return np.stack(v.rate_spreads, axis=-1) / 1.5


@forex("domain", "2 (mean spread - its mean252): are rate differentials opening")
def mean_spread(v: DomainView) -> np.ndarray:
    return 2 * v.excess(np.mean(v.rate_spreads, axis=0), 252)


@forex("domain", "5 mean |spread_i / annual deviation_i| - 1: what carry pays for the risk")
def carry(v: DomainView) -> np.ndarray:
    paid = [
        np.abs(ind.ratio(spread / 100, v.own(symbol, lambda c: c.s * np.sqrt(c.bars_per_year))))
        for symbol, spread in zip(v.domain.symbols, v.rate_spreads, strict=True)
    ]
    return 5 * np.mean(paid, axis=0) - 1


@forex("domain", "z252(ln mean s of the pairs)")
def fx_volatility(v: DomainView) -> np.ndarray:
    deviations = [v.own(symbol, lambda c: c.s) for symbol in v.domain.symbols]
    return v.macro.z(ind.log_positive(np.mean(deviations, axis=0)), 252)


@forex("domain", "(-z252(ln VIX) + R20 index) / 2")
def risk_sentiment(v: DomainView) -> np.ndarray:
    return (-v.macro.z(ind.log_positive(v.macro.vix), 252) + v.index_returns_20) / 2


# Commodities


@commodities("domain", "(R60 oil + D60 10-year rate) / 1.5")
def inflation_expectations(v: DomainView) -> np.ndarray:
    return (v.move(v.roles.oil, 60) + v.drift(v.macro.rate_10y, 60)) / 1.5


@commodities("domain", "(R5 gold + R5 oil - R5 index) / sqrt 3: havens and oil up while shares fall")
def geopolitical_risk(v: DomainView) -> np.ndarray:
    return (v.move(v.roles.gold, 5) + v.move(v.roles.oil, 5) - v.move(v.roles.index, 5)) / np.sqrt(3)


@commodities("domain", "-(R20 oil - beta252 R20 index): oil falling more than demand explains is supply")
def supply(v: DomainView) -> np.ndarray:
    oil, index = v.roles.oil, v.roles.index
    scaled = [
        ind.ratio(x, s)
        for x, s in ((v.own(symbol, lambda c: c.r), v.own(symbol, lambda c: c.s_lag)) for symbol in (oil, index))
    ]
    beta = v.both(oil, index, lambda y, x: ind.rolling_beta(y, x, 252, v.minimum(252)), *scaled)
    return -(v.move(oil, 20) - beta * v.move(index, 20))


@commodities("domain", "(R60 index + D60 10-year rate) / 1.5")
def demand(v: DomainView) -> np.ndarray:
    return (v.move(v.roles.index, 60) + v.drift(v.macro.rate_10y, 60)) / 1.5


@commodities("domain", "(10-year rate - 2) / 1.5")
def real_rate(v: DomainView) -> np.ndarray:
    return (v.macro.rate_10y - 2) / 1.5


@commodities("domain", "-R20 DXY")
def dollar_effect(v: DomainView) -> np.ndarray:
    return -v.drift(ind.log_positive(v.macro.dxy), 20)


# Equity


def _share_above_averages(own_bars: OwnBars, minimum) -> np.ndarray:
    """Share of the averages of 20, 50, 100 and 200 bars that the close is above."""
    windows = (20, 50, 100, 200)
    averages = [ind.rolling_mean(own_bars.close, window, minimum(window)) for window in windows]
    above = [np.where(np.isnan(average), np.nan, own_bars.close > average) for average in averages]
    return np.mean(above, axis=0)


@own_domain("domain", "2 * (share of its instruments above their averages of 20, 50, 100, 200) - 1")
@equity("domain", "2 * (share of its instruments above their averages of 20, 50, 100, 200) - 1")
def breadth(v: DomainView) -> np.ndarray:
    shares = [v.own(symbol, lambda c: _share_above_averages(c, v.minimum)) for symbol in v.domain.symbols]
    return 2 * np.mean(shares, axis=0) - 1


@equity("domain", "-(ln index - mean756) / .15: cheap is positive")
def valuation(v: DomainView) -> np.ndarray:
    return -v.own(v.roles.index, lambda c: v.excess(ind.log_positive(c.close), 756)) / 0.15


@equity("domain", "3 exp(-.5 ((days since quarter start - 28) / 12)^2) - 1")
def earnings_season(v: DomainView) -> np.ndarray:
    days = v.macro.timestamps.astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    quarter = (months - months.astype(np.int64) % 3).astype("datetime64[D]")
    age = (days - quarter).astype(np.float64)
    return (3 * np.exp(-0.5 * ((age - 28) / 12) ** 2) - 1)[:, None]


@equity("domain", "-(2-year rate - mean250) / .5: easing is positive")
def policy_stance(v: DomainView) -> np.ndarray:
    return -v.excess(v.macro.rate_2y, 250) / 0.5


@own_domain("domain", "z252(ln VIX)")
@equity("domain", "z252(ln VIX)")
def volatility_regime(v: DomainView) -> np.ndarray:
    return v.macro.z(ind.log_positive(v.macro.vix), 252)


@equity("domain", "R60 of growth over value")
def growth_value(v: DomainView) -> np.ndarray:
    growth, value = v.roles.growth, v.roles.value
    span = v.config.volatility_span_bars
    relative = v.own(growth, lambda c: c.cum) - v.own(value, lambda c: c.cum)
    return v.both(growth, value, lambda x: scaled_drift(x, 60, span, v.minimum), relative)


@equity("domain", "(-z60(ln VIX) + R20 index + 2 position in the range of 252 - 1) / 2")
def fear_greed(v: DomainView) -> np.ndarray:
    position = v.own(v.roles.index, lambda c: c.position(252, v.minimum(252)))
    return (-v.macro.z(ind.log_positive(v.macro.vix), 60) + v.index_returns_20 + position) / 2


# Another domain


@own_domain("domain", "z252(ln mean s of its instruments)")
def own_volatility(v: DomainView) -> np.ndarray:
    deviations = [v.own(symbol, lambda c: c.s) for symbol in v.domain.symbols]
    return v.macro.z(ind.log_positive(np.mean(deviations, axis=0)), 252)


@own_domain("domain", "mean R60 of its instruments")
def own_trend(v: DomainView) -> np.ndarray:
    return np.mean([v.move(symbol, 60) for symbol in v.domain.symbols], axis=0)
