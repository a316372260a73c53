"""Runs side by side: figures, differences with their errors, seeds of one configuration together, settings that differ.

A difference of Sharpe ratios is tested on the same bars (`statistics.paired_tests`), and all of them together are
adjusted by Holm's procedure: whoever compares fifty runs with one has fifty chances to be lucky.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from mtquant_rllib.config.sections.evaluation import BootstrapConfig, VerdictConfig
from mtquant_rllib.errors import RunError
from mtquant_rllib.evaluation.compare.compared_run import ComparedRun
from mtquant_rllib.evaluation.compare.selection import Selection, selection
from mtquant_rllib.evaluation.measures import living_returns
from mtquant_rllib.evaluation.statistics.bootstrap import Interval
from mtquant_rllib.evaluation.statistics.paired_tests import compare_sharpes
from mtquant_rllib.evaluation.statistics.run_scores import (
    Profile,
    interquartile_mean_interval,
    performance_profile,
)

SEED = "seed"
_LOOKS_ALIKE = ("resources.", "tracking.", "checkpoints.", "desk.observation.feature_means", "evaluation.", "search.",
    "risk.var_methods.interval_confidence", "risk.var_methods.resamples", "risk.stress",
)  # fmt: skip
"""Settings that shape no policy, or follow from the market."""


_PROFILE_POINTS = 41
"""Sharpe ratios at which the share of seeds above is drawn."""
_NAME_LONGEST = 44
"""Characters of a configuration's name; the settings have a table of their own."""


