"""Intervals by resampling, of a Sharpe ratio and of the share of an oracle's.

Two kinds of resampling. *Blocks of time* (stationary bootstrap, Politis and Romano 1994) when there is one history:
it keeps volatility clustering inside the blocks. *Whole paths* when there are many independent histories, jointly
with the training seeds when an agent was trained more than once; paths are paired, so that the oracle of a lucky path
is compared with the agent on the same path.

Every interval is two-sided and percentile; "the lower 95%" of a result is the lower end of its two-sided 95% interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtquant_rllib.config.sections.evaluation import BootstrapConfig
from mtquant_rllib.evaluation.measures import living_returns

FEW_PATHS = 10
"""Below so many paths an error is read off their bars, not off how the paths differ."""

_CHUNK_CELLS = 4_000_000
"""Resampled cells held at once: 32 MB of float64."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided percentile interval and the deviation of its resamples."""

    estimate: float
    lower: float
    upper: float
    standard_error: float
    confidence: float


@dataclass(frozen=True)
class OracleShare:
    """Pooled net Sharpe of the agent over that of the oracle on the same paths; `per_seed` of shape (S,)."""

    share: Interval
    per_seed: np.ndarray
    oracle_sharpe_ann: float


@dataclass(frozen=True)
class GainShare:
    """What an agent gains in annualised net Sharpe, what the oracle gains, and the one over the other; `per_seed` of
    shape (S,) is the share of each training seed."""

    share: Interval
    per_seed: np.ndarray
    agent_gain: Interval
    oracle_gain: Interval


