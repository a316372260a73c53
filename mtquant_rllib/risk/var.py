"""Value at risk and expected shortfall of books: what one day in twenty loses at least, and what such days lose on
average, as positive fractions of equity.

0.02 at 95% means that on about one day in twenty we expect to lose more than 2% of equity. Positions are signed, so a
hedge lowers it; doubling the book doubles it. Three methods: parametric (normal quantile times the book's standard
deviation), historical (the returns that this book would have had, plain, weighted by age, or scaled to today's
volatility) and Monte Carlo (draws, normal or Student t).

The rule that limits books measures batches of them by the configured method (`risk.repair.measures`,
`risk.repair.tail_measures`). The functions here are for reports and `mtquant risk`, and the reference that tests hold
the rule to.

The mean is taken as zero: over a day it is small beside the deviation, and its estimate is mostly noise.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np


def normal_quantile(confidence: float) -> float:
    """z with P(Z <= z) = confidence; 1.6449 at 0.95."""
    return NormalDist().inv_cdf(confidence)


def portfolio_variance(weights: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """w'Sw for weights (..., n) and covariances (..., n, n); shape (...,)."""
    return np.einsum("...i,...ij,...j->...", weights, covariance, weights)


def parametric_var(
    weights: np.ndarray, covariance: np.ndarray, confidence: float, horizon_days: float = 1.0
) -> np.ndarray:
    """z * sqrt(w'Sw * days).

    Parameters
    ----------
    weights
        Signed, ndarray of shape (..., n).
    covariance
        Of daily simple returns, ndarray of shape (..., n, n).
    confidence
        Such as 0.95.

    Returns
    -------
    ndarray of shape (...,), positive fraction of equity.
    """
    variance = np.maximum(portfolio_variance(weights, covariance), 0.0)
    return normal_quantile(confidence) * np.sqrt(variance * horizon_days)


def component_var(
    weights: np.ndarray, covariance: np.ndarray, confidence: float, horizon_days: float = 1.0
) -> np.ndarray:
    """Each position's share of the book's VaR, w_i (Sw)_i z / sigma; shape (..., n). The shares add up to the VaR.

    A negative share is a hedge. Zero for a book without risk.
    """
    marginal = np.einsum("...ij,...j->...i", covariance, weights)
    shares = weights * marginal
    deviation = np.sqrt(np.maximum(shares.sum(axis=-1, keepdims=True), 0.0))
    scale = normal_quantile(confidence) * np.sqrt(horizon_days)
    return np.divide(shares * scale, deviation, out=np.zeros_like(shares), where=deviation > 0)


def marginal_var(weights: np.ndarray, covariance: np.ndarray, confidence: float) -> np.ndarray:
    """By how much VaR grows with each weight, dVaR/dw = z (Sw)_i / sigma; (..., n). 0 for a book without risk."""
    pull = np.einsum("...ij,...j->...i", covariance, weights)
    deviation = np.sqrt(np.maximum((weights * pull).sum(axis=-1, keepdims=True), 0.0))
    scale = normal_quantile(confidence)
    return np.divide(scale * pull, deviation, out=np.zeros_like(pull), where=deviation > 0)


def parametric_shortfall(weights: np.ndarray, covariance: np.ndarray, confidence: float) -> np.ndarray:
    """Expected loss of a normal book beyond its VaR, sigma phi(z) / (1 - confidence); shape (...,)."""
    z = normal_quantile(confidence)
    density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    return density / (1 - confidence) * np.sqrt(np.maximum(portfolio_variance(weights, covariance), 0.0))


def historical_var(weights: np.ndarray, past_returns: np.ndarray, confidence: float) -> np.ndarray:
    """Loss at the linearly interpolated (1 - confidence) quantile of the book's past returns; no less than 0.

    weights (..., n), past_returns (S, n) daily simple returns; shape (...,).
    """
    book_returns = np.asarray(weights) @ past_returns.T
    return np.maximum(-np.quantile(book_returns, 1 - confidence, axis=-1, method="linear"), 0.0)


def expected_shortfall(losses: np.ndarray, confidence: float, probabilities: np.ndarray | None = None) -> np.ndarray:
    """Mean of the worst (1 - confidence) of losses (..., S), (...,); no less than 0.

    Where the share is no whole number of losses, the last of them counts in part (Acerbi and Tasche 2002).

    probabilities: of each loss, (S,), summing to one; None for equal ones.
    """
    losses = np.asarray(losses, dtype=np.float64)
    n = losses.shape[-1]
    order = np.argsort(-losses, axis=-1, kind="stable")
    worst = np.take_along_axis(losses, order, axis=-1)
    weight = np.full(n, 1.0 / n) if probabilities is None else np.asarray(probabilities)
    mass = weight[order] if probabilities is not None else np.broadcast_to(weight, worst.shape)
    before = np.cumsum(mass, axis=-1) - mass
    share = np.clip(1 - confidence - before, 0.0, mass)
    return np.maximum((share * worst).sum(axis=-1) / (1 - confidence), 0.0)


