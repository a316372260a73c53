"""What a sweep searches: settings by their paths, and the values that each may take.

    recipe.learning_rate: {loguniform: [1.0e-4, 1.0e-2]}
    recipe.gae_lambda: {uniform: [0.1, 0.95]}
    recipe.n_epochs: {integers: [2, 10]}
    recipe.batch_size: [256, 512, 1024]           # in order: population-based training moves to a neighbour
    networks.names.meta: {choice: [mlp, residual]}  # without an order: it draws anew

Everything is checked against the settings when it is read: a path that is none and a value that cannot be are refused
before anything starts.
"""

from __future__ import annotations

import itertools
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from mtquant_rllib.config.loader import number_of, read_tree, validate, with_value
from mtquant_rllib.config.sections.search import PBTConfig
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import ConfigError

Values = dict[str, Any]
"""Setting path -> value: what one trial is."""

NOT_SEARCHED = {
    "seed": "every trial has the same seeds: --seeds K",
    "evaluation": "it shapes no policy",
    "tracking": "it shapes no policy",
    "checkpoints": "it shapes no policy",
    "resources": "it shapes no policy",
    "search": "it says how trials are compared",
    "serving": "it shapes no policy",
    "market": "every trial is judged on the same validation bars",
    "embedded": "every trial is judged on the same validation bars",
    "synthetic": "every trial is judged on the same validation bars",
    "symbols": "every trial is judged at the same costs",
    "policy_rates": "every trial is judged at the same costs",
    "desk.cost": "every trial is judged at the same costs",
    "desk.fill": "every trial is judged at the same fills",
    "desk.account": "every trial is judged on the same account",
    "desk.episode": "every trial is judged on the same episodes",
    "training.phase_1_timesteps": "every trial has the same budget, of which schedulers compare shares",
    "training.phase_2_timesteps": "every trial has the same budget, of which schedulers compare shares",
    "training.phase_3_timesteps": "every trial has the same budget, of which schedulers compare shares",
    "allocator.bars": "every trial has the same budget, of which schedulers compare shares",
    "recipe.validations": "every trial is judged equally often",
}
"""Settings, and sections, without a part in a search, and why."""

PERTURBED = (
    "recipe.learning_rate",
    "recipe.learning_rates.",
    "recipe.learning_rate_final_frac",
    "recipe.gae_lambda",
    "recipe.gamma",
    "recipe.n_epochs",
    "recipe.batch_size",
    "recipe.batch_size_final_factor",
    "recipe.clip_range",
    "recipe.grad_clip",
    "recipe.vf_clip",
    "recipe.entropy_coeff",
    "sac.learning_rates.",
    "sac.tau",
    "sac.batch_size",
    "sac.gamma",
    "sac.grad_clip",
)
"""Settings that can change while a policy learns: they shape neither networks nor episodes nor the length of an
update."""


class Dimension(ABC):
    """The values of one setting."""

    @property
    @abstractmethod
    def tried(self) -> tuple[Any, ...]:
        """Every value, or the ends of a range: what is checked against the settings."""

    @property
    def values(self) -> tuple[Any, ...] | None:
        """Every value, for a grid; None where there are too many."""
        return None

    @abstractmethod
    def draw(self, rng: random.Random) -> Any:
        """One value."""

    @abstractmethod
    def moved(self, value: Any, rng: random.Random, factors: Sequence[float]) -> Any:
        """A value near to this one."""

    @abstractmethod
    def declared(self) -> Any:
        """As a file says it."""


@dataclass(frozen=True)
class Categorical(Dimension):
    """Single values. ordered: a neighbour is near."""

    options: tuple[Any, ...]
    ordered: bool

    @property
    def tried(self) -> tuple[Any, ...]:
        return self.options

    @property
    def values(self) -> tuple[Any, ...]:
        return self.options

    def draw(self, rng: random.Random) -> Any:
        return rng.choice(self.options)

    def moved(self, value: Any, rng: random.Random, factors: Sequence[float]) -> Any:
        if not self.ordered:
            return self.draw(rng)
        place = self.options.index(value) + rng.choice((-1, 1))
        return self.options[min(max(place, 0), len(self.options) - 1)]

    def declared(self) -> Any:
        return list(self.options) if self.ordered else {"choice": list(self.options)}


