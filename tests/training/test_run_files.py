"""Whose a run's files are: names, folders and records that would have a run write or remove what is not its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_files import begun, modules, refused, snapshot, untouched, victim_in

from mtquant_rllib.cli import main
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records import manifest_file, module_states, ownership, run_names
from mtquant_rllib.training.records.manifest import Manifest, is_run
from mtquant_rllib.training.reporting.learning_curves import PICTURE, plot_learning_curves


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """Somebody else's files, which must be after the test as they were before."""
    yield from untouched(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that was begun."""
    begun().write(tmp_path / "runs" / "one")
    return tmp_path / "runs" / "one"


HOSTILE_NAMES = {
    "": "is empty",
    "   ": "is empty",
    ".": "dots and spaces",
    "... .": "dots and spaces",
    "..": "through ..",
    "../victim": "through ..",
    "a/../../victim": "through ..",
    "~": "home folder",
    "~/victim": "home folder",
    "two\nlines": r"control character (U+000A)",
    "nul\0": r"control character (U+0000)",
    "escape\x1b[2J": r"control character (U+001B)",
    "first\u202etxt": r"direction-changing character (U+202E)",
    "zero\u200bwidth": r"invisible",
    "new\u2066/name": r"invisible",
    "line\u2028break": r"line separator",
    "half\udcff": r"no text",
    "x" * 300: "longer than a file name can be",
    "/": "contains a /",
}


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: ascii(name)[:24])
def test_a_name_that_is_none_is_refused_by_every_command_before_anything_is_written(
    name: str, victim: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = victim.parent / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert HOSTILE_NAMES[name] in refused(lambda: run_names.run_path(name))
    for command in (["train", "--run", name], ["resume", name], ["evaluate", name], ["explain", name]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert HOSTILE_NAMES[name] in said
        assert said.rstrip("\n").isprintable()
    assert list(here.iterdir()) == []


def test_names_that_people_give_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    persian = tmp_path / "می\u200cخواهم"
    persian.mkdir()
    for name, folder in {
        "first": "runs/first",
        "läuft gut": "runs/läuft gut",
        "v1.2": "runs/v1.2",
        "first/": "runs/first",
        "./first": "first",
        "other/first": "other/first",
        str(tmp_path / "far" / "first"): str(tmp_path / "far" / "first"),
        str(persian / "first"): str(persian / "first"),
    }.items():
        assert run_names.run_path(name) == Path(folder)
        assert run_names.run_path(run_names.run_path("first")) == Path("runs/first"), "a path stays what it is"
    (persian / "first").mkdir()
    assert refused(lambda: run_names.run_path("نام\u200cمن/first")), "but no new folder of such a name is made"


def test_a_bare_name_cannot_leave_the_runs_folder_through_a_link_but_the_folder_may_lie_elsewhere(
    victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = victim.parent / "disk"
    disk.mkdir()
    monkeypatch.chdir(victim.parent)
    Path("runs").symlink_to(disk)
    assert run_names.run_path("first").resolve() == disk / "first"
    (disk / "link").symlink_to(victim)
    assert "leaves runs/" in refused(lambda: run_names.run_path("link"))
    (disk / "circle").symlink_to(disk / "circle")
    assert "leaves runs/" in refused(lambda: run_names.run_path("circle"))


def test_a_run_that_lies_here_and_not_under_runs_is_pointed_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begun().write(Path("one"))
    assert str(tmp_path / "one") in refused(lambda: run_names.existing_run("one"))
    assert run_names.existing_run("./one") == Path("one")


def test_free_names_are_claimed_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    claimed = [run_names.claim_free() for _ in range(3)]
    assert [path.name for path in claimed] == ["run_001", "run_002", "run_003"]
    assert len({ownership.identity(path) for path in claimed}) == 3


def folders(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Folders that a new run must not be begun in, and what is said."""
    here = tmp_path / "folders"
    here.mkdir()
    notes, link, file = here / "notes", here / "link", here / "file"
    notes.mkdir()
    (notes / "notes.txt").write_text("mine")
    link.symlink_to(here / "nowhere")
    file.write_text("mine")
    lost, once, exists = here / "lost", here / "once", here / "exists"
    for run in (lost, once, exists):
        begun().write(run)
        module_states.write(run / "policies" / "phase_1", modules(1))
    (lost / manifest_file.FILE).unlink()
    (lost / manifest_file.BACKUP).unlink()
    (once / manifest_file.FILE).unlink()
    return {
        "files": (victim_in(here), "run that has lost"),
        "one phase": (victim_in(here / "phase") / "phase_1", "not empty and no run of this project"),
        "notes": (notes, "not empty and no run of this project"),
        "a link to nowhere": (link, "no folder"),
        "a file": (file, "no folder"),
        "a run without manifests": (lost, "lost both manifest.json and manifest.backup.json"),
        "a run with one": (once, "mtquant resume"),
        "a run": (exists, "this run exists"),
    }


@pytest.mark.slow
def test_a_new_run_begins_in_no_folder_where_anything_lies(tmp_path: Path) -> None:
    for folder, hint in folders(tmp_path).values():
        before = snapshot(tmp_path)
        assert hint in refused(lambda folder=folder: ownership.claim(folder))
        assert hint in refused(lambda folder=folder: begun(seed=5).write(folder))
        assert snapshot(tmp_path) == before, folder


def test_an_empty_folder_and_one_that_was_claimed_and_never_used_are_taken(tmp_path: Path) -> None:
    run = tmp_path / "new" / "run"
    ownership.claim(run)
    known = ownership.identity(run)
    (run / ".lock").touch()
    (run / "run.log").touch()
    ownership.claim(run)
    begun().write(run)
    assert Manifest.read(run).id == known == ownership.identity(run)


def test_a_run_that_lost_marker_and_second_copy_gets_both_when_it_is_written_next(run: Path) -> None:
    known = ownership.identity(run)
    (run / ownership.MARKER).unlink()
    (run / manifest_file.BACKUP).unlink()
    Manifest.read(run).write(run)
    assert ownership.identity(run) == Manifest.read(run).id == known
    assert (run / manifest_file.BACKUP).read_bytes() == (run / manifest_file.FILE).read_bytes()


def test_a_manifest_without_a_checksum_is_an_edited_one(run: Path) -> None:
    tree = json.loads((run / manifest_file.FILE).read_text())
    del tree["checksum"]
    (run / manifest_file.FILE).write_text(json.dumps(tree))
    (run / manifest_file.BACKUP).unlink()
    with pytest.raises(RunError, match="it was changed after it was written"):
        Manifest.read(run)
    assert Manifest.read(run, trust=True).id == tree["id"]


HOSTILE_FIELDS = {
    "phases.1.experiment": ["../../victim", "/etc", "", ".", "phase_1/../..", "a\nb", "phase\u202e1", "out", "circle"],
    "phases.2.start": ["..", "out/phase_1"],
    "phases.1.result": ["../../victim/policies", "policies//phase_1", "out/policies/phase_1"],
    "phases.1.trials": [{"../x": {"budget_bars": 5}}, {"forex": {"budget_bars": 0}}],
    "phases.1.trials.forex.best": ["../../../victim", "out/index.json"],
    "phases.1.trials.forex.last": ["/tmp", 7],
    "phases.1.trials.forex.hashes": [{"../../victim": "0" * 64}, {"a": "0" * 63}, {"a": "g" * 64}],
    "phases.4": [{"experiment": "phase_4"}],
    "wanted": [[7], [0]],
    "name": ["two\nlines"],
    "id": ["../.."],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in HOSTILE_FIELDS.items() for value in values], ids=ascii
)
def test_a_manifest_that_names_what_is_not_its_runs_is_refused(
    field: str, value: object, victim: Path, run: Path
) -> None:
    (run / "out").symlink_to(victim)
    (run / "circle").symlink_to(run / "circle")
    tree = manifest_file.load(run)
    *path, last = field.split(".")
    place = tree
    for part in path:
        place = place.setdefault(part, {"budget_bars": 5} if part == "forex" else {})
    place[last] = value
    # With a checksum that is right: whoever can write the file can write that too.
    manifest_file.write(run, tree)
    assert str(run / manifest_file.FILE) in refused(lambda: Manifest.read(run))


