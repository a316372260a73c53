"""What is left of a run's records after cut cables, flipped bits, full disks and kills: named, and survived."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from run_files import begun, modules, refused, snapshot
from writers import Writers, started

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records import damage_warnings, manifest_file, module_states, ownership
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.reporting.learning_curves import plot_learning_curves

FLIPS = 400
KILLS = 6


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a phase behind it, its backup one write older."""
    run = tmp_path / "one"
    begun().write(run)
    return run


@pytest.fixture(scope="module")
def writers() -> Iterator[Writers]:
    with started() as there:
        yield there


@pytest.fixture(autouse=True)
def fresh_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are shown once a process; every test is one."""
    monkeypatch.setattr(damage_warnings, "_said", set())


def cut(content: bytes) -> Iterator[bytes]:
    """The content cut off at every 37th byte."""
    yield from (content[:length] for length in range(0, len(content), 37))


def flipped(content: bytes) -> Iterator[bytes]:
    """The content with one random bit of it flipped, many times over."""
    draw = random.Random(4)
    for _ in range(FLIPS):
        spoilt = bytearray(content)
        spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
        yield bytes(spoilt)


@pytest.mark.slow
def test_a_manifest_that_was_cut_off_anywhere_is_named_and_its_second_copy_used(
    run: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path, wanted, tree = run / manifest_file.FILE, Manifest.read(run).model_dump(), manifest_file.load(run)
    for content in cut(path.read_bytes()):
        path.write_bytes(content)
        assert manifest_file.load(run) == tree
    assert Manifest.read(run).model_dump() == wanted
    said = capsys.readouterr().err
    assert f"warning: {path}: is damaged" in said
    assert "manifest.backup.json is used in its place, as of" in said
    assert str(path) in caplog.text, "logged too"


@pytest.mark.slow
def test_a_manifest_with_a_flipped_bit_is_never_read_as_another(run: Path) -> None:
    path, wanted, outcomes = run / manifest_file.FILE, manifest_file.load(run), {"read": 0, "refused": 0}
    for content in flipped(path.read_bytes()):
        path.write_bytes(content)
        try:
            assert manifest_file.load(run) == wanted
            outcomes["read"] += 1
        except RunError as error:
            # JSON still, which a person could have written.
            assert "was changed after it was written" in str(error)  # noqa: PT017
            assert str(path) in str(error)  # noqa: PT017
            outcomes["refused"] += 1
    assert min(outcomes.values()) > FLIPS / 10, outcomes


def test_a_lost_manifest_is_named_and_healed_by_the_next_write(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / manifest_file.FILE).unlink()
    manifest = Manifest.read(run)
    assert "manifest.json: is missing; manifest.backup.json is used" in capsys.readouterr().err
    manifest.write(run)
    shutil.copy(run / manifest_file.FILE, run / "kept")
    (run / manifest_file.BACKUP).unlink()
    assert Manifest.read(run).model_dump() == manifest.model_dump()
    assert not capsys.readouterr().err


@pytest.mark.slow
def test_a_run_whose_copies_are_both_damaged_is_refused_and_both_are_named(run: Path) -> None:
    for first, second in ((b"{", b""), (None, b"[]"), (b"\xff\xfe", None), (b"5", b'{"format": 1}'), (None, None)):
        for name, content in ((manifest_file.FILE, first), (manifest_file.BACKUP, second)):
            (run / name).unlink(missing_ok=True)
            if content is not None:
                (run / name).write_bytes(content)
        said = refused(lambda: Manifest.read(run))
        assert "manifest.json " in said
        assert "manifest.backup.json" in said
        if (run / manifest_file.FILE).exists():
            assert "this run exists" in refused(lambda: begun(seed=5).write(run)), "and no new one is begun over it"


def test_a_manifest_that_was_edited_is_refused_with_what_was_changed_and_taken_on_trust(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / manifest_file.FILE
    tree = json.loads(path.read_text())
    tree["seed"], tree["settings"]["recipe"]["environments"] = 5, 1
    path.write_text(json.dumps(tree))
    said = refused(lambda: Manifest.read(run))
    assert "seed is 5 and was 0" in said
    assert "settings.recipe.environments is 1 and was" in said
    assert "no longer what it was" in said
    del tree["checksum"]
    path.write_text(json.dumps(tree))
    assert "seed is 5 and was 0" in refused(lambda: Manifest.read(run)), "nor by leaving out the checksum"
    (run / manifest_file.BACKUP).unlink()
    tree["checksum"] = "0" * 64
    path.write_text(json.dumps(tree))
    assert "differs from its checksum" in refused(lambda: Manifest.read(run))

    trusted = Manifest.read(run, trust=True)
    assert trusted.seed == 5
    assert "on trust" in capsys.readouterr().err
    trusted.write(run)
    assert Manifest.read(run).seed == 5


def test_the_manifest_of_another_run_is_not_taken_for_this_ones(run: Path, tmp_path: Path) -> None:
    begun(seed=5).write(tmp_path / "two")
    shutil.copy(tmp_path / "two" / manifest_file.FILE, run / manifest_file.FILE)
    assert "that of another run" in refused(lambda: Manifest.read(run))
    assert Manifest.read(run, trust=True).seed == 5
    shutil.copytree(tmp_path / "two", tmp_path / "copy")
    assert Manifest.read(tmp_path / "copy").seed == 5, "a copied run is a run"


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [cut, flipped])
def test_damaged_module_states_are_named_and_never_read_as_others(run: Path, spoil: object) -> None:
    folder = run / "policies" / "phase_1"
    hashes = module_states.write(folder, modules(1))
    path = folder / "a.npz"
    whole = path.read_bytes()
    refusals, spoilt = 0, list(spoil(whole))  # type: ignore[operator]
    for content in spoilt:
        path.write_bytes(content)
        try:
            # Some bytes of a zip archive mean nothing: dates, say.
            assert module_states.sha256(module_states.read(folder)["a"]) == hashes["a"]
        except RunError as error:
            assert str(path) in str(error)  # noqa: PT017
            refusals += 1
    assert refusals > len(spoilt) / 2 > 50
    path.unlink()
    assert f"{path}: this file of module states is missing" in refused(lambda: module_states.read(folder))


def test_an_index_of_states_that_was_cut_off_is_named_kept_and_written_anew(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run / "policies" / "phase_1"
    module_states.write(folder, modules(1))
    content = (folder / "index.json").read_bytes()
    for spoilt in cut(content):
        (folder / "index.json").write_bytes(spoilt)
        assert str(folder) in refused(lambda: module_states.read(folder))
    hashes = module_states.write(folder, modules(2))
    assert "kept as phase_1.damaged" in capsys.readouterr().err
    assert module_states.index(folder)["modules"] == hashes
    assert (folder.with_name("phase_1.damaged") / "a.npz").is_file(), "what cannot be told is not removed"


def check_states(folder: Path) -> None:
    """The states are those of one write: all numbers in them are the same."""
    values = {float(array.flat[0]) for state in module_states.read(folder).values() for array in state.values()}
    assert len(values) == 1
    assert all(
        np.all(array == array.flat[0])
        for state in module_states.read(folder, ["a"]).values()
        for array in state.values()
    )


@pytest.mark.slow
def test_states_are_whole_while_they_are_replaced_and_after_a_kill_at_any_moment(run: Path, writers: Writers) -> None:
    folder = run / "policies" / "phase_1"
    module_states.write(folder, modules(1))
    draw, reads = random.Random(9), 0
    for _ in range(KILLS):
        process = writers.begin("states", run)
        until = time.monotonic() + draw.uniform(0.02, 0.3)
        while time.monotonic() < until:
            check_states(folder)
            reads += 1
        writers.kill(process)
        check_states(folder)
        assert module_states.exists(folder)
    assert reads > KILLS
    module_states.write(folder, modules(2))
    assert [path.name for path in folder.parent.iterdir()] == ["phase_1"], "nothing of the killed is left"


def test_a_kill_between_the_two_renames_loses_nothing(run: Path) -> None:
    folder = run / "policies" / "phase_1"
    module_states.write(folder, modules(1))
    folder.rename(folder.with_name(f"{ownership.OLD}phase_1"))
    assert module_states.exists(folder)
    check_states(folder)
    module_states.write(folder, modules(2))
    assert [path.name for path in folder.parent.iterdir()] == ["phase_1"]
    assert float(module_states.read(folder)["a"]["w"].flat[0]) == 2


@pytest.mark.slow
def test_the_manifest_is_whole_while_it_is_replaced_and_after_a_kill_at_any_moment(
    run: Path, writers: Writers, capsys: pytest.CaptureFixture[str]
) -> None:
    draw, seen = random.Random(9), set()
    for _ in range(KILLS):
        process = writers.begin("manifest", run)
        until = time.monotonic() + draw.uniform(0.02, 0.3)
        while time.monotonic() < until:
            seen.add(Manifest.read(run).budget_scale)
        writers.kill(process)
        manifest = Manifest.read(run)
        (run / "aside").mkdir(exist_ok=True)
        os.rename(run / manifest_file.FILE, run / "aside" / manifest_file.FILE)
        Manifest.read(run)
        os.rename(run / "aside" / manifest_file.FILE, run / manifest_file.FILE)
    assert len(seen) > 1
    assert "damaged" not in capsys.readouterr().err
    manifest.write(run)
    left = {path.name for path in run.iterdir()} - {"aside"}
    assert left == {manifest_file.FILE, manifest_file.BACKUP, ownership.MARKER}


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from run_files import modules
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.manifest import Manifest
run = Path(sys.argv[1])
manifest = Manifest.read(run)
manifest.budget_scale = 7.0
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for write in (lambda: manifest.write(run), lambda: module_states.write(run / "policies" / "phase_1", modules(2))):
    try:
        write()
    except RunError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_disk_that_takes_no_more_leaves_what_was_there(run: Path) -> None:
    folder = run / "policies" / "phase_1"
    module_states.write(folder, modules(1))
    before = {name: content for name, (content, _) in snapshot(run).items()}
    script = FULL.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script, str(run)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(run / manifest_file.FILE), str(folder)]
    assert all("cannot be written (File too large)" in line for line in lines)
    assert {name: content for name, (content, _) in snapshot(run).items()} == before


@pytest.mark.slow
def test_damaged_rows_and_files_of_curves_are_named_and_left_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curves = run / "curves"
    curves.mkdir()
    plot = Settings.load().evaluation.plot
    header, good = "iteration,validation_sharpe,validation_bars", "1,0.5,10\n2,nan,nan\n3,0.7,30"
    (curves / "phase_1_forex.csv").write_text(f"{header}\n{good}\n4,0.\0x8,40\n5,0.9\n6,abc,60\n7,0.8,7")
    (curves / "phase_1_equity.csv").write_bytes(f"{header}\n{good}\n4,\xff,40\n".encode("latin-1"))
    (curves / "phase_1_commodities.csv").write_bytes(b"\x00\x01" * 40)
    (curves / "phase_2_desk.csv").mkdir()
    (curves / "phase_3_desk.csv").write_text(f"{header}\n")
    assert plot_learning_curves(run, plot) is not None
    said = capsys.readouterr().err
    forex = next(line for line in said.splitlines() if "phase_1_forex.csv" in line)
    assert all(f"line {number} " in forex for number in (5, 6, 7))
    assert "line 5 (" in next(line for line in said.splitlines() if "phase_1_equity.csv" in line)
    assert "phase_1_commodities.csv: this curve is left out" in said
    assert "phase_2_desk.csv: this curve is left out" in said
    assert "phase_3_desk" not in said
