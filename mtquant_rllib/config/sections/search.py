"""How trials of a sweep are compared: their number, their seeds, and the scheduler that decides which go on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mtquant_rllib.config.base import NUMBER, Multiple, OpenShare, Section, Share

Scheduler = Literal["asha", "pbt", "random", "grid"]
Searcher = Literal["random", "optuna"]
SCHEDULERS: tuple[Scheduler, ...] = ("asha", "pbt", "random", "grid")

Trials = Annotated[int, Field(ge=1, le=100_000), NUMBER]


class ASHAConfig(Section):
    """Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934).

    grace_frac
        Share of the budget at which a trial is first compared with the others.
    reduction_factor
        One trial in so many goes on from a rung; the next rung is so many times as far.
    """

    grace_frac: OpenShare
    reduction_factor: Annotated[float, Field(gt=1, le=1000), NUMBER]


class PBTConfig(Section):
    """Population-based training (Jaderberg et al. 2017, arXiv 1711.09846), in synchronous rounds.

    rounds
        Equal parts of the budget; at the end of each but the last the worst trials take over from the best.
    quantile_frac
        Share of the trials that take over, and of those that are taken over from.
    resample_prob
        Probability that a value is drawn anew; otherwise it is moved.
    factors
        By one of these a number is multiplied when it is moved.
    """

    rounds: Annotated[int, Field(ge=2, le=1000), NUMBER]
    quantile_frac: Annotated[float, Field(gt=0, le=0.5), NUMBER]
    resample_prob: Share
    factors: tuple[Multiple, Multiple]


class SearchConfig(Section):
    """trials: how many are drawn; a grid has as many as it has combinations. seeds: runs of each trial, whose mean is
    its score. ablations: changes by name, settings by dotted path, for `mtquant ablate`; null
    for one that does not concern these settings."""

    trials: Trials
    seeds: Trials
    scheduler: Scheduler
    searcher: Searcher
    asha: ASHAConfig
    pbt: PBTConfig
    ablations: dict[str, dict[str, Any] | None]
