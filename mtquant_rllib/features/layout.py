"""The layouts of observations: named blocks of named columns, from which every width in the project follows.

Names only: nothing here computes or imports a feature, so that policies and reports can read it at no cost. The
functions behind the market names stand in `block.py`, `domains.py` and `macro.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.universe import Domain, Universe


@dataclass(frozen=True)
class Layout:
    """Contiguous named groups of columns: `groups` is ((group, (column, ...)), ...) in order."""

    groups: tuple[tuple[str, tuple[str, ...]], ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Column names in order, without their groups."""
        return tuple(name for _, names in self.groups for name in names)

    @cached_property
    def width(self) -> int:
        return sum(self.widths.values())

    @cached_property
    def widths(self) -> dict[str, int]:
        """Group name -> columns."""
        return {group: len(names) for group, names in self.groups}

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Group name -> its columns as a slice."""
        slices, start = {}, 0
        for group, names in self.groups:
            slices[group] = slice(start, start + len(names))
            start += len(names)
        return slices

    def __getitem__(self, group: str) -> slice:
        return self.slices[group]

    def column(self, name: str) -> int:
        """Index of a column whose name is unique in this layout."""
        if self.names.count(name) != 1:
            raise KeyError(f"{name!r} stands {self.names.count(name)} times in this layout")
        return self.names.index(name)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


BLOCK = Layout(
    (
        (
            "price",
            _names("ret1 ret2 ret5 ret10 ret20 ret60 gap body range close_location wick pos20 pos60 sma50 sma200"),
        ),
        (
            "volume",
            _names("volume_z20 volume_z60 volume_change volume_trend obv cmf force5 volume_move_corr vwap20 amihud"),
        ),
        (
            "technical",
            _names(
                "rsi7 rsi14 macd macd_hist bollinger bandwidth stoch_k stoch_d cci di adx"
                " atr_ratio vol_ratio vol_z garman_klass"
            ),
        ),
        (
            "momentum",
            _names("mom40 mom120 mom6_1 mom12_1 slope20 time_corr20 efficiency20 acceleration ewmac off_high60"),
        ),
    )
)
"""One instrument's market block, without features of one's own: see `block_layout`."""

ALLOCATOR_ASSET = Layout(
    (
        ("price", _names("ret5 ret20 pos60")),
        ("volume", _names("volume_z20 obv")),
        ("technical", _names("rsi14 bollinger vol_ratio")),
        ("momentum", _names("mom12_1 ewmac")),
    )
)
"""The part of the block that an allocator sees of each asset."""

PER_INSTRUMENT = "*"
"""A domain column with this ending stands once for each instrument of the domain."""

DOMAIN_COLUMNS: dict[str, tuple[str, ...]] = {
    "forex": _names("dollar_index rate_spread_* mean_spread carry fx_volatility risk_sentiment"),
    "commodities": _names("inflation_expectations geopolitical_risk supply demand real_rate dollar_effect"),
    "equity": _names("breadth valuation earnings_season policy_stance volatility_regime growth_value fear_greed"),
}

OWN_DOMAIN_COLUMNS = _names("dollar_index own_volatility own_trend breadth volatility_regime")
"""Market features of a domain that `DOMAIN_COLUMNS` does not name."""

ROLES_READ: dict[str, frozenset[str]] = {
    "risk_sentiment": frozenset({"index"}),
    "inflation_expectations": frozenset({"oil"}),
    "geopolitical_risk": frozenset({"gold", "oil", "index"}),
    "supply": frozenset({"oil", "index"}),
    "demand": frozenset({"index"}),
    "valuation": frozenset({"index"}),
    "growth_value": frozenset({"growth", "value"}),
    "fear_greed": frozenset({"index"}),
}
"""Roles of instruments (`features.roles`) that a domain column is computed from."""

READS_MACRO = frozenset(
    _names(
        "dollar_index rate_spread_* mean_spread carry risk_sentiment inflation_expectations demand real_rate"
        " dollar_effect policy_stance volatility_regime fear_greed"
    )
)
"""Domain columns that are computed from macro series, or from what stands in for them."""

MACRO = Layout((("macro", _names("vix_level dxy_level rate_short_level rate_2y_level rate_10y_level")),))

INSTRUMENT_STATE = Layout(
    (
        (
            "state",
            _names(
                "intent confidence allocation appetite weight unrealised_pnl bars_held stop_distance"
                " alert reward_mean reward_square"
            ),
        ),
    )
)
"""An instrument agent's private state, and the decisions of the levels above it."""

SPECIALIST_STATE = Layout(
    (
        (
            "state",
            _names("allocation appetite sharpe win_rate utilisation drawdown hedge alert reward_mean reward_square"),
        ),
    )
)

