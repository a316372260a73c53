"""The reference policy: a simple book from which the desk starts; departures are penalised. Section `reference` of the
settings (`configs/reference.yaml`)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from mtquant_rllib.config.base import NUMBER, NonNegative, Section, Share, Where, Window

BookWeight = Annotated[float, Field(ge=-10, le=10), NUMBER]
"""Weight of one book in a mix; below 0 it is traded the other way round."""


class ReferenceKLCoeff(Section):
    """What a departure costs: the factor of the Kullback-Leibler divergence from the reference policy in the loss of
    each level's modules, PPO's and SAC's alike. 0 costs nothing."""

    meta: NonNegative
    specialist: NonNegative
    instrument: NonNegative


class ReferenceConfig(Section):
    """Which book the reference policy holds, and how it trades it.

    where
        On which markets there is a reference policy.
    book
        Named book -> weight in the mix: `momentum`, `trend_ensemble`, `inverse_volatility`, `long_risk_premia`, or
        `package.module:function` of one's own. A name alone is that book.
    momentum_days
        Trading days of the move whose sign `momentum` holds.
    trend_days
        Trading days of the moves that `trend_ensemble` averages.
    premia
        Instruments that `long_risk_premia` holds long; those that are not traded are left out.
    urgency
        Share of the way to its target weight that the reference trades at a bar.
    kl_coeff
        See `ReferenceKLCoeff`.
    """

    where: Where
    book: dict[str, BookWeight] = Field(min_length=1)
    momentum_days: Window
    trend_days: tuple[Window, ...] = Field(min_length=1)
    premia: tuple[str, ...]
    urgency: Share
    kl_coeff: ReferenceKLCoeff

    @model_validator(mode="before")
    @classmethod
    def _one_book_by_its_name(cls, given: object) -> object:
        """`book: momentum` is the book alone."""
        if isinstance(given, dict) and isinstance(given.get("book"), str):
            return {**given, "book": {given["book"]: 1.0}}
        return given

    @property
    def arrays(self) -> dict[str, object] | None:
        """What shapes the columns of the reference book; None where there is none."""
        return self.model_dump(mode="json", exclude={"where", "urgency", "kl_coeff"}) if self.exists else None

    @property
    def exists(self) -> bool:
        """Whether there is a reference policy."""
        return self.where == "always"
