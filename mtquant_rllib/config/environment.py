"""What an environment is made from. RLlib carries it as the plain dictionary `env_config`, which `EnvironmentConfig.of`
alone reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from mtquant_rllib.config.base import Section, Seed
from mtquant_rllib.config.loader import validate
from mtquant_rllib.config.sections.training import Reward
from mtquant_rllib.config.settings import Settings

READ_OF_COPIED: dict[str, set[str]] = {
    "recipe": {"rewards"},
    "sac": set(),
    "networks": set(),
    "learner": set(),
    "training": set(),
    "meta_controller": set(),
    "resources": {"env_retries"},
}
"""Sections of the settings that a trial's configuration is made from, and what environments and runners read of them
afterwards all the same."""


class MarketRecipe(Section):
    """From what prepared arrays can be made again.

    bars, macro
        Paths, or addresses in an object store; None for the embedded market.
    arrays
        Hash of the prepared arrays.
    """

    kind: Literal["file", "synthetic"]
    bars: str | None = None
    macro: str | None = None
    arrays: str | None = None

    @property
    def name(self) -> str:
        return "the embedded market" if self.bars is None else self.bars


class EnvironmentConfig(Section):
    """One environment: which market, which part of it, which agents play.

    data
        Folder of the prepared arrays. Its name is a hash of the bars and of the settings that shape the arrays.
    market
        How to make them again where that folder is gone; None where it cannot be done.
    phase, domain
        Phase 1 plays the agents of one domain, or without one of all in turn; phases 2 and 3 play everybody.
    seed
        Of the episodes that are drawn; None follows whoever makes the environment.
    """

    data: Path
    market: MarketRecipe | None = None
    settings: Settings
    phase: Literal[1, 2, 3]
    domain: str | None = None
    split: Literal["train", "validation", "test"] = "train"
    seed: Seed | None = None

    @model_validator(mode="after")
    def _plays_a_domain_in_phase_1_alone(self) -> EnvironmentConfig:
        domains = [domain.name for domain in self.settings.universe.domains]
        if self.domain is not None and (self.phase != 1 or self.settings.universe.allocates):
            raise ValueError(
                f"phase {self.phase} with domain {self.domain!r}: phase 1 of the desk alone plays one domain"
            )
        if self.domain is not None and self.domain not in domains:
            raise ValueError(f"domain {self.domain!r}: expected one of {', '.join(domains)}")
        return self

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> EnvironmentConfig:
        """From `env_config`, whose settings may be a `Settings` or a dictionary.

        Raises
        ------
        ConfigError
            Naming the key.
        """
        return validate(cls, raw, "env_config")

    def plain(self) -> dict[str, Any]:
        """As `env_config`: JSON's types alone, so that a checkpoint holds no class of ours there."""
        return self.model_dump(mode="json")

    @property
    def reward(self) -> Reward:
        """The reward of the phase."""
        return self.settings.recipe.rewards[self.phase - 1]

    @property
    def limited(self) -> bool:
        """Whether the risk rules limit this environment: always where it is judged."""
        return self.split != "train" or self.settings.recipe.risk_rules_in_training

    def copied_sections(self) -> dict[str, str]:
        """A hash of each section of the settings that a trial's configuration is made from, without what is read
        here."""
        found = {
            name: getattr(self.settings, name).model_dump(mode="json", exclude=read, exclude_defaults=True)
            for name, read in READ_OF_COPIED.items()
        }
        found["reference"] = self.settings.reference.model_dump(mode="json", include={"kl_coeff"})
        return {name: hashlib.sha256(repr(tree).encode()).hexdigest()[:16] for name, tree in found.items()}

    @property
    def plays_domains_in_turn(self) -> bool:
        return self.phase == 1 and self.domain is None

    @property
    def domain_index(self) -> int | None:
        universe = self.settings.universe
        return None if self.domain is None else universe.domains.index(universe.domain_named(self.domain))
