"""A network of one's own, as docs/extending.md has it: named in the settings, with options of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import written

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.policies.actor import DeskActor
from mtquant_rllib.policies.initial_weights import initial_states
from mtquant_rllib.policies.modules import module_specs
from mtquant_rllib.policies.registry import build_policy, network_configs
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.universe import META


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the document's files, which Python finds."""
    monkeypatch.syspath_prepend(written(tmp_path))
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    return tmp_path


def test_it_is_built_with_its_options_acts_and_has_a_value_network(home: Path) -> None:
    settings = Settings.load(home / "my_networks.yaml")
    config = network_configs(settings)[META]
    policy = build_policy(config)
    assert policy.read.out_features == 48
    module = module_specs(settings, only=[META], sac=()).build()[META]
    assert module.model_config["network"] == "my_networks:GATED"
    obs = np.random.default_rng(0).standard_normal((5, 74), np.float32)
    states = initial_states(settings)
    policy.load_state_dict({key.removeprefix("policy."): torch.from_numpy(item) for key, item in states[META].items()})
    with torch.no_grad():
        expected = policy.mean(torch.from_numpy(obs)).clamp(-1, 1).numpy()
    np.testing.assert_array_equal(DeskActor(settings, states).act(META, obs), expected)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("networks.names.meta=my_networks:GATES", "no network 'my_networks:GATES'.*has no attribute 'GATES'"),
        ("networks.names.meta=my_nets:GATED", "cannot be imported.*PYTHONPATH"),
        ("networks.names.meta=my_networks:GatedPolicy", "is a type; expected a NetworkKind"),
        (
            'networks.options={"my_networks:GATED": {units: 8, depth: 2}}',
            "my_networks:GATED: there is no option depth",
        ),
    ],
)
def test_what_is_no_network_is_refused(home: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        network_configs(Settings.load(home / "my_networks.yaml", [override]))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("phase", [2, 3], ids=["sac", "ppo"])
def test_it_trains_on_every_worker_and_is_opened_again(all_extensions: Path, phase: int) -> None:
    run = all_extensions / "runs" / "all"
    assert Manifest.read(run).load_settings().networks.names.meta == "my_networks:GATED"
    learned = module_states.read(run / f"phase_{phase}" / "modules" / "desk" / "last")[META]
    assert any(name.startswith("critics.") for name in learned) == (phase == 2), "by SAC, then by PPO"
    handed_over = module_states.read(run / "policies" / f"phase_{phase}")[META]
    for state in (learned, handed_over):
        assert state["policy.read.weight"].shape[0] == 2 * 24
        assert all(np.isfinite(array).all() for array in state.values())
    assert "desk" in {book["name"] for book in json.loads((all_extensions / "report.json").read_text())["books"]}
