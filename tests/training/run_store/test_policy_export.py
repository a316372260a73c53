"""`mtquant runs export-policy`: the policies of a real run as plain files, which act as the run's own do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_runs import flip, said

from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.evaluation.backtest.rollout import PolicyPlayer, new_desk, whole
from mtquant_rllib.policies.exported import load_exported
from mtquant_rllib.policies.registry import build_policy, network_configs
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.universe import META

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.slow
def test_exported_policies_act_to_the_byte_as_the_run_s_own_on_the_validation_split(
    five_lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain networks: of attention, where an array begins in memory decides how sums are rounded."""
    run, out = five_lines / "runs" / "mine", tmp_path / "out"
    said(capsys, "export-policy", str(run), "--out", str(out))
    assert {path.suffix for path in out.iterdir()} == {".json", ".safetensors"}
    manifest, exported = Manifest.read(run), load_exported(out)
    settings, own = manifest.load_settings(), module_states.read(run / "policies/phase_3")
    configs = network_configs(settings)
    compared = dict.fromkeys(exported.document.agents, 0)

    def compare(agent: str, desk: object, obs: np.ndarray, decides: np.ndarray) -> None:
        policy = build_policy(configs[agent]).eval().requires_grad_(False)
        policy.load_state_dict({k[7:]: torch.tensor(v) for k, v in own[agent].items() if k.startswith("policy.")})
        mean = policy(torch.tensor(obs)).chunk(2, dim=-1)[0].clamp(-1, 1).numpy()
        assert exported.act(agent, obs).tobytes() == mean.tobytes()
        assert obs.any()
        compared[agent] += 1

    data = DeskData.open(Path(manifest.market.data), "validation")
    draws = whole(data.segments)
    mine, theirs = new_desk(settings, data, draws), new_desk(settings, data, draws)
    player = PolicyPlayer.of(settings, own, on_decision=compare)
    other = PolicyPlayer(exported.actor())
    for _ in range(30):
        proposed, again = player(mine), other(theirs)
        assert proposed.tobytes() == again.tobytes()
        mine.advance_with_weights(proposed)
        theirs.advance_with_weights(again)
    every = settings.desk.decision.meta_every_bars
    assert compared == {**dict.fromkeys(settings.universe.agent_ids, 30), META: 30 // every}
    assert proposed.any()


@pytest.mark.slow
def test_an_exported_policy_is_read_without_torch_and_without_ray(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "export-policy", str(run), "--out", str(tmp_path / "out"))
    read = """
import json, sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "ray", "mtquant_rllib"):
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Refused())
import numpy as np
from safetensors.numpy import load_file
with open(f"{sys.argv[1]}/policy.json") as file:
    document = json.load(file)
sums = {}
for module, entry in document["modules"].items():
    arrays = load_file(f"{sys.argv[1]}/{entry['file']}")
    assert {k: [str(a.dtype), list(a.shape)] for k, a in arrays.items()} == {
        k: [a["dtype"], a["shape"]] for k, a in entry["arrays"].items()}
    sums[module] = {k: float(np.abs(a.astype(np.float64)).sum()) for k, a in sorted(arrays.items())}
print(json.dumps(sums))
"""
    done = subprocess.run(
        [sys.executable, "-c", read, str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    own = module_states.read(run / "policies/phase_1")
    for module, sums in json.loads(done.stdout).items():
        policy = {key[7:]: array for key, array in own[module].items() if key.startswith("policy.")}
        assert sums == {key: float(np.abs(array.astype(np.float64)).sum()) for key, array in policy.items()}
    assert len(own) == 11


@pytest.mark.slow
def test_an_export_of_some_agents_says_where_it_comes_from_and_overwrites_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ("export-policy", str(run), "--out", str(out))
    said(capsys, *words, "--agent", "XAUUSD", "equity_specialist")
    document = load_exported(out).document
    assert list(document.agents) == ["equity_specialist", "XAUUSD"]
    assert [part.name for part in document.agents["XAUUSD"].action] == ["signal", "urgency", "stop"]
    assert document.source["run_id"] == Manifest.read(run).id
    assert document.modules["XAUUSD"].state_sha256 == Manifest.read(run).phase(1).trials["commodities"].hashes["XAUUSD"]
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert "something is there" in said(capsys, *words, code=2)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    shutil.rmtree(out)
    assert "no such policy after phase 1; there are forex" in said(capsys, *words, "--agent", "meta_controller", code=2)
    assert "phase 2 is not done; those that are: 1" in said(capsys, *words, "--phase", "2", code=2)
    flip(run / "policies/phase_1/EURUSD.npz")
    assert "EURUSD.npz" in said(capsys, *words, code=2)
    assert not out.exists()