MESSAGES = ("intent", "confidence", "allocation", "appetite")
"""Columns of an agent's state that the levels above it have decided."""

OWN = "own"
"""Group of the block's columns that settings add."""

REFERENCE = Layout((("reference", _names("reference reference_view")),))
"""What the reference policy holds of an instrument (`features.reference`), where there is one: its conviction in
[-1, 1], and the raw action by which a specialist says the same (`agents.action_maps.views`)."""


def block_layout(settings: Settings) -> Layout:
    """One instrument's market block: the built-in columns, those of `features.own.instrument`, and what the reference
    policy holds.

    Raises
    ------
    ConfigError
        When a built-in column has the name of one's own.
    """
    own = tuple(settings.features.own.instrument)
    _expect_new("instrument", own, BLOCK.names + INSTRUMENT_STATE.names + REFERENCE.names)
    groups = (*BLOCK.groups, (OWN, own)) if own else BLOCK.groups
    return Layout(groups + (REFERENCE.groups if settings.reference.exists else ()))


def instrument_layout(settings: Settings) -> Layout:
    """An instrument agent's observation: market block | private state."""
    return Layout(block_layout(settings).groups + INSTRUMENT_STATE.groups)


def _expect_new(key: str, own: tuple[str, ...], built_in: tuple[str, ...]) -> None:
    if both := set(own).intersection(built_in):
        raise ConfigError(f"features.own.{key}: {sorted(both)[0]} is a built-in column")


def pairs(symbols: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Pairs of instruments in the order of the upper triangle, row by row (`np.triu_indices(n, 1)`)."""
    return tuple(combinations(symbols, 2))


def domain_columns(domain: Domain, settings: Settings) -> tuple[str, ...]:
    """Market features of a domain by name, without those that read an instrument in a role that is not traded; those of
    `features.own.domains` after the others.

    Raises
    ------
    ConfigError
        When a built-in column has the name of one's own.
    """
    built_in = DOMAIN_COLUMNS.get(domain.name, OWN_DOMAIN_COLUMNS)
    own = tuple(settings.features.own.domains.get(domain.name, ()))
    _expect_new(f"domains.{domain.name}", own, built_in + SPECIALIST_STATE.names)
    return (*(name for name in built_in if ROLES_READ.get(name, frozenset()) <= settings.traded_roles), *own)


def domain_layout(domain: Domain, settings: Settings) -> Layout:
    """Market features of one domain, column by column; see `domain_columns`."""
    names: list[str] = []
    for column in domain_columns(domain, settings):
        if column.endswith(PER_INSTRUMENT):
            names += [column[:-1] + symbol for symbol in domain.symbols]
        else:
            names.append(column)
    return Layout((("domain", tuple(names)),))


def specialist_layout(domain: Domain, settings: Settings) -> Layout:
    """A specialist's observation: domain features | the block of each of its instruments | own state."""
    names = block_layout(settings).names
    blocks = tuple((symbol, tuple(f"{symbol}.{name}" for name in names)) for symbol in domain.symbols)
    return Layout(domain_layout(domain, settings).groups + blocks + SPECIALIST_STATE.groups)


def meta_layout(universe: Universe, returns_days: int) -> Layout:
    """The meta-controller's observation: portfolio | correlation | specialists | macro.

    returns_days: daily portfolio returns in it, newest last.
    """
    portfolio = (*(f"return_{age}" for age in range(returns_days - 1, -1, -1)), "volatility", "drawdown")
    correlation = tuple(f"corr_{a}_{b}" for a, b in pairs(universe.symbols))
    specialists = tuple(
        f"{measure}_{domain.name}" for measure in ("sharpe", "win_rate", "utilisation") for domain in universe.domains
    )
    return Layout((("portfolio", portfolio), ("correlation", correlation), ("specialists", specialists), *MACRO.groups))


def allocator_columns(symbols: tuple[str, ...]) -> tuple[int, ...]:
    """Where the allocator's columns stand in the blocks of all instruments side by side, (n * 50 columns)."""
    return tuple(
        asset * BLOCK.width + BLOCK.column(name)
        for _, names in ALLOCATOR_ASSET.groups
        for asset in range(len(symbols))
        for name in names
    )


def columns_by_asset(symbols: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Where each asset's columns stand in an allocator's observation, in the order of `ALLOCATOR_ASSET`."""
    names = allocator_layout(symbols).names
    return tuple(tuple(names.index(f"{symbol}.{name}") for name in ALLOCATOR_ASSET.names) for symbol in symbols)


def allocator_layout(symbols: tuple[str, ...]) -> Layout:
    """An allocator's observation, group by group: each group holds its columns of every asset."""
    return Layout(
        tuple(
            (group, tuple(f"{symbol}.{name}" for symbol in symbols for name in names))
            for group, names in ALLOCATOR_ASSET.groups
        )
    )
