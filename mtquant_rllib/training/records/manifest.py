"""`manifest.json`: what a run is, how far it is, and where everything lies. All a resume needs to read.

Paths in it are relative to the run's folder, so a moved run is still a run, and stay inside it. It is replaced as a
whole: a reader sees the old one or the new one, never half of one; how, and what a second copy is for, stands in
`manifest_file`.
"""

from __future__ import annotations

import datetime as dt
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    computed_field,
    model_validator,
)

from mtquant_rllib.config import Settings
from mtquant_rllib.config.loader import merged, read_tree, validate
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records import durable, manifest_file, mirror, ownership
from mtquant_rllib.training.records.manifest_file import BACKUP, FILE, is_run
from mtquant_rllib.training.records.path_names import FileName, InnerPath, Sha256, hidden_character, shown
from mtquant_rllib.version import VERSION

__all__ = ["BACKUP", "FILE", "PHASES", "FrozenRecord", "Manifest", "MarketRecord", "PhaseRecord", "TrialRecord"]
__all__ += ["is_run", "phases_of", "versions"]

PHASES = (1, 2, 3)
"""Of the desk; an allocator has the first alone."""

PhaseKey = Annotated[str, StringConstraints(pattern=r"\A[123]\z")]
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

    @property
    def recipe(self) -> dict[str, str | None]:
        """What the arrays can be made of again, as plain values for an environment's configuration."""
        return self.model_dump(include={"kind", "bars", "macro", "arrays", "content"})

    @model_validator(mode="before")
    @classmethod
    def _content_is_derived(cls, raw: Any) -> Any:
        return {key: value for key, value in raw.items() if key != "content"} if isinstance(raw, dict) else raw


class TrialRecord(_Record):
    """One trial. best and last are folders of module states; hashes are those of the best."""

    budget_bars: int = Field(ge=1)
    bars: int = Field(default=0, ge=0)
    best: InnerPath | None = None
    best_sharpe: float | None = None
    best_bars: int | None = None
    last: InnerPath | None = None
    hashes: dict[FileName, Sha256] = Field(default_factory=dict)


class FrozenRecord(_Record):
    """sha256 of every module that must not have learned, before and after its phase."""

    before: dict[FileName, Sha256]
    after: dict[FileName, Sha256]


class PhaseRecord(_Record):
    """experiment: the Tune folder; start: module states it was handed; result: what it hands on."""

    status: Status = "pending"
    experiment: InnerPath
    start: InnerPath | None = None
    result: InnerPath | None = None
    trials: dict[FileName, TrialRecord] = Field(default_factory=dict)
    frozen: FrozenRecord | None = None
    seconds: float = 0.0

    @property
    def paths(self) -> list[str]:
        """Every path that this record names."""
        own = (self.experiment, self.start, self.result)
        trials = (path for trial in self.trials.values() for path in (trial.best, trial.last))
        return [path for path in (*own, *trials) if path is not None]


