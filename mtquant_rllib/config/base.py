"""What every config model shares: frozen, strict about names, and loud about what cannot be honoured."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A block of settings. Immutable; an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


Fraction = Annotated[float, Field(gt=0, le=1)]
"""A share in (0, 1]."""

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
