"""`sweep.json`: what a sweep is. Declared before its first trial begins, and replaced as a whole.

runs/NAME/
  sweep.json                 the settings, the space, the scheduler, and the values of every trial
  results.json, results.csv  what came of it so far, with the scheduler's state; the same as a table
  run.log                    what the console said, with times
  trial_03_seed_1/           a run like any other: `mtquant evaluate runs/NAME/trial_03_seed_1`
  tune/trial_03/             Tune's folder of a trial, with TensorBoard
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mtquant_rllib import durable
from mtquant_rllib.config import Settings
from mtquant_rllib.config.loader import validate
from mtquant_rllib.config.search_space import Space, Values, read_space, settings_with
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.records import ownership
from mtquant_rllib.training.records.manifest import versions

FILE = ownership.SWEEP
SELECTION = "selection.json"
"""In the folder of each run of a sweep: out of how many it was, or was not, chosen."""
EXPERIMENT = "tune"


def is_sweep(folder: Path) -> bool:
    return (folder / FILE).is_file()


def is_ensemble(folder: Path) -> bool:
    """Whether a folder is a sweep whose runs are members of an ensemble; not one whose record cannot be read."""
    try:
        return bool(json.loads((folder / FILE).read_bytes())["kind"] == "ensemble")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def members_of(sweep: Path) -> list[Path]:
    """The folders of a sweep's runs, an ensemble's members."""
    record = SweepRecord.read(sweep)
    return [folder for name in record.names for folder in record.runs_of(sweep, name)]


class SweepRecord(BaseModel):
    """kind: a walk-forward test is a sweep whose trials are its folds, an ablation one whose trials are its changes, an
    ensemble one whose trials are its members, which differ by their seeds alone.
    phases: those that every trial is trained through. trials: values, by number; with a searcher that learns from
    results they are as many as were asked for so far."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    kind: Literal["sweep", "walk_forward", "ablation", "ensemble"] = "sweep"
    name: str
    created: str
    phases: list[int]
    budget_scale: float = Field(gt=0)
    market: str | None
    macro: str | None
    versions: dict[str, str]
    space: dict[str, Any]
    trials: list[Values]
    settings: dict[str, Any]

    @classmethod
    def begin(cls, name: str, settings: Settings, space: Space, trials: list[Values], **named: Any) -> SweepRecord:
        return cls(
            name=name,
            created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            versions=versions(),
            space=space.declared(),
            trials=trials,
            settings=settings.model_dump(mode="json"),
            **named,
        )

    @classmethod
    def walk_forward(cls, name: str, settings: Settings, folds: list[Values], **named: Any) -> SweepRecord:
        """The record of a walk-forward test: nothing is searched."""
        record = cls.begin(name, settings, Space({}), folds, **named)
        return record.model_copy(update={"kind": "walk_forward"})

    @classmethod
    def ablation(cls, name: str, settings: Settings, changes: list[Values], **named: Any) -> SweepRecord:
        """The record of an ablation: nothing is searched."""
        record = cls.begin(name, settings, Space({}), changes, **named)
        return record.model_copy(update={"kind": "ablation"})

    @classmethod
    def ensemble(cls, name: str, settings: Settings, members: int, **named: Any) -> SweepRecord:
        """The record of an ensemble: nothing is searched."""
        record = cls.begin(name, settings, Space({}), [{} for _ in range(members)], **named)
        return record.model_copy(update={"kind": "ensemble"})

    def load_settings(self) -> Settings:
        """The settings that every trial begins with."""
        return validate(Settings, self.settings, f"settings of sweep {self.name}")

    def load_space(self) -> Space:
        if self.kind != "sweep":
            return Space({})
        return read_space(self.space, self.load_settings())

    @property
    def n_trials(self) -> int:
        """How many were, or will be, tried."""
        search = self.settings["search"]
        return max(len(self.trials), search["trials"] if search["searcher"] != "random" else 0)

    def name_of(self, number: int) -> str:
        return f"trial_{number:0{max(2, len(str(self.n_trials - 1)))}d}"

    @property
    def names(self) -> list[str]:
        return [self.name_of(number) for number in range(len(self.trials))]

    def values_of(self, trial: str) -> Values:
        return self.trials[int(trial.rpartition("_")[2])]

    @property
    def seeds(self) -> list[int]:
        """Of a trial's runs, but for an ensemble's: the settings' own and those that follow it."""
        return [self.settings["seed"] + number for number in range(self.settings["search"]["seeds"])]

    def seeds_of(self, trial: str) -> list[int]:
        """Of a trial's runs: `seeds`; an ensemble's trials have one each."""
        if self.kind == "ensemble":
            return [self.settings["seed"] + int(trial.rpartition("_")[2])]
        return self.seeds

    def runs_of(self, sweep: Path, trial: str) -> list[Path]:
        """The folders of a trial's runs, one a seed."""
        return [sweep / f"{trial}_seed_{seed}" for seed in self.seeds_of(trial)]

    def settings_of(self, trial: str, seed: int) -> Settings:
        chosen = settings_with(self.load_settings(), self.values_of(trial))
        return chosen.model_copy(update={"seed": seed})

    def write(self, sweep: Path) -> None:
        durable.replace_file(sweep / FILE, self.model_dump_json(indent=1).encode())

    @classmethod
    def read(cls, sweep: Path) -> SweepRecord:
        """Raises RunError when the folder is no sweep, or its record cannot be read."""
        if not is_sweep(sweep):
            raise RunError(f"{sweep}: no sweep there: it has no {FILE}")
        try:
            return cls.model_validate(json.loads((sweep / FILE).read_bytes()))
        except (OSError, ValueError, ValidationError) as error:
            first = str(error).splitlines()[0]
            raise RunError(f"{sweep / FILE}: not readable as the record of a sweep: {first}") from error
