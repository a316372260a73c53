"""Oracles of the structures that are planted for the desk as a whole, and the book of those who do not know of them.

Both books hold the same convictions, which are those of the best parts: of each instrument's own forecast, as if
domains were always as predictable as on average and nothing overlapped. The *parts* allocate equally at full appetite
and size every conviction alike. The *oracle* allocates by how predictable each domain is at the time, and gives what
overlaps the size of one bet and not of several. Both act by the desk's own actions, at its costs and under its risk
rules, so that the difference of their Sharpe ratios is what the meta-controller, or the twelve together, can gain.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mtquant_rllib.config.sections.desk import DecisionConfig
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.decisions import meta_actions
from mtquant_rllib.env.prepared.data import truth
from mtquant_rllib.env.trading import Trading
from mtquant_rllib.evaluation.backtest.oracle import oracle_actions, oracle_targets
from mtquant_rllib.universe import META


def exposures(predictability: np.ndarray, largest: float, config: DecisionConfig) -> np.ndarray:
    """Allocation times appetite of each domain, (B, D), in proportion to its predictability (B, D).

    Domains' books are nearly uncorrelated, and the mean over the variance of one is in proportion to its
    predictability: so is its weight in the best book. largest: the greatest predictability there is, at which all
    domains together get all capital, or one of them its cap.
    """
    n_domains = predictability.shape[1]
    return predictability / largest * min(config.allocation_cap, 1.0 / n_domains)


def overlap_sizes(settings: Settings) -> np.ndarray:
    """Factor on the conviction of each instrument, (n,): of m that overlap with correlation rho it is
    1 / (1 + (m - 1) rho^2), because the gains of two such bets correlate by rho of the forecasts times rho of the
    shocks; 1 for the others."""
    config, symbols = settings.synthetic.planted.overlap, settings.universe.symbols
    shared = [symbols.index(symbol) for symbol in config.instruments if symbol in symbols]
    sizes = np.ones(len(symbols))
    sizes[shared] = 1.0 / (1.0 + (len(shared) - 1) * config.strength**2)
    return sizes


class StructureOraclePlayer:
    """Plays the best parts' convictions, with or without the knowledge of the structures.

    Parameters
    ----------
    steady_mu, sigma, predictability
        Of the planted part, (N, n) each, on the rows of the features' table (`env.prepared.data.truth`).
    knows
        Whether it allocates by predictability and sizes what overlaps.
    """

    def __init__(
        self, settings: Settings, steady_mu: np.ndarray, sigma: np.ndarray, predictability: np.ndarray, *, knows: bool
    ) -> None:
        self._settings = settings
        self._targets = oracle_targets(steady_mu, sigma, settings.synthetic.oracle.slope)
        self._exposure: np.ndarray | None = None
        if knows:
            self._targets = self._targets * overlap_sizes(settings)
        strength = settings.synthetic.planted.predictability.strength
        if knows and strength > 0:
            firsts = [part.start for part in settings.universe.domain_slices]
            self._exposure = exposures(predictability[:, firsts], 1.0 + strength, settings.desk.decision)

    def __call__(self, desk: Trading) -> np.ndarray:
        rows = desk.state.row
        actions = oracle_actions(self._targets[rows], self._settings)
        if self._exposure is not None:
            actions[META] = meta_actions(self._exposure[rows], self._settings.desk.decision)[:, None]
        for level in desk.levels:
            level.decide(actions[level.name], level.due())
        return desk.propose()


def structure_players(settings: Settings, folder: Path, split: str) -> dict[str, StructureOraclePlayer]:
    """`oracle` and `parts` of a prepared market whose planted part has structures."""
    known = dict(
        zip(("steady_mu", "sigma", "predictability"), truth(folder, split, ("steady_mu", "sigma", "predictability")))
    )
    return {name: StructureOraclePlayer(settings, **known, knows=name == "oracle") for name in ("oracle", "parts")}
