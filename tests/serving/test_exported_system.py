"""An exported folder decides as what it was exported from, without Ray, and not at all once a byte of it is another."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from replayed import replayed
from serving_fixtures import Served
from small_runs import python

from mtquant_rllib.errors import MtquantError, RunError
from mtquant_rllib.policies.exported import write_exported
from mtquant_rllib.serving.closes import PreparedBars
from mtquant_rllib.serving.decision import Decision
from mtquant_rllib.serving.exported_system import open_system, write_system
from mtquant_rllib.serving.policies import DecidingPolicies, ModuleStates
from mtquant_rllib.serving.system import TradingSystem


def write_member(policies: DecidingPolicies, states: ModuleStates, folder: Path) -> None:
    folder.mkdir()
    hashes = dict.fromkeys(states, "0" * 64)
    write_exported(folder, policies.settings, states, hashes, {"run": "fresh"}, policies.settings.universe.agent_ids)


def exported(policies: DecidingPolicies, folder: Path) -> Path:
    folder.mkdir()
    write_system(folder, policies, [partial(write_member, policies, states) for states in policies.members])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["desk", "ensemble", "with_reference", "allocator"])
def test_its_decisions_are_those_of_what_was_exported(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    served: Served = request.getfixturevalue(kind)
    folder = exported(served.policies, tmp_path / "out")
    opened = TradingSystem.from_checkpoint(folder)
    assert opened.policies.fingerprint == served.policies.fingerprint
    assert opened.settings == served.policies.settings
    first = served.first(8)
    own, again = (replayed(one, served.account(), served.data, first) for one in (served.system(), opened))
    assert again.decisions == own.decisions


def test_a_file_that_was_cut_or_changed_is_one_error_that_names_it(ensemble: Served, tmp_path: Path) -> None:
    whole = exported(ensemble.policies, tmp_path / "out")
    files = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file()]
    assert len(files) > 30
    for number, name in enumerate([files[0], files[1], files[-1], Path("system.json"), Path("member_01/policy.json")]):
        content = (whole / name).read_bytes()
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
        for kind, changed in (("cut", content[:middle]), ("flipped", flipped), ("gone", None)):
            if kind == "gone" and name == Path("system.json"):
                continue
            folder = tmp_path / f"{kind}_{number}"
            shutil.copytree(whole, folder)
            (folder / name).unlink()
            if changed is not None:
                (folder / name).write_bytes(changed)
            with pytest.raises(RunError, match=name.name):
                open_system(folder)


def test_a_folder_that_is_no_system_is_named_as_such(desk: Served, tmp_path: Path) -> None:
    whole = exported(desk.policies, tmp_path / "out")
    with pytest.raises(RunError, match="expected one that `mtquant export RUN` wrote"):
        TradingSystem.from_checkpoint(whole / "member_00")
    with pytest.raises(RunError, match="an exported folder holds the policies of one phase"):
        TradingSystem.from_checkpoint(whole, phase=2)
    with pytest.raises(RunError, match="nothing here decides; expected a run, an ensemble, a checkpoint of a run"):
        TradingSystem.from_checkpoint(tmp_path)
    document = json.loads((whole / "system.json").read_text())
    (whole / "system.json").write_text(json.dumps(document | {"format": 2}))
    with pytest.raises(RunError, match="format 2, and this version reads 1"):
        open_system(whole)


DECIDING = """
import builtins, json, pickle, sys

def refuse(*_, **__):
    raise AssertionError("a pickle was opened")

pickle.load = pickle.loads = pickle.Unpickler = refuse

import numpy as np
from mtquant_rllib import TradingSystem
from mtquant_rllib.serving import Portfolio
from mtquant_rllib.serving.closes import TwoCloses

class Shown:
    def closes(self):
        with np.load("closes.npz", allow_pickle=False) as stored:
            return TwoCloses(**{name: stored[name] for name in stored.files})

decision = TradingSystem.from_checkpoint("out").step(Shown(), Portfolio(100_000.0, "USD"), {})
print(decision.to_json())
print(json.dumps(sorted({"ray", "gymnasium", "matplotlib", "mtquant_rllib.training"} & set(sys.modules))))
"""


@pytest.mark.slow
def test_a_process_decides_from_it_without_ray_and_without_a_pickle(desk: Served, tmp_path: Path) -> None:
    exported(desk.policies, tmp_path / "out")
    market = PreparedBars(desk.policies.settings, desk.data, desk.segment.start)
    np.savez(tmp_path / "closes.npz", **vars(market.closes()))
    done = python(tmp_path, "-c", DECIDING)
    assert done.returncode == 0, done.stderr[-2000:]
    said, loaded = done.stdout.splitlines()[-2:]
    account = desk.account()
    assert Decision.from_json(said) == desk.system().step(market, account.portfolio(), {})
    assert json.loads(loaded) == []


@pytest.mark.slow
def test_a_state_saved_beside_a_run_goes_on_in_its_exported_folder(desk: Served, tmp_path: Path) -> None:
    system, account = desk.system(), desk.account()
    market = PreparedBars(system.settings, desk.data, desk.segment.start)
    decision = system.step(market, account.portfolio(), account.positions())
    opened = TradingSystem.from_checkpoint(exported(desk.policies, tmp_path / "out"))
    opened.load(system.state())
    market.advance()
    account.fill(decision, market.closes())
    inputs = (market, account.portfolio(), account.positions())
    assert opened.step(*inputs) == system.step(*inputs)
    with pytest.raises(MtquantError, match="is decided already"):
        opened.step(*inputs)
