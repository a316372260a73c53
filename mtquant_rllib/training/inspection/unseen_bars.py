"""Bars that a trained run has never seen: newer years, a longer file, another source."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtquant_rllib.config import Settings
from mtquant_rllib.env.prepared.data import UNSEEN, DeskData, prepare_unseen
from mtquant_rllib.env.prepared.source import local_copy
from mtquant_rllib.errors import MarketDataError, RunError
from mtquant_rllib.training.preparation import restored
from mtquant_rllib.training.records.manifest import Manifest

_SAME_FREQUENCY = 0.15
"""Largest relative difference of bars a year that holidays and weekends explain."""


@dataclass(frozen=True)
class UnseenBars:
    """market, macro: files. after: the last day that is not judged; None: the last one that the run's training and
    validation saw, or of a run on the embedded market none. holdout: they are the run's last holdout."""

    market: Path
    macro: Path | None = None
    after: dt.date | None = None
    holdout: bool = False

    @classmethod
    def held_out(cls, manifest: Manifest) -> UnseenBars:
        """The last holdout of the run's own market.

        Raises
        ------
        RunError
            When the run was not made with one.
        """
        first, (bars, macro) = manifest.load_settings().market.splits.holdout_from, manifest.market.files
        if first is None or bars is None:
            raise RunError(
                f"{manifest.name}: this run holds out no bars; train one on bars from files with "
                "--set market.splits.holdout_from=DATE"
            )
        known = None if macro is None else local_copy(macro)
        return cls(local_copy(bars), known, first - dt.timedelta(days=1), holdout=True)

    @property
    def name(self) -> str:
        """Of the evaluation."""
        if self.holdout:
            return "holdout"
        return self.market.stem if self.after is None else f"{self.market.stem}_after_{self.after}"

    def prepared(self, settings: Settings, manifest: Manifest) -> Path:
        """The folder of the prepared bars.

        Raises
        ------
        MarketDataError
            When they are of another frequency than the run's, or end before what can be judged.
        RunError
            When it cannot be told which bars the run has seen.
        """
        after, own = self.after, None
        if manifest.market.kind == "file":
            own = _own(settings, manifest)
            if after is None:
                if own is None:
                    raise RunError(
                        "the bars of this run are gone, so that it cannot be told which ones it has seen; name the "
                        "last day that is not to be judged with --after"
                    )
                stop = own.segments[-1].stop - 1
                after = own.execution.timestamps[stop].astype("datetime64[D]").astype(dt.date)
        folder = prepare_unseen(settings, self.market, self.macro, after, holdout=self.holdout)
        if own is not None:
            self.expect_frequency(DeskData.open(folder, UNSEEN), own)
        return folder

    def expect_frequency(self, data: DeskData, own: DeskData) -> None:
        """Raises MarketDataError when these bars are of another length than the run's own."""
        here, there = data.execution.bars_per_year, own.execution.bars_per_year
        if abs(np.log(here / there)) > np.log(1 + _SAME_FREQUENCY):
            raise MarketDataError(
                f"{self.market}: {here:,.0f} bars a year; the run was trained on {there:,.0f} a year, and its windows, "
                "decisions and rewards are of that length: train on bars of this one"
            )


def _own(settings: Settings, manifest: Manifest) -> DeskData | None:
    """The run's validation bars; None where they are gone."""
    try:
        return DeskData.open(Path(restored(settings, manifest.market).data), "validation")
    except (RunError, MarketDataError):
        return None
