"""Domains whose predictability comes and goes: what there is for a meta-controller to find.

The planted mean of every instrument of a domain is multiplied by 1 + strength * tanh(steepness * s_d), 1 on average.
The state s_d, of variance 1, is the part of one interest rate that others do not tell: the residual of its regression
on them under the law that the rates are drawn from, with the levels that are published at the close. So whoever sees
the levels of all rates, as the meta-controller does, knows the state exactly; and who sees the others alone, as the
domain's specialist does, knows nothing of it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.polynomial.hermite_e import hermegauss

from mtquant_rllib.config.sections.synthetic import PredictabilityStructure, SyntheticConfig, SyntheticRates
from mtquant_rllib.market.synthetic.macro import rate_law
from mtquant_rllib.universe import Universe


def states(config: SyntheticRates, published: np.ndarray, named: tuple[str, ...]) -> np.ndarray:
    """Standardised residual of the first of the named rates given the others, (...), from rates (..., 3) in per
    cent."""
    matrix, deviation = rate_law(config)
    first, *others = (config.names.index(name) for name in named)
    standard = (published - np.asarray(config.mean_pct)) / deviation
    known = matrix[np.ix_(others, others)]
    loadings = np.linalg.solve(known, matrix[others, first]) if others else np.zeros(0)
    residual = standard[..., first].copy()
    for loading, other in zip(loadings, others):
        residual -= loading * standard[..., other]
    return residual / math.sqrt(1.0 - float(loadings @ matrix[others, first]))


def factors(config: SyntheticConfig, published: np.ndarray, universe: Universe) -> np.ndarray:
    """Factor on the planted mean of the next bar, (n_paths, T, n), from the rates that are known at each close, per
    cent, (n_paths, T, 3)."""
    structure = config.planted.predictability
    out = np.ones((*published.shape[:2], universe.n_instruments))
    for domain, part in zip(universe.domains, universe.domain_slices):
        if domain.name in structure.shown_by:
            state = states(config.macro.rates, published, structure.shown_by[domain.name])
            out[..., part] += (structure.strength * np.tanh(structure.steepness * state))[..., None]
    return out


def root_mean_square(config: SyntheticConfig, universe: Universe) -> float:
    """Of the factors, over instruments and states."""
    structure = config.planted.predictability
    coming = [structure.shown_by.get(universe.domains[d].name) is not None for d in universe.domain_of]
    return math.sqrt(1.0 + float(np.mean(coming)) * structure.strength**2 * _mean_square(structure))


def _mean_square(structure: PredictabilityStructure) -> float:
    """E[tanh(steepness * s)^2] for a standard normal s."""
    nodes, weights = hermegauss(60)
    return float(np.tanh(structure.steepness * nodes) ** 2 @ weights / weights.sum())
