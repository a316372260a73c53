"""What the market has shown up to a close, as a decision reads it: the row of that close and the one before.

A core decides on rows of a prepared market. To decide it needs the last row; to count what the bar has brought it needs
the one before. `TwoCloses` are these two, whoever has them: `PreparedBars` take them from a market that was prepared
for training, `serving.history.BarHistory` computes them from bars as they come. Neither holds a later bar.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.episodes import EpisodeSegment
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.features.building import domain_widths
from mtquant_rllib.features.layout import block_layout
from mtquant_rllib.features.table import Columns, FeatureTable
from mtquant_rllib.portfolio.execution_data import N_CHANNELS, N_FLAGS, TRADABLE, ExecutionData

_TABLE = ("block", "context", "sizing", "correlation_shift", "regime", "regime_confidence", "proxy_return")
_EXECUTION = ("money", "flags", "day", "timestamps")


@dataclass(frozen=True)
class Calendar:
    """How often a market trades, as the policies were trained to count: `ExecutionData` says what each is.

    Decisions go on with these figures, and do not measure them again on the bars that come.
    """

    bars_per_year: float
    bars_per_year_of: tuple[float, ...]
    days_per_year: float

    @classmethod
    def of(cls, execution: ExecutionData) -> Self:
        own = tuple(float(value) for value in execution.bars_per_year_of)
        return cls(float(execution.bars_per_year), own, float(execution.days_per_year))


@dataclass(frozen=True)
class TwoCloses:
    """Two rows of a market: 0 the close before, 1 the close just seen.

    Attributes
    ----------
    block, context, sizing, correlation_shift, regime, regime_confidence, proxy_return
        As in `FeatureTable`, two rows each.
    money, flags, day, timestamps
        As in `ExecutionData`, two rows each.
    has_reference
        bool (n,): the instrument has a close recent enough to measure the next bar's price band from.
    """

    block: np.ndarray
    context: np.ndarray
    sizing: np.ndarray
    correlation_shift: np.ndarray
    regime: np.ndarray
    regime_confidence: np.ndarray
    proxy_return: np.ndarray
    money: np.ndarray
    flags: np.ndarray
    day: np.ndarray
    timestamps: np.ndarray
    has_reference: np.ndarray

    @classmethod
    def of(cls, settings: Settings, execution: ExecutionData, features: FeatureTable, row: int) -> Self:
        """Copies of a row and the one before it."""
        rows = slice(row - 1, row + 1)
        arrays = {name: getattr(features, name) for name in _TABLE}
        arrays |= {name: getattr(execution, name) for name in _EXECUTION}
        # At the next bar a close is one bar older.
        oldest = max(row + 1 - settings.desk.fill.band_reference_max_age_bars, 0)
        recent = np.any(execution.flags[oldest : row + 1, TRADABLE], axis=0, keepdims=True)[0]
        return cls(**{name: np.array(array[rows]) for name, array in arrays.items()}, has_reference=recent)

    @property
    def closed_at(self) -> np.datetime64:
        """Timestamp of the bar just closed, datetime64[s]."""
        return np.datetime64(self.timestamps[1], "s")

    @property
    def before(self) -> np.datetime64:
        """Timestamp of the bar before."""
        return np.datetime64(self.timestamps[0], "s")

    @property
    def new_day(self) -> bool:
        """Whether the bar just closed is the first of its trading day."""
        return bool(self.day[1] != self.day[0])

    def write_into(self, data: DeskData) -> None:
        """Put these rows into a market of `two_rows`: a core on it then sees them."""
        for holder, names in ((data.features, _TABLE), (data.execution, _EXECUTION)):
            for name in names:
                getattr(holder, name)[...] = getattr(self, name)


def two_rows(settings: Settings, calendar: Calendar) -> DeskData:
    """A market of two empty rows, for a core to decide on once closes are written into it."""
    universe, widths = settings.universe, domain_widths(settings)
    n = universe.n_instruments
    columns = Columns.of(n, widths)
    execution = ExecutionData(
        money=np.ones((2, N_CHANNELS, n)),
        flags=np.zeros((2, N_FLAGS, n), dtype=bool),
        day=np.zeros(2, dtype=np.int64),
        timestamps=np.zeros(2, dtype="datetime64[s]"),
        rows_per_path=2,
        bars_per_year=calendar.bars_per_year,
        bars_per_year_of=np.array(calendar.bars_per_year_of),
        days_per_year=calendar.days_per_year,
    )
    features = FeatureTable(
        block=np.zeros((2, n, block_layout(settings).width), dtype=np.float32),
        context=np.zeros((2, (columns.domains or (columns.macro,))[-1].stop), dtype=np.float32),
        sizing=np.zeros((2, columns.atr.stop)),
        correlation_shift=np.zeros(2, dtype=np.float32),
        regime=np.zeros(2, dtype=np.int8),
        regime_confidence=np.zeros(2, dtype=np.float32),
        proxy_return=np.zeros(2, dtype=np.float32),
        domain_widths=widths,
        warm_from=(0,) * n,
        n_paths=1,
        n_rows_per_path=2,
    )
    return DeskData(execution, features, (EpisodeSegment(1, 2),))


class Market(Protocol):
    """What `TradingSystem.step` asks of a market."""

    def closes(self) -> TwoCloses:
        """The close just seen and the one before."""
        ...


class PreparedBars:
    """A market that was prepared before, shown bar by bar.

    Parameters
    ----------
    settings
        Those that it was prepared with.
    data
        Of one split.
    row
        The first close that is seen.
    """

    def __init__(self, settings: Settings, data: DeskData, row: int) -> None:
        if not 1 <= row < len(data.execution.day):
            raise MtquantError(f"row {row}: expected a row from 1 to {len(data.execution.day) - 1} of the market")
        self._settings, self._data, self.row = settings, data, row

    def closes(self) -> TwoCloses:
        """The close just seen and the one before."""
        return TwoCloses.of(self._settings, self._data.execution, self._data.features, self.row)

    def advance(self) -> None:
        """Show the next bar. Raises MtquantError where there is none."""
        if self.row + 1 >= len(self._data.execution.day):
            raise MtquantError("the prepared market has no bar after this one")
        self.row += 1

    @classmethod
    def over(cls, settings: Settings, data: DeskData, segment: EpisodeSegment) -> Iterator[PreparedBars]:
        """The market at each close of a segment, one after the other: the same object, advanced."""
        market = cls(settings, data, segment.start)
        yield market
        for _ in range(segment.start + 1, segment.stop):
            market.advance()
            yield market
