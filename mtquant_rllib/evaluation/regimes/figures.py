"""Statistics of a sequence of regime labels, and a book's performance in each regime.

A bar belongs to the regime that was known when its decision was taken, at the close of the bar before. Labels describe;
they do not predict, so neither do these figures.

Shapes: B histories, T bars, R regimes in the order of `Regime`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mtquant_rllib.evaluation import measures
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.statistics.bootstrap import pooled_sharpe
from mtquant_rllib.features.regimes import Regime

if TYPE_CHECKING:
    from mtquant_rllib.env.episodes import EpisodeDraw
    from mtquant_rllib.env.prepared.data import DeskData
    from mtquant_rllib.policies.introspection import AttentionReadout

N_REGIMES = len(Regime)
NO_REGIME = -1
"""Label of a bar that was not played."""
REGIME_NAMES = tuple(regime.name.lower() for regime in Regime)


@dataclass(frozen=True)
class Spells:
    """Uninterrupted stretches of one regime, history by history: env, first bar, bars and regime of each, (S,)."""

    env: np.ndarray
    start: np.ndarray
    bars: np.ndarray
    regime: np.ndarray


@dataclass(frozen=True)
class RegimeFigures:
    """Statistics of labels.

    Attributes
    ----------
    bars
        int (R,): bars in each regime.
    transitions
        int (R, R): how often a bar of the row's regime was followed by one of the column's, the same one included.
    spells
        int (R,): stretches of each regime. The first and last of a history are cut off by its ends and count.
    n_changes
        Bars whose regime differs from that of the bar before.
    confidence
        float (R,): mean confidence of the detector, NaN where there is none.
    """

    bars: np.ndarray
    transitions: np.ndarray
    spells: np.ndarray
    n_changes: int
    confidence: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """(R,), summing to 1."""
        return self.bars / self.bars.sum()

    @property
    def mean_duration_bars(self) -> np.ndarray:
        """(R,): bars a stretch, NaN for a regime that never was."""
        return _quotient(self.bars, self.spells)

    @property
    def frequencies(self) -> np.ndarray:
        """(R, R): share of the row's bars that were followed by the column's regime; NaN in a row without any."""
        return _quotient(self.transitions, self.transitions.sum(axis=1, keepdims=True))

    @property
    def destinations(self) -> np.ndarray:
        """(R, R): where a regime went when it ended, shares of its endings; 0 on the diagonal, NaN without endings."""
        endings = self.transitions * (1 - np.eye(N_REGIMES, dtype=np.int64))
        return _quotient(endings, endings.sum(axis=1, keepdims=True))

    def named(self, bars_per_year: float) -> dict[str, float]:
        """Flat figures for a tracker; what is not defined is left out."""
        total = self.bars.sum()
        figures = {f"regime_share_{name}": value for name, value in zip(REGIME_NAMES, self.shares)}
        figures |= {f"regime_duration_bars_{name}": value for name, value in zip(REGIME_NAMES, self.mean_duration_bars)}
        figures["regime_transitions"] = float(self.n_changes)
        figures["regime_transitions_per_year"] = self.n_changes * bars_per_year / total
        figures["regime_confidence"] = float(np.nansum(self.confidence * self.bars) / total)
        return {name: float(value) for name, value in figures.items() if np.isfinite(value)}


def regime_figures(labels: np.ndarray, confidence: np.ndarray | None = None) -> RegimeFigures:
    """Figures of labels (T,) or (B, T), `NO_REGIME` where a history has ended; confidence of the same shape.

    Raises
    ------
    ValueError
        When no bar has a regime.
    """
    labels = np.atleast_2d(labels)
    known = labels != NO_REGIME
    if not known.any():
        raise ValueError("no bar has a regime")
    bars = np.bincount(labels[known], minlength=N_REGIMES)
    transitions = np.zeros((N_REGIMES, N_REGIMES), dtype=np.int64)
    both = known[:, 1:] & known[:, :-1]
    np.add.at(transitions, (labels[:, :-1][both], labels[:, 1:][both]), 1)
    mean = np.full(N_REGIMES, np.nan)
    if confidence is not None:
        sums = np.bincount(labels[known], weights=np.atleast_2d(confidence)[known], minlength=N_REGIMES)
        mean = _quotient(sums, bars)
    return RegimeFigures(
        bars=bars,
        transitions=transitions,
        spells=np.bincount(find_spells(labels).regime, minlength=N_REGIMES),
        n_changes=int(transitions.sum() - np.trace(transitions)),
        confidence=mean,
    )


def find_spells(labels: np.ndarray) -> Spells:
    """Every stretch of labels (T,) or (B, T), in order."""
    labels = np.atleast_2d(labels)
    begins = np.ones(labels.shape, dtype=bool)
    begins[:, 1:] = labels[:, 1:] != labels[:, :-1]
    env, start = np.nonzero(begins)
    # Histories lie one after another, and each begins a stretch: a stretch ends where the next one begins.
    flat = np.flatnonzero(begins)
    bars = np.diff(flat, append=labels.size)
    regime = labels[env, start]
    kept = regime != NO_REGIME
    return Spells(env[kept], start[kept], bars[kept], regime[kept].astype(np.int64))


@dataclass(frozen=True)
class RegimePerformance:
    """A book's performance in each regime and, as the last element, on all bars: (R + 1,).

    profit_frac
        Net profit of the regime's bars over the equity at the start, mean over histories. The regimes' add up to the
        total return of the whole.
    return_ann, volatility_ann, sharpe_ann, sharpe_error
        Of the regime's bars alone, as if they were a history; simple mean return a year; NaN where undefined.
    max_drawdown_frac
        Of the regime's bars joined together, mean over histories.
    win_rate
        Of bars that won or lost anything, mean over histories.
    """

    bars: np.ndarray
    profit_frac: np.ndarray
    return_ann: np.ndarray
    volatility_ann: np.ndarray
    sharpe_ann: np.ndarray
    sharpe_error: np.ndarray
    max_drawdown_frac: np.ndarray
    win_rate: np.ndarray


def performance_by_regime(record: Record, labels: np.ndarray) -> RegimePerformance:
    """Split a book's net result by the regime known at each decision.

    labels: int (B, T) beside the record's bars.
    """
    if labels.shape != record.equity_ccy.shape:
        raise ValueError(f"labels {labels.shape} beside a record of {record.equity_ccy.shape}: expected the same")
    returns, per_year = measures.living_returns(record.returns), record.bars_per_year
    counted = np.isfinite(returns)
    profit = np.where(counted, record.equity_ccy - record.equity_before_ccy, 0.0) / record.equity_start_ccy[:, None]
    columns: list[tuple[float, ...]] = []
    for mask in [*(labels == regime for regime in Regime), np.ones_like(counted)]:
        mine = np.where(mask, returns, np.nan)
        flat = mine[np.isfinite(mine)]
        columns.append(
            (
                len(flat),
                float(np.where(mask, profit, 0.0).sum(axis=1).mean()),
                float(flat.mean() * per_year) if len(flat) else np.nan,
                float(flat.std(ddof=1) * np.sqrt(per_year)) if len(flat) > 1 else np.nan,
                float(pooled_sharpe(mine, per_year)),
                float(measures.sharpe_standard_error(flat, per_year)) if len(flat) > 1 else np.nan,
                _mean_known(np.where(np.isfinite(mine).any(axis=1), measures.max_drawdown(mine), np.nan)),
                _mean_known(measures.win_rate(mine)),
            )
        )
    return RegimePerformance(*(np.array(column) for column in zip(*columns, strict=True)))


def weight_regime_correlation(weights: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n, R): correlation of each weight (B, T, n) with "the regime is r" (labels (B, T)), over all bars that have a
    regime; NaN where a weight or a regime never changes."""
    known = labels != NO_REGIME
    held = weights[known] - weights[known].mean(axis=0)
    marks = (labels[known][:, None] == np.arange(N_REGIMES)).astype(np.float64)
    marks -= marks.mean(axis=0)
    scale = np.sqrt((held**2).sum(axis=0)[:, None] * (marks**2).sum(axis=0))
    return _quotient(held.T @ marks, np.where(scale > 1e-12, scale, 0.0))