def weighted_var(losses: np.ndarray, confidence: float, probabilities: np.ndarray) -> np.ndarray:
    """Smallest loss of (..., S) that losses at or beyond it reach with probability 1 - confidence, (...,); no less than
    0. probabilities: (S,), summing to one."""
    order = np.argsort(-losses, axis=-1, kind="stable")
    mass = np.cumsum(np.asarray(probabilities)[order], axis=-1)
    place = (mass >= 1 - confidence - 1e-12).argmax(axis=-1)
    worst = np.take_along_axis(losses, order, axis=-1)
    return np.maximum(np.take_along_axis(worst, place[..., None], axis=-1)[..., 0], 0.0)


def age_weights(n: int, decay: float) -> np.ndarray:
    """Probabilities of n days, the newest last, that fall by `decay` a day of age (Boudoukh, Richardson and Whitelaw
    1998), (n,), summing to one."""
    weights = decay ** np.arange(n - 1, -1, -1)
    return np.asarray(weights / weights.sum())


def at_present_volatility(past_returns: np.ndarray, decay: float) -> np.ndarray:
    """Past returns (S, n) times what volatility is now over what it was forecast to be on their day (Hull and White
    1998). Volatilities are exponentially weighted by `decay`, from the days before; (S, n)."""
    squares = np.asarray(past_returns, dtype=np.float64) ** 2
    variance = np.empty_like(squares)
    # The first days stand in for what came before them.
    forecast = squares[: max(len(squares) // 10, 1)].mean(axis=0)
    for day, square in enumerate(squares):
        variance[day] = forecast
        forecast = decay * forecast + (1 - decay) * square
    scale = np.sqrt(np.divide(forecast, variance, out=np.ones_like(variance), where=variance > 0))
    return past_returns * scale


def cholesky_root(covariance: np.ndarray) -> np.ndarray:
    """L with LL' = covariance (n, n). Where it is not positive definite, negative and tiny eigenvalues are raised to
    1e-12 of the largest first, and the diagonal is kept."""
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        raised = np.maximum(values, 1e-12 * max(float(values.max()), 0.0))
        repaired = (vectors * raised) @ vectors.T
        was, became = np.diagonal(covariance), np.diagonal(repaired)
        keep = np.sqrt(np.divide(np.maximum(was, 0.0), became, out=np.ones_like(became), where=became > 0))
        root = vectors * np.sqrt(raised)
        return np.asarray(keep[:, None] * root)


def monte_carlo_losses(
    weights: np.ndarray,
    covariance: np.ndarray,
    n_draws: int,
    generator: np.random.Generator,
    degrees_of_freedom: float | None = None,
) -> np.ndarray:
    """Losses of draws with this covariance (n, n): normal, or Student t scaled to the same variance.

    weights (..., n); shape (..., n_draws). `degrees_of_freedom` must exceed 2, else there is no variance to scale to.
    """
    if degrees_of_freedom is not None and degrees_of_freedom <= 2:
        raise ValueError(f"degrees_of_freedom = {degrees_of_freedom}: expected more than 2 (variance must exist)")
    root = cholesky_root(covariance)
    draws = generator.standard_normal((n_draws, len(root))) @ root.T
    if degrees_of_freedom is not None:
        draws /= _student_mixing(n_draws, generator, degrees_of_freedom)
    return -(np.asarray(weights) @ draws.T)


def standard_draws(
    n: int, n_draws: int, generator: np.random.Generator, degrees_of_freedom: float | None = None
) -> np.ndarray:
    """Draws (n_draws, n) of unit variance without correlation: normal, or Student t with a common mixing variable."""
    draws = generator.standard_normal((n_draws, n))
    return draws if degrees_of_freedom is None else draws / _student_mixing(n_draws, generator, degrees_of_freedom)


def _student_mixing(n_draws: int, generator: np.random.Generator, degrees_of_freedom: float) -> np.ndarray:
    """What divides normal draws to make them Student t of the same variance, (n_draws, 1)."""
    return np.sqrt(generator.chisquare(degrees_of_freedom, size=(n_draws, 1)) / (degrees_of_freedom - 2))


def monte_carlo_var(
    weights: np.ndarray,
    covariance: np.ndarray,
    confidence: float,
    n_draws: int,
    generator: np.random.Generator,
    degrees_of_freedom: float | None = None,
) -> np.ndarray:
    """Loss quantile over draws; parameters as of `monte_carlo_losses`; shape (...,)."""
    losses = monte_carlo_losses(weights, covariance, n_draws, generator, degrees_of_freedom)
    return np.maximum(np.quantile(losses, confidence, axis=-1, method="linear"), 0.0)


def bootstrap_bounds(
    losses: np.ndarray, confidence: float, level: float, resamples: int, generator: np.random.Generator
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Two-sided percentile intervals of the historical VaR and expected shortfall of losses (S,), resampling days."""
    drawn = losses[generator.integers(len(losses), size=(resamples, len(losses)))]
    tails = (1 - level) / 2, (1 + level) / 2
    var = np.quantile(drawn, confidence, axis=-1, method="linear")
    shortfall = expected_shortfall(drawn, confidence)
    (low, high), (less, more) = (np.quantile(one, tails) for one in (var, shortfall))
    return (max(float(low), 0.0), float(high)), (float(less), float(more))
