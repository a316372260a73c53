"""Prepared markets by what they hold and not by what made them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.env import data
from mtquant_rllib.features import building

SMALL = [f"embedded.{split}={{paths: 2, years: 3}}" for split in ("train", "validation", "test")]


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