def mean_by_regime(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(R, ...): mean of values over the entries of each regime, the labels' axes taken together; NaN without any."""
    means = np.full((N_REGIMES, *values.shape[labels.ndim :]), np.nan)
    for regime in Regime:
        if (mine := labels == regime).any():
            means[regime] = values[mine].mean(axis=0)
    return means


def played_regimes(data: DeskData, draws: Sequence[EpisodeDraw], played: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label and the detector's confidence at the close before each bar of a record, (B, T) each; `NO_REGIME` where the
    bar was not played.

    played: bool (B, T), as `Record.played`.
    """
    offsets = np.arange(played.shape[1])
    rows = np.stack([np.minimum(draw.start + offsets, draw.stop - 1) for draw in draws])
    labels = np.asarray(data.features.regime)[rows]
    return np.where(played, labels, NO_REGIME).astype(np.int8), np.asarray(data.features.regime_confidence)[rows]


def tracked_figures(
    labels: np.ndarray,
    confidence: np.ndarray,
    bars_per_year: float,
    readout: AttentionReadout | None = None,
    readout_labels: np.ndarray | None = None,
    readout_env: np.ndarray | None = None,
) -> dict[str, float]:
    """Flat metrics of regimes and, for an attention policy, of its attention, for a validation report or a tracker.

    Parameters
    ----------
    labels, confidence
        (B, T) of the bars played, as in `regime_figures`.
    readout, readout_labels, readout_env
        The policy's readout at N decisions, their labels (N,), and the history of each, (N,).
    """
    figures = regime_figures(labels, confidence).named(bars_per_year)
    return figures if readout is None else {**figures, **readout.metrics(readout_labels, readout_env)}


def _quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, np.nan)


def _mean_known(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
