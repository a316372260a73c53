"""Covariances of GARCH(1,1) volatilities, one for each instrument, with a correlation that is constant or follows
recent shocks.

    h_t+1 = omega + alpha x_t^2 + beta h_t                     Bollerslev, Journal of Econometrics 31, 1986
    constant:  S_t+1 = D C D,  D = diag sqrt(h_t+1),  C the correlation of z_t = x_t / sqrt(h_t)      Bollerslev, 1990
    dcc:       Q_t+1 = (1 - a - b) C + a z_t z_t' + b Q_t,  C replaced by Q_t+1 with a unit diagonal       Engle, 2002

Parameters of the volatilities are fitted by maximum likelihood every `refit_days` to the `window_days` before, by the
`arch` library (the extra `garch`); a and b are settings and are not fitted. A forecast uses parameters and returns of
days before it alone. Until there are `min_days` returns the exponentially weighted covariance stands in.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mtquant_rllib.config.sections.features import MomentsConfig
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.features import indicators as ind

Parameters = tuple[float, float, float]
"""omega, alpha, beta."""
Fit = Callable[[np.ndarray], Parameters | None]
"""Parameters for returns (T,) of unit deviation; None where no maximum of the likelihood was found."""
_BACKCAST_DAYS, _BACKCAST_DECAY = 75, 0.94
"""The variance before the first day, as the `arch` library has it: squares of the first days, weights falling."""


def garch_covariance(
    returns: np.ndarray, before: np.ndarray, config: MomentsConfig, fit: Fit | None = None
) -> np.ndarray:
    """Forecast of the next day's covariance at the end of each day.

    Parameters
    ----------
    returns
        Daily simple returns (k, m, n), NaN on the first day.
    before
        Packed covariances (k, m, n(n+1)/2) that stand until there are enough returns.
    fit
        By default the `arch` library's.

    Returns
    -------
    ndarray of shape (k, m, n(n+1)/2).

    Raises
    ------
    ConfigError
        When the library is not installed.
    """
    fit = _arch_fit(config) if fit is None else fit
    garch, dynamic = config.garch, config.covariance == "garch_dcc"
    rows, columns = np.triu_indices(returns.shape[-1])
    out = before.copy()
    x = returns[1:]
    igarch = (0.0, 1 - config.covariance_decay, config.covariance_decay)
    for path in range(x.shape[1]):
        own = x[:, path]
        # Where the likelihood has no maximum: what was fitted before, and before that the exponential weighting.
        parameters = [igarch] * own.shape[1]
        for known in range(garch.min_days, len(own) + 1, garch.refit_days):
            first, stop = max(known - garch.window_days, 0), min(known + garch.refit_days, len(own) + 1)
            parameters = [_fitted(own[first:known, i], fit) or parameters[i] for i in range(own.shape[1])]
            past = own[first : stop - 1]
            variance = garch_variance(past, np.array(parameters))
            z = ind.ratio(past, np.sqrt(variance[:-1]))
            target = _unit_diagonal(z[: known - first].T @ z[: known - first])
            wanted = slice(known - first, stop - first)
            if dynamic:
                correlation = dcc_correlation(z, target, garch.dcc_shock, garch.dcc_persistence)[wanted]
            else:
                correlation = np.broadcast_to(target, (stop - known, *target.shape))
            deviation = np.sqrt(variance[wanted])
            packed = correlation[:, rows, columns] * deviation[:, rows] * deviation[:, columns]
            # Row j of `returns` has j known returns behind it.
            out[known:stop, path] = packed
    return out


def garch_variance(returns: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Variances (T + 1, n) before each of the returns (T, n) and after the last, for omega, alpha, beta (n, 3)."""
    omega, alpha, beta = parameters.T
    squares = returns * returns
    first = squares[:_BACKCAST_DAYS]
    weights = _BACKCAST_DECAY ** np.arange(len(first))
    backcast = weights @ first / weights.sum()
    variance = np.empty((len(returns) + 1, returns.shape[1]))
    variance[0] = omega + (alpha + beta) * backcast
    news = omega + alpha * squares
    for day in range(len(returns)):
        variance[day + 1] = news[day] + beta * variance[day]
    return variance


def dcc_correlation(z: np.ndarray, target: np.ndarray, shock: float, persistence: float) -> np.ndarray:
    """Correlations (T + 1, n, n) before each of the standardised returns (T, n) and after the last.

    target: (n, n), the level that they return to. shock, persistence: a and b of the module's formula.
    """
    out = np.empty((len(z) + 1, *target.shape))
    out[0] = q = target
    constant = (1 - shock - persistence) * target
    news = shock * z[:, :, None] * z[:, None, :]
    for day in range(len(z)):
        out[day + 1] = q = constant + news[day] + persistence * q
    return _unit_diagonal(out)


def _unit_diagonal(moments: np.ndarray) -> np.ndarray:
    """Correlations of second moments (..., n, n); an instrument without variance has none with others."""
    scale = np.sqrt(np.einsum("...ii->...i", moments))
    correlation = ind.ratio(moments, scale[..., :, None] * scale[..., None, :])
    np.einsum("...ii->...i", correlation)[...] = 1.0
    return correlation


def _fitted(returns: np.ndarray, fit: Fit) -> Parameters | None:
    """Parameters for returns (T,), fitted in units of their deviation; None for returns that are all zero."""
    deviation = float(np.sqrt(np.mean(returns * returns)))
    if deviation == 0:
        return None
    found = fit(returns / deviation)
    return None if found is None else (found[0] * deviation**2, found[1], found[2])


def _arch_fit(config: MomentsConfig) -> Fit:
    try:
        from arch import arch_model
    except ImportError:
        raise ConfigError(
            f"features.moments.covariance = {config.covariance}: it needs the `arch` library, which is not installed; "
            "install the extra (pip install 'mtquant_rllib[garch]'), or choose ewma, sample, ledoit_wolf or "
            "regime_switching"
        ) from None

    def fit(returns: np.ndarray) -> Parameters | None:
        model = arch_model(returns, mean="Zero", vol="GARCH", p=1, q=1, rescale=False)
        found = model.fit(disp="off", show_warning=False)
        if found.convergence_flag != 0:
            return None
        omega, alpha, beta = (float(value) for value in np.asarray(found.params))
        return omega, alpha, beta

    return fit
