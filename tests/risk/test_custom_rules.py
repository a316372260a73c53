"""A rule of one's own, as docs/extending.md has it: named in the settings, it is in force wherever they are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import written

from mtquant_rllib.cli import main
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.risk.custom_rules import custom_rules
from mtquant_rllib.risk.engine import PortfolioRiskManager
from mtquant_rllib.risk.rules import Proposal
from mtquant_rllib.training.records.manifest import Manifest

LIMIT = 0.03


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(written(tmp_path))
    monkeypatch.delitem(sys.modules, "my_rules", raising=False)
    return tmp_path


def test_a_rule_of_the_settings_is_in_force(home: Path) -> None:
    settings = Settings.load(home / "my_desk.yaml")
    manager = PortfolioRiskManager.from_settings(settings)
    n = settings.universe.n_instruments
    rng = np.random.default_rng(0)
    weights = 0.1 * rng.standard_normal((50, n))
    covariance = np.zeros((50, n * (n + 1) // 2))
    covariance[:, np.cumsum([0, *range(n, 1, -1)])] = 1e-6
    proposal = Proposal(
        proposed=weights,
        current=np.zeros_like(weights),
        tradable=np.ones_like(weights, dtype=bool),
        covariance=covariance,
        correlation=np.zeros((50, n * (n - 1) // 2)),
        equity=np.full(50, 1e5),
    )
    decision = manager.repair(proposal)
    assert np.abs(decision.executed).max() <= LIMIT * (1 + 1e-9)
    assert np.abs(weights).max() > 5 * LIMIT
    assert "largest_position" in {edit.rule for env in range(50) for edit in decision.edits(env)}
    assert "largest_position" not in {
        edit.rule for edit in PortfolioRiskManager.from_settings(Settings.load()).repair(proposal).edits(0)
    }


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (["my_rulez:LargestPosition"], "my_rulez:LargestPosition cannot be imported .*PYTHONPATH"),
        (["my_rules:Largest"], "my_rules:Largest: module 'my_rules' has no attribute 'Largest'"),
        (["my_rules:LargestPosition"], "cannot be made with options {}: .*missing 1 required .*'limit'"),
        (["my_rules:np"], "cannot be made"),
        ([{"rule": "fractions:Fraction"}], "is no rule: it has no name, limit, measure, repair"),
        (
            [{"rule": "my_rules:LargestPosition", "options": {"limit": 0.1}}] * 2,
            "two rules are called 'largest_position'",
        ),
        (["largest"], "no installed package offers 'largest' .*module:NAME"),
    ],
)
def test_what_is_no_rule_is_refused_with_its_cure(home: Path, rules: list[Any], said: str) -> None:
    tree = Settings.load().model_dump(mode="json")
    tree["risk"]["rules"] = rules
    with pytest.raises(ConfigError, match=f"risk.rules: .*{said}|{said}"):
        custom_rules(Settings.model_validate(tree).risk.rules)


def test_a_rule_that_cannot_be_found_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    monkeypatch.delitem(sys.modules, "my_rules", raising=False)
    run = tmp_path / "capped"
    assert main(["train", "--config", str(written(tmp_path) / "my_desk.yaml"), "--run", str(run)]) == 2
    assert "my_rules:LargestPosition cannot be imported" in capsys.readouterr().err
    assert not run.exists()


@pytest.mark.slow
@pytest.mark.ray
def test_it_reaches_training_and_evaluation(all_extensions: Path) -> None:
    settings = Manifest.read(all_extensions / "runs" / "all").load_settings()
    assert [rule.rule for rule in settings.risk.rules] == ["my_rules:LargestPosition"]
    assert "largest_position" in (all_extensions / "report.json").read_text()
