"""Who a trial is in W&B: identity, name, group, job type, tags and configuration, all from the run's manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mtquant_rllib.config import Settings
from mtquant_rllib.training.curriculum.phases import TrialPlan, algorithm_of
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.reporting.curve_files import BARS

_SAYS_NOTHING = ("seed", "tracking", "checkpoints", "resources", "embedded", "evaluation", "serving")
"""Settings that make no difference between two runs, or are said otherwise."""
_NAMED = 3
"""Differing settings in a name; the rest is in the configuration."""
_NAME_LONGEST, _TAG_LONGEST = 128, 64
"""Characters that W&B takes."""


@dataclass(frozen=True)
class Identity:
    """What `wandb.init` is told. id: the same in every attempt of the run, so that W&B carries one run on."""

    id: str
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    axis: str | None = BARS
    """What the metrics of its history are drawn over."""


def run_id(manifest: Manifest) -> str:
    return manifest.id or manifest.name


def identity_of(manifest: Manifest, plan: TrialPlan) -> Identity:
    """Of one trial."""
    settings, record = manifest.load_settings(), manifest.phase(plan.phase)
    phase, algorithm = f"phase_{plan.phase}", algorithm_of(settings, plan.phase)
    facts = {
        "run/phase": plan.phase,
        "run/trial": plan.name,
        "run/algorithm": algorithm,
        "run/budget_bars": record.trials[plan.name].budget_bars,
        "run/learning": list(plan.learning),
    }
    networks = sorted(set(settings.networks.names.model_dump().values()))
    kind = "synthetic market" if manifest.market.kind == "synthetic" else "market from files"
    return Identity(
        id=f"{run_id(manifest)}-{phase}-{plan.name}",
        name=shortened(f"{_named(manifest)} {phase} {plan.name}{differing(settings)}", _NAME_LONGEST),
        group=manifest.part_of or manifest.name,
        job_type=phase,
        tags=_tags(phase, plan.name, algorithm, kind, *networks, settings=settings),
        config={**configuration(manifest), **facts},
    )


def identity_of_evaluation(manifest: Manifest, folder: str) -> Identity:
    """Of an evaluation, by the name of its folder."""
    settings = manifest.load_settings()
    return Identity(
        id=f"{run_id(manifest)}-evaluation-{folder}",
        name=shortened(f"{_named(manifest)} evaluation {folder}{differing(settings)}", _NAME_LONGEST),
        group=manifest.part_of or manifest.name,
        job_type="evaluation",
        tags=_tags("evaluation", folder, settings=settings),
        config=configuration(manifest),
        axis=None,
    )


def _named(manifest: Manifest) -> str:
    """The run's name, after that of the sweep that it belongs to."""
    return manifest.name if manifest.part_of is None else f"{manifest.part_of} {manifest.name}"


def _tags(*own: str, settings: Settings) -> tuple[str, ...]:
    return tuple(dict.fromkeys(shortened(tag, _TAG_LONGEST) for tag in (*own, *settings.tracking.wandb.tags)))


def configuration(manifest: Manifest) -> dict[str, Any]:
    """All settings with their types, `section/name`, and what the run is. Keys have no dots: W&B's filters do not find
    such."""
    return {
        **{key.replace(".", "_"): value for key, value in leaves(manifest.settings)},
        "tracking/trackers": [choice.tracker for choice in manifest.load_settings().tracking.trackers],
        "run/name": manifest.name,
        **({} if manifest.part_of is None else {"run/part_of": manifest.part_of}),
        "run/id": manifest.id,
        "run/budget_scale": manifest.budget_scale,
        "run/market": manifest.market.kind,
        "run/market_content": manifest.market.content,
        **{f"versions/{package}": number for package, number in manifest.versions.items()},
    }


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Values of a tree by their keys, joined by `/`; lists are values."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{path}{key}/")
        else:
            yield f"{path}{key}", value


def differing(settings: Settings) -> str:
    """`, learning_rate 0.001, seed 3`: in what a run differs from the settings that are shipped; empty where in
    nothing."""
    usual, own = dict(_shipped()), dict(leaves(settings.model_dump(mode="json")))
    keys = [
        key
        for key, value in own.items()
        if value != usual.get(key) and key.split("/")[0] not in _SAYS_NOTHING and not isinstance(value, list | dict)
    ]
    said = [f"{key.rpartition('/')[2]} {own[key]}" for key in keys[:_NAMED]]
    if settings.seed != usual["seed"]:
        said.append(f"seed {settings.seed}")
    return "".join(f", {one}" for one in said)


@lru_cache(maxsize=1)
def _shipped() -> tuple[tuple[str, Any], ...]:
    return tuple(leaves(Settings.load().model_dump(mode="json")))


def shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
