"""Where a column of the curves stands in W&B: `learning/`, `trading/`, `risk/`, `regime/`, `attention/`, `speed/` or
`system/`, each a section of panels."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mtquant_rllib.training.reporting.curve_files import BARS, ITERATION

AXES = (BARS, ITERATION)
_OF_COLUMN = {
    "bars_per_s": "speed",
    "sampling_bars_per_s": "speed",
    "sampling_s": "speed",
    "learning_s": "speed",
    "validation_s": "speed",
    "validation_sharpe": "trading",
    "validation_bars": "trading",
    "best_sharpe": "trading",
    "env_retries": "system",
    "episode_return": "learning",
}
_OF_BEGINNING = {
    "attention_": "attention",
    "classifier_": "regime",
    "fallback_": "regime",
    "regime_": "regime",
    "sampled_": "regime",
    "max_drawdown": "risk",
    "risk_": "risk",
    "volatility_": "risk",
}
"""Section of the last part of a column's name, by how it begins."""


def metric_of(column: str) -> str:
    """The name in W&B: `forex_specialist/policy_loss` is `learning/forex_specialist/policy_loss`, `validation/NAME` is
    `trading/validation/NAME`, a column that has its section already keeps its name."""
    if column in AXES or column.startswith("system/"):
        return column
    if column in _OF_COLUMN:
        return f"{_OF_COLUMN[column]}/{column}"
    last = column.rpartition("/")[2]
    for beginning, section in _OF_BEGINNING.items():
        if last.startswith(beginning):
            return f"{section}/{column}"
    return f"{'trading' if column.startswith('validation/') else 'learning'}/{column}"


def metrics(row: Mapping[str, str]) -> dict[str, float]:
    """A row of `curves/*.csv` as W&B gets it: whole numbers as such, and nothing for what is empty or no number."""
    found = {}
    for column, text in row.items():
        try:
            value = float(text)
        except ValueError:
            continue
        if math.isfinite(value):
            whole = text.lstrip("-").isdigit()
            found[metric_of(column)] = int(text) if whole else value
    return found
