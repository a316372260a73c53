"""Books to judge, and a judge that shares nothing with the engine but the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from mtquant_rllib.config import Settings
from mtquant_rllib.risk.engine import PortfolioRiskManager
from mtquant_rllib.risk.repair.packed import PackedIndex
from mtquant_rllib.risk.rules import Proposal

DAILY_VOL = np.array([0.005, 0.006, 0.006, 0.010, 0.024, 0.012, 0.015, 0.011])


@dataclass
class Books:
    """A proposal with the full matrices behind its packed ones."""

    proposal: Proposal
    covariance: np.ndarray
    correlation: np.ndarray


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings.load()


@pytest.fixture
def manager(settings: Settings) -> PortfolioRiskManager:
    return PortfolioRiskManager.from_settings(settings)


@pytest.fixture(scope="session")
def random_books(settings: Settings) -> Callable[..., Books]:
    """random_books(n_envs, seed, scale, untradable share): correlated markets, books from timid to absurd."""
    n = settings.universe.n_instruments
    index = PackedIndex(n)

    def make(n_envs: int, seed: int, scale: float = 1.0, untradable: float = 0.0) -> Books:
        rng = np.random.default_rng(seed)
        common = rng.normal(size=(n_envs, n, 2))
        covariance = common @ common.transpose(0, 2, 1) + rng.uniform(0.05, 2, (n_envs, 1, 1)) * np.eye(n)
        deviation = np.sqrt(np.einsum("bii->bi", covariance))
        correlation = covariance / deviation[:, :, None] / deviation[:, None, :]
        covariance = correlation * DAILY_VOL[:, None] * DAILY_VOL
        size = scale * rng.uniform(0, 1, (n_envs, 1))
        side = np.where(rng.random((n_envs, 1)) < 0.5, 1, rng.choice([-1, 1], (n_envs, n)))
        proposed = side * np.abs(rng.normal(size=(n_envs, n))) * size
        current = rng.normal(size=(n_envs, n)) * size * rng.integers(0, 2, (n_envs, n))
        proposal = Proposal(
            proposed=proposed,
            current=current,
            tradable=rng.random((n_envs, n)) >= untradable,
            covariance=index.pack(covariance),
            correlation=index.pack_hollow(correlation),
            equity=np.full(n_envs, 100_000.0),
        )
        return Books(proposal, covariance, correlation)

    return make


@pytest.fixture(scope="session")
def breaches(settings: Settings) -> Callable[[np.ndarray, Books], dict[str, np.ndarray]]:
    """Excess of each rule over its limit, (B,), by the definitions with full matrices; positive is a breach."""
    universe, risk, document = settings.universe, settings.risk, settings.portfolio_risk
    z = stats.norm.ppf(document.var_confidence)

    def judge(weights: np.ndarray, books: Books) -> dict[str, np.ndarray]:
        absolute = np.abs(weights)
        gross = absolute.sum(axis=1)
        pairs = weights[:, :, None] * weights[:, None, :] * (1 - np.eye(universe.n_instruments))
        total = np.abs(pairs).sum(axis=(1, 2))
        measure = (pairs * books.correlation).sum(axis=(1, 2)) / np.where(total > 1e-18, total, 1)
        margin = sum(
            absolute[:, i] * max(row.margin_pct / 100, 1 / row.leverage) for i, row in enumerate(settings.instruments)
        )
        var = z * np.sqrt(np.einsum("bi,bij,bj->b", weights, books.covariance, weights).clip(0))
        sectors = np.stack([absolute[:, part].sum(axis=1) for part in universe.domain_slices], axis=1)
        floor = risk.correlation_floor_frac * risk.gross_budget
        return {
            "var": var - document.max_portfolio_var,
            "correlation": np.where(gross > floor * (1 + 1e-9), measure - document.max_correlation_exposure, -1.0),
            "sector": sectors.max(axis=1) - document.max_sector_allocation * risk.gross_budget,
            "gross": gross - risk.gross_budget,
            "margin": margin * risk.margin_buffer - 1,
            "position": absolute.max(axis=1) - risk.max_concentration_frac * risk.gross_budget,
        }

    return judge
