"""What every config model shares: frozen, strict about names, and numbers that each have a range.

A number of the settings is finite, never true or false, and lies between two bounds that its type states; a contract
test tries every one of them. A range says what can be meant, not what is wise: it catches a slip of units, a key that
means another, and infinities that would switch a limit off.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A block of settings. Immutable; an unknown key is an error that names the nearest known one; no number is
    infinite or NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def _no_truth_value(given: Any) -> Any:
    if isinstance(given, bool):
        raise PydanticCustomError("truth_value", "expected a number, not true or false")
    return given


def _no_number(given: Any) -> Any:
    if isinstance(given, (bool, int, float)):
        raise PydanticCustomError("number_for_date", "expected a date such as 2014-12-31, not a number")
    return given


NUMBER = BeforeValidator(_no_truth_value)
"""Stands last in the type of a number of the settings, after its range."""

Date = Annotated[dt.date, BeforeValidator(_no_number)]
"""A day as text; a number would be taken for seconds since 1970."""

Fraction = Annotated[float, Field(gt=0, le=1), NUMBER]
"""A share in (0, 1]."""
Share = Annotated[float, Field(ge=0, le=1), NUMBER]
"""A share in [0, 1]."""
ShareBelowOne = Annotated[float, Field(ge=0, lt=1), NUMBER]
"""A share in [0, 1): what persists, or is silenced by dropout."""
OpenShare = Annotated[float, Field(gt=0, lt=1), NUMBER]
"""A share in (0, 1): a confidence or a significance."""
VarConfidence = Annotated[float, Field(gt=0.5, lt=1), NUMBER]
"""Of a loss quantile, above a half: at a half VaR is nothing, at 1 infinite."""
Correlation = Annotated[float, Field(ge=-1, le=1), NUMBER]

Positive = Annotated[float, Field(gt=0, le=1e6), NUMBER]
"""A scale, a multiple, a width of a distribution, seconds."""
NonNegative = Annotated[float, Field(ge=0, le=1e6), NUMBER]
"""A weight of a term, seconds, deviations; 0 is nothing of it."""
Amount = Annotated[float, Field(gt=0, le=1e15), NUMBER]
"""Money, units, prices, volumes."""
Loading = Annotated[float, Field(ge=-1000, le=1000), NUMBER]
"""A signed weight of a term or offset of a scaled value."""
Multiple = Annotated[float, Field(gt=0, le=100), NUMBER]
"""A multiple of equity, of a limit or of a usual size."""
Bps = Annotated[float, Field(ge=0, le=1000), NUMBER]
"""Basis points of notional; 1,000 are 10%."""
Percent = Annotated[float, Field(ge=0, le=100), NUMBER]
PositivePercent = Annotated[float, Field(gt=0, le=100), NUMBER]
RatePct = Annotated[float, Field(ge=-100, le=1000), NUMBER]
"""Per cent a year: an interest rate, a yield, a drift."""
LearningRate = Annotated[float, Field(gt=0, le=1), NUMBER]
Years = Annotated[float, Field(gt=0, le=1000), NUMBER]
Sharpe = Annotated[float, Field(gt=0, le=100), NUMBER]
"""An annual Sharpe ratio, above 0."""

Count = Annotated[int, Field(ge=1, le=1_000_000_000), NUMBER]
"""Bars, rows, updates, megabytes: one at least."""
CountOrNone = Annotated[int, Field(ge=0, le=1_000_000_000), NUMBER]
"""As `Count`, or 0."""
Window = Annotated[int, Field(ge=1, le=100_000), NUMBER]
"""Bars or days that a statistic looks back."""
Lag = Annotated[int, Field(ge=0, le=1000), NUMBER]
"""Bars by which something is seen later; 0 is at once."""
Width = Annotated[int, Field(ge=1, le=65_536), NUMBER]
"""Units of a layer, columns of an observation."""
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), NUMBER]
"""What every generator in use takes as a seed."""
CalendarYear = Annotated[int, Field(ge=1800, le=2200), NUMBER]

Where = Literal["files", "always", "never"]
"""On which markets something is in force. `files`: where a run trains on bars from files, and not on the embedded
market; a run's settings say `always` or `never`."""

ClockTime = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
"""Hours and minutes, 00:00 to 23:59."""
