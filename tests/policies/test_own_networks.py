"""A network of one's own, as docs/extending.md has it: named in the settings, with options of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.policies.actor import DeskActor
from mtquant_rllib.policies.initial_weights import initial_states
from mtquant_rllib.policies.modules import module_specs
from mtquant_rllib.policies.registry import build_policy, network_configs
from mtquant_rllib.universe import META

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "extending.md").read_text()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the document's files, which Python finds."""
    for file, content in re.findall(r"```\w+\n# (my_\S+)\n(.*?)```", DOCUMENT, re.DOTALL):
        (tmp_path / file).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
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
@pytest.mark.parametrize("algorithms", ["[ppo, ppo, ppo]", "[sac, sac, sac]"], ids=["ppo", "sac"])
def test_it_trains_on_every_worker_and_is_opened_again(home: Path, algorithms: str) -> None:
    small = ["embedded.train={paths: 2, years: 3}", "embedded.validation={paths: 1, years: 3}"]
    small += ["embedded.test={paths: 1, years: 3}", "recipe.environments=4", "recipe.validations=1"]
    small += [f"recipe.algorithms={algorithms}", "sac.bars_per_round=20", "sac.learning_starts_bars=40"]
    words = [word for one in small for word in ("--set", one)]

    def mtquant(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(home), "MTQUANT_CACHE": str(home / "cache")}
        call = [str(Path(sys.executable).with_name("mtquant")), *arguments]
        return subprocess.run(call, cwd=home, env=env, capture_output=True, text=True, timeout=300)

    done = mtquant("train", "--config", "my_networks.yaml", "--run", "gated", "--budget-scale", "0.0005", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    judged = mtquant("evaluate", "gated")
    assert judged.returncode == 0, judged.stderr
