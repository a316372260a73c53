"""Runs as training leaves them, without the training: settings, a small market, and policies that answer loudly."""

from __future__ import annotations

from pathlib import Path

import torch

from mtquant_rllib.config import Settings
from mtquant_rllib.evaluation.explain.collect import ExplanationData, collect
from mtquant_rllib.policies.registry import build_policy, network_configs
from mtquant_rllib.training.inspection.opened_policies import OpenedRun
from mtquant_rllib.training.preparation import prepare
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.records.manifest import PHASES, Manifest, phases_of

SMALL = (
    "embedded.train={paths: 1, years: 2}",
    "embedded.validation={paths: 1, years: 2}",
    "embedded.test={paths: 2, years: 2.2}",
    "networks.attention.width=16",
    "networks.attention.heads=2",
    "networks.attention.classifier.hidden=[8]",
    "networks.attention.policy_heads.hidden=8",
    "evaluation.bootstrap.resamples=100",
    "evaluation.explain.importance_rows=120",
    "evaluation.explain.attention_points=40",
)
ATTENTION = ("networks.names.meta=attention", "networks.names.specialist=attention")


def write_run(
    run: Path,
    overrides: tuple[str, ...] = (),
    *,
    config: str = "default.yaml",
    phases: tuple[int, ...] = PHASES,
    market: Path | None = None,
    macro: Path | None = None,
) -> Path:
    """A run whose phases are done and whose fresh networks have last layers a hundred times their usual size."""
    torch.manual_seed(7)
    settings = Settings.load(config, ["networks.last_layer_scale=1.0", *overrides])
    configs = network_configs(settings)
    modules = {
        name: {
            f"policy.{key}": value for key, value in module_states.as_arrays(build_policy(config).state_dict()).items()
        }
        for name, config in configs.items()
    }
    manifest = Manifest.begin(run.name, settings, prepare(settings, market, macro), 1.0, list(phases_of(settings)))
    manifest.write(run)
    for phase in phases:
        record = manifest.phase(phase)
        record.status, record.result = "done", f"policies/phase_{phase}"
        known = {name: state for name, state in modules.items() if phase > 1 or name != "meta_controller"}
        module_states.write(run / record.result, known)
    manifest.write(run)
    return run


def gather(opened: OpenedRun, agent: str) -> ExplanationData:
    return collect(
        opened.settings, opened.data, opened.states, agent, equal_allocation=opened.phase == 1, facts=opened.facts
    )
