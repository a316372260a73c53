"""Universes other than the eight: fewer instruments by one line, a ninth by a row, a domain of its own by two; as
docs/extending.md has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_runs import SEVEN_DAYS, bars_file, written

from mtquant_rllib.agents.groups import agent_groups
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.features.building import build_features
from mtquant_rllib.features.layout import domain_columns
from mtquant_rllib.features.listing import list_features
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.market.calendar import financing_nights
from mtquant_rllib.market.importing.importers import load_market
from mtquant_rllib.market.synthetic import synthesise
from mtquant_rllib.portfolio.execution_data import LONG_FINANCING, ExecutionData
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.manifest import Manifest


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return written(tmp_path)


SUBSETS = [
    ["EURUSD", "GBPUSD", "USDJPY"],
    ["XAUUSD", "WTIUSD"],
    ["SPX500"],
    ["EURUSD", "XAUUSD", "NAS100"],
    ["USDJPY", "XAUUSD", "WTIUSD", "SPX500", "US30"],
]


@pytest.mark.parametrize("symbols", SUBSETS, ids="-".join)
def test_some_of_the_instruments_trade_on_the_bars_that_all_of_them_have(symbols: list[str]) -> None:
    some = Settings.load(overrides=[f"market.instruments=[{', '.join(symbols)}]"])
    assert some.universe.symbols == tuple(symbols)
    market = synthesise(some, n_paths=1, n_years=2.0, seed=1).markets[0]
    assert market.symbols == tuple(symbols)
    table = build_features(some, [market], None)
    assert table.block.shape[1] == len(symbols)
    widths = {group.name: group.observation.width for group in agent_groups(some)}
    domains = len(some.universe.domains)
    assert widths["meta_controller"] == 32 + len(symbols) * (len(symbols) - 1) // 2 + 3 * domains + 5
    listed = {name for group, name, _ in list_features(some)}
    for domain in some.universe.domains:
        assert set(domain_columns(domain, some)) <= listed
        assert domain_columns(domain, some), "every specialist sees something of its domain"


def test_no_domain_feature_reads_an_instrument_that_its_row_of_roles_does_not_name() -> None:
    """Each domain alone with the roles it may have: a feature that read another's bars would not find them."""
    for name, symbols in {"forex": "EURUSD", "commodities": "XAUUSD", "equity": "US30"}.items():
        some = Settings.load(overrides=[f"market.instruments=[{symbols}]"])
        (domain,) = some.universe.domains
        market = synthesise(some, n_paths=1, n_years=2.0, seed=1).markets[0]
        table = build_features(some, [market], None)
        assert table.domain[0].shape[1] == len(domain_columns(domain, some))
        assert domain.name == name


def test_what_stands_in_for_a_missing_series_has_to_be_traded() -> None:
    forex = Settings.load(overrides=["market.instruments=[EURUSD]"])
    metal = Settings.load(overrides=["market.instruments=[XAUUSD]", "features.roles.index=XAUUSD"])
    for settings, series, said in (
        (forex, "vix", "features.roles.index = SPX500"),
        (metal, "dxy", "dxy_proxy_weights"),
    ):
        market = synthesise(settings, n_paths=1, n_years=2.0, seed=1).markets[0]
        market.macro[:, market.macro_columns.index(series)] = np.nan
        with pytest.raises(ConfigError, match=f"no macro series '{series}', and .*{said}"):
            build_features(settings, [market], None)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("market.instruments=[EURUSD, GOLD]", "no specialist trades GOLD; there are EURUSD"),
        ("market.instruments=[]", "expected one instrument at least"),
        ("market.instruments=[EURUSD, EURUSD]", "EURUSD stands there more than once"),
        ("specialists.equity.instruments=[SPX500, US30, SPX500]", "specialists.equity trades SPX500 twice"),
        ("specialists.equity.instruments=[EURUSD]", "trades EURUSD beside specialists.forex"),
        ("specialists.equity.instruments=[DAX]", "trades DAX, which has no row under symbols"),
        (
            "specialists={cry/pto: {instruments: [US30], hidden_dim: 8}, equity: {instruments: []}}",
            "'cry/pto' is no name",
        ),
        (
            "specialists={desk: {instruments: [US30], hidden_dim: 8}, equity: {instruments: []}}",
            "'desk' is the name of",
        ),
    ],
)
def test_what_nobody_can_trade_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings.load(overrides=[override])


