"""Every shipped config loads, wrong keys are refused with the nearest right one, and the document's numbers are the
document's."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.config.loader import configs_dir
from mtquant_rllib.errors import ConfigError

RUNNABLE = [path.name for path in sorted(configs_dir().glob("*.yaml")) if "extends:" in path.read_text()]


@pytest.mark.parametrize("name", ["default.yaml", *RUNNABLE])
def test_every_shipped_config_loads(name: str) -> None:
    settings = Settings.load(name)
    assert settings.universe.n_instruments == len(settings.instruments)


def test_there_are_variants() -> None:
    assert {"document.yaml", "laptop.yaml", "planted.yaml", "null.yaml"} <= set(RUNNABLE)


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("training.n_epoch=3", "training.n_epochs"),
        ("portfolio_risk.max_sector_allocation=40", "0.4"),
        ("sed=1", "seed"),
        ("gae_lambda=0.9", "training.gae_lambda"),
        ("sac.critic.slope=false", "slope_penalty"),
        ("features.regimes.window_bars=1", "greater than or equal to 2"),
    ],
)
def test_a_wrong_key_or_value_is_refused_with_what_was_meant(override: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint.replace(".", r"\.")):
        Settings.load(overrides=[override])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["networks.attention.heads=7"], "networks.attention: value error, width 256 must be a multiple of heads 7"),
        (["allocator.assets=[EURUSD, EURUSD]"], "allocator: value error, assets: an asset stands twice"),
        (["allocator.assets=[SPX500, XAUUSD, BTCUSD]"], "value error, allocator.assets: no specialist trades BTCUSD"),
        (["specialists.forex.type=Equity"], "value error, specialists.forex.type = Equity: expected ForexSpecialist"),
    ],
)
def test_a_section_that_contradicts_itself_is_named_and_not_printed(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.load("allocator.yaml", overrides)
    message = str(caught.value)
    assert message.startswith(f"allocator.yaml: {said}")
    assert len(message) < 250


def test_an_asset_of_the_base_config_is_left_out_of_sixty_forty_by_a_share_of_nothing() -> None:
    chosen = ["allocator.assets=[EURUSD, GBPUSD]", "features.roles.index=EURUSD"]
    with pytest.raises(ConfigError, match="expected shares of EURUSD, GBPUSD"):
        Settings.load("allocator.yaml", chosen)
    mix = "allocator.sixty_forty={EURUSD: 0.6, GBPUSD: 0.4, SPX500: 0, XAUUSD: 0}"
    assert Settings.load("allocator.yaml", [*chosen, mix]).universe.symbols == ("EURUSD", "GBPUSD")


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("extends: default.yaml\nseed: 1\nseed: 2\n")
    with pytest.raises(ConfigError, match="stands twice"):
        Settings.load(tmp_path / "twice.yaml")


def test_a_file_that_extends_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").write_text("extends: loop.yaml\n")
    with pytest.raises(ConfigError, match="extends itself"):
        Settings.load(tmp_path / "loop.yaml")


def test_settings_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        Settings.load().seed = 3  # type: ignore[misc]


def test_a_variant_shows_only_its_difference(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: default.yaml\ndesk:\n  decision:\n    vol_target_ann: 0.1\n")
    mine, base = Settings.load(tmp_path / "mine.yaml"), Settings.load()
    assert mine.desk.decision.vol_target_ann == 0.1
    assert mine.desk.decision.logit_scale == base.desk.decision.logit_scale


def test_agents_yaml_carries_the_documents_keys_and_values() -> None:
    settings = Settings.load("document.yaml")
    meta = settings.meta_controller
    assert (meta.state_dim, meta.hidden_dim, meta.hidden_dim_2, meta.dropout, meta.learning_rate) == (
        74,
        256,
        128,
        0.2,
        3e-4,
    )
    assert [row.market_features_dim for row in settings.specialists.values()] == [8, 6, 7]
    risk = settings.portfolio_risk
    assert (risk.max_portfolio_var, risk.max_correlation_exposure, risk.max_sector_allocation) == (0.02, 0.7, 0.4)
    training = settings.training
    assert (training.phase_1_timesteps, training.phase_2_timesteps, training.phase_3_timesteps) == (
        500_000,
        300_000,
        1_000_000,
    )
    assert (training.batch_size, training.n_epochs, training.gamma, training.gae_lambda, training.clip_range) == (
        256,
        10,
        0.99,
        0.95,
        0.2,
    )
