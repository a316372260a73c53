"""Ensembles: members with seeds of their own, which are runs like any other, and play as one desk by their mean."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from replayed import replayed, written_equity
from small_runs import SMALL_MARKET, words_of

from mtquant_rllib.cli import main
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.evaluation.backtest import rollout
from mtquant_rllib.policies.ensemble import EnsembleActor
from mtquant_rllib.serving.exporting import export_system
from mtquant_rllib.serving.simulated_account import SimulatedAccount
from mtquant_rllib.serving.system import TradingSystem
from mtquant_rllib.training.inspection.opened_policies import open_policies
from mtquant_rllib.training.records.ledger import Ledger
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.search.ensemble import train_ensemble
from mtquant_rllib.training.search.record import is_ensemble, members_of

MEMBERS = 2
SMALL = (*SMALL_MARKET, "desk.episode.bars=20", "recipe.environments=4", "recipe.validations=2", "resources.cpus=2")


@pytest.fixture(scope="module")
def trained(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder, with an ensemble `both` and with a run `alone` of its second member's settings."""
    folder = tmp_path_factory.mktemp("ensembles")
    words = ("--budget-scale", "0.0005", *words_of(*SMALL))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONHASHSEED", "0")
        assert main(["train", "--run", "both", "--seeds", str(MEMBERS), *words, "--set", "seed=3"]) == 0
        assert main(["train", "--run", "alone", *words, "--set", "seed=4"]) == 0
        yield folder


@pytest.mark.slow
@pytest.mark.ray
class TestTrained:
    @pytest.mark.slow
    def test_its_members_are_the_runs_that_train_alone(self, trained: Path) -> None:
        run = trained / "runs" / "both"
        assert is_ensemble(run)
        assert [Manifest.read(member).seed for member in members_of(run)] == [3, 4]
        own, alone = (open_policies(one, "test").states for one in (members_of(run)[1], trained / "runs" / "alone"))
        for name, state in alone.items():
            for key, value in state.items():
                np.testing.assert_array_equal(own[name][key], value, err_msg=f"{name} {key}")

    @pytest.mark.slow
    def test_it_plays_the_mean_of_their_actions(self, trained: Path) -> None:
        run = trained / "runs" / "both"
        opened = [open_policies(member, "test") for member in members_of(run)]
        settings, data = opened[0].settings, opened[0].data
        actor = EnsembleActor(settings, [one.states for one in opened])
        by_hand = rollout.play(
            settings, data, rollout.PolicyPlayer(actor), rollout.whole(data.segments), name="desk", facts={}
        )
        written = pq.read_table(run / "evaluation" / "test" / "bars.parquet").to_pandas()
        own = written[(written["book"] == "desk") & (written["environment"] == 0)]
        np.testing.assert_array_equal(own["equity_ccy"].to_numpy(), by_hand.equity_ccy[0])
        single = rollout.play(settings, data, opened[0].player(), rollout.whole(data.segments), name="desk", facts={})
        assert not np.array_equal(single.equity_ccy, by_hand.equity_ccy)

    @pytest.mark.slow
    def test_its_exported_folder_decides_bar_by_bar_what_was_evaluated(self, trained: Path) -> None:
        run = trained / "runs" / "both"
        folder, document = export_system(run, trained / "systems" / "both")
        assert document.members == ("member_00", "member_01")
        opened = open_policies(run, "test")
        policies = TradingSystem.from_checkpoint(folder).policies
        assert policies.fingerprint == TradingSystem.from_checkpoint(run).policies.fingerprint
        account = SimulatedAccount(policies.settings, policies.calendar)
        replay = replayed(TradingSystem(policies), account, opened.data, opened.data.segments[0])
        assert replay.equity_ccy == written_equity(run)

    def test_its_report_says_how_far_the_members_disagree(self, trained: Path) -> None:
        folder = trained / "runs" / "both" / "evaluation" / "test"
        with (folder / "disagreement.csv").open() as file:
            rows = list(csv.DictReader(file))
        groups = list(rows[0])[2:]
        assert "meta_controller" in groups
        values = np.array([[float(row[group]) for group in groups] for row in rows])
        assert (values >= 0).all()
        assert (values <= 1).all()
        assert values.max() > 0
        notes = json.loads((folder / "evaluation.json").read_text())["notes"]
        assert any(note.startswith("2 members; mean deviation of their actions") for note in notes)

    def test_it_is_compared_as_one_run(self, trained: Path) -> None:
        assert main(["compare", "runs/alone", "runs/both", "--table", "t.json"]) == 0
        alone, both = json.loads((trained / "t.json").read_text())
        assert (alone["settings.members"], both["settings.members"]) == (1, MEMBERS)

    def test_its_seeds_are_one_trial(self, trained: Path) -> None:
        ledger = Ledger.beside(trained / "runs" / "both").read()
        trials = {entry.values["trial"] for entry in ledger.entries if entry.values.get("part_of") == "both"}
        assert len(trials) == 1

    @pytest.mark.slow
    def test_its_seeds_are_known_to_the_ledger(self, trained: Path) -> None:
        run = trained / "runs" / "both"
        ledger = Ledger.beside(run).read()
        assert all(ledger.has_training_of(Manifest.read(member)) for member in members_of(run))
        for folder in (run, members_of(run)[1]):
            assert main(["evaluate", str(folder), "--json", "judged.json"]) == 0
            notes = json.loads((trained / "judged.json").read_text())["notes"]
            assert not any("has no line of this run's training" in note for note in notes)

    @pytest.mark.parametrize("command", ["show", "verify"])
    def test_commands_of_single_runs_name_its_members(
        self, trained: Path, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        assert main(["runs", command, "both"]) == 2
        said = "".join(capsys.readouterr())
        assert "name one of those in it" in said
        assert "lost both" not in said

    @pytest.mark.slow
    def test_what_looks_at_one_desk_asks_for_a_member(self, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
        opened = open_policies(trained / "runs" / "both", "test")
        with pytest.raises(RunError, match=r"name one of them, such as .*trial_00_seed_3"):
            _ = opened.states
        assert main(["explain", "both"]) == 2
        assert "trial_00_seed_3" in capsys.readouterr().err

    @pytest.mark.slow
    def test_the_same_command_carries_it_on_and_another_is_refused(
        self, trained: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ("--budget-scale", "0.0005", *words_of(*SMALL), "--set", "seed=3")
        assert main(["resume", "both"]) == 0
        assert "nothing left to do" in capsys.readouterr().out
        assert main(["train", "--run", "both", "--seeds", "3", "--resume", *words]) == 2
        assert "it is no ensemble of 3 members" in capsys.readouterr().err


def test_what_cannot_be_an_ensemble_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--seeds with --phase 2: members begin with phase 1"):
        train_ensemble(Settings.load(), 2, run=tmp_path / "x", phase=2)
    with pytest.raises(RunError, match="an ensemble lies in a folder that every node mounts"):
        train_ensemble(Settings.load(), 2, run="s3://bucket/x")  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()
