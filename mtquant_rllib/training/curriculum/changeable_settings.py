"""Settings that may change between two attempts of one run, and those that may not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mtquant_rllib import strict_json
from mtquant_rllib.config import Settings
from mtquant_rllib.config.loader import apply_overrides, validate
from mtquant_rllib.config.settings import BY_MARKET
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.records.manifest import Manifest

CHANGEABLE = (
    "resources.cpus",
    "resources.gpus",
    "resources.learner_cpus",
    "resources.min_process_cpus",
    "resources.processes_per_gpu",
    "resources.worker_types",
    "resources.worker_start_seconds",
    "resources.learners",
    "resources.runners",
    "resources.runner_restart_seconds",
    "resources.env_retries",
    "resources.object_store_mb",
    "tracking.",
    "checkpoints.",
    "search.",
    "serving.",
)
"""Settings that may change between two attempts of one run: they have no part in its result, but for the number of
learners (rounding and dropout differ) and of runners (episodes in progress begin afresh)."""


def refuse_unchangeable(overrides: Sequence[str]) -> None:
    """Raises ConfigError for an override that would change what a run is."""
    for override in overrides:
        if not override.startswith(CHANGEABLE):
            raise ConfigError(
                f"--set {override}: a run goes on with the settings it began with; only "
                f"{', '.join(part.rstrip('.') for part in CHANGEABLE)} can be changed"
            )


def change_settings(manifest: Manifest, overrides: Sequence[str], run: Path) -> None:
    """Change a run's settings."""
    manifest.settings = with_overrides(manifest.settings, overrides, str(run))


def with_overrides(settings: dict[str, Any], overrides: Sequence[str], source: str) -> dict[str, Any]:
    """Settings as plain values, with overrides, checked."""
    return validate(Settings, apply_overrides(settings, overrides), source).model_dump(mode="json")


def changed_settings(manifest: Manifest, settings: Settings) -> list[str]:
    """How these settings differ from a run's, as overrides.

    Raises
    ------
    ConfigError
        When a setting differs that may not change between two attempts of a run.
    """
    begun, asked = manifest.load_settings().model_dump(mode="json"), settings.model_dump(mode="json")
    if asked["desk"]["observation"]["feature_means"] is None:
        # The run has those of its training bars.
        asked["desk"]["observation"]["feature_means"] = begun["desk"]["observation"]["feature_means"]
    before = dict(_leaves(begun))
    differing = [
        f"{key}={strict_json.dumps(value)}"
        for key, value in _leaves(asked)
        # What a market decides is decided for the run.
        if value != before.get(key) and not (key in BY_MARKET and value == "files")
    ]
    fixed = [override for override in differing if not override.startswith(CHANGEABLE)]
    if fixed:
        raise ConfigError(
            f"run {manifest.name} was begun with other settings, and goes on with those that it began with: leave out "
            f"{', '.join(fixed[:5])}{' and more' if len(fixed) > 5 else ''}, or name another run"
        )
    return differing


def _leaves(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
