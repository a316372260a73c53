"""The state of B trading environments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.portfolio.book import Book
from mtquant_rllib.vector_state import VectorState


@dataclass(init=False, eq=False)
class TradingState(VectorState):
    """The state of B trading environments. Subclasses add their agents' decisions and the state of their rewards.

    row, stop_row
        Row of the market whose close is the present, and the one at which the episode is truncated, int64 (B,).
    bars_done
        Bars of the episode so far, int64 (B,).
    done
        bool (B,): out of play until the next reset.
    stop_atr
        Distance of each instrument's stop in average true ranges, (B, n).
    active
        bool (B, n): instruments that may be traded in this episode.
    book
        The accounts.
    """

    row: np.ndarray
    stop_row: np.ndarray
    bars_done: np.ndarray
    done: np.ndarray
    stop_atr: np.ndarray
    active: np.ndarray
    book: Book

    def __init__(self, settings: Settings, n_envs: int) -> None:
        n, account = settings.universe.n_instruments, settings.desk.account
        self.row = np.zeros(n_envs, dtype=np.int64)
        self.stop_row = np.ones(n_envs, dtype=np.int64)
        self.bars_done = np.zeros(n_envs, dtype=np.int64)
        self.done = np.zeros(n_envs, dtype=bool)
        self._initial_stop_atr = settings.desk.decision.stop_atr_min
        self.stop_atr = np.full((n_envs, n), self._initial_stop_atr)
        self.active = np.ones((n_envs, n), dtype=bool)
        lot_units = np.array([row.contract * row.lot_step for row in settings.instruments])
        self.book = Book(n_envs, lot_units, account.start_equity_ccy)

    def begin(self, envs: np.ndarray, draws: list[EpisodeDraw]) -> None:
        """Begin an episode in each environment of `envs` (indices), each with its draw."""
        self.row[envs] = [draw.start for draw in draws]
        self.stop_row[envs] = [draw.stop for draw in draws]
        self.bars_done[envs] = 0
        self.done[envs] = False
        self.stop_atr[envs] = self._initial_stop_atr
        self.book.reset(envs)
