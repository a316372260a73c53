"""What a run leaves behind: module states, manifest, curves in which no iteration stands twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.market.splits import NAMES
from mtquant_rllib.training import preparation
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.manifest import Manifest, MarketRecord
from mtquant_rllib.training.reporting.curve_files import append_row, truncated_csv
from mtquant_rllib.training.reporting.progress import clock
from mtquant_rllib.training.reporting.result_files import mend, truncated_jsonl


def two_modules() -> dict[str, dict[str, np.ndarray]]:
    return {"a": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": {"w": np.zeros(2), "n": np.array(3)}}


def test_module_states_come_back_as_they_were(tmp_path: Path) -> None:
    hashes = module_states.write(tmp_path / "best", two_modules(), bars=7)
    back = module_states.read(tmp_path / "best")
    assert {name: module_states.sha256(state) for name, state in back.items()} == hashes
    assert module_states.index(tmp_path / "best")["bars"] == 7
    assert list(module_states.read(tmp_path / "best", ["b"])) == ["b"]


def test_a_hash_sees_a_bit_a_shape_and_a_name() -> None:
    base = {"w": np.zeros((2, 3), np.float32)}
    changed = base["w"].copy()
    changed[1, 2] = 1e-30
    for other in ({"w": changed}, {"w": base["w"].reshape(3, 2)}, {"v": base["w"]}, {"w": base["w"].astype(float)}):
        assert module_states.sha256(other) != module_states.sha256(base)


def test_a_damaged_or_missing_state_is_refused(tmp_path: Path) -> None:
    module_states.write(tmp_path / "best", two_modules())
    with pytest.raises(RunError, match=r"no state of c; there are a, b"):
        module_states.read(tmp_path / "best", ["c"])
    with open(tmp_path / "best" / "a.npz", "wb") as file:
        np.savez(file, w=np.ones((2, 3), np.float32))
    with pytest.raises(RunError, match="damaged"):
        module_states.read(tmp_path / "best")
    with pytest.raises(RunError, match="no module states here"):
        module_states.read(tmp_path)


def begun(tmp_path: Path, *overrides: str) -> Manifest:
    market = MarketRecord(kind="synthetic", data=str(tmp_path / "cache" / "embedded-0123"))
    return Manifest.begin("one", Settings.load(overrides=overrides), market, 0.5, [1, 2, 3])


def test_a_manifest_carries_the_whole_of_the_settings(tmp_path: Path) -> None:
    begun(tmp_path).write(tmp_path / "one")
    back = Manifest.read(tmp_path / "one")
    assert back.load_settings() == Settings.load()
    assert back.market.content == "embedded-0123"
    assert [record.status for record in back.phases.values()] == ["pending"] * 3
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        ".mtquant-run",
        "manifest.json",
        "manifest.backup.json",
    }


def test_settings_that_a_manifest_lacks_are_named_and_not_guessed(tmp_path: Path) -> None:
    manifest = begun(tmp_path)
    del manifest.settings["recipe"]["gae_lambda"]
    with pytest.raises(ConfigError, match=r"recipe\.gae_lambda: missing"):
        manifest.load_settings()


def test_a_folder_that_is_no_run_names_those_that_are(tmp_path: Path) -> None:
    begun(tmp_path).write(tmp_path / "one")
    with pytest.raises(RunError, match=r"no such run folder; the runs in .* are one"):
        Manifest.read(tmp_path / "two")
    (tmp_path / "half").mkdir()
    with pytest.raises(RunError, match=r"no manifest\.json"):
        Manifest.read(tmp_path / "half")
    (tmp_path / "half" / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(RunError, match="it was changed after it was written"):
        Manifest.read(tmp_path / "half")


def test_a_restored_curve_loses_what_comes_again_and_half_a_row() -> None:
    text = "bars,iteration\n10,1\n20,2\n30,3\n40,4\n5"
    assert truncated_csv(text, "iteration", 3) == "bars,iteration\n10,1\n20,2\n"
    assert truncated_csv("bars,iteration\n10,1\n10,1\n20,2\n", "iteration", 9) == "bars,iteration\n10,1\n20,2\n"
    assert truncated_csv("", "iteration", 3) == ""


def test_restored_json_lines_lose_what_comes_again() -> None:
    lines = [json.dumps({"i": i}) for i in (1, 2, 3)]
    assert truncated_jsonl("\n".join(lines) + "\n" + '{"i": 4', "i", 3) == lines[0] + "\n" + lines[1] + "\n"


def test_time_left_reads_like_a_clock() -> None:
    assert [clock(s) for s in (5, 65, 3725, float("nan"))] == ["0:05", "1:05", "1:02:05", "?"]


@pytest.mark.slow
def test_a_market_that_comes_out_otherwise_today_is_blamed_on_bars_or_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTQUANT_CACHE", str(tmp_path))
    settings = Settings.load(overrides=[f"embedded.{split}={{paths: 1, years: 3}}" for split in NAMES])
    began = MarketRecord(kind="synthetic", data="/gone/market-1")
    with pytest.raises(RunError, match=r"its bars, or the version of the code .* which lay in /gone/market-1"):
        preparation.restored(settings, began)
    began.arrays = preparation.prepare(settings, None, None).arrays
    assert preparation.restored(settings, began).arrays == began.arrays, "only its name is another"
    began.arrays = "f00"
    with pytest.raises(RunError, match="are not those of then"):
        preparation.restored(settings, began)


def test_a_column_that_comes_later_is_added_to_a_curve_and_empty_before(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    append_row(path, {"iteration": 1, "bars": 10})
    append_row(path, {"iteration": 2, "bars": 20, "forex_specialist/kl": 0.5})
    append_row(path, {"iteration": 3, "entropy": 1.5})
    assert path.read_text().splitlines() == [
        "iteration,bars,forex_specialist/kl,entropy",
        "1,10,,",
        "2,20,0.5,",
        "3,,,1.5",
    ]


def test_a_curve_is_mended_from_checkpoints_and_says_what_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "curves" / "phase_1_forex.csv"
    path.parent.mkdir()
    rows = {n: {"iteration": str(n), "bars": str(100 * n), "kl": str(0.1 * n)} for n in range(1, 6)}
    for row in rows.values():
        append_row(path, row)
    whole = path.read_text()
    assert mend(path, {}, 5) is None
    assert mend(path, {4: rows[4], 5: rows[5]}, 4) is None, "what comes after the checkpoint is made again anyway"
    path.write_text(whole[: whole.index("5,500") + 7])
    told = mend(path, {4: rows[4], 5: rows[5]}, 5)
    assert told is not None
    assert "1 of 5 rows were damaged or missing; 1 are put back" in told
    assert path.read_text() == whole
    path.write_text(whole[:-2])
    assert mend(path, {5: rows[5]}, 5) is not None, "half of the last number is a number too"
    assert path.read_text() == whole
    path.write_text(whole.replace("2,200,0.2", "2\x00,2"))
    told = mend(path, {5: rows[5]}, 5)
    assert told is not None
    assert "0 are put back, 1 are lost" in told
    path.unlink()
    assert mend(path, rows, 5) is not None
    assert path.read_text() == whole
