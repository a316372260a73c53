"""What is known at a desk's close besides the market: its domains' risk and its specialists' track records."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.observations.close import Close
from mtquant_rllib.env.prepared.rows import MarketRow
from mtquant_rllib.env.risk_layer import RiskLayer
from mtquant_rllib.env.state.desk import DeskState
from mtquant_rllib.portfolio.execution_data import ExecutionData
from mtquant_rllib.risk.repair.packed import PackedIndex

_NO_RISK = 1e-12
"""Standard deviation under which a book counts as empty and its correlations as 0."""


class DomainRisk:
    """Computes covariances of the domains' books; one for all closes of a desk."""

    def __init__(self, settings: Settings, execution: ExecutionData) -> None:
        universe = settings.universe
        self.days_per_year, self.bars_per_year = execution.days_per_year, execution.bars_per_year
        self.vol_target_per_day = settings.desk.decision.vol_target_ann / np.sqrt(execution.days_per_year)
        self.n_domains = universe.n_domains
        self._packed = PackedIndex(universe.n_instruments)
        self._pair_sums = _domain_pair_sums(self._packed, np.array(universe.domain_of), universe.n_domains)

    def covariance(self, weight: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        """Daily covariance of the domains' books, (B, D, D), of weights (B, n) and packed covariances."""
        products = self._packed.products(weight) * covariance
        return np.matvec(self._pair_sums, products).reshape(-1, self.n_domains, self.n_domains)


def _domain_pair_sums(packed: PackedIndex, domain_of: np.ndarray, n_domains: int) -> np.ndarray:
    """Matrix (D * D, n_pairs) that sums packed pairwise products, off-diagonal ones counted twice, into a symmetric
    matrix of domains."""
    sums = np.zeros((len(packed.first), n_domains, n_domains))
    pairs, one, other = np.arange(len(packed.first)), domain_of[packed.first], domain_of[packed.second]
    np.add.at(sums, (pairs, one, other), 0.5)
    np.add.at(sums, (pairs, other, one), 0.5)
    return np.ascontiguousarray(sums.reshape(len(packed.first), -1).T)


class DeskClose(Close):
    """One close of a desk.

    Attributes
    ----------
    state
        The desk's state, into which this close's decisions are written.
    block
        float32 (B, n, 50): the instruments' market blocks as agents see them.
    """

    def __init__(
        self, state: DeskState, market: MarketRow, block: np.ndarray, risk: RiskLayer | None, domains: DomainRisk
    ) -> None:
        super().__init__(state.book, market, risk)
        self.state, self.block, self.domains = state, block, domains

    @cached_property
    def domain_covariance(self) -> np.ndarray:
        """Daily covariance of the domains' current books, (B, D, D), fractions of equity squared."""
        return self.domains.covariance(self.weight, self.market.covariance)

    @cached_property
    def domain_volatility(self) -> np.ndarray:
        """Daily volatility of the domains' current books, (B, D), fractions of equity."""
        return np.sqrt(np.maximum(np.einsum("bdd->bd", self.domain_covariance), 0.0))

    @cached_property
    def utilisation(self) -> np.ndarray:
        """Risk used over risk allocated, (B, D): daily volatility of the domain's book over its allocation's share of
        the target. 0 where nothing is allocated."""
        allocated = self.state.allocation * self.domains.vol_target_per_day
        return np.where(allocated > 0, self.domain_volatility / np.where(allocated > 0, allocated, 1.0), 0.0)

    def invalidate_allocation(self) -> None:
        """Compute again what depends on the allocation, because the meta-controller has decided."""
        self.__dict__.pop("utilisation", None)

    @cached_property
    def hedge(self) -> np.ndarray:
        """Minus the correlation of each domain's book with the rest of the desk's, (B, D): 1 is a perfect hedge."""
        covariance = self.domain_covariance
        own = np.einsum("bdd->bd", covariance)
        with_all = np.einsum("bde->bd", covariance)
        rest = np.einsum("bd->b", with_all)[:, None] - 2.0 * with_all + own
        scale = np.sqrt(np.maximum(own * rest, 0.0))
        return np.where(scale > _NO_RISK, (own - with_all) / np.where(scale > _NO_RISK, scale, 1.0), 0.0)

    @cached_property
    def track_sharpe(self) -> np.ndarray:
        """Annualised Sharpe ratio of each domain's last bars, (B, D)."""
        return self.state.record.sharpe_ann(self.domains.bars_per_year)

    @cached_property
    def win_rate(self) -> np.ndarray:
        """Share of gaining bars among each domain's last bars, (B, D)."""
        return self.state.record.win_rate()