def stationary_bootstrap_indices(
    n_bars: int, mean_block_bars: float, resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Bar indices of shape (resamples, n_bars): blocks of geometric length, wrapped around the end."""
    opens_block = rng.random((resamples, n_bars)) < 1 / mean_block_bars
    opens_block[:, 0] = True
    starts = rng.integers(n_bars, size=(resamples, n_bars))
    column = np.arange(n_bars)
    opened_at = np.maximum.accumulate(np.where(opens_block, column, 0), axis=1)
    return (np.take_along_axis(starts, opened_at, axis=1) + column - opened_at) % n_bars


def sharpe_interval(
    returns: np.ndarray, bars_per_year: float, config: BootstrapConfig, rng: np.random.Generator
) -> Interval:
    """Annualised Sharpe of one history (T,) with a stationary-bootstrap interval. NaN bars are left out first."""
    living = living_returns(returns)
    if living.ndim != 1:
        raise ValueError(f"expected one history of shape (T,), got {living.shape}; use pooled_sharpe_interval")
    return _interval_of_bars(living[np.isfinite(living)], bars_per_year, config, rng)


def sharpe_difference_interval(
    subject: np.ndarray, other: np.ndarray, bars_per_year: float, config: BootstrapConfig, rng: np.random.Generator
) -> Interval:
    """Annualised Sharpe of one book (T,) less another's on the same bars, with a stationary-bootstrap interval: both
    are resampled by the same blocks. Bars on which either is NaN are left out."""
    both = np.stack((living_returns(subject), living_returns(other)))
    both = both[:, np.isfinite(both).all(axis=0)]
    n_bars = both.shape[1]
    block = min(config.mean_block_bars, n_bars)
    step = max(1, _CHUNK_CELLS // n_bars)
    scale = np.sqrt(bars_per_year)

    def difference(sums: np.ndarray) -> np.ndarray:
        one, two = np.nan_to_num(_sharpe_of(sums)) * scale
        found: np.ndarray = one - two
        return found

    resampled = []
    for done in range(0, config.resamples, step):
        index = stationary_bootstrap_indices(n_bars, block, min(step, config.resamples - done), rng)
        picked = both[:, index]
        count = np.full(picked.shape[:2], float(n_bars))
        resampled.append(difference(np.stack((count, picked.sum(axis=2), (picked**2).sum(axis=2)))))
    whole = np.stack((np.full(2, float(n_bars)), both.sum(axis=1), (both**2).sum(axis=1)))
    return percentile_interval(difference(whole), np.concatenate(resampled), config)


def few_paths_interval(
    returns: np.ndarray, bars_per_year: float, config: BootstrapConfig, rng: np.random.Generator
) -> Interval:
    """Pooled Sharpe of a handful of paths (P, T), resampling blocks of their bars end to end.

    A few paths say next to nothing of how much paths differ: three whose Sharpes happen to agree would leave hardly any
    error. Their bars do.
    """
    living = living_returns(returns)
    return _interval_of_bars(living[np.isfinite(living)], bars_per_year, config, rng)


def overlapping_interval(
    returns: np.ndarray, timestamps: np.ndarray, bars_per_year: float, config: BootstrapConfig, rng: np.random.Generator
) -> Interval:
    """Pooled Sharpe of episodes (P, T) whose bars end at `timestamps` (P, T), some of them at the same time.

    Episodes that start at random within one history play the same bars again and again: they are no more than that one
    history. So bars of one time are resampled together, and blocks are of time.
    """
    living = living_returns(returns)
    known = np.isfinite(living)
    if known.sum() < 2 or np.ptp(living[known]) == 0:
        return Interval(np.nan, np.nan, np.nan, np.nan, config.confidence)
    times, at = np.unique(timestamps[known], return_inverse=True)
    values, n_times = living[known], len(times)
    moments = np.stack([np.bincount(at, weights, n_times) for weights in (np.ones_like(values), values, values**2)])
    block, step = min(config.mean_block_bars, n_times), max(1, _CHUNK_CELLS // n_times)
    resampled = []
    for done in range(0, config.resamples, step):
        index = stationary_bootstrap_indices(n_times, block, min(step, config.resamples - done), rng)
        resampled.append(_sharpe_of(np.stack([moment[index].sum(axis=1) for moment in moments])))
    scale = np.sqrt(bars_per_year)
    whole = _sharpe_of(moments.sum(axis=1)) * scale
    return percentile_interval(whole, np.concatenate(resampled) * scale, config)


def _interval_of_bars(
    living: np.ndarray, bars_per_year: float, config: BootstrapConfig, rng: np.random.Generator
) -> Interval:
    n_bars = len(living)
    if n_bars < 2 or np.ptp(living) == 0:
        return Interval(np.nan, np.nan, np.nan, np.nan, config.confidence)
    block = min(config.mean_block_bars, n_bars)
    step = max(1, _CHUNK_CELLS // n_bars)
    moments = []
    for done in range(0, config.resamples, step):
        picked = living[stationary_bootstrap_indices(n_bars, block, min(step, config.resamples - done), rng)]
        moments.append(np.stack([np.full(len(picked), n_bars), picked.sum(1), (picked**2).sum(1)]))
    whole = np.array([n_bars, living.sum(), (living**2).sum()])
    scale = np.sqrt(bars_per_year)
    return percentile_interval(_sharpe_of(whole) * scale, _sharpe_of(np.concatenate(moments, axis=1)) * scale, config)


def pooled_sharpe(returns: np.ndarray, bars_per_year: float) -> np.ndarray:
    """Annualised Sharpe of all bars of all paths taken together: (..., P, T) -> (...).

    Not the mean of the paths' own Sharpes: that rewards a path for being quiet.
    """
    return _sharpe_of(_moments(returns).sum(axis=-1)) * np.sqrt(bars_per_year)


def pooled_sharpe_interval(
    returns: np.ndarray, bars_per_year: float, config: BootstrapConfig, rng: np.random.Generator
) -> Interval:
    """Pooled Sharpe of paths (P, T), or its mean over training seeds (S, P, T), resampling seeds and paths jointly."""
    moments = _moments(_with_seed_axis(returns))
    seeds, paths = _draw(moments.shape[1], moments.shape[2], config, rng)
    scale = np.sqrt(bars_per_year)
    resampled = np.einsum("rs,rs->r", seeds, _resampled_sharpe(moments, paths)) * scale
    return percentile_interval(float(_sharpe_of(moments.sum(axis=-1)).mean() * scale), resampled, config)


def share_of_oracle(
    agent: np.ndarray, oracle: np.ndarray, bars_per_year: float, config: BootstrapConfig, rng: np.random.Generator
) -> OracleShare:
    """Pooled net Sharpe of the agent, averaged over its training seeds, as a share of the oracle's.

    Parameters
    ----------
    agent
        Net returns of shape (S, P, T), or (P, T) for one seed.
    oracle
        Net returns of shape (P, T) on the same paths, in the same order.

    Raises
    ------
    ValueError
        If the oracle's Sharpe is not positive, in the sample or in a resample: a share of it means nothing then.
    """
    agent_moments, oracle_moments = _moments(_with_seed_axis(agent)), _moments(oracle)
    if agent_moments.shape[2] != oracle_moments.shape[1]:
        raise ValueError(
            f"agent has {agent_moments.shape[2]} paths, oracle {oracle_moments.shape[1]}: they must be the same"
        )
    oracle_sharpe = float(_sharpe_of(oracle_moments.sum(axis=-1)))
    seeds, paths = _draw(agent_moments.shape[1], agent_moments.shape[2], config, rng)
    oracle_resampled = _resampled_sharpe(oracle_moments[:, None], paths)[:, 0]
    if not (oracle_sharpe > 0 and (oracle_resampled > 0).all()):
        raise ValueError(
            f"the oracle's Sharpe is {oracle_sharpe * np.sqrt(bars_per_year):.2f} a year and not positive in every "
            "resample: no share of it can be taken; use more paths or a stronger plant"
        )
    resampled = np.einsum("rs,rs->r", seeds, _resampled_sharpe(agent_moments, paths)) / oracle_resampled
    per_seed = _sharpe_of(agent_moments.sum(axis=-1)) / oracle_sharpe
    return OracleShare(
        share=percentile_interval(float(per_seed.mean()), resampled, config),
        per_seed=per_seed,
        oracle_sharpe_ann=oracle_sharpe * float(np.sqrt(bars_per_year)),
    )


def gain_interval(
    book: np.ndarray, without: np.ndarray, bars_per_year: float, config: BootstrapConfig, rng: np.random.Generator
) -> Interval:
    """Pooled Sharpe of paths (P, T), or its mean over training seeds (S, P, T), less another book's on the same paths
    and seeds, which are resampled together."""
    estimate, resampled = _gains(book, without, _draw(*_sizes(book), config, rng))
    scale = np.sqrt(bars_per_year)
    return percentile_interval(float(estimate.mean() * scale), resampled * scale, config)


def share_of_gain(
    agent: tuple[np.ndarray, np.ndarray],
    oracle: tuple[np.ndarray, np.ndarray],
    bars_per_year: float,
    config: BootstrapConfig,
    rng: np.random.Generator,
) -> GainShare:
    """What an agent gains over a book without what it learned, as a share of what an oracle gains over a book without
    what it knows.

    Parameters
    ----------
    agent
        Net returns with and without, each (S, P, T), or (P, T) for one seed.
    oracle
        Net returns with and without, each (P, T), on the same paths in the same order.

    Raises
    ------
    ValueError
        If the oracle does not gain, in the sample or in a resample: a share of it means nothing then.
    """
    seeds, paths = _draw(*_sizes(agent[0]), config, rng)
    scale = np.sqrt(bars_per_year)
    (oracle_gain,), of_oracle = _gains(*oracle, (np.ones((len(paths), 1)), paths))
    if not (oracle_gain > 0 and (of_oracle > 0).all()):
        raise ValueError(
            f"the oracle's gain is a Sharpe ratio of {oracle_gain * scale:.2f} a year and not positive in every "
            "resample: no share of it can be taken; use more paths or a stronger structure"
        )
    gain, of_agent = _gains(*agent, (seeds, paths))
    return GainShare(
        share=percentile_interval(float(gain.mean() / oracle_gain), of_agent / of_oracle, config),
        per_seed=gain / oracle_gain,
        agent_gain=percentile_interval(float(gain.mean() * scale), of_agent * scale, config),
        oracle_gain=percentile_interval(float(oracle_gain * scale), of_oracle * scale, config),
    )


def _sizes(returns: np.ndarray) -> tuple[int, int]:
    """Seeds and paths."""
    seeds, paths, _ = _with_seed_axis(returns).shape
    return seeds, paths


def _gains(
    book: np.ndarray, without: np.ndarray, drawn: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Difference of the two books' pooled Sharpe ratios per bar, of each seed (S,) and of each resample (R,)."""
    if book.shape != without.shape:
        raise ValueError(f"the books have {book.shape} and {without.shape} returns: they must play the same paths")
    (seeds, paths), moments = drawn, [_moments(_with_seed_axis(returns)) for returns in (book, without)]
    found, plain = (_sharpe_of(one.sum(axis=-1)) for one in moments)
    resampled, of_plain = (np.einsum("rs,rs->r", seeds, _resampled_sharpe(one, paths)) for one in moments)
    return found - plain, resampled - of_plain


def _with_seed_axis(returns: np.ndarray) -> np.ndarray:
    returns = np.asarray(returns, dtype=np.float64)
    if returns.ndim not in (2, 3):
        raise ValueError(f"expected returns of shape (P, T) or (S, P, T), got {returns.shape}")
    return returns[None] if returns.ndim == 2 else returns


def _moments(returns: np.ndarray) -> np.ndarray:
    """(..., P, T) -> (3, ..., P): bars, sum and sum of squares of each path."""
    living = living_returns(returns)
    known = np.isfinite(living)
    filled = np.where(known, living, 0.0)
    return np.stack([known.sum(axis=-1).astype(np.float64), filled.sum(axis=-1), (filled**2).sum(axis=-1)])


def _sharpe_of(moments: np.ndarray) -> np.ndarray:
    """Sharpe per bar from (3, ...) moments; NaN where there is no deviation."""
    count, total, squares = moments
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / count
        variance = (squares - count * mean**2) / (count - 1)
        # Below this the difference of two nearly equal sums is rounding, not variance.
        variance = np.where(variance > 1e-14 * squares / count, variance, np.nan)
        return mean / np.sqrt(variance)


def _draw(
    n_seeds: int, n_paths: int, config: BootstrapConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """How often each seed (as a share) and each path (as a count) is drawn: (resamples, S) and (resamples, P)."""
    seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=config.resamples) / n_seeds
    paths = rng.multinomial(n_paths, np.full(n_paths, 1 / n_paths), size=config.resamples)
    return seeds, paths.astype(np.float64)


def _resampled_sharpe(moments: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """(3, S, P) moments and (R, P) counts -> pooled Sharpe per bar of shape (R, S)."""
    return _sharpe_of(np.einsum("rp,msp->mrs", paths, moments))


def percentile_interval(estimate: float | np.ndarray, resampled: np.ndarray, config: BootstrapConfig) -> Interval:
    """The interval that `resampled` estimates leave, NaN among them left out."""
    tail = (1 - config.confidence) / 2
    known = resampled[np.isfinite(resampled)]
    if len(known) < 2:
        return Interval(float(estimate), np.nan, np.nan, np.nan, config.confidence)
    lower, upper = np.quantile(known, [tail, 1 - tail])
    return Interval(float(estimate), float(lower), float(upper), float(known.std(ddof=1)), config.confidence)
