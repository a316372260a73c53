"""The state of B desks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.rewards.terms import DayExcess, DifferentialSharpe, MaximumDrawdown
from mtquant_rllib.env.state.risk_scale import RiskScale
from mtquant_rllib.env.state.track_record import DailyReturns, TrackRecord
from mtquant_rllib.env.state.trading import TradingState


@dataclass(init=False, eq=False)
class DeskState(TradingState):
    """The state of B desks.

    allocation, appetite
        The meta-controller's last decision: share of capital of each domain, (B, D), and risk appetite, (B,).
    intent, confidence
        The specialists' last decisions, (B, n) and (B, D).
    signal, urgency
        The instruments' last decisions, (B, n).
    sharpe, drawdown, day_excess
        Reward state of each stream of returns, and of the day's loss (`DeskReward`).
    risk_scale
        The slow factor on sizes.
    daily, record
        Daily returns of the portfolio, and each specialist's last bars.
    """

    allocation: np.ndarray
    appetite: np.ndarray
    intent: np.ndarray
    confidence: np.ndarray
    signal: np.ndarray
    urgency: np.ndarray
    sharpe: DifferentialSharpe
    drawdown: MaximumDrawdown
    day_excess: DayExcess
    risk_scale: RiskScale
    daily: DailyReturns
    record: TrackRecord

    def __init__(self, settings: Settings, n_envs: int, bars_per_day: float) -> None:
        super().__init__(settings, n_envs)
        universe, seen = settings.universe, settings.desk.observation
        n, n_domains = universe.n_instruments, universe.n_domains
        n_streams = len(universe.agent_ids)
        self.allocation = np.zeros((n_envs, n_domains))
        self.appetite = np.zeros(n_envs)
        self.intent = np.zeros((n_envs, n))
        self.confidence = np.zeros((n_envs, n_domains))
        self.signal = np.zeros((n_envs, n))
        self.urgency = np.zeros((n_envs, n))
        self.sharpe = DifferentialSharpe(n_envs, n_streams, settings.rewards.differential_sharpe)
        self.drawdown = MaximumDrawdown(n_envs, n_streams)
        self.day_excess = DayExcess(n_envs)
        self.risk_scale = RiskScale(n_envs, settings.desk.decision.risk_scale, bars_per_day)
        self.daily = DailyReturns(n_envs, seen.returns_days)
        self.record = TrackRecord(n_envs, n_domains, seen.track_record_bars)

    def begin(self, envs: np.ndarray, draws: list[EpisodeDraw]) -> None:
        super().begin(envs, draws)
        for array in (self.allocation, self.appetite, self.intent, self.confidence, self.signal, self.urgency):
            array[envs] = 0.0
        for memory in (self.sharpe, self.drawdown, self.day_excess, self.risk_scale, self.record):
            memory.reset(envs)
        self.daily.reset(envs, self.book.equity)