@pytest.mark.parametrize("name", ["BTC/USD", "forex_specialist", "instruments", "equity_instruments", "allocator"])
def test_an_instrument_has_a_name_that_no_agent_has(home: Path, name: str) -> None:
    text = (home / "my_crypto.yaml").read_text().replace("BTCUSD", name)
    (home / "odd.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"symbols: '{name}' is"):
        Settings.load(home / "odd.yaml")


def test_an_allocator_trades_its_assets_and_no_others() -> None:
    with pytest.raises(ConfigError, match=r"an allocator trades allocator\.assets"):
        Settings.load("allocator.yaml", ["market.instruments=[EURUSD]"])


def test_a_domain_without_instruments_is_left_out_of_the_table_too() -> None:
    settings = Settings.load(overrides=["specialists.forex.instruments=[]"])
    assert [domain.name for domain in settings.universe.domains] == ["commodities", "equity"]
    with pytest.raises(ConfigError, match=r"synthetic\.macro\.dxy\.currency = EURUSD: no specialist trades it"):
        synthesise(settings, n_paths=1, n_years=2.0, seed=1)


def test_a_repair_leaves_the_weekends_of_what_is_traded_on_seven_days(home: Path) -> None:
    settings = Settings.load(home / "my_crypto.yaml", ["market.instruments=[EURUSD, BTCUSD]"])
    path = bars_file(home, {"EURUSD": SEVEN_DAYS, "BTCUSD": SEVEN_DAYS}, years=1)
    market, report = load_market(settings, path, None, repair=True)
    kept = market.valid.sum(axis=0)
    assert kept.tolist() == [261, 365], "EURUSD's weekends are part of its Mondays"
    assert any("weekend" in kind for file in report.files for kind in file.repairs)


def test_what_is_traded_on_seven_days_is_financed_on_seven() -> None:
    timestamps = np.datetime64("2024-01-01", "s") + np.arange(15) * np.timedelta64(1, "D")
    nights = financing_nights(timestamps, True, ["Wed", None])
    assert nights[1:8, 1].tolist() == [1] * 7
    assert nights[1:8, 0].tolist() == [1, 1, 3, 1, 1, 0, 0], "Monday's night is paid on Tuesday's row"
    assert nights[8:].sum(axis=0).tolist() == [7, 7]


def test_an_index_in_another_currency_is_financed_at_that_currencys_rate(home: Path) -> None:
    settings = Settings.load(home / "my_index.yaml")
    timestamps = np.arange("2020-01-06", "2020-01-18", dtype="datetime64[D]").astype("datetime64[s]")
    n = settings.universe.n_instruments
    market = MarketData(
        symbols=settings.universe.symbols, timestamps=timestamps, bars=np.full((len(timestamps), n, 5), 1.5),
        valid=np.ones((len(timestamps), n), dtype=bool), macro=np.full((len(timestamps), 1), 4.0),
        macro_columns=("rate_3m",), stale_open=np.zeros((len(timestamps), n), dtype=bool),
        volume_proxy=np.zeros(n, dtype=bool), daily=True,
    )  # fmt: skip
    paid = np.asarray(ExecutionData.build(settings, [market]).money[:, LONG_FINANCING])
    row, new = settings.symbols["GER40"], settings.universe.symbols.index("GER40")
    # The euro's policy rate at the end of 2019 was 0; the dollar's short rate of the market is 4.
    per_year = 0.0 - row.financing.dividend_pct + row.financing.markup_pct
    assert paid[1, new] == pytest.approx(per_year / 100 / settings.desk.account.day_count, rel=1e-12)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("symbol", ["GER40", "BTCUSD"])
def test_a_ninth_instrument_and_a_domain_of_its_own_that_trades_at_weekends_train_and_are_judged(
    all_extensions: Path, symbol: str
) -> None:
    manifest = Manifest.read(all_extensions / "runs" / "all")
    domains = manifest.load_settings().universe.domains
    assert [domain.name for domain in domains] == ["forex", "commodities", "equity", "crypto"]
    assert [record.status for record in manifest.phases.values()] == ["done"] * 3
    assert symbol in module_states.read(all_extensions / "runs" / "all" / "policies" / "phase_3")
    assert symbol in (all_extensions / "report.json").read_text()