def test_only_what_really_lies_in_the_run_and_bears_its_mark_is_removed(victim: Path, run: Path) -> None:
    (run / "out").symlink_to(victim)
    (run / "phase_1").mkdir()
    (run / "phase_1" / "mine").mkdir()
    (run / "phase_1" / "mine" / "notes.txt").write_text("mine")
    (run / "phase_1" / "file").write_text("mine")
    module_states.write(run / "phase_1" / "with_notes", modules(1))
    (run / "phase_1" / "with_notes" / "notes.txt").write_text("mine")
    module_states.write(victim.parent / "elsewhere", modules(1))
    (run / "phase_1" / "linked").symlink_to(victim.parent / "elsewhere")
    before = snapshot(victim.parent)
    for path in (
        victim,
        victim.parent / "elsewhere",
        run / ".." / ".." / "elsewhere",
        run,
        run / "out",
        run / "out" / "phase_1",
        run / "phase_1",
        run / "phase_1" / "mine",
        run / "phase_1" / "file",
        run / "phase_1" / "with_notes",
        run / "phase_1" / "linked",
    ):
        refused(lambda path=path: ownership.remove_own(path, run))
    assert snapshot(victim.parent) == before

    module_states.write(run / "phase_1" / "best", modules(1))
    checkpoint = run / "phase_1" / "forex" / "checkpoint_000001"
    (checkpoint / "learner").mkdir(parents=True)
    (checkpoint / "checkpoint.json").write_text('{"format": 1}')
    ownership.remove_own(run / "phase_1" / "best", run)
    ownership.remove_own(checkpoint, run)
    ownership.remove_own(checkpoint, run)
    assert not (run / "phase_1" / "best").exists()
    assert list(checkpoint.parent.iterdir()) == []


