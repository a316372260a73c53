"""Rolling and exponentially weighted primitives along axis 0, for arrays with any trailing axes.

Every window is summed by doubling: a window of 2m bars is a window of m bars plus the same window m bars earlier. A
value therefore depends on the bars of its own window and on nothing else: no running total drifts, a later bar cannot
touch an earlier value by a single bit, a NaN or an outlier is forgotten when it leaves the window, and sums are
pairwise, hence accurate. The cost is log2(window) additions of whole arrays, without a Python loop over columns. The
exponential averages are built the same way from powers of their decay.

NaN policy, everywhere: a NaN is a missing value. It is left out; a result is NaN when fewer than `minimum` values of
its window are there (default: all of them). Zero divided by zero is 0: a flat price has no direction.
"""

from __future__ import annotations

import numpy as np

# Variances below this share of the window's mean square are rounding noise of a constant.
_ROUNDING = 1e-13
# Exponential weights below this share of the newest one are not summed.
_NEGLIGIBLE = 1e-20
_TINY = 1e-300


def lag(x: np.ndarray, bars: int = 1) -> np.ndarray:
    """x of `bars` rows ago; NaN in the first rows."""
    out = np.full_like(x, np.nan)
    out[bars:] = x[: max(len(x) - bars, 0)]
    return out


def change(x: np.ndarray, bars: int = 1) -> np.ndarray:
    """x minus x of `bars` rows ago."""
    return x - lag(x, bars)


def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, and 0 where b is 0; NaN where a is."""
    a, b = np.broadcast_arrays(a, b)
    return np.divide(a, b, out=a * 0.0, where=b != 0)


def log(x: np.ndarray) -> np.ndarray:
    """Natural logarithm with a very low floor instead of minus infinity, for values that are clipped afterwards."""
    return np.log(np.maximum(x, _TINY))


def log_positive(x: np.ndarray) -> np.ndarray:
    """Natural logarithm, NaN where x is not positive, for values that enter a window."""
    return np.log(np.where(x > 0, x, np.nan))


def hold(x: np.ndarray) -> np.ndarray:
    """Each NaN replaced by the last value before it, or by 0 where there is none."""
    missing = np.isnan(x)
    if not missing.any():
        return x
    if not (missing[1:] & ~missing[:-1]).any():  # only at the beginning
        return np.where(missing, 0.0, x)
    return np.nan_to_num(last_known(x, missing))


def last_known(x: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """x with its missing values replaced by the last known before them; the first row keeps what it has."""
    rows = np.arange(len(x)).reshape((-1,) + (1,) * (x.ndim - 1))
    source = np.maximum.accumulate(np.where(missing, 0, rows), axis=0)
    return np.take_along_axis(x, source, axis=0)


def window_sum(x: np.ndarray, window: int) -> np.ndarray:
    """Sum of the last `window` rows, of fewer at the start; x without NaN."""
    total: np.ndarray | None = None
    covered, width, part = 0, 1, x
    while True:
        if window & width:
            if total is None:
                total = part.copy()
            else:
                total[covered:] += part[: max(len(x) - covered, 0)]
            covered += width
        width *= 2
        if width > window:
            assert total is not None
            return total
        doubled = part.copy()
        doubled[width // 2 :] += part[: max(len(x) - width // 2, 0)]
        part = doubled


def rolling_count(x: np.ndarray, window: int) -> np.ndarray:
    """Values (not NaN) among the last `window` rows, float64 that broadcasts against x."""
    if not x.size:
        return np.zeros(x.shape)
    missing = np.isnan(x).reshape(len(x), -1)
    touched = missing.any(axis=1)
    lead = len(x) if touched.all() else int(np.argmin(touched))
    if touched[lead:].any() or not missing[:lead].all():
        return window_sum((~np.isnan(x)).astype(np.float64), window)
    # Missing at most in the first rows, and there in every column: the count is the same for all.
    count = np.clip(np.arange(1.0, len(x) + 1) - lead, 0, window)
    return count.reshape((-1,) + (1,) * (x.ndim - 1))


def _enough(result: np.ndarray, count: np.ndarray, minimum: int) -> np.ndarray:
    return np.where(count >= minimum, result, np.nan)


def rolling_sum(x: np.ndarray, window: int, minimum: int | None = None) -> np.ndarray:
    count = rolling_count(x, window)
    return _enough(window_sum(_zero_filled(x), window), count, window if minimum is None else minimum)


def rolling_mean(x: np.ndarray, window: int, minimum: int | None = None) -> np.ndarray:
    count = rolling_count(x, window)
    mean = window_sum(_zero_filled(x), window) / np.maximum(count, 1)
    return _enough(mean, count, window if minimum is None else minimum)


def _zero_filled(x: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(x), 0.0, x)


def _centred(x: np.ndarray) -> np.ndarray:
    """x minus the first value of each column, which keeps squares small without looking ahead."""
    if not len(x):
        return x
    first = np.argmax(~np.isnan(x), axis=0)[None]
    return x - np.take_along_axis(x, first, axis=0)


def _mean_and_variance(x: np.ndarray, window: int, minimum: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(mean, sample variance) of centred x; NaN where there are too few values."""
    count = rolling_count(x, window)
    filled = _zero_filled(x)
    n = np.maximum(count, 1)
    mean = window_sum(filled, window) / n
    square = window_sum(filled * filled, window) / n
    variance = square - mean * mean
    variance = np.where(variance > _ROUNDING * square, variance, 0.0) * (n / np.maximum(n - 1, 1))
    needed = max(window if minimum is None else minimum, 2)
    return _enough(mean, count, needed), _enough(variance, count, needed)