@dataclass(frozen=True)
class Row:
    """One run.

    difference, lower, upper
        Its Sharpe ratio a year less that of the first run, and the two-sided interval of it. NaN for the first.
    p_value
        Two-sided, of "no difference from the first", adjusted for all runs.
    differs
        The settings in which runs differ: dotted path -> this run's value.
    """

    run: ComparedRun
    difference: float
    lower: float
    upper: float
    p_value: float
    differs: Mapping[str, Any]

    @property
    def configuration(self) -> tuple[str, ...]:
        """What it has in common with runs that differ in the seed alone."""
        return tuple(f"{path} = {value}" for path, value in self.differs.items() if path != SEED)


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in the seed alone: their Sharpe ratios' interquartile mean with its interval from resampled
    seeds (NaN for one seed), smallest and largest; and the share of seeds above each Sharpe ratio."""

    rows: tuple[Row, ...]
    name: str
    iqm: Interval
    smallest: float
    largest: float
    profile: Profile | None


@dataclass(frozen=True)
class Comparison:
    """rows: in the order that the runs were named in. different: paths of settings in which they differ. notes: what
    makes them less than comparable. selection: the best configuration as the best of all; None where there is one.
    configurations: in the order of their first runs."""

    rows: tuple[Row, ...]
    different: tuple[str, ...]
    notes: tuple[str, ...]
    confidence: float
    selection: Selection | None
    configurations: tuple[Configuration, ...]

    @property
    def runs(self) -> tuple[ComparedRun, ...]:
        return tuple(row.run for row in self.rows)


def compare(
    runs: Sequence[ComparedRun], bootstrap: BootstrapConfig, verdict: VerdictConfig | None = None
) -> Comparison:
    """The runs beside the first of them. verdict: the rule by which the best of several configurations is judged.

    Raises
    ------
    RunError
        When they were judged on different bars.
    """
    first, *others = runs
    for run in others:
        if (
            not np.array_equal(run.own.timestamps, first.own.timestamps)
            or run.own.returns.shape != first.own.returns.shape
        ):
            raise RunError(
                f"{run.name} was judged on {_span(run)}, {first.name} on {_span(first)}; runs are compared on the same "
                "bars: name runs of one market, judged on one split"
            )
    different = differing_settings(runs)
    gaps = _differences(runs, bootstrap.confidence)
    rows = tuple(
        Row(run, *gap, {path: run.settings.get(path) for path in different})
        for run, gap in zip(runs, gaps, strict=True)
    )
    configurations = _configurations(rows, bootstrap)
    chosen = None if verdict is None else _selection(rows, configurations, verdict)
    said = [] if chosen is None else [chosen.words]
    return Comparison(
        rows, tuple(different), (*_notes(runs), *said), bootstrap.confidence, chosen, tuple(configurations)
    )


def differing_settings(runs: Sequence[ComparedRun]) -> list[str]:
    """Paths of settings that shape policies and are not the same in all runs."""
    paths = dict.fromkeys(path for run in runs for path in run.settings)
    return [
        path
        for path in paths
        if not path.startswith(_LOOKS_ALIKE) and len({repr(run.settings.get(path)) for run in runs}) > 1
    ]


def _differences(runs: Sequence[ComparedRun], confidence: float) -> list[tuple[float, float, float, float]]:
    """Of each run from the first: difference, its interval's ends, p-value; the last three NaN where the runs played
    episodes that share bars."""
    played = [np.nan_to_num(living_returns(run.own.returns)).ravel() for run in runs]
    nothing = (float("nan"),) * 4
    if len(runs) == 1:
        return [nothing]
    test = compare_sharpes(played[0], np.stack(played[1:]))
    scale = np.sqrt(runs[0].bars_per_year)
    gap, error = -test.difference * scale, test.error * scale
    if any(run.overlaps for run in runs):
        return [nothing, *((float(one), *nothing[1:]) for one in gap)]
    wide = float(stats.norm.ppf((1 + confidence) / 2))
    return [nothing, *zip(gap, gap - wide * error, gap + wide * error, test.adjusted_two_sided)]


def _selection(
    rows: Sequence[Row], configurations: Sequence[Configuration], verdict: VerdictConfig
) -> Selection | None:
    """By the mean return of each configuration's seeds, as many of each: a mean of more seeds has less noise. None
    where the runs played episodes that share bars."""
    if any(row.run.overlaps for row in rows):
        return None
    seeds = min(len(one.rows) for one in configurations)
    returns = [
        np.mean([np.nan_to_num(living_returns(row.run.own.returns)).ravel() for row in one.rows[:seeds]], axis=0)
        for one in configurations
    ]
    return selection(
        [one.name for one in configurations],
        np.stack(returns),
        rows[0].run.bars_per_year,
        verdict,
        n_trials=max(row.run.n_trials for row in rows),
    )


def _configurations(rows: Sequence[Row], bootstrap: BootstrapConfig) -> list[Configuration]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.configuration, []).append(row)
    sharpes = np.array([row.run.values["sharpe_ann"] for row in rows])
    known = sharpes[np.isfinite(sharpes)]
    thresholds = np.linspace(known.min(), known.max(), _PROFILE_POINTS) if len(known) else np.zeros(0)
    return [_configuration(group, thresholds, bootstrap) for group in groups.values()]


def _configuration(rows: Sequence[Row], thresholds: np.ndarray, bootstrap: BootstrapConfig) -> Configuration:
    sharpes = np.array([row.run.values["sharpe_ann"] for row in rows])
    known = sharpes[np.isfinite(sharpes)]
    own = (f"{path.rpartition('.')[2]} {_brief(value)}" for path, value in rows[0].differs.items() if path != SEED)
    name = _shortened(", ".join(own)) or "all runs"
    ends = (float(known.min()), float(known.max())) if len(known) else (float("nan"), float("nan"))
    if len(known) < 2:
        return Configuration(tuple(rows), name, _without_interval(ends[0], bootstrap.confidence), *ends, None)
    rng = np.random.default_rng(0)
    iqm = interquartile_mean_interval(known[:, None], bootstrap, rng)
    return Configuration(tuple(rows), name, iqm, *ends, performance_profile(known[:, None], thresholds, bootstrap, rng))


def _without_interval(estimate: float, confidence: float) -> Interval:
    unknown = float("nan")
    return Interval(estimate, unknown, unknown, unknown, confidence)


def _brief(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shortened(text: str) -> str:
    return text if len(text) <= _NAME_LONGEST else f"{text[: _NAME_LONGEST - 1]}…"


def _span(run: ComparedRun) -> str:
    context = run.context
    return f"{context['n_bars']:,} bars from {context['first_date']} to {context['last_date']}"


def _notes(runs: Sequence[ComparedRun]) -> list[str]:
    first, notes = runs[0], []
    if any(run.context["costs"] != first.context["costs"] for run in runs):
        notes.append("Not all runs paid the same costs.")
    if len({run.context["facts"].get("phase") for run in runs}) > 1:
        notes.append("Not all policies are of the same phase.")
    if str(first.context["facts"].get("market", "")).startswith("synthetic"):
        notes.append("Synthetic market: none of this was earned on prices of this world.")
    if any(run.overlaps for run in runs):
        notes.append("Episodes that start at random share bars: differences have no error, and no run is judged best.")
    if len(runs) > 1:
        notes.append(
            f"The best of {len(runs)} runs is too good by chance; the verdict of each counts all trainings on these "
            "bars (mtquant ledger show)."
        )
    return notes
