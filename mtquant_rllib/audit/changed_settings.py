"""Settings with a few values changed in code, where a command has to look at several of one kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtquant_rllib.config.settings import Settings


def changed(settings: Settings, **changes: Any) -> Settings:
    """The settings with some keys of their sections changed, checked as any are."""
    tree = settings.model_dump(mode="json")
    for section, own in changes.items():
        _merge(tree[section], own)
    return Settings.model_validate(tree)


def _merge(tree: dict[str, Any], own: Mapping[str, Any]) -> None:
    for key, value in own.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value