class Manifest(_Record):
    name: str
    id: FileName | None = None
    """The random id of the run's marker; runs of older versions get theirs when they are written next."""
    created: str
    updated: str
    format: Literal[1] = 1
    seed: int
    budget_scale: float
    wanted: list[int]
    versions: dict[str, str]
    market: MarketRecord
    phases: dict[PhaseKey, PhaseRecord]
    settings: dict[str, Any]
    _begun: bool = PrivateAttr(default=False)
    """Not written yet: its first write claims the folder."""

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if unknown := [phase for phase in self.wanted if str(phase) not in self.phases]:
            raise ValueError(f"wanted: there is no phase {', '.join(map(str, unknown))} in this run")
        if (found := hidden_character(self.name)) is not None:
            raise ValueError(f"name: it contains {found}")
        return self

    @classmethod
    def begin(
        cls, name: str, settings: Settings, market: MarketRecord, budget_scale: float, wanted: list[int]
    ) -> Manifest:
        """A new run's. Its first `write` claims the folder, and is refused where anything of somebody else's lies."""
        now = _now()
        manifest = cls(
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
        manifest._begun = True
        return manifest

    def begin_again(self, fresh: Manifest) -> None:
        """Become what another run would begin as, in this one's folder."""
        for field in type(self).model_fields:
            if field not in ("id", "created"):
                setattr(self, field, getattr(fresh, field))

    def phase(self, number: int) -> PhaseRecord:
        return self.phases[str(number)]

    def load_settings(self) -> Settings:
        return validate(Settings, self.settings, f"settings of run {self.name}")

    def write(self, run: Path) -> None:
        """Write both copies; whatever moment the process is killed at, a whole one is there.

        Raises
        ------
        RunError
            When a new run's folder is not empty, or the storage is full or away. Nothing is changed then.
        """
        if self._begun:
            ownership.claim(run)
        elif not is_run(run):
            with durable.named_errors(run):
                ownership.expect_there(run)
        self.id = ownership.mark(run, self.id)
        self.updated = _now()
        manifest_file.write(run, json.loads(self.model_dump_json()))
        for name in (ownership.MARKER, FILE, BACKUP):
            try:
                mirror.sent(run / name)
            except OSError as error:
                raise RunError(
                    f"{mirror.named(run)}/{name}: cannot be written ({error.strerror or error}); see to the bucket and "
                    "its credentials and try again"
                ) from error
        self._begun = False
        for name in (FILE, BACKUP):
            ownership.sweep(run, run, name)

    @classmethod
    def read(cls, run: Path, *, trust: bool = False) -> Manifest:
        """The run's manifest; from its second copy, with a warning, where the first is damaged or missing.

        trust: take one that was edited, or that another run's marker stands beside.

        Raises
        ------
        RunError
            When the folder is missing or no run, or both copies are damaged, or the manifest was edited, is of another
            format, or names a path outside the run.
        """
        if not run.is_dir():
            raise RunError(f"{run}: no such run folder{_others(run)}")
        try:
            manifest = cls.model_validate(_completed(manifest_file.load(run, trust)))
        except FileNotFoundError:
            if ownership.identity(run) is not None:
                raise RunError(
                    f"{run}: this run has lost both {FILE} and {BACKUP}; put one of them back from a copy, or train a "
                    "new run under another name"
                ) from None
            raise RunError(f"{run}: no {FILE} there, so it is no run folder{_others(run)}") from None
        except ValidationError as error:
            raise RunError(f"{run / FILE}: not readable as a manifest of this version: {_first_of(error)}") from error
        for path in (path for record in manifest.phases.values() for path in record.paths):
            if not ownership.stays_inside(run, path):
                raise RunError(
                    f"{run / FILE}: {path} is a link that leaves the run's folder, and is neither read nor "
                    "written; put the folder that it leads to in its place"
                )
        marked = ownership.identity(run)
        if not trust and marked is not None and manifest.id not in (None, marked):
            raise RunError(
                f"{run}: {FILE} is that of another run (its id is not the one in {ownership.MARKER}); put this run's "
                "own back from a copy, or accept it with --trust"
            )
        return manifest


def _first_of(error: ValidationError) -> str:
    """Place and fault of the first thing that a validation found, on one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = shown(".".join(map(str, first["loc"])))[1:-1]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {first['msg'].removeprefix('Value error, ')}{more}"


def phases_of(settings: Settings) -> tuple[int, ...]:
    return PHASES if settings.allocator is None else PHASES[:1]


_WITHOUT_EFFECT: dict[str, dict[str, Any]] = {
    "recipe": {"batch_size_final_factor": 1.0},
    "sac": {"learning_starts_frac": 1.0},
}
"""Settings that came after the first runs, at the values with which they change nothing."""
_WITHOUT_PART = ("evaluation", "tracking", "checkpoints", "resources", "search")
"""Sections that shape no result. (Of `resources`, numbers of runners and learners do; every manifest has them.)"""
_SAFEGUARDS: dict[str, tuple[str, ...]] = {"learner": ("max_skipped_updates", "max_parameter_abs")}
"""Settings that came later and shape no result, but say when a trial gives up: an older run gets today's."""


def _completed(tree: Any) -> Any:
    """The manifest of an older version with today's defaults for settings that it did not know and that have no part
    in a run's result; what shapes it is filled in only where it goes on shaping nothing."""
    try:
        settings, today = tree["settings"], read_tree("default.yaml")
        known = {section: merged(today[section], settings.get(section, {})) for section in _WITHOUT_PART}
        known |= {section: {**idle, **settings[section]} for section, idle in _WITHOUT_EFFECT.items()}
        for section, names in _SAFEGUARDS.items():
            known[section] = {**{name: today[section][name] for name in names}, **settings[section]}
        known["networks"] = _with_own_line(settings)
    except (KeyError, TypeError, AttributeError):
        # No manifest at all, which the validation says better.
        return tree
    return {**{key: value for key, value in tree.items() if key != "cpus"}, "settings": {**settings, **known}}


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
    found = run.parent.glob(f"*/{FILE}") if run.parent.is_dir() else ()
    runs = sorted(path.parent.name for path in found if path.parent.name.isprintable())
    return f"; the runs in {run.parent} are {', '.join(runs)}" if runs else ""


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Of Python, this package and what its results depend on."""
    found = {"python": platform.python_version(), "mtquant_rllib": VERSION}
    for package in ("ray", "torch", "numpy", "pandas"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
