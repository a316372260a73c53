"""Exported policies of every kind of desk: what goes into plain files comes out as the same policies, and what was
changed on the way is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mtquant_rllib.agents.groups import group_of
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError, RunError
from mtquant_rllib.policies.exported import load_exported, write_exported
from mtquant_rllib.policies.initial_weights import initial_states
from mtquant_rllib.policies.registry import build_policy, network_configs

DESKS = {
    "default": ("default.yaml", ()),
    "attention": ("default.yaml", ("networks.names={meta: attention, specialist: attention}",)),
    "shared by domain": ("default.yaml", ("networks.sharing=domain",)),
    "shared by all": ("default.yaml", ("networks.sharing=all",)),
    "allocator": ("allocator.yaml", ()),
}


def exported(folder: Path, settings: Settings) -> dict[str, dict[str, np.ndarray]]:
    """Fresh policies of all agents, written; the states that they were written from."""
    states = initial_states(settings)
    folder.mkdir()
    hashes = dict.fromkeys(states, "0" * 64)
    write_exported(folder, settings, states, hashes, {"run": "fresh"}, settings.universe.agent_ids)
    return states


@pytest.mark.slow
@pytest.mark.parametrize("desk", DESKS)
def test_every_agent_acts_as_before_and_says_what_its_numbers_mean(desk: str, tmp_path: Path) -> None:
    config, overrides = DESKS[desk]
    settings = Settings.load(config, overrides)
    states = exported(tmp_path / "out", settings)
    back = load_exported(tmp_path / "out")
    configs = network_configs(settings)
    assert tuple(back.document.agents) == settings.universe.agent_ids
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == len(states)
    rng = np.random.default_rng(0)
    for agent, entry in back.document.agents.items():
        obs = rng.normal(size=(5, entry.observation_width)).astype(np.float32)
        policy = build_policy(configs[entry.module]).eval().requires_grad_(False)
        policy.load_state_dict({key[7:]: torch.tensor(array) for key, array in states[entry.module].items()})
        expected = policy(torch.tensor(obs)).chunk(2, dim=-1)[0].clamp(-1, 1).numpy()
        assert back.act(agent, obs).tobytes() == expected.tobytes()
        assert sum(block.width for block in entry.observation) == group_of(settings, agent).observation.width
        assert len(entry.action) == len(group_of(settings, agent).actions) == expected.shape[1]
    assert back.settings == settings


def test_the_words_for_an_action_have_the_numbers_of_the_settings() -> None:
    settings = Settings.load(overrides=["desk.decision.stop_atr_min=1.5", "desk.decision.stop_atr_max=4"])
    stop = group_of(settings, "EURUSD").actions[-1]
    assert (stop.name, stop.meaning) == ("stop", "stop distance in ATRs: 1.5 + 2.5 * (a + 1) / 2")
    assert group_of(settings, "EURUSD").observation.names[-11:][0] == "intent"
    with pytest.raises(ConfigError, match="no agent 'EURCHF'; there are meta_controller"):
        group_of(settings, "EURCHF")


def test_what_was_changed_on_the_way_is_refused_by_name(tmp_path: Path) -> None:
    out = tmp_path / "out"
    exported(out, Settings.load())
    document = json.loads((out / "policy.json").read_text())

    def refused(match: str, **changes: object) -> None:
        (out / "policy.json").write_text(json.dumps({**document, **changes}))
        with pytest.raises(RunError, match=match):
            load_exported(out)

    refused("format 2, and this version reads 1", format=2)
    entry = document["modules"]["EURUSD"]
    refused("does not lie in this folder", modules={**document["modules"], "EURUSD": {**entry, "file": "../x"}})
    refused(
        r"EURUSD\.safetensors: its arrays do not fit the network 'instrument'",
        modules={**document["modules"], "EURUSD": {**entry, "shape": {**entry["shape"], "actions": 4}}},
    )
    refused("no network 'lstm'", modules={**document["modules"], "EURUSD": {**entry, "network": "lstm"}})
    (out / "policy.json").write_text(json.dumps(document))
    load_exported(out)
    content = (out / "EURUSD.safetensors").read_bytes()
    (out / "EURUSD.safetensors").write_bytes(content[:-4])
    with pytest.raises(RunError, match=r"EURUSD\.safetensors: its content is not what policy\.json says"):
        load_exported(out)
    (out / "EURUSD.safetensors").unlink()
    with pytest.raises(RunError, match=r"EURUSD\.safetensors: cannot be read"):
        load_exported(out)
    with pytest.raises(RunError, match="no exported policies here"):
        load_exported(tmp_path)
