"""Runs decide: exported, by their folder and by a checkpoint of theirs, what `mtquant evaluate` has written of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from replayed import replayed, written_equity
from started_runs import Started

from mtquant_rllib.cli import main
from mtquant_rllib.errors import RunError
from mtquant_rllib.serving.simulated_account import SimulatedAccount
from mtquant_rllib.serving.system import TradingSystem
from mtquant_rllib.system import HierarchicalTradingSystem
from mtquant_rllib.training.inspection.opened_policies import open_policies
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.manifest import Manifest

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def decided_equity(system: TradingSystem, run: Path) -> list[float]:
    """Equity after each test bar of a run that the system decides on."""
    data = open_policies(run, "test").data
    account = SimulatedAccount(system.settings, system.policies.calendar)
    return replayed(system, account, data, data.segments[0]).equity_ccy


@pytest.mark.slow
def test_an_exported_desk_decides_what_was_evaluated(
    five_lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = five_lines / "runs" / "mine", tmp_path / "systems" / "mine"
    assert main(["export", str(run), "--to", str(folder)]) == 0
    said = capsys.readouterr().out
    exported = TradingSystem.from_checkpoint(folder)
    assert exported.policies.fingerprint in said
    assert f"from_checkpoint({str(folder)!r})" in said
    assert decided_equity(exported, run) == written_equity(run)
    assert main(["export", str(run), "--to", str(folder)]) == 2
    assert "something is there; name a new or empty folder" in capsys.readouterr().err
    by_run = HierarchicalTradingSystem(run=run).trading_system()
    assert by_run.policies.fingerprint == exported.policies.fingerprint


@pytest.mark.slow
def test_an_exported_allocator_decides_what_was_evaluated(allocator_run: Started, tmp_path: Path) -> None:
    folder = tmp_path / "allocator"
    assert main(["export", str(allocator_run.run), "--to", str(folder)]) == 0
    assert decided_equity(TradingSystem.from_checkpoint(folder), allocator_run.run) == written_equity(allocator_run.run)


@pytest.mark.slow
def test_before_there_is_a_meta_controller_capital_is_shared_equally(five_lines: Path, tmp_path: Path) -> None:
    run, folder = five_lines / "runs" / "mine", tmp_path / "first"
    assert main(["export", str(run), "--to", str(folder), "--phase", "1"]) == 0
    system, data = TradingSystem.from_checkpoint(folder), open_policies(run, "test", phase=1).data
    account = SimulatedAccount(system.settings, system.policies.calendar)
    first = type(data.segments[0])(data.segments[0].start, data.segments[0].start + 3)
    decision = replayed(system, account, data, first).decisions[0]
    assert "meta_controller" not in decision.decided
    assert decision.levels is not None
    assert len(set(decision.levels.allocation.values())) == 1
    assert decision.levels.appetite == 1.0


@pytest.mark.slow
def test_a_checkpoint_of_ones_own_decides_and_one_that_was_not_signed_is_refused(
    five_lines: Path, ray_session: None, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(five_lines / "runs" / "mine", tmp_path / "mine"))
    newest = sorted(run.glob("phase_2/*/checkpoint_*"))[-1]
    system = TradingSystem.from_checkpoint(newest)
    frozen = module_states.read(run / str(Manifest.read(run).phase(1).result))
    for module, state in frozen.items():
        for key, array in module_states.acting(state).items():
            np.testing.assert_array_equal(system.policies.members[0][module][key], array)
    assert system.policies.source["checkpoint"] == f"{newest.parent.name}/{newest.name}"
    with pytest.raises(RunError, match=r"name the run, whose phases put them together"):
        TradingSystem.from_checkpoint(sorted(run.glob("phase_1/forex/checkpoint_*"))[-1])
    (newest / "signature.json").unlink()
    with pytest.raises(RunError, match="was not signed by you"):
        TradingSystem.from_checkpoint(newest)
    moved = Path(shutil.copytree(newest, tmp_path / "alone"))
    with pytest.raises(RunError, match="lies in no run"):
        TradingSystem.from_checkpoint(moved)
