"""`manifest.json`: what a run is, how far it is, and where everything lies. All a resume needs to read.

Paths in it are relative to the run's folder, so a moved run is still a run. It is replaced as a whole: a reader sees
the old one or the new one, never half of one.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field, model_validator

import mtquant_rllib
from mtquant_rllib.config import Settings
from mtquant_rllib.config.loader import merged, read_tree, validate
from mtquant_rllib.errors import RunError

FILE = "manifest.json"
PHASES = (1, 2, 3)
"""Of the desk; an allocator has the first alone."""

Status = Literal["pending", "running", "done"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class MarketRecord(_Record):
    """What was traded. kind: `file` or `synthetic`; the files that were read; data: the prepared arrays, cached.

    arrays: their hash, which runs of older versions do not have."""

    kind: Literal["file", "synthetic"]
    bars: str | None = None
    macro: str | None = None
    data: str
    arrays: str | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def content(self) -> str:
        """Hash of the bars and of the settings that shaped the arrays: the name of their folder."""
        return Path(self.data).name

    @property
    def files(self) -> tuple[Path | None, Path | None]:
        """Bars and macro files, None where there are none."""
        return (self.bars and Path(self.bars)) or None, (self.macro and Path(self.macro)) or None

    @model_validator(mode="before")
    @classmethod
    def _content_is_derived(cls, raw: Any) -> Any:
        return {key: value for key, value in raw.items() if key != "content"} if isinstance(raw, dict) else raw


class TrialRecord(_Record):
    """One trial. best and last are folders of module states; hashes are those of the best."""

    budget_bars: int
    bars: int = 0
    best: str | None = None
    best_sharpe: float | None = None
    best_bars: int | None = None
    last: str | None = None
    hashes: dict[str, str] = Field(default_factory=dict)


class FrozenRecord(_Record):
    """sha256 of every module that must not have learned, before and after its phase."""

    before: dict[str, str]
    after: dict[str, str]


class PhaseRecord(_Record):
    """experiment: the Tune folder; start: module states it was handed; result: what it hands on."""

    status: Status = "pending"
    experiment: str
    start: str | None = None
    result: str | None = None
    trials: dict[str, TrialRecord] = Field(default_factory=dict)
    frozen: FrozenRecord | None = None
    seconds: float = 0.0


class Manifest(_Record):
    name: str
    created: str
    updated: str
    format: Literal[1] = 1
    seed: int
    budget_scale: float
    wanted: list[int]
    versions: dict[str, str]
    cpus: float = 0.0
    """CPUs of the largest session so far: what its trials asked for, a resume on a smaller machine must offer."""
    market: MarketRecord
    phases: dict[str, PhaseRecord]
    settings: dict[str, Any]

    @classmethod
    def begin(
        cls, name: str, settings: Settings, market: MarketRecord, budget_scale: float, wanted: list[int]
    ) -> Manifest:
        now = _now()
        return cls(
            name=name,
            created=now,
            updated=now,
            seed=settings.seed,
            budget_scale=budget_scale,
            wanted=wanted,
            versions=versions(),
            market=market,
            phases={str(phase): PhaseRecord(experiment=f"phase_{phase}") for phase in phases_of(settings)},
            settings=settings.model_dump(mode="json"),
        )

    def phase(self, number: int) -> PhaseRecord:
        return self.phases[str(number)]

    def load_settings(self) -> Settings:
        return validate(Settings, self.settings, f"settings of run {self.name}")

    def write(self, run: Path) -> None:
        self.updated = _now()
        run.mkdir(parents=True, exist_ok=True)
        half = run / f".{FILE}.{os.getpid()}"
        with open(half, "w") as file:
            file.write(self.model_dump_json(indent=1))
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, run / FILE)

    @classmethod
    def read(cls, run: Path) -> Manifest:
        """Raises RunError when the folder is missing, is no run, or its manifest is of another format."""
        if not run.is_dir():
            raise RunError(f"{run}: no such run folder{_others(run)}")
        try:
            return cls.model_validate(_completed(json.loads((run / FILE).read_text())))
        except FileNotFoundError:
            raise RunError(f"{run}: no {FILE} there, so it is no run folder{_others(run)}") from None
        except (ValueError, ValidationError) as error:
            raise RunError(f"{run / FILE}: not readable as a manifest of this version: {error}") from error


def phases_of(settings: Settings) -> tuple[int, ...]:
    return PHASES if settings.allocator is None else PHASES[:1]


_WITHOUT_EFFECT: dict[str, dict[str, Any]] = {
    "recipe": {"batch_size_final_factor": 1.0},
    "sac": {"learning_starts_frac": 1.0},
}
"""Settings that came after the first runs, at the values with which they change nothing."""
_SAFEGUARDS: dict[str, tuple[str, ...]] = {
    "resources": ("env_retries",),
    "learner": ("max_skipped_updates", "max_parameter_abs"),
}
"""Settings that came later and shape no result, but say when a trial gives up: an older run gets today's."""


def _completed(tree: Any) -> Any:
    """The manifest of an older version with today's defaults for the ways to look at a run that it did not know.

    Of `evaluation` and `tracking`, and of what guards a trial: what shapes a run's result is filled in only where it
    goes on shaping nothing.
    """
    try:
        settings, today = tree["settings"], read_tree("default.yaml")
        known = {section: merged(today[section], settings[section]) for section in ("evaluation", "tracking")}
        known |= {section: {**idle, **settings[section]} for section, idle in _WITHOUT_EFFECT.items()}
        for section, names in _SAFEGUARDS.items():
            known[section] = {**{name: today[section][name] for name in names}, **settings[section]}
        known["networks"] = _with_own_line(settings)
    except (KeyError, TypeError):
        # No manifest at all, which the validation says better.
        return tree
    return {**tree, "settings": {**settings, **known}}


def _with_own_line(settings: Any) -> Any:
    """`networks`, where the attention network's straight line was once that of the level it stood in. Levels that
    differed in it cannot be said with one setting, and are left for the validation to refuse."""
    networks, allocator = settings["networks"], settings.get("allocator")
    if "linear_skip" in networks["attention"]:
        return networks
    levels = [name for name, network in networks["names"].items() if network == "attention"]
    lines = {networks["linear_skip"][level] for level in levels} if allocator is None else {allocator["linear_skip"]}
    if len(lines) > 1:
        return networks
    return {**networks, "attention": {**networks["attention"], "linear_skip": any(lines)}}


def _others(run: Path) -> str:
    runs = sorted(path.parent.name for path in run.parent.glob(f"*/{FILE}")) if run.parent.is_dir() else []
    return f"; the runs in {run.parent} are {', '.join(runs)}" if runs else ""


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Of Python, this package and what its results depend on."""
    found = {"python": platform.python_version(), "mtquant_rllib": mtquant_rllib.__version__}
    for package in ("ray", "torch", "numpy", "pandas"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
