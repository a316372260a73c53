"""Values from Optuna (its TPE sampler), one trial after the other, from the scores of those that ended before.

Optuna is no dependency of this project: `pip install optuna` adds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from mtquant_rllib.config.search_space import Categorical, Dimension, Range, Space
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.result_keys import TRIAL
from mtquant_rllib.training.search.keys import SCORE
from mtquant_rllib.training.search.record import SweepRecord
from mtquant_rllib.training.search.results import Results, TrialRow


def expect_optuna() -> None:
    """Raises ConfigError where Optuna is not installed."""
    if find_spec("optuna") is None:
        raise ConfigError("search.searcher = 'optuna': Optuna is not installed; pip install optuna")


class OptunaSearcher(Searcher):
    """What Tune asks for trials: first those that were begun and are not over, then new ones, whose runs are made when
    they are asked for.

    What Optuna has seen follows from the sweep's results, so that a sweep that goes on asks it as one that never
    stopped. A trial that was stopped early counts with the score that it was stopped with.
    """

    def __init__(
        self,
        sweep: Path,
        record: SweepRecord,
        results: Results,
        begin: Callable[[str], None],
        left: Sequence[str],
    ) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._sweep, self._record, self._results, self._begin, self._left = sweep, record, results, begin, list(left)
        self._space = record.load_space()
        self._asked: dict[str, Any] = {}
        self._going_on: dict[str, str] = {}
        """Trials of an attempt before, by Tune's ids: Optuna hears their scores too."""
        self._study = _study(self._space, record.settings["seed"] + len(record.trials), list(results.rows.values()))

    def __deepcopy__(self, memo: dict[int, Any]) -> OptunaSearcher:
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes its searcher into records that are never read."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        if self._left:
            self._going_on[trial_id] = self._left.pop(0)
            return {TRIAL: self._going_on[trial_id]}
        if len(self._record.trials) >= self._record.n_trials:
            return Searcher.FINISHED
        asked = self._study.ask({path: _distribution(one) for path, one in self._space.dimensions.items()})
        number = len(self._record.trials)
        values = {path: _value(one, asked.params[path]) for path, one in self._space.dimensions.items()}
        self._record.trials.append(values)
        name = self._record.name_of(number)
        self._asked[trial_id] = (asked, name)
        self._record.write(self._sweep)
        self._results.rows[name] = TrialRow(name, dict(values))
        self._begin(name)
        return {TRIAL: name}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        pass

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        asked, name = self._asked.pop(trial_id, (None, self._going_on.pop(trial_id, "")))
        row = self._results.rows.get(name)
        if row is None or not row.over:
            return
        if asked is None:
            if row.score is not None and not error:
                self._study.add_trial(_finished(self._space, row))
        elif row.score is None or error:
            self._study.tell(asked, state=_failed())
        else:
            self._study.tell(asked, row.score)

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


def _study(space: Space, seed: int, rows: Sequence[TrialRow]) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    for row in rows:
        if row.over and row.score is not None:
            study.add_trial(_finished(space, row))
    return study


def _finished(space: Space, row: TrialRow) -> Any:
    """A trial that is over, as Optuna keeps it."""
    import optuna

    params = {path: _parameter(space.dimensions[path], value) for path, value in row.values.items()}
    distributions = {path: _distribution(one) for path, one in space.dimensions.items()}
    return optuna.trial.create_trial(params=params, distributions=distributions, value=row.score)


def _distribution(dimension: Dimension) -> Any:
    import optuna

    if isinstance(dimension, Range):
        if dimension.kind == "integers":
            return optuna.distributions.IntDistribution(int(dimension.low), int(dimension.high))
        return optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.kind == "loguniform")
    assert isinstance(dimension, Categorical)
    return optuna.distributions.CategoricalDistribution(range(len(dimension.options)))


def _value(dimension: Dimension, parameter: Any) -> Any:
    """Categorical values may be lists, which Optuna has no categories of: it chooses among their places."""
    return dimension.options[parameter] if isinstance(dimension, Categorical) else parameter


def _parameter(dimension: Dimension, value: Any) -> Any:
    return dimension.options.index(value) if isinstance(dimension, Categorical) else value


def _failed() -> Any:
    import optuna

    return optuna.trial.TrialState.FAIL
