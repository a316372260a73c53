"""The folds of a walk-forward test: expanding training bars, a validation span, and the test bars that follow."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from mtquant_rllib.config.search_space import Values
from mtquant_rllib.errors import ConfigError

_DAYS_PER_YEAR = 365.25


@dataclass(frozen=True)
class Fold:
    """Last days of each span. Purge and embargo between them are those of `market.splits`."""

    train_until: dt.date
    validation_until: dt.date
    test_until: dt.date

    @property
    def values(self) -> Values:
        """As settings."""
        dates = {"train": self.train_until, "validation": self.validation_until, "test": self.test_until}
        spans: dict[str, Any] = {f"market.splits.{name}_until": day.isoformat() for name, day in dates.items()}
        return spans | {"market.splits.min_bars": 1}


def expanding_folds(first_test: dt.date, last_test: dt.date, count: int, validation_years: float) -> list[Fold]:
    """Folds whose test spans are of one length and follow each other without a gap, from the first day to the last.

    Raises
    ------
    ConfigError
        When a test span would be shorter than a month.
    """
    days = (last_test - first_test).days + 1
    if count < 1 or days < 30 * count:
        raise ConfigError(
            f"{count} folds from {first_test} to {last_test}: expected one at least, and a month for each"
        )
    starts = [first_test + dt.timedelta(days=int(day)) for day in np.linspace(0, days, count + 1)]
    one, validation = dt.timedelta(days=1), dt.timedelta(days=round(validation_years * _DAYS_PER_YEAR))
    return [Fold(start - one - validation, start - one, end - one) for start, end in pairwise(starts)]
