"""Prepared markets by what they hold and not by what made them: found again, checked, and made again from a recipe."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markets import smooth

from mtquant_rllib.config import Settings
from mtquant_rllib.config.environment import EnvironmentConfig
from mtquant_rllib.env.core_factory import core_for
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.multi_agent import desk_env
from mtquant_rllib.env.prepared import data
from mtquant_rllib.env.prepared.files import arrays_hash, file_hashes, verify_prepared
from mtquant_rllib.env.prepared.source import open_market
from mtquant_rllib.errors import MarketDataError, MtquantError, RunError
from mtquant_rllib.features import building
from mtquant_rllib.training import preparation
from mtquant_rllib.training.algorithm.validation import make_validator

SMALL = [f"embedded.{split}={{paths: 2, years: 3}}" for split in ("train", "validation", "test")]


@pytest.mark.slow
def test_arrays_have_one_hash_whatever_code_made_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepared(cache: str, *overrides: str) -> tuple[str, str]:
        folder = data.prepare_embedded(Settings.load(overrides=[*SMALL, *overrides]), tmp_path / cache)
        return folder.name, data.describe(folder)["arrays_hash"]

    name, arrays = prepared("a")
    assert prepared("b") == (name, arrays)
    other_market = prepared("a", "embedded.seed=99")
    assert other_market[0] != name
    assert other_market[1] != arrays
    for module in (data, building):
        monkeypatch.setattr(module, "_code_version", lambda: "another")
    renamed = prepared("a")
    assert renamed[0] != name
    assert renamed[1] == arrays


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("MTQUANT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def config_of(settings: Settings, record: Any, **others: Any) -> EnvironmentConfig:
    """An environment on a market."""
    return EnvironmentConfig(settings=settings, data=record.data, market=record.recipe, **{"phase": 3, **others})


def flip(path: Path, place: int = -20) -> None:
    """Another byte where one was."""
    with path.open("r+b") as file:
        file.seek(place, 2)
        byte = file.read(1)
        file.seek(place, 2)
        file.write(bytes([byte[0] ^ 0x40]))


@pytest.mark.slow
def test_an_environment_finds_its_market_where_it_lies_now(home: Path, tmp_path: Path) -> None:
    settings = Settings.load(overrides=SMALL)
    record = preparation.prepare(settings, None, None)
    config = config_of(settings, record)
    money = np.array(open_market(config).execution.money)

    moved = tmp_path / "elsewhere" / Path(record.data).name
    config = config.model_copy(update={"data": moved})
    assert open_market(config).features.folder.is_relative_to(home), "the folder of that name in the cache"

    shutil.rmtree(home)
    again = open_market(config)
    assert again.features.folder.is_relative_to(home), "prepared again"
    assert np.array_equal(again.execution.money, money)
    assert len(open_market(config, "test").execution.day) == len(
        data.DeskData.open(Path(record.data), "test").execution.day
    )

    shutil.rmtree(home)
    with pytest.raises(RunError, match="not those of then"):
        open_market(config.model_copy(update={"market": record.recipe.model_copy(update={"arrays": "f00"})}))
    shutil.rmtree(home)
    with pytest.raises(RunError, match="no record of its bars; prepare it again"):
        open_market(config.model_copy(update={"market": None}))


@pytest.mark.slow
def test_an_environment_is_built_from_a_configuration_whose_arrays_are_gone(home: Path) -> None:
    """What a checkpoint does that was moved to another machine."""
    settings = Settings.load(overrides=SMALL)
    config = config_of(settings, preparation.prepare(settings, None, None), phase=1, domain="forex").plain()
    first, _ = desk_env(config).reset(seed=3)
    shutil.rmtree(home)
    again, _ = desk_env(config).reset(seed=3)
    assert all(np.array_equal(first[agent], again[agent]) for agent in first)
    shutil.rmtree(home)
    assert make_validator(config)


@pytest.mark.slow
def test_bars_that_are_gone_too_are_named(home: Path, tmp_path: Path) -> None:
    settings = Settings.load(overrides=SMALL)
    record = preparation.prepare(settings, None, None)
    recipe = record.recipe.model_copy(update={"kind": "file", "bars": str(tmp_path / "daily.parquet")})
    shutil.rmtree(home)
    with pytest.raises(RunError, match=r"so is .*daily\.parquet.*put the file back there"):
        open_market(config_of(settings, record).model_copy(update={"market": recipe}))


@pytest.mark.slow
@pytest.mark.parametrize("file", ["block.npy", "execution_money.npy", "execution_scalars.npz", "table.json"])
def test_one_other_byte_of_any_file_is_noticed_and_named(home: Path, file: str) -> None:
    folder = data.prepare_embedded(Settings.load(overrides=SMALL))
    verify_prepared(folder)
    path = next(folder.rglob(file))
    flip(path)
    with pytest.raises(RunError, match=f"{file} .holds other bytes"):
        verify_prepared(folder)
    path.unlink()
    with pytest.raises(RunError, match=f"{file} .missing"):
        verify_prepared(folder)


@pytest.mark.slow
def test_folders_that_know_one_hash_of_all_arrays_are_checked_by_it(home: Path) -> None:
    folder = data.prepare_embedded(Settings.load(overrides=SMALL))
    index = json.loads((folder / "data.json").read_text())
    assert index["arrays_hash"] == arrays_hash(file_hashes(folder))
    del index["files"]
    (folder / "data.json").write_text(json.dumps(index))
    verify_prepared(folder)
    flip(next(folder.rglob("sizing.npy")))
    with pytest.raises(RunError, match="a file in it is damaged"):
        verify_prepared(folder)


@pytest.mark.slow
def test_a_session_sets_a_damaged_market_aside_and_prepares_it_again(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings.load(overrides=SMALL)
    record = preparation.prepare(settings, None, None)
    assert preparation.restored(settings, record) == record
    flip(next(Path(record.data).rglob("block.npy")))
    with caplog.at_level(logging.WARNING):
        again = preparation.restored(settings, record)
    assert again == record, "the same arrays under the same name"
    verify_prepared(Path(again.data))
    (aside,) = home.glob("*.damaged-*")
    assert aside.name in caplog.text
    assert "block.npy (holds other bytes)" in caplog.text
    with pytest.raises(RunError):
        verify_prepared(aside)


@pytest.mark.slow
def test_a_folder_that_bears_no_index_of_ours_is_left_alone(home: Path, tmp_path: Path) -> None:
    settings = Settings.load(overrides=SMALL)
    record = preparation.prepare(settings, None, None)
    strangers = tmp_path / "photos"
    strangers.mkdir()
    (strangers / "data.json").write_text("[]")
    again = preparation.restored(settings, record.model_copy(update={"data": str(strangers)}))
    assert again.data == record.data
    assert (strangers / "data.json").read_text() == "[]"


@pytest.mark.slow
def test_half_a_folder_in_the_cache_makes_room(home: Path) -> None:
    """What is left when the machine went down before the index was on the disk."""
    settings = Settings.load(overrides=SMALL)
    record = preparation.prepare(settings, None, None)
    (Path(record.data) / "data.json").unlink()
    assert preparation.restored(settings, record) == record
    assert len([*home.glob("*.damaged-*")]) == 1


@pytest.mark.slow
def test_a_market_with_a_number_that_is_none_is_not_prepared(
    home: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = data.ExecutionData.build

    def broken(*args: Any) -> Any:
        execution = build(*args)
        execution.money[len(execution.day) - 7, 4, 2] = np.nan
        return execution

    monkeypatch.setattr(data.ExecutionData, "build", broken)
    with pytest.raises(
        MarketDataError, match=rf"array money: row \d+ .* of {settings.universe.symbols[2]}, close, is nan"
    ):
        data.prepare_embedded(Settings.load(overrides=SMALL))
    assert not [*home.glob("embedded-*")], "half a market is no market"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"), [("block", "array block"), ("_money", "array money"), ("_sizing", "array sizing")]
)
def test_a_row_that_went_bad_is_not_blamed_on_the_policy(settings: Settings, name: str, said: str) -> None:
    desk_data = data.DeskData.of(settings, smooth(settings, n_paths=1))
    desk: Any = core_for(settings, desk_data, 2, EpisodeSetup())
    start = desk_data.segments[0].start
    desk.reset(np.arange(2), [EpisodeDraw(start, start + 50, 0.5, 0), EpisodeDraw(start + 9, start + 50, 0.5, 0)])
    array = getattr(desk._rows, name).copy()
    array[start + 9] = np.nan
    setattr(desk._rows, name, array)
    desk.observe_meta()
    weights = np.zeros((2, settings.universe.n_instruments))
    weights[1] = np.nan
    with pytest.raises(MtquantError, match=rf"{said} .*row {start + 9}") as error:
        desk.advance_with_weights(weights)
    assert "policy" not in str(error.value)


@pytest.mark.slow
def test_a_policy_that_gives_no_number_is_told_from_a_bad_market(settings: Settings) -> None:
    desk_data = data.DeskData.of(settings, smooth(settings, n_paths=1))
    desk: Any = core_for(settings, desk_data, 2, EpisodeSetup())
    start = desk_data.segments[0].start
    desk.reset(np.arange(2), [EpisodeDraw(start, start + 50, 0.5, 0)] * 2)
    desk.decide_meta(np.full((2, settings.universe.n_domains + 1), np.nan))
    with pytest.raises(MtquantError, match="has a policy diverged"):
        desk.advance()


@pytest.mark.slow
def test_other_bars_under_the_same_name_are_not_taken_for_those_of_then(home: Path, tmp_path: Path) -> None:
    if "MTQUANT_BARS" not in os.environ:
        pytest.skip("MTQUANT_BARS is not set: no folder of real bars")
    source, bars = Path(os.environ["MTQUANT_BARS"]) / "daily.parquet", tmp_path / "bars.parquet"
    shutil.copyfile(source, bars)
    settings = Settings.load()
    record = preparation.prepare(settings, bars, None)
    shutil.rmtree(home)
    assert preparation.restored(settings, record) == record, "prepared again from the file"
    shutil.rmtree(home)
    table = pd.read_parquet(bars)
    table.iloc[: len(table) - 40].to_parquet(bars)
    with pytest.raises(RunError, match=r"bars\.parquet: prepared again it is bars-.*are not those of then"):
        preparation.restored(settings, record)
