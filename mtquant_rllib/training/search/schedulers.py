"""Tune's schedulers, held to a sweep's file: what they have decided outlives the process, and they know trials by name.

Tune keeps no scheduler's state over a restart. Here it stands in `results.json`, written together with the scores that
a decision rests on; a sweep that goes on after a kill knows which trials were stopped, and by what they were compared.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler

from mtquant_rllib.config.search_space import Space
from mtquant_rllib.config.sections.search import ASHAConfig, PBTConfig
from mtquant_rllib.training.result_keys import FAILURE, TRIAL
from mtquant_rllib.training.search.keys import COMPLETE, HANDOVERS, NEWEST, PROGRESS, SCORE
from mtquant_rllib.training.search.results import STOPPED, Results, note_result

WHOLE = 100.0
"""Per cent."""
RUNGS, ROUND = "rungs", "round"
"""Keys of the schedulers' states."""


@dataclass(frozen=True)
class _Named:
    """A trial as successive halving keeps it: by its name, which stays the same over restarts."""

    trial_id: str


class SuccessiveHalving(AsyncHyperBandScheduler):
    """ASHA over shares of the budget: a trial that reaches a rung goes on if it is among the best 1/reduction_factor of
    those that have reached it so far. Which those are depends on who comes first; a rung's record stands in the sweep.
    """

    def __init__(self, config: ASHAConfig, results: Results) -> None:
        super().__init__(
            time_attr=PROGRESS,
            metric=SCORE,
            mode="max",
            max_t=WHOLE,  # type: ignore[arg-type]
            grace_period=WHOLE * config.grace_frac,  # type: ignore[arg-type]
            reduction_factor=config.reduction_factor,
            stop_last_trials=False,
        )
        self._results = results
        for milestone, scores in results.state.get(RUNGS, []):
            for rung, recorded in self._rungs:
                if math.isclose(rung, milestone):
                    recorded.update(scores)

    def __deepcopy__(self, memo: dict[int, Any]) -> SuccessiveHalving:
        return self

    @property
    def _rungs(self) -> list[tuple[float, dict[str, float]]]:
        """(per cent of the budget, name -> score), the farthest first."""
        rungs: list[tuple[float, dict[str, float]]] = self._brackets[0]._rungs
        return rungs

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, _Named(trial.config[TRIAL]))  # type: ignore[arg-type]

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        note_result(self._results, result)
        if not math.isfinite(result[SCORE]):
            return TrialScheduler.CONTINUE
        name, cutoffs = trial.config[TRIAL], self._cutoffs()
        known = [name in recorded for _, recorded in self._rungs]
        action: str = super().on_trial_result(tune_controller, _Named(name), result)  # type: ignore[arg-type]
        reached = [rung for (rung, recorded), before in zip(self._rungs, known) if name in recorded and not before]
        if reached:
            if action == TrialScheduler.STOP:
                why = f"below {cutoffs[reached[0]]:.2f} at {reached[0]:.0f}%"
                self._results.note(name, status=STOPPED, why=why)
            self._keep()
        return action

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Tune calls this for every trial that ends, whatever ended it; one that was interrupted is judged when it goes
        on."""
        if result.get(COMPLETE) and math.isfinite(result[SCORE]):
            super().on_trial_complete(tune_controller, _Named(trial.config[TRIAL]), result)  # type: ignore[arg-type]
            self._keep()

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        pass

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        pass

    def _cutoffs(self) -> dict[float, float]:
        """Per cent of the budget -> the score that is needed there now; NaN where nobody has come so far."""
        found: dict[float, Any] = {rung: self._brackets[0].cutoff(recorded) for rung, recorded in self._rungs}
        return {rung: math.nan if cutoff is None else float(cutoff) for rung, cutoff in found.items()}

    def _keep(self) -> None:
        self._results.state[RUNGS] = [[rung, dict(recorded)] for rung, recorded in self._rungs]
        self._results.write()


class Population(PopulationBasedTraining):
    """Population-based training in rounds: all trials come to the end of a round, then the worst take over the states
    of the best, each from one of them, with values near to its.

    Rounds make it repeatable: who takes over from whom, and every value, follows from the scores and the seed, and not
    from which trial was faster. Trials are ranked by their newest validations (Jaderberg et al. 2017), which are of the
    states that are handed over. Values stay inside the declared space. What is handed over is copied at the end of the
    round (`hand_over`), and the trial that takes over does so when it starts again (`SearchTrial`).
    """

    def __init__(
        self,
        config: PBTConfig,
        space: Space,
        seed: int,
        results: Results,
        hand_over: Callable[[int, str], None],
        tell: Callable[[str], None],
        waits: Callable[[str], None],
    ) -> None:
        super().__init__(
            time_attr=PROGRESS,
            metric=NEWEST,
            mode="max",
            perturbation_interval=WHOLE / config.rounds,
            quantile_fraction=config.quantile_frac,
            custom_explore_fn=dict,
            log_config=False,
            synch=True,
        )
        self._config, self._space, self._seed, self._results = config, space, seed, results
        self._hand_over, self._tell, self._waits = hand_over, tell, waits
        self._done = int(results.state.get(ROUND, 0))
        """Rounds that are decided."""
        self._expected = sum(not row.over for row in results.rows.values())
        """Trials that Tune will add, a few at a time."""
        self._set_next()

    def __deepcopy__(self, memo: dict[int, Any]) -> Population:
        return self

    def _set_next(self) -> None:
        """Per cent of the budget at which the next round ends; after the last one nothing is perturbed any more."""
        last = self._done + 1 >= self._config.rounds
        self._next_perturbation_sync = math.inf if last else WHOLE * (self._done + 1) / self._config.rounds

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        note_result(self._results, result)
        if result[PROGRESS] < self._next_perturbation_sync:
            return TrialScheduler.CONTINUE
        self._save_trial_state(self._trial_state[trial], result[PROGRESS], result, trial)
        if not self._end_round_if_all_wait(tune_controller):
            self._waits(trial.trial_id)
            return TrialScheduler.PAUSE
        # Where it took over another's state it was stopped for that.
        return TrialScheduler.NOOP if trial.status == Trial.PAUSED else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """One that is done, or diverged, is waited for no more. One that was interrupted ends no round."""
        if result.get(COMPLETE) or FAILURE in result:
            self._end_round_if_all_wait(tune_controller, gone=trial)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """One that failed for good is waited for no more. Tune calls this too for one that it starts again: that one is
        stopped by then, and its status says so."""
        if trial.status != Trial.ERROR:
            self._end_round_if_all_wait(tune_controller, gone=trial)

    def _end_round_if_all_wait(self, controller: Any, gone: Trial | None = None) -> bool:
        there = [trial for trial in controller.get_trials() if trial is not gone and not trial.is_finished()]
        if gone is not None:
            self._trial_state[gone].last_score = None
        ends = all(self._trial_state[trial].last_train_time >= self._next_perturbation_sync for trial in there)
        ends = ends and bool(there) and len(controller.get_trials()) >= self._expected
        if ends:
            self._end_round(controller, there)
        return ends

    def _end_round(self, controller: Any, there: list[Trial]) -> None:
        lower, upper = self._quantiles()
        number, rows = self._done + 1, self._results.rows
        donors = sorted(str(trial.config[TRIAL]) for trial in upper)
        taken: dict[str, dict[str, Any]] = {}
        for trial in lower:
            name = trial.config[TRIAL]
            rng = random.Random(f"{self._seed}|{number}|{name}")
            donor = rng.choice(donors)
            values = self._space.perturbed(rows[donor].values, rng, self._config)
            taken[name] = {"round": number, "from": donor, "values": values}
        for donor in sorted({one["from"] for one in taken.values()}):
            self._hand_over(number, donor)
        for name, one in taken.items():
            before, row = rows[name].values, rows[name]
            row.handovers.append({**one, "score": row.score, "values_before": before})
            row.values = one["values"]
            changed = ", ".join(f"{path} = {value!r}" for path, value in one["values"].items())
            self._tell(f"round {number}: {name} takes over from {one['from']}, with {changed}")
        self._done = number
        self._results.state[ROUND] = number
        self._results.write()
        self._set_next()
        for trial in there:
            name = trial.config[TRIAL]
            if name in taken:
                if trial.status == Trial.RUNNING:
                    controller.pause_trial(trial, should_checkpoint=False)
                trial.set_config({**trial.config, HANDOVERS: {**trial.config.get(HANDOVERS, {}), name: [taken[name]]}})
            self._trial_state[trial].last_train_time = 0

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """One that has not come to the end of the round."""
        waiting = (Trial.PENDING, Trial.PAUSED)
        for trial in tune_controller.get_trials():
            if trial.status in waiting and self._trial_state[trial].last_train_time < self._next_perturbation_sync:
                return trial
        return None


def make_scheduler(
    name: str,
    results: Results,
    space: Space,
    seed: int,
    asha: ASHAConfig,
    pbt: PBTConfig,
    hand_over: Callable[[int, str], None],
    tell: Callable[[str], None],
    waits: Callable[[str], None],
) -> TrialScheduler:
    """`asha` and `pbt` stop and change trials; `random` and `grid` let each run to its end.

    hand_over: called with a round and a trial whose state others take over, while every trial stands still. waits:
    called with Tune's id of a trial that waits for the others.
    """
    if name == "asha":
        return SuccessiveHalving(asha, results)
    if name == "pbt":
        return Population(pbt, space, seed, results, hand_over, tell, waits)
    return FIFOScheduler()
