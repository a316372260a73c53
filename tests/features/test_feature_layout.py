"""Widths are sums of named blocks, and they add up to what the networks were designed for."""

from __future__ import annotations

import pytest

from mtquant_rllib.agents.groups import agent_groups
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.features import layout
from mtquant_rllib.features.domains import DOMAIN_FEATURES, own_domain
from mtquant_rllib.features.listing import list_features
from mtquant_rllib.features.macro import macro_feature


def test_block_is_price_volume_technical_momentum() -> None:
    assert layout.BLOCK.widths == {"price": 15, "volume": 10, "technical": 15, "momentum": 10}
    assert layout.BLOCK.width == 50


def test_meta_observation_is_74_in_the_documents_order(settings: Settings) -> None:
    meta = layout.meta_layout(settings.universe, settings.desk.observation.returns_days)
    assert meta.widths == {"portfolio": 32, "correlation": 28, "specialists": 9, "macro": 5}
    assert meta.width == 74
    assert meta["correlation"] == slice(32, 60)
    assert meta.names[32] == "corr_EURUSD_GBPUSD"
    assert meta.names[60:63] == ("sharpe_forex", "sharpe_commodities", "sharpe_equity")


def test_domain_widths(settings: Settings) -> None:
    widths = {domain.name: layout.domain_layout(domain, settings).width for domain in settings.universe.domains}
    assert widths == {"forex": 8, "commodities": 6, "equity": 7}


def test_specialist_observation_is_domain_then_blocks_then_state(settings: Settings) -> None:
    forex = layout.specialist_layout(settings.universe.domain_named("forex"), settings)
    assert forex.width == 8 + 3 * 50 + 10
    assert forex["GBPUSD"] == slice(58, 108)
    assert layout.instrument_layout(settings).width == 50 + 11


def test_allocator_sees_fifty_columns_group_by_group() -> None:
    allocator = layout.allocator_layout(("EURUSD", "USDJPY", "XAUUSD", "WTIUSD", "SPX500"))
    assert allocator.widths == {"price": 15, "volume": 10, "technical": 15, "momentum": 10}
    assert allocator.names[:3] == ("EURUSD.ret5", "EURUSD.ret20", "EURUSD.pos60")
    assert set(layout.ALLOCATOR_ASSET.names) <= set(layout.BLOCK.names)


def test_an_assets_columns_are_the_ten_with_its_name() -> None:
    symbols = ("EURUSD", "USDJPY", "XAUUSD")
    names = layout.allocator_layout(symbols).names
    for symbol, columns in zip(symbols, layout.columns_by_asset(symbols), strict=True):
        assert [names[column] for column in columns] == [f"{symbol}.{name}" for name in layout.ALLOCATOR_ASSET.names]


@pytest.mark.parametrize(
    ("key", "width"),
    [
        ("meta_controller.state_dim", 74),
        ("specialists.forex.market_features_dim", 8),
        ("specialists.commodities.market_features_dim", 6),
        ("specialists.equity.market_features_dim", 7),
        ("specialists.equity.observation_dim", 50),
    ],
)
def test_the_documents_widths_are_what_the_layouts_come_to_and_others_are_refused(key: str, width: int) -> None:
    agent_groups(Settings.load("document.yaml"))
    agent_groups(Settings.load(overrides=[f"{key}={width}"]))
    with pytest.raises(ConfigError, match=rf"{key} = {width + 1}: the layout is {width} wide"):
        agent_groups(Settings.load(overrides=[f"{key}={width + 1}"]))


def test_every_column_has_a_function_and_every_function_a_column() -> None:
    for name, columns in layout.DOMAIN_COLUMNS.items():
        assert {item.name for item in DOMAIN_FEATURES[name]} == set(columns)
    assert {item.name for item in own_domain} == set(layout.OWN_DOMAIN_COLUMNS)
    assert {item.name for item in macro_feature} == set(layout.MACRO.names)


def test_a_person_can_list_what_every_feature_means(settings: Settings) -> None:
    lines = list_features(settings)
    assert all(group and name and formula for group, name, formula in lines)
    assert ("price", "ret1", "change of cum over 1 bar / s") in lines
