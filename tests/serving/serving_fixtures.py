"""Policies, the market that they decide on, and what decides and fills on it."""

from __future__ import annotations

from dataclasses import dataclass

from markets import roughen, smooth
from replayed import LIVELY, lively

from mtquant_rllib.config import Settings
from mtquant_rllib.env.episodes import EpisodeSegment
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.serving.policies import DecidingPolicies
from mtquant_rllib.serving.simulated_account import SimulatedAccount
from mtquant_rllib.serving.system import TradingSystem

SMALL_ATTENTION = ("networks.attention={width: 16, heads: 2}", "networks.attention.classifier.hidden=[8]")


@dataclass(frozen=True)
class Served:
    """Policies, the market that they decide on, and its segment of closes."""

    policies: DecidingPolicies
    market: MarketData
    data: DeskData
    segment: EpisodeSegment

    def system(self) -> TradingSystem:
        return TradingSystem(self.policies)

    def account(self) -> SimulatedAccount:
        return SimulatedAccount(self.policies.settings, self.policies.calendar)

    def first(self, bars: int) -> EpisodeSegment:
        return EpisodeSegment(self.segment.start, self.segment.start + bars + 1)


def served(config: str, *overrides: str, members: int = 1) -> Served:
    settings = Settings.load(config, [*LIVELY, *overrides])
    market = smooth(settings, n_years=2.5)[0]
    if settings.allocator is None:
        market = roughen(settings, market, seed=3)
    data = DeskData.of(settings, [market])
    return Served(lively(settings, data, members=members), market, data, data.segments[0])