@dataclass(frozen=True)
class Range(Dimension):
    """Numbers between two ends, both included. kind: `uniform`, `loguniform` or `integers`."""

    kind: str
    low: float
    high: float

    @property
    def tried(self) -> tuple[Any, ...]:
        return self.low, self.high

    @property
    def values(self) -> tuple[Any, ...] | None:
        return tuple(range(int(self.low), int(self.high) + 1)) if self.kind == "integers" else None

    def draw(self, rng: random.Random) -> Any:
        if self.kind == "integers":
            return rng.randint(int(self.low), int(self.high))
        if self.kind == "uniform":
            return rng.uniform(self.low, self.high)
        return self._inside(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))

    def moved(self, value: Any, rng: random.Random, factors: Sequence[float]) -> Any:
        """Multiplied by one of the factors, an integer by a step at least, and kept inside the range."""
        factor = rng.choice(tuple(factors))
        if self.kind != "integers":
            return self._inside(value * factor)
        step = max(1, round(abs(value * (factor - 1))))
        return int(self._inside(value + (step if factor > 1 else -step)))

    def _inside(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def declared(self) -> Any:
        return {self.kind: [self.low, self.high]}


@dataclass(frozen=True)
class Space:
    """A declared search. dimensions: in the order of the file."""

    dimensions: Mapping[str, Dimension]

    def draw(self, seed: int, number: int) -> Values:
        """The values of trial `number`: the same whatever the number of trials."""
        rng = random.Random(f"{seed}|{number}")
        return {path: dimension.draw(rng) for path, dimension in self.dimensions.items()}

    def grid(self) -> list[Values]:
        """Every combination, the last setting changing fastest.

        Raises
        ------
        ConfigError
            When a setting has a range, whose values are too many.
        """
        columns = []
        for path, dimension in self.dimensions.items():
            if dimension.values is None:
                raise ConfigError(
                    f"{path}: {dimension.declared()} has no grid; list its values, or take another scheduler"
                )
            columns.append(dimension.values)
        return [dict(zip(self.dimensions, row)) for row in itertools.product(*columns)]

    @property
    def listed(self) -> bool:
        """Whether every setting has single values, so that a grid is possible."""
        return all(isinstance(dimension, Categorical) for dimension in self.dimensions.values())

    def perturbed(self, values: Values, rng: random.Random, how: PBTConfig) -> Values:
        """Values near to these: each is moved, or drawn anew with probability `how.resample_prob`."""
        return {
            path: dimension.draw(rng)
            if rng.random() < how.resample_prob
            else dimension.moved(values[path], rng, how.factors)
            for path, dimension in self.dimensions.items()
        }

    def declared(self) -> dict[str, Any]:
        """As plain values, which `read_space` reads again."""
        return {path: dimension.declared() for path, dimension in self.dimensions.items()}


def read_space(sources: Sequence[str] | Mapping[str, Any], settings: Settings) -> Space:
    """A space, checked against the settings that trials begin with.

    Parameters
    ----------
    sources
        Files, and texts such as `recipe.learning_rate=1e-4,3e-4`; or what a file holds.

    Raises
    ------
    ConfigError
        Naming the path or the value, and what would be accepted.
    """
    tree: dict[str, Any] = {}
    given = [sources] if isinstance(sources, Mapping) else [_parsed(source) for source in sources]
    for part in given:
        for path, declaration in part.items():
            if path in tree:
                raise ConfigError(f"--space {path}: stands twice")
            tree[path] = declaration
    if not tree:
        raise ConfigError("--space: nothing to search; name a setting and its values")
    space = Space({str(path): _dimension(str(path), declaration) for path, declaration in tree.items()})
    _check(space, settings)
    return space


def _parsed(source: str) -> dict[str, Any]:
    path, sign, text = source.partition("=")
    if not sign:
        return read_tree(source)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--space {source!r}: the values are not readable as YAML: {error}") from error
    if isinstance(value, str) and "," in value:
        value = yaml.safe_load(f"[{text}]")
    return {path.strip(): value}


def _dimension(path: str, declaration: Any) -> Dimension:
    if isinstance(declaration, list):
        return _categorical(path, declaration, ordered=True)
    if isinstance(declaration, Mapping) and len(declaration) == 1:
        ((kind, arguments),) = declaration.items()
        if kind == "choice" and isinstance(arguments, list):
            return _categorical(path, arguments, ordered=False)
        if kind in ("uniform", "loguniform", "integers"):
            return _range(path, kind, arguments)
    raise ConfigError(
        f"--space {path} = {declaration!r}: expected a list of values, or one of {{choice: [...]}}, "
        "{uniform: [low, high]}, {loguniform: [low, high]}, {integers: [low, high]}"
    )


def _categorical(path: str, options: Sequence[Any], ordered: bool) -> Categorical:
    found = tuple(number_of(option) for option in options)
    if not found:
        raise ConfigError(f"--space {path}: the list is empty")
    for place, option in enumerate(found):
        if option in found[:place]:
            raise ConfigError(f"--space {path}: {option!r} stands twice")
    return Categorical(found, ordered)


def _range(path: str, kind: str, ends: Any) -> Range:
    numbers = [number_of(end) for end in ends] if isinstance(ends, list) else []
    said = f"--space {path} = {{{kind}: {ends!r}}}"
    if len(numbers) != 2 or any(isinstance(end, bool) or not isinstance(end, int | float) for end in numbers):
        raise ConfigError(f"{said}: expected two numbers, [low, high]")
    low, high = numbers
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{said}: expected a low end below the high one")
    if kind == "loguniform" and low <= 0:
        raise ConfigError(f"{said}: expected ends above 0, as logarithms have")
    if kind == "integers" and (low != int(low) or high != int(high)):
        raise ConfigError(f"{said}: expected whole numbers")
    return Range(kind, *((int(low), int(high)) if kind == "integers" else (float(low), float(high))))


def _check(space: Space, settings: Settings) -> None:
    for path, dimension in space.dimensions.items():
        for setting, why in NOT_SEARCHED.items():
            if path == setting or path.startswith(f"{setting}."):
                raise ConfigError(f"--space {path}: not searched; {why}")
        for value in dimension.tried:
            settings_with(settings, {path: value})


def settings_with(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings of a trial.

    Raises
    ------
    ConfigError
        When a path is none of the settings', or a value cannot be.
    """
    tree: dict[str, Any] = settings.model_dump(mode="json")
    for path, value in values.items():
        tree = with_value(tree, path, value)
    return validate(Settings, tree, f"--space {', '.join(values)}")


def expect_perturbable(space: Space) -> None:
    """Raises ConfigError for a setting that cannot change while a policy learns."""
    for path in space.dimensions:
        if not any(path == one or (one.endswith(".") and path.startswith(one)) for one in PERTURBED):
            raise ConfigError(
                f"--space {path}: a policy that learns cannot change it on the way, as --scheduler pbt would; it can "
                f"change {', '.join(_names())}; for others take asha, random or grid"
            )


def _names() -> Iterator[str]:
    return (f"{path}*" if path.endswith(".") else path for path in PERTURBED)
