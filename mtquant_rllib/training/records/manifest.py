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
    model_validator,
)

from mtquant_rllib import durable
from mtquant_rllib.config import Settings
from mtquant_rllib.config.environment import MarketRecipe
from mtquant_rllib.config.loader import validate
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records import manifest_file, ownership
from mtquant_rllib.training.records.manifest_file import BACKUP, FILE, is_run
from mtquant_rllib.training.records.path_names import FileName, InnerPath, Sha256, hidden_character, shown
from mtquant_rllib.training.storage import mirror
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

    arrays: their hash."""

    kind: Literal["file", "synthetic"]
    bars: str | None = None
    macro: str | None = None
    data: str
    arrays: str | None = None

    @property
    def content(self) -> str:
        """Hash of the bars and of the settings that shaped the arrays: the name of their folder."""
        return Path(self.data).name

    @property
    def files(self) -> tuple[Path | None, Path | None]:
        """Bars and macro files, None where there are none."""
        return (self.bars and Path(self.bars)) or None, (self.macro and Path(self.macro)) or None

    @property
    def recipe(self) -> MarketRecipe:
        """From what the arrays can be made again."""
        return MarketRecipe(**self.model_dump(include=set(MarketRecipe.model_fields)))


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
    """experiment: the Tune folder; start: module states it was handed; result: what it hands over."""

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
    part_of: str | None = None
    """The sweep, walk-forward test or ablation that the run belongs to."""
    id: FileName | None = None
    """The random id of the run's marker; None before the first write."""
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
        for key, name in {"name": self.name, "part_of": self.part_of}.items():
            if name is not None and (found := hidden_character(name)) is not None:
                raise ValueError(f"{key}: it contains {found}")
        return self

    @classmethod
    def begin(
        cls,
        name: str,
        settings: Settings,
        market: MarketRecord,
        budget_scale: float,
        wanted: list[int],
        *,
        part_of: str | None = None,
    ) -> Manifest:
        """The manifest of a new run. Its first `write` claims the folder, and is refused where something else lies."""
        now = _now()
        manifest = cls(
            name=name,
            part_of=part_of,
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
        """Replace everything but id and date of creation by the content of a new run's manifest."""
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
                mirror.push(run / name)
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
            manifest = cls.model_validate(manifest_file.load(run, trust))
        except FileNotFoundError:
            if (run / ownership.SWEEP).is_file():
                raise RunError(f"{run}: it holds the runs of a sweep or an ensemble; name one of those in it") from None
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
    """The first error of a validation, with its field, on one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = shown(".".join(map(str, first["loc"])))[1:-1]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {first['msg'].removeprefix('Value error, ')}{more}"


def phases_of(settings: Settings) -> tuple[int, ...]:
    return PHASES if settings.allocator is None else PHASES[:1]


def _others(run: Path) -> str:
    found = run.parent.glob(f"*/{FILE}") if run.parent.is_dir() else ()
    runs = sorted(path.parent.name for path in found if path.parent.name.isprintable())
    return f"; the runs in {run.parent} are {', '.join(runs)}" if runs else ""


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of the libraries that its results depend on."""
    found = {"python": platform.python_version(), "mtquant_rllib": VERSION}
    for package in ("ray", "torch", "numpy", "pandas"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
