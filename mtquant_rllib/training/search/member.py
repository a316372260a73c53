"""One run of a trial of a sweep: the trial's settings with one seed, trained update by update.

It is a run like any other, in a folder of its own: `mtquant train` with the same settings and seed makes the same
bytes. The trial's process holds the algorithms of all of its runs and steps them in turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray import tune

from mtquant_rllib.config.search_space import Values, settings_with
from mtquant_rllib.training.algorithm.desk_algorithm import summary
from mtquant_rllib.training.curriculum.phase_handover import begin_phase, hand_over
from mtquant_rllib.training.curriculum.phases import TrialPlan, budget_bars, plan_phase
from mtquant_rllib.training.curriculum.trial import PhaseTrial, TrialContext
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.records.manifest_file import FILE
from mtquant_rllib.training.reporting.curve_files import VALIDATION_SHARPE, curve_of, whole_rows
from mtquant_rllib.training.reporting.result_files import Curves
from mtquant_rllib.training.result_keys import ENV_FAULTS, FAILURE, SHARPE, TRIAL, VALIDATION
from mtquant_rllib.training.search.handover import best_of, checkpoint_of
from mtquant_rllib.training.storage.retries import with_retries


class Member:
    """See the module's docstring.

    common: what its phases' trials are started with, but for run, phase, trial and checkpoints. resumable: of the
    phase that it is in, the checkpoints that each trial may go on from, newest first.
    """

    def __init__(self, run: Path, common: TrialContext, resumable: Mapping[str, list[str]], storage: Any) -> None:
        self.run, self.manifest = run, Manifest.read(run)
        self._common, self._resumable, self._storage = common, dict(resumable), storage
        settings = self.manifest.load_settings()
        self._keeping = settings.checkpoints
        self._trials: dict[str, PhaseTrial] = {}
        self._plans: list[TrialPlan] = []
        self._watchers: list[tune.Callback] = []
        self._sharpe: dict[str, float] = {}
        self._best: dict[str, float] = {}
        self._faults: list[str] = []
        self.failure: str | None = None
        self._budgets = {
            phase: sum(budget_bars(settings, plan, self.manifest.budget_scale) for plan in plan_phase(settings, phase))
            for phase in self.manifest.wanted
        }

    # -- where it stands ----------------------------------------------------------------------------------------------

    @property
    def phase(self) -> int | None:
        """The one that it is in; None once all are done."""
        todo = [phase for phase in self.manifest.wanted if self.manifest.phase(phase).status != "done"]
        return todo[0] if todo else None

    @property
    def budget(self) -> int:
        return sum(self._budgets.values())

    @property
    def bars(self) -> int:
        """Bars sampled in all phases, those that ended early included as they ended."""
        done = sum(
            trial.bars
            for phase in self.manifest.wanted
            if self.manifest.phase(phase).status == "done"
            for trial in self.manifest.phase(phase).trials.values()
        )
        return done + sum(trial.go_on().bars_sampled for trial in self._trials.values())

    @property
    def covered(self) -> float:
        """Bars of its budget that are done with: those of a trial that ended early count as sampled."""
        done = sum(
            self._budgets[phase] for phase in self.manifest.wanted if self.manifest.phase(phase).status == "done"
        )
        for name, trial in self._trials.items():
            budget = self.manifest.phase(self._plans[0].phase).trials[name].budget_bars
            done += budget if trial.go_on().finished else trial.go_on().bars_sampled
        return float(done)

    @property
    def score(self) -> float:
        """Best validation Sharpe so far in the phase that it is in, the mean over the phase's trials; NaN before the
        first validation."""
        return float(np.mean(list(self._best.values()))) if self._best else math.nan

    @property
    def sharpe(self) -> float:
        """The newest validation's."""
        return float(np.mean(list(self._sharpe.values()))) if self._sharpe else math.nan

    @property
    def newest(self) -> float:
        """What the state as it is was judged by: its newest validation; before the first of this process the score."""
        return self.sharpe if math.isfinite(self.sharpe) else self.score

    @property
    def seconds(self) -> float:
        return sum(record.seconds for record in self.manifest.phases.values()) + sum(
            trial.seconds for trial in self._trials.values()
        )

    @property
    def iteration(self) -> int:
        return max((trial.iteration for trial in self._trials.values()), default=0)

    # -- training -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Open the phase that it is in, each trial where its newest whole checkpoint left it."""
        if self._trials or self.phase is None:
            self._read_scores()
            return
        self._plans = plan_phase(self.manifest.load_settings(), self.phase)
        self._patiently(partial(begin_phase, self.run, self.manifest, self.phase, self._plans))
        self._trials = {plan.name: self._trial(plan) for plan in self._plans}
        self._watchers = self._watching(self.phase)
        self._best, self._sharpe = {}, {}
        self._read_scores()

    def step(self) -> None:
        """One update of every trial of the phase that is not done; after the last one the phase is handed over."""
        self.begin()
        for name, trial in self._trials.items():
            if self.failure is None and not trial.go_on().finished:
                self._update(name, trial)
        if self.failure is None and all(trial.go_on().finished for trial in self._trials.values()):
            self._end_phase()

    def _update(self, name: str, trial: PhaseTrial) -> None:
        result = trial.train()
        as_tune_has_it: Any = SimpleNamespace(trial_id=name, config={TRIAL: name})
        for watcher in self._watchers:
            watcher.on_trial_result(trial.iteration, [], as_tune_has_it, result)
        if ENV_FAULTS in result:
            self._faults.append(f"{self.run.name} {name}: {result[ENV_FAULTS]}")
        if FAILURE in result:
            self.failure = f"{name}: {result[FAILURE]}"
            return
        self._best[name], self._sharpe[name] = result["best"][SHARPE], result[VALIDATION].get(SHARPE, math.nan)
        if trial.iteration % self._keeping.every_updates == 0 or trial.go_on().finished:
            trial.save()

    def take_faults(self) -> list[str]:
        """Why environments failed since this was asked last."""
        faults, self._faults = self._faults, []
        return faults

    def save(self) -> None:
        """A checkpoint of every trial that has come further than its newest one."""
        for trial in self._trials.values():
            if self.failure is None and trial.saved_iteration < trial.iteration:
                trial.save()

    def _trial(self, plan: TrialPlan) -> PhaseTrial:
        named = {plan.name: self._resumable.get(plan.name, [])}
        context = replace(self._common, run=str(self.run), phase=plan.phase, trial=plan.name, checkpoints=named)
        return PhaseTrial(asdict(context), storage=self._storage)

    def _watching(self, phase: int) -> list[tune.Callback]:
        return [Curves(self.run, phase, self._keeping.storage_patience_seconds)]

    def _read_scores(self) -> None:
        """What validation said last, before anything is trained on."""
        for name, trial in self._trials.items():
            algorithm = trial.go_on()
            self._best.setdefault(name, float(algorithm.best.get(SHARPE, math.nan)))
            if name not in self._sharpe and self.phase is not None:
                rows = whole_rows(curve_of(self.run, self.phase, name))
                self._sharpe[name] = float(rows[-1].get(VALIDATION_SHARPE) or math.nan) if rows else math.nan
        if not self._trials and not self._best and self.manifest.wanted:
            records = self.manifest.phase(self.manifest.wanted[-1]).trials
            self._best = {
                name: math.nan if one.best_sharpe is None else one.best_sharpe for name, one in records.items()
            }

    def _end_phase(self) -> None:
        phase = self.phase
        if phase is None:
            return
        record = self.manifest.phase(phase)
        results = {name: summary(trial.go_on(), {}) for name, trial in self._trials.items()}
        self._patiently(partial(hand_over, self.run, phase, record, self._plans, results))
        record.seconds += sum(trial.seconds for trial in self._trials.values())
        record.status = "done"
        self._patiently(partial(self.manifest.write, self.run))
        self.close()

    def _patiently(self, act: Any) -> None:
        with_retries(act, str(self.run / FILE), self._keeping.storage_patience_seconds)

    def close(self) -> None:
        """End its algorithms and trackers. The scores stay."""
        for watcher in self._watchers:
            watcher.on_experiment_end([])
        for trial in self._trials.values():
            trial.release()
        self._trials, self._watchers, self._resumable = {}, [], {}

    # -- another trial's state ----------------------------------------------------------------------------------------

    def take_over(self, source: Path, values: Values) -> None:
        """Go on from the state of another trial's run with the same seed, with these values. May be done again.

        source: what that run handed over (`handover`).
        """
        self.close()
        phase = self.phase
        assert phase is not None
        changed = settings_with(self.manifest.load_settings(), values)
        self.manifest.settings = changed.model_dump(mode="json")
        self._plans = plan_phase(changed, phase)
        begin_phase(self.run, self.manifest, phase, self._plans)
        self.manifest.write(self.run)
        for plan in self._plans:
            trial = self._trial(plan)
            trial.take_over(checkpoint_of(source, plan.name), best_of(source, plan.name))
            self._trials[plan.name] = trial
        self._watchers = self._watching(phase)
        self._best, self._sharpe = {}, {}
        self._read_scores()
