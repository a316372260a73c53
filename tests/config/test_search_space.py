"""What a sweep may search: values of settings, checked against the settings before anything starts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.config.search_space import Categorical, Range, expect_perturbable, read_space, settings_with
from mtquant_rllib.errors import ConfigError

SETTINGS = Settings.load()
RATE = "recipe.learning_rate"
SPACE = """
recipe.learning_rate: {loguniform: [1e-4, 1e-2]}
recipe.gae_lambda: {uniform: [0.1, 0.95]}
recipe.n_epochs: {integers: [2, 10]}
recipe.batch_size: [256, 512, 1024]
networks.activation: {choice: [tanh, relu]}
"""


def test_four_learning_rates_are_one_text() -> None:
    space = read_space([f"{RATE}=1e-4,3e-4,1e-3,3e-3"], SETTINGS)
    assert space.grid() == [{RATE: rate} for rate in (1e-4, 3e-4, 1e-3, 3e-3)]
    assert space == read_space([f"{RATE}=[1e-4, 3e-4, 1e-3, 3e-3]"], SETTINGS)


def test_a_file_and_what_is_recorded_of_it_are_the_same_space(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    space = read_space([str(tmp_path / "space.yaml")], SETTINGS)
    assert read_space(space.declared(), SETTINGS) == space
    with_more = read_space([str(tmp_path / "space.yaml"), "recipe.clip_range=0.1,0.2"], SETTINGS)
    assert list(with_more.dimensions) == [*space.dimensions, "recipe.clip_range"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("recipe.lerning_rate=1e-4,1e-3", "unknown key; did you mean recipe.learning_rate?"),
        (f"{RATE}=1e-3,-1", r"recipe.learning_rate = -1: input should be greater than 0"),
        (f"{RATE}=1e-3,1e-3", "0.001 stands twice"),
        (f"{RATE}=1e-3", "expected a list of values, or one of"),
        (f"{RATE}=[]", "the list is empty"),
        (f"{RATE}={{loguniform: [0, 1]}}", "expected ends above 0"),
        (f"{RATE}={{uniform: [1e-2, 1e-3]}}", "expected a low end below the high one"),
        (f"{RATE}={{normal: [0, 1]}}", "expected a list of values, or one of"),
        ("recipe.gae_lambda={uniform: [0.1, 2]}", "less than or equal to 1"),
        ("recipe.n_epochs={integers: [1.5, 3]}", "expected whole numbers"),
        ("recipe.n_epochs={uniform: [2, 4.5]}", "valid integer"),
        ("seed=1,2,3", "every trial has the same seeds"),
        ("symbols.EURUSD.spread_bps=0,1", "judged at the same costs"),
        ("market.splits.train_until=2010-01-01,2012-01-01", "judged on the same validation bars"),
        ("no-such.yaml", "no config file"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_read(source: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_space([source], SETTINGS)


def test_a_setting_declared_twice_or_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="stands twice"):
        read_space([f"{RATE}=1e-4,1e-3", f"{RATE}=1e-2,1e-3"], SETTINGS)
    with pytest.raises(ConfigError, match="nothing to search"):
        read_space([], SETTINGS)


def test_draws_lie_in_the_space_and_do_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    space = read_space([str(tmp_path / "space.yaml")], SETTINGS)
    drawn = [space.draw(seed=3, number=number) for number in range(200)]
    assert drawn[7] == space.draw(seed=3, number=7) != space.draw(seed=4, number=7)
    rates = sorted(values[RATE] for values in drawn)
    assert 1e-4 <= rates[0] < rates[-1] <= 1e-2
    assert 0.4 < sum(rate < 1e-3 for rate in rates) / 200 < 0.6, "half of them below the middle of the logarithms"
    assert {values["recipe.n_epochs"] for values in drawn} == set(range(2, 11))
    assert {values["recipe.batch_size"] for values in drawn} == {256, 512, 1024}
    assert settings_with(SETTINGS, drawn[0]).recipe.learning_rate == drawn[0][RATE]


def test_a_grid_has_every_combination_and_no_ranges() -> None:
    two = read_space([f"{RATE}=1e-4,1e-3", "recipe.n_epochs={integers: [2, 4]}"], SETTINGS)
    assert [tuple(values.values()) for values in two.grid()] == [(rate, n) for rate in (1e-4, 1e-3) for n in (2, 3, 4)]
    with pytest.raises(ConfigError, match="has no grid; list its values"):
        read_space(["recipe.gae_lambda={uniform: [0, 1]}"], SETTINGS).grid()


def test_what_is_moved_stays_inside_and_near() -> None:
    rng, how = random.Random(0), SETTINGS.search.pbt
    rate = Range("loguniform", 1e-4, 1e-2)
    assert {rate.moved(1e-3, rng, how.factors) for _ in range(50)} == {1e-3 * factor for factor in how.factors}
    assert {rate.moved(1e-2, rng, how.factors) for _ in range(50)} == {8e-3, 1e-2}
    assert {Range("integers", 2, 10).moved(3, rng, how.factors) for _ in range(50)} == {2, 4}
    sizes = Categorical((256, 512, 1024), ordered=True)
    assert {sizes.moved(512, rng, how.factors) for _ in range(50)} == {256, 1024}
    assert {sizes.moved(1024, rng, how.factors) for _ in range(50)} == {512, 1024}
    assert {Categorical(("a", "b", "c"), ordered=False).moved("a", rng, how.factors) for _ in range(50)} == {
        "a",
        "b",
        "c",
    }


def test_a_population_searches_what_can_change_while_a_policy_learns() -> None:
    expect_perturbable(read_space([f"{RATE}=1e-4,1e-3", "recipe.entropy_coeff=0,0.01"], SETTINGS))
    with pytest.raises(ConfigError, match=r"recipe.train_batch_bars: a policy that learns cannot change it"):
        expect_perturbable(read_space(["recipe.train_batch_bars=4096,8192"], SETTINGS))
