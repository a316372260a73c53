"""The regime classifier of a policy against the detector's labels that it was trained on.

Nearly half of all bars are sideways, so that accuracy alone says little. It is compared with that of the majority class
of the same bars, recall is per class, and the interval of the difference resamples blocks of decisions, because labels
last for weeks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtquant_rllib.config.sections.evaluation import BootstrapConfig
from mtquant_rllib.evaluation.regimes.figures import N_REGIMES, NO_REGIME, REGIME_NAMES
from mtquant_rllib.evaluation.statistics.block_length import bootstrapped_mean
from mtquant_rllib.evaluation.statistics.bootstrap import Interval


@dataclass(frozen=True)
class ClassifierScore:
    """The score of a classifier on the decisions that have a label.

    Attributes
    ----------
    confusion
        int (R, R): decisions by the detector's label (row) and the predicted regime (column).
    accuracy
        Share of decisions in which the two agree.
    majority
        The commonest label of these decisions, and its share, the accuracy of always predicting it.
    gain
        Accuracy less that share.
    """

    agent: str
    confusion: np.ndarray
    accuracy: Interval
    majority: str
    majority_accuracy: float
    gain: Interval

    @property
    def n_decisions(self) -> int:
        return int(self.confusion.sum())

    @property
    def recall(self) -> np.ndarray:
        """(R,): share of a label's decisions that are predicted; NaN for a label without decisions."""
        return _shares(np.diag(self.confusion), self.confusion.sum(axis=1))

    @property
    def precision(self) -> np.ndarray:
        """(R,): share of the predictions of a regime that are right; NaN for one never predicted."""
        return _shares(np.diag(self.confusion), self.confusion.sum(axis=0))

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the labels with decisions; one over their number for chance or a constant prediction."""
        return float(np.nanmean(self.recall))

    @property
    def has_learned(self) -> bool:
        """Whether the interval of the gain lies above zero."""
        return self.gain.lower > 0

    def verdict(self) -> str:
        """The score in one sentence."""
        return (
            f"The classifier of {self.agent} names the detector's label in {_percent(self.accuracy.estimate)} of "
            f"{self.n_decisions:,} decisions [{_percent(self.accuracy.lower)}, {_percent(self.accuracy.upper)}]; "
            f"always saying {self.majority} would be right in {_percent(self.majority_accuracy)}: a difference of "
            f"{100 * self.gain.estimate:+.1f} points [{100 * self.gain.lower:+.1f}, {100 * self.gain.upper:+.1f}]. "
            + ("It has learned more than the commonest label." if self.has_learned else _NOT_LEARNED)
        )

    def table(self) -> tuple[tuple[str, ...], ...]:
        """Header and rows: label, decisions, predictions, recall; and precision beneath."""
        rows = [("detector says", "decisions", *(f"predicted {name}" for name in REGIME_NAMES), "recall")]
        for regime, name in enumerate(REGIME_NAMES):
            counts = self.confusion[regime]
            rows.append((name, f"{counts.sum():,}", *(f"{count:,}" for count in counts), _percent(self.recall[regime])))
        rows.append(("precision", "", *(_percent(value) for value in self.precision), ""))
        return tuple(rows)

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        yield self.verdict()
        table = self.table()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            yield "  " + "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True))
        yield f"  balanced accuracy {_percent(self.balanced_accuracy)}"

    def to_dict(self) -> dict[str, Any]:
        """For a file; NaN as null."""

        def interval(of: Interval) -> dict[str, float]:
            return {"estimate": of.estimate, "lower": of.lower, "upper": of.upper, "confidence": of.confidence}

        def by_regime(values: np.ndarray) -> dict[str, float | None]:
            return {name: float(v) if np.isfinite(v) else None for name, v in zip(REGIME_NAMES, values, strict=True)}

        return {
            "agent": self.agent,
            "n_decisions": self.n_decisions,
            "accuracy": interval(self.accuracy),
            "majority": self.majority,
            "majority_accuracy": self.majority_accuracy,
            "gain": interval(self.gain),
            "has_learned": self.has_learned,
            "balanced_accuracy": self.balanced_accuracy,
            "recall": by_regime(self.recall),
            "precision": by_regime(self.precision),
            "regimes": list(REGIME_NAMES),
            "confusion": self.confusion.tolist(),
        }


_NOT_LEARNED = "It has not learned more than the commonest label."


def score_classifier(
    agent: str,
    probabilities: np.ndarray,
    labels: np.ndarray,
    config: BootstrapConfig,
    rng: np.random.Generator,
    bars_per_decision: float = 1.0,
) -> ClassifierScore:
    """Score probabilities (N, R) against labels (N,), rows in order of time; rows without a label are left out.

    Raises
    ------
    ValueError
        When no row has a label.
    """
    known = labels != NO_REGIME
    if not known.any():
        raise ValueError("no decision has a label")
    predicted, labels = probabilities[known].argmax(axis=1), labels[known].astype(np.int64)
    confusion = np.zeros((N_REGIMES, N_REGIMES), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    usual = int(confusion.sum(axis=1).argmax())
    right = (predicted == labels).astype(np.float64)
    gain = right - (labels == usual)
    return ClassifierScore(
        agent=agent,
        confusion=confusion,
        accuracy=bootstrapped_mean(right, config, rng, bars_per_decision),
        majority=REGIME_NAMES[usual],
        majority_accuracy=float(np.mean(labels == usual)),
        gain=bootstrapped_mean(gain, config, rng, bars_per_decision),
    )


def _shares(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%" if np.isfinite(value) else "–"
