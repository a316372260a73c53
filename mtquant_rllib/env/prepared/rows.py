"""Market rows: what is known of the market at a close in B environments, and the bar after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtquant_rllib.features.table import FeatureTable
from mtquant_rllib.portfolio import execution_data as channel
from mtquant_rllib.portfolio.execution_data import ExecutionData
from mtquant_rllib.risk.past_returns import PastReturns


@dataclass(frozen=True, slots=True)
class MarketRow:
    """What is known at the close of one row in each of B environments.

    context
        float32 (B, w): correlation, macro and domain features side by side, as in `FeatureTable`. A copy.
    correlation, covariance
        Packed upper triangles, float32 (B, n(n-1)/2) and float64 (B, n(n+1)/2).
    correlation_shift
        float32 (B,): difference of the mean correlations over a short and a long window.
    vol_ann, sigma_day, atr
        float64 (B, n): annual volatility that sizes positions, deviation of a day's return, average true range in
        price.
    close, unit_value
        float64 (B, n): last good close in quote currency; account currency per unit at that close.
    past
        Past daily returns, where the risk rule's VaR is a historical one.
    """

    context: np.ndarray
    correlation: np.ndarray
    covariance: np.ndarray
    correlation_shift: np.ndarray
    vol_ann: np.ndarray
    sigma_day: np.ndarray
    atr: np.ndarray
    close: np.ndarray
    unit_value: np.ndarray
    past: PastReturns | None = None


@dataclass(frozen=True, slots=True)
class MarketBar:
    """The bar that ends with one row in each of B environments: money (10, B, n) and flags (3, B, n), the channels of
    `ExecutionData`, each in one piece; new_day, bool (B,): it is the first of its trading day."""

    money: np.ndarray
    flags: np.ndarray
    new_day: np.ndarray


class MarketRows:
    """Gathers rows of the prepared market."""

    def __init__(self, execution: ExecutionData, features: FeatureTable) -> None:
        # Plain views: indexing a memory map costs twice as much.
        self.block, self._context, self._sizing, self._shift, self._money, self._flags, self._day = (
            np.asarray(array).view(np.ndarray)
            for array in (
                features.block,
                features.context,
                features.sizing,
                features.correlation_shift,
                execution.money,
                execution.flags,
                execution.day,
            )
        )
        self._columns = features.columns
        self._rows_per_path = features.n_rows_per_path
        self._past: tuple[np.ndarray, np.ndarray, np.ndarray | None] | None = None
        if features.past_returns is not None and features.past_days is not None:
            scale = features.past_scale
            self._past = (
                np.asarray(features.past_returns).view(np.ndarray),
                np.asarray(features.past_days).view(np.ndarray),
                None if scale is None else np.asarray(scale).view(np.ndarray),
            )
        # The same memory with the channels of a row under each other: one gather brings every channel in one piece.
        self._money_channels, self._flag_channels = (
            array.reshape(-1, array.shape[-1]) for array in (self._money, self._flags)
        )

    def at(self, rows: np.ndarray) -> MarketRow:
        """What is known at the close of `rows` (B,)."""
        parts, context, sizing = self._columns, self._context.take(rows, axis=0), self._sizing.take(rows, axis=0)
        close, fx = self._at_last_mark(rows)
        return MarketRow(
            context=context,
            correlation=context[:, parts.correlation],
            covariance=sizing[:, parts.covariance],
            correlation_shift=self._shift[rows],
            vol_ann=sizing[:, parts.vol_ann],
            sigma_day=sizing[:, parts.sigma_day],
            atr=sizing[:, parts.atr],
            close=close,
            unit_value=close * fx,
            past=self._past_at(rows),
        )

    def _past_at(self, rows: np.ndarray) -> PastReturns | None:
        if self._past is None:
            return None
        returns, days, scale = self._past
        first = rows // self._rows_per_path * self._rows_per_path
        return PastReturns(returns, days[rows] + first[:, None], None if scale is None else scale[rows])

    def unit_value(self, rows: np.ndarray) -> np.ndarray:
        """Account currency per unit at the close of `rows`, (B, n)."""
        close, fx = self._at_last_mark(rows)
        return close * fx

    def _at_last_mark(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Close in quote currency and account currency per quote currency there, (B, n) each."""
        close, fx = _channels(self._money_channels, rows, channel.N_CHANNELS, (channel.LAST, channel.FX_LAST))
        return close, fx

    def bar(self, rows: np.ndarray, before: np.ndarray) -> MarketBar:
        """The bars that end with `rows` (B,), after the closes of `before` (B,)."""
        money = _channels(self._money_channels, rows, channel.N_CHANNELS, range(channel.N_CHANNELS))
        flags = _channels(self._flag_channels, rows, channel.N_FLAGS, range(channel.N_FLAGS))
        return MarketBar(money, flags, self._day[rows] != self._day[before])

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, for checks."""
        return {"block": self.block, "context": self._context, "sizing": self._sizing, "money": self._money}


def _channels(table: np.ndarray, rows: np.ndarray, n_channels: int, wanted: Sequence[int]) -> np.ndarray:
    """Channels of the rows (B,), (len(wanted), B, n), of a table (N * n_channels, n)."""
    return table.take(rows * n_channels + np.asarray(wanted)[:, None], axis=0)
