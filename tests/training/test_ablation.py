"""An ablation: the same training with one change each, over the same seeds, compared with the first."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import SMALL_MARKET, words_of

from mtquant_rllib.cli import main
from mtquant_rllib.config import Settings
from mtquant_rllib.config.search_space import settings_with
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.curriculum.phases import expect_trainable
from mtquant_rllib.training.preparation import for_market
from mtquant_rllib.training.records.ledger import FILE, Ledger, trial_id
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.search.ablation import declared

CHANGE = "search.ablations={shared: {networks.sharing: domain}, patient: {recipe.gamma: 0.95, recipe.gae_lambda: 0.9}}"
SMALL = (*SMALL_MARKET, "desk.episode.bars=20", "recipe.environments=4", "recipe.validations=2", "resources.cpus=2")


def test_every_trial_names_the_same_settings_and_the_first_is_as_they_are() -> None:
    settings = Settings.load(overrides=[CHANGE])
    base, shared, patient = declared(settings, ["shared", "patient"])
    assert base == {"networks.sharing": "none", "recipe.gamma": None, "recipe.gae_lambda": 0.3}
    assert shared == {**base, "networks.sharing": "domain"}
    assert patient == {**base, "recipe.gamma": 0.95, "recipe.gae_lambda": 0.9}
    assert len(declared(Settings.load())) == 1 + len(Settings.load().search.ablations)


@pytest.mark.parametrize("config", ["default.yaml", "allocator.yaml", "allocator_planted.yaml"])
def test_every_shipped_change_concerns_the_settings_that_ship_it(config: str) -> None:
    """Each makes another training of them, and can be trained."""
    settings = Settings.load(config)
    base, *changes = declared(settings)
    names = [name for name, change in settings.search.ablations.items() if change is not None]
    assert len(changes) == len(names)
    trials = {trial_id(settings_with(settings, one), 1.0) for one in (base, *changes)}
    assert len(trials) == 1 + len(changes), "no two are the same training"
    for one in changes:
        expect_trainable(for_market(settings_with(settings, one), from_files=True), 1)


@pytest.mark.parametrize(
    ("change", "names", "said"),
    [
        ("search.ablations={same: {networks.sharing: none}}", ["same"], "the settings are so already"),
        ("search.ablations={odd: {networks.size: 3}}", ["odd"], "there is no setting networks.size"),
        ("seed=0", ["nothing"], "no ablation 'nothing'; search.ablations has attention"),
    ],
)
def test_what_changes_nothing_or_is_not_there_is_refused(change: str, names: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        declared(Settings.load(overrides=[change]), names)


@pytest.mark.nightly
@pytest.mark.ray
def test_changes_are_trained_and_compared(
    command: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["ablate", "shared", "--seeds", "2", "--phases", "1", "--budget-scale", "0.0005", "--run", "parts"]
    assert main([*words, "--set", CHANGE, *words_of(*SMALL)]) == 0
    said = capsys.readouterr().out
    assert "ablation, 1 changes x 2 seeds" in said
    assert "next: mtquant compare" in said
    folder = tmp_path / "runs" / "parts"
    sharing = {run.name: Manifest.read(run).load_settings().networks.sharing for run in sorted(folder.glob("trial_*"))}
    assert list(sharing.values()) == ["none", "none", "domain", "domain"]
    assert len([one for one in Ledger(tmp_path / "runs" / FILE).read().entries if one.kind == "training"]) == 2
    assert not (folder / "trial_00_seed_0" / "selection.json").exists()
    assert main(["compare", "parts"]) == 2
    assert "4 of 4 runs have no evaluation 'test'" in capsys.readouterr().err
    assert main(["compare", "parts", "--evaluate", "--table", "parts.csv"]) == 0
    said = capsys.readouterr().out
    assert "less trial_00_seed_0" in said
    assert "sharing" in said