def test_module_states_replace_module_states_and_nothing_else(victim: Path, run: Path) -> None:
    (run / "phase_1").symlink_to(victim)
    (run / "policies").mkdir()
    for name in ("mine", "with_notes"):
        (run / "policies" / name).mkdir()
    (run / "policies" / "mine" / "index.json").write_text('{"pages": 7}')
    (run / "policies" / "mine" / "page.html").write_text("mine")
    module_states.write(run / "policies" / "with_notes", modules(1))
    (run / "policies" / "with_notes" / "notes.txt").write_text("mine")
    (run / "policies" / "file").write_text("mine")
    before = snapshot(run)
    for folder in ("phase_1", "phase_1/modules/forex/last", "policies/mine", "policies/with_notes", "policies/file"):
        refused(lambda folder=folder: module_states.write(run / folder, modules(2)))
    refused(lambda: module_states.write(run / "policies" / "phase_1", {"../../../victim/x": modules(1)["a"]}))
    refused(lambda: module_states.write(victim.parent / "elsewhere", modules(1), run=run))
    assert snapshot(run) == before


@pytest.mark.slow
def test_what_is_written_replaces_a_link_and_never_goes_through_it(victim: Path, run: Path) -> None:
    targets = [manifest_file.FILE, manifest_file.BACKUP, ownership.MARKER, PICTURE]
    manifest = Manifest.read(run)
    (run / "curves").mkdir()
    (run / "curves" / "phase_1_forex.csv").write_text("validation_bars,validation_sharpe\n10,0.5\n")
    for name in targets:
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(victim / "index.json")
    manifest.write(run)
    assert plot_learning_curves(run, Settings.load().evaluation.plot) == run / PICTURE
    assert [(run / name).is_symlink() for name in targets] == [False] * 4
    assert Manifest.read(run).seed == 0


def test_an_index_of_states_cannot_name_a_file_elsewhere(victim: Path, run: Path) -> None:
    folder = run / "policies" / "phase_1"
    module_states.write(folder, modules(1))
    for spoilt in ({"../../../../victim/x": "0" * 64}, {"a": "short"}, {"a": 7}, ["a"], {"a\u202e": "0" * 64}):
        (folder / "index.json").write_text(json.dumps({"format": 1, "modules": spoilt}))
        assert "no module states here" in refused(lambda: module_states.read(folder))
    (folder / "index.json").write_text(json.dumps({"format": 2, "modules": {}}))
    assert "its format is 2" in refused(lambda: module_states.read(folder))


def test_a_pipe_in_place_of_a_file_is_not_waited_for(run: Path) -> None:
    module_states.write(run / "policies" / "phase_1", modules(1))
    for path in (run / "policies" / "phase_1" / "a.npz", run / "policies" / "phase_1" / "index.json"):
        path.unlink()
        os.mkfifo(path)
        refused(lambda: module_states.read(run / "policies" / "phase_1"))
    for name in (manifest_file.FILE, manifest_file.BACKUP):
        (run / name).unlink()
        os.mkfifo(run / name)
    assert is_run(run)
    assert "is no file" in refused(lambda: Manifest.read(run))


def test_only_one_place_removes_folders() -> None:
    """Folders of runs are removed through `remove_own` alone. The others are the folder that an export has just made,
    that of a Ray session which has ended, in Ray's own place, and copies in the cache of what lies in an object store
    (`test_object_store`)."""
    folder = Path(ownership.__file__).parents[1]
    found = {path.name for path in folder.rglob("*.py") if "rmtree" in path.read_text()}
    copies = {"mirror.py", "working_copy.py", "stored_market.py"}
    assert found == {"ownership.py", "policy_export.py", "ray_leftovers.py", *copies}
