"""Features of one's own, as docs/extending.md has them: columns that instruments and specialists see."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import written

from mtquant_rllib.agents.groups import agent_groups
from mtquant_rllib.config import Settings
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.prepared.data import prepare_embedded
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.features.building import build_features, content_hash
from mtquant_rllib.features.layout import block_layout, domain_layout
from mtquant_rllib.features.listing import list_features
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.policies.registry import build_policy, network_configs
from mtquant_rllib.portfolio.execution_data import ExecutionData
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.manifest import Manifest

BROKEN = """
import numpy as np

NUMBER = 3


def fails(bars):
    raise ValueError("boom")


def narrow(bars):
    return bars.close[:, 0]


def infinite(bars):
    return np.full(bars.shape, np.inf)


def never(bars):
    return np.full(bars.shape, np.nan)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (written(tmp_path) / "broken_features.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("my_features", "broken_features", "my_reference", "my_financing"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


@pytest.fixture
def market(walk: Callable[..., MarketData]) -> MarketData:
    return walk(600, masked=True)


@pytest.fixture
def own(home: Path) -> Settings:
    return Settings.load(home / "my_features.yaml")


@pytest.mark.slow
def test_they_are_what_their_formulas_say_and_change_no_other_column(own: Settings, market: MarketData) -> None:
    plain = Settings.load()
    without, table = (build_features(one, [market], None) for one in (plain, own))
    np.testing.assert_array_equal(table.block[:, :, :-1], without.block)
    width = without.domain[1].shape[1]
    np.testing.assert_array_equal(table.domain[1][:, :width], without.domain[1])
    gold = own.universe.symbols.index("XAUUSD")
    rows = np.flatnonzero(market.valid[:, gold])
    opens, close = market.bars[rows, gold, 0], market.bars[rows, gold, 3]
    for bar in (300, 411, len(rows) - 1):
        night = np.abs(opens[bar - 19 : bar + 1] - close[bar - 20 : bar]).sum()
        day = np.abs(close[bar - 19 : bar + 1] - opens[bar - 19 : bar + 1]).sum()
        assert table.block[rows[bar], gold, -1] == pytest.approx(2 * night / (night + day) - 1, abs=1e-6)
    assert table.domain[1][:, width].std() > 0.1


def test_instruments_and_specialists_see_them(own: Settings, market: MarketData) -> None:
    features, execution = build_features(own, [market], None), ExecutionData.build(own, [market])
    desk = Desk(own, execution, features, 2, EpisodeSetup())
    desk.reset(
        np.arange(2), [EpisodeDraw(start=start, stop=599, allocation=0.3, active_instrument=0) for start in (400, 500)]
    )
    seen = desk.observe_instruments()
    np.testing.assert_array_equal(seen[:, :, 50], features.block[[400, 500], :, 50])
    groups = {group.name: group.observation for group in agent_groups(own)}
    specialist = desk.observe_specialist(1)
    assert specialist.shape[1] == groups["commodities_specialist"].width
    np.testing.assert_array_equal(
        specialist[:, groups["commodities_specialist"].column("gold_against_oil")],
        features.domain[1][[400, 500], -1],
    )
    assert groups["instruments"].width == seen.shape[2]


def test_they_are_listed_with_what_they_say(own: Settings) -> None:
    listed = {name: (group, formula) for group, name, formula in list_features(own)}
    assert listed["night_share"][0] == "own"
    assert listed["night_share"][1].startswith("2 sum20")
    assert listed["gold_against_oil"][1].startswith("Return of gold")


def test_a_table_is_built_anew_when_the_code_changes(home: Path, own: Settings, market: MarketData) -> None:
    before = content_hash(own, [market])
    code = home / "my_features.py"
    code.write_text(code.read_text().replace("60)", "40)"))
    assert content_hash(own, [market]) != before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "override", "change"),
    [
        ("my_features.py", "features.own.instrument={own: 'my_features:night_share'}", ("20)", "40)")),
        ("my_reference.py", "reference={book: {'my_reference:quiet': 1}, where: always}", ("0.5", "0.25")),
        ("my_financing.py", "symbols.XAUUSD.financing={kind: 'my_financing:funding', markup_pct: 0}", ("31.0", "21.0")),
    ],
)
def test_a_market_is_prepared_anew_when_the_code_of_a_function_changes(
    home: Path, file: str, override: str, change: tuple[str, str]
) -> None:
    (home / "my_reference.py").write_text("import numpy as np\n\n\ndef quiet(bars):\n    return bars.close * 0 + 0.5\n")
    settings = Settings.load(overrides=[override, "embedded.train={paths: 1, years: 2}"])
    before = prepare_embedded(settings, home / "cache")
    assert prepare_embedded(settings, home / "cache") == before
    code = home / file
    assert change[0] in code.read_text()
    code.write_text(code.read_text().replace(*change))
    assert prepare_embedded(settings, home / "cache") != before


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("fails", "features.own.instrument.mine fails: ValueError: boom"),
        ("narrow", r"features.own.instrument.mine returns an array of shape"),
        ("infinite", "features.own.instrument.mine returns an infinite number"),
        ("NUMBER", "features.own.instrument.mine: broken_features:NUMBER is no function"),
        ("absent", "features.own.instrument.mine: broken_features:absent"),
    ],
)
def test_one_that_cannot_be_used_is_named(home: Path, market: MarketData, function: str, said: str) -> None:
    settings = Settings.load(overrides=[f"features.own.instrument={{mine: 'broken_features:{function}'}}"])
    with pytest.raises(ConfigError, match=said):
        build_features(settings, [market], None)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("features.own.instrument={a b: 'm:f'}", "is no name"),
        ("features.own.domains={crypto: {mine: 'm:f'}}", "no domain 'crypto'"),
    ],
)
def test_a_place_that_there_is_none_of_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings.load(overrides=[override])


def test_the_name_of_a_built_in_column_is_refused() -> None:
    settings = Settings.load(overrides=["features.own={instrument: {ret1: 'm:f'}, domains: {forex: {carry: 'm:f'}}}"])
    with pytest.raises(ConfigError, match=r"features.own.instrument: ret1 is a built-in column"):
        block_layout(settings)
    with pytest.raises(ConfigError, match=r"features.own.domains.forex: carry is a built-in column"):
        domain_layout(settings.universe.domains[0], settings)


@pytest.mark.slow
@pytest.mark.ray
def test_they_are_trained_on(all_extensions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(all_extensions)
    run = all_extensions / "runs" / "all"
    settings, learned = Manifest.read(run).load_settings(), module_states.read(run / "policies" / "phase_3")
    groups = {agent: group.observation for group in agent_groups(settings) for agent in group.agents}
    for agent, column in (("EURUSD", "night_share"), ("commodities_specialist", "gold_against_oil")):
        assert column in groups[agent].names
        policy = build_policy(network_configs(settings)[agent])
        policy.load_state_dict({key[7:]: torch.tensor(v) for key, v in learned[agent].items() if key[:7] == "policy."})
        assert policy(torch.zeros(1, groups[agent].width)).isfinite().all()