def rolling_std(x: np.ndarray, window: int, minimum: int | None = None) -> np.ndarray:
    """Sample standard deviation (divisor n - 1)."""
    return np.sqrt(_mean_and_variance(_centred(x), window, minimum)[1])


def rolling_zscore(x: np.ndarray, window: int, minimum: int | None = None, cap: float = np.inf) -> np.ndarray:
    """(x - mean) / sample deviation of the window that ends here, capped at +-cap; 0 in a constant window."""
    x = _centred(x)
    mean, variance = _mean_and_variance(x, window, minimum)
    return np.clip(ratio(x - mean, np.sqrt(variance)), -cap, cap)


def _covariation(
    x: np.ndarray, y: np.ndarray, window: int, minimum: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(covariance, variance of x, variance of y) over rows that have both, all with divisor n."""
    missing = np.isnan(x) | np.isnan(y)
    x = _centred(np.where(missing, np.nan, x))
    y = _centred(np.where(missing, np.nan, y))
    count = rolling_count(x, window)
    x, y = _zero_filled(x), _zero_filled(y)
    n = np.maximum(count, 1)
    mean_x, mean_y = window_sum(x, window) / n, window_sum(y, window) / n
    square_x, square_y = window_sum(x * x, window) / n, window_sum(y * y, window) / n
    cross = window_sum(x * y, window) / n - mean_x * mean_y
    variance_x, variance_y = square_x - mean_x * mean_x, square_y - mean_y * mean_y
    variance_x = np.where(variance_x > _ROUNDING * square_x, variance_x, 0.0)
    variance_y = np.where(variance_y > _ROUNDING * square_y, variance_y, 0.0)
    needed = window if minimum is None else minimum
    return _enough(cross, count, needed), variance_x, variance_y


def rolling_corr(x: np.ndarray, y: np.ndarray, window: int, minimum: int | None = None) -> np.ndarray:
    """Pearson correlation of the window; 0 where either side is constant."""
    cross, variance_x, variance_y = _covariation(x, y, window, minimum)
    return np.clip(ratio(cross, np.sqrt(variance_x * variance_y)), -1.0, 1.0)


def rolling_beta(y: np.ndarray, x: np.ndarray, window: int, minimum: int | None = None) -> np.ndarray:
    """Slope of the regression of y on x over the window; 0 where x is constant."""
    cross, variance_x, _ = _covariation(x, y, window, minimum)
    return ratio(cross, variance_x)


def rolling_max(x: np.ndarray, window: int, minimum: int | None = None) -> np.ndarray:
    """Largest value of the window."""
    count = rolling_count(x, window)
    part, width = np.where(np.isnan(x), -np.inf, x), 1
    while width * 2 <= window:
        part = _max_with_earlier(part, width)
        width *= 2
    if width < window:
        part = _max_with_earlier(part, window - width)
    return _enough(part, count, window if minimum is None else minimum)


def _max_with_earlier(part: np.ndarray, bars: int) -> np.ndarray:
    out = part.copy()
    np.maximum(part[bars:], part[: max(len(part) - bars, 0)], out=out[bars:])
    return out


def rolling_min(x: np.ndarray, window: int, minimum: int | None = None) -> np.ndarray:
    """Smallest value of the window."""
    return -rolling_max(-x, window, minimum)


def rolling_dot(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum of weights[j] * (row t - len + 1 + j): oldest weight first; x without NaN; NaN until the window is full."""
    window = len(weights)
    out = np.full_like(x, np.nan)
    if len(x) >= window:
        total = np.zeros_like(x[window - 1 :])
        for j, weight in enumerate(weights):
            total += weight * x[j : len(x) - window + 1 + j]
        out[window - 1 :] = total
    return out


def rolling_slope(x: np.ndarray, window: int) -> np.ndarray:
    """Least-squares slope a row of x on time; x without NaN."""
    time = np.arange(window) - (window - 1) / 2
    return rolling_dot(x, time / (time @ time))


def rolling_mean_deviation(x: np.ndarray, window: int) -> np.ndarray:
    """Mean absolute deviation of the window's values from the window's mean; x without NaN."""
    mean = rolling_mean(x, window)
    total = np.zeros_like(x)
    for j in range(window):
        total[j:] += np.abs(x[: max(len(x) - j, 0)] - mean[j:])
    return total / window


def decaying_sum(x: np.ndarray, keep: float) -> np.ndarray:
    """y_t = keep * y_{t-1} + x_t with y_{-1} = 0; x without NaN, 0 < keep < 1."""
    y = x.copy()
    step, weight = 1, keep
    while step < len(x) and weight > _NEGLIGIBLE:
        y[step:] += weight * y[:-step]
        step, weight = 2 * step, weight * weight
    return y


def ewma_decay(x: np.ndarray, keep: float, minimum: int = 1) -> np.ndarray:
    """Exponentially weighted mean with weights keep^age that sum to one (pandas: `ewm(adjust=True)`).

    NaN until `minimum` values were seen; a NaN has no weight but ages the others.
    """
    there = ~np.isnan(x)
    weights = decaying_sum(there.astype(np.float64), keep)
    mean = ratio(decaying_sum(_zero_filled(x), keep), weights)
    return _enough(mean, np.cumsum(there, axis=0), minimum)


def ewma(x: np.ndarray, span: int, minimum: int = 1) -> np.ndarray:
    """Exponentially weighted mean of a span: decay 1 - 2 / (span + 1)."""
    return ewma_decay(x, 1 - 2 / (span + 1), minimum)


def wilder(x: np.ndarray, period: int, start: int = 0) -> np.ndarray:
    """Wilder's smoothing: the mean of rows start .. start + period - 1, then y_t = y_{t-1} + (x_t - y_{t-1}) / period.

    x has no NaN from row `start` on; NaN before the first mean. Wilder,
    New Concepts in Technical Trading Systems (1978).
    """
    seed = start + period - 1
    out = np.full_like(x, np.nan)
    if len(x) > seed:
        driven = x[seed:] / period
        driven[0] = x[start : seed + 1].sum(axis=0) / period
        out[seed:] = decaying_sum(driven, 1 - 1 / period)
    return out
