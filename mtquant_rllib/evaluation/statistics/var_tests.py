"""Is a forecast of value at risk true? Five tests and a traffic light, with p-values that hold on short records.

Asymptotic p-values of these tests reject too often on a year of days, on which a 95% forecast is exceeded a dozen
times. So p-values are simulated: hits of a true forecast are independent coin throws, whatever the market, and
thousands of such records of the same length say how odd the observed statistic is (Dufour 2006). Holm's procedure keeps
the probability of any false rejection among all tests at the nominal level.

Days without a forecast (a flat book) and those after a bankruptcy are left out, and nothing is compared across them or
from one history to the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from mtquant_rllib.evaluation.measures import living_returns
from mtquant_rllib.evaluation.statistics.paired_tests import holm

GREEN, YELLOW, RED = "green", "yellow", "red"
_LAGS = 4
"""Of hits in the dynamic quantile test, as Engle and Manganelli have them."""
_CHUNK_CELLS = 4_000_000
_SIMULATED_DAYS, _FEWEST, _MOST = 4_000_000, 399, 1999
"""Days to simulate in all, and bounds of how many records: the longer a record, the fewer are needed beside it."""


@dataclass(frozen=True)
class VarTest:
    """One test of a forecast. p_value: simulated; adjusted: by Holm for all tests of the forecast."""

    name: str
    statistic: float
    p_value: float
    adjusted: float


@dataclass(frozen=True)
class VarTests:
    """light: Basel's, by the probability of fewer breaches of a true forecast: green below 95%, red from 99.99% on.
    shortfall_ratio: mean loss beyond VaR over the expected shortfall of a normal book with that VaR."""

    n_days: int
    n_breaches: int
    expected_rate: float
    tests: tuple[VarTest, ...]
    light: str
    shortfall_ratio: float

    @property
    def breach_rate(self) -> float:
        return self.n_breaches / self.n_days if self.n_days else float("nan")

    def rejected(self, significance: float) -> tuple[str, ...]:
        """Names of the tests that reject, adjusted for all."""
        return tuple(test.name for test in self.tests if test.adjusted <= significance)


def judge_forecast(
    returns: np.ndarray,
    forecast: np.ndarray,
    confidence: float,
    rng: np.random.Generator,
    simulations: int | None = None,
    shortfall: np.ndarray | None = None,
) -> VarTests | None:
    """Test a forecast of VaR, positive fractions, made before each of the returns, both (T,) or (B, T), of as much time
    as it is for. None where there is no forecast.

    The tests: coverage (Kupiec 1995), independence and both (Christoffersen 1998), dynamic quantile on four lags and
    the forecast (Engle and Manganelli 2004), and of the expected shortfall that a normal book of this VaR has, the
    second of Acerbi and Szekely (2014), one-sided.

    simulations: records that p-values are simulated from, 1,999 for a year or six, fewer beside longer ones.

    shortfall: a forecast of expected shortfall of its own, of the same shape; the test of it is then that of McNeil and
    Frey (2000): losses beyond VaR less the forecast, in units of VaR, have no mean above zero (bootstrap, one-sided).
    """
    living, forecast = np.atleast_2d(living_returns(returns)), np.atleast_2d(forecast)
    hits, ratios, levels = _judged(living, forecast)
    known = np.isfinite(hits)
    n_days = int(known.sum())
    if not n_days:
        return None
    if simulations is None:
        simulations = min(max(_SIMULATED_DAYS // n_days, _FEWEST), _MOST)
    rate = 1 - confidence
    observed = _statistics(hits[None], rate, levels)
    z = float(stats.norm.ppf(confidence))
    unit = float(stats.norm.pdf(z)) / rate
    loss = np.where(known, ratios, 0.0) * z
    szekely = float((loss * (hits == 1)).sum() / (n_days * rate * unit) - 1)
    beyond = np.zeros((simulations, len(observed) + 1))
    step = max(1, _CHUNK_CELLS // (len(hits) * (_LAGS + 2)))
    for done in range(0, simulations, step):
        draws = rng.standard_normal((min(step, simulations - done), len(hits)))
        simulated = np.where(known, (draws > z).astype(float), np.nan)
        part = slice(done, done + len(draws))
        beyond[part, :-1] = np.stack(_statistics(simulated, rate, levels), axis=-1)
        beyond[part, -1] = (np.where(known, draws, 0.0) * (simulated == 1)).sum(axis=1) / (n_days * rate * unit) - 1
    found = np.array([*(float(one[0]) for one in observed), szekely])
    p_values = (1 + (beyond >= found - 1e-9).sum(axis=0)) / (simulations + 1)
    if shortfall is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            residuals = ratios[hits == 1] - _judged(living, forecast, np.atleast_2d(shortfall) / forecast)[1][hits == 1]
        found[-1], p_values[-1] = _mean_above_zero(residuals, simulations, rng)
    names = ("coverage", "independence", "conditional coverage", "dynamic quantile", "expected shortfall")
    tests = tuple(map(VarTest, names, found.tolist(), p_values.tolist(), holm(p_values).tolist()))
    n_breaches = int(np.nansum(hits))
    mean_beyond = float((loss * (hits == 1)).sum() / n_breaches) if n_breaches else float("nan")
    return VarTests(n_days, n_breaches, rate, tests, traffic_light(n_breaches, n_days, rate), mean_beyond / unit)


def traffic_light(n_breaches: int, n_days: int, rate: float) -> str:
    """Basel's zone of a number of breaches."""
    below = float(stats.binom.cdf(n_breaches, n_days, rate))
    return GREEN if below < 0.95 else YELLOW if below < 0.9999 else RED


def _mean_above_zero(values: np.ndarray, resamples: int, rng: np.random.Generator) -> tuple[float, float]:
    """Student's statistic of the mean of values (k,), and the one-sided p-value of "it is zero" by resampling the
    centred values; 0 and 1 where there are too few."""
    if len(values) < 2 or values.std() == 0:
        return 0.0, 1.0

    def statistic(sample: np.ndarray) -> np.ndarray:
        deviation = sample.std(axis=-1, ddof=1)
        scale = np.where(deviation > 0, deviation, np.inf) / np.sqrt(sample.shape[-1])
        return np.asarray(sample.mean(axis=-1) / scale)

    found = float(statistic(values))
    drawn = (values - values.mean())[rng.integers(len(values), size=(resamples, len(values)))]
    return found, float((1 + (statistic(drawn) >= found).sum()) / (resamples + 1))


def _judged(
    returns: np.ndarray, forecast: np.ndarray, ratio: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits, losses over forecasts (or `ratio`, where it is given), and forecasts, of all histories one after the other
    with a gap between: NaN where nothing is judged."""
    usable = np.isfinite(returns) & np.isfinite(forecast) & (forecast > 0)
    if ratio is None:
        ratio = -returns / np.where(usable, forecast, 1.0)
    ratio = np.where(usable, ratio, np.nan)
    hits = np.where(usable, ratio > 1, np.nan)
    gap = np.full((len(hits), 1), np.nan)
    return tuple(
        np.concatenate((np.asarray(part, dtype=float), gap), axis=1).ravel()
        for part in (hits, ratio, np.where(usable, forecast, np.nan))
    )  # type: ignore[return-value]


def _statistics(hits: np.ndarray, rate: float, levels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Coverage, independence, both, dynamic quantile of records of hits (N, T), (N,) each."""
    known = np.isfinite(hits)
    n, total = known.sum(axis=1), np.where(known, hits, 0).sum(axis=1)
    coverage = 2 * (_likelihood(total, n, total / n) - _likelihood(total, n, np.full(len(n), rate)))
    before, after = hits[:, :-1], hits[:, 1:]
    counts = {(i, j): ((before == i) & (after == j)).sum(axis=1) for i in (0, 1) for j in (0, 1)}
    quiet, hit = counts[0, 0] + counts[0, 1], counts[1, 0] + counts[1, 1]
    both = np.maximum(quiet + hit, 1)
    apart = _likelihood(counts[0, 1], quiet, counts[0, 1] / np.maximum(quiet, 1))
    apart = apart + _likelihood(counts[1, 1], hit, counts[1, 1] / np.maximum(hit, 1))
    together = _likelihood(counts[0, 1] + counts[1, 1], quiet + hit, (counts[0, 1] + counts[1, 1]) / both)
    independence = np.maximum(2 * (apart - together), 0.0)
    coverage = np.maximum(coverage, 0.0)
    return coverage, independence, coverage + independence, _dynamic_quantile(hits, rate, levels)


def _likelihood(hits: np.ndarray, n: np.ndarray, rate: np.ndarray) -> np.ndarray:
    return np.asarray(special.xlogy(hits, rate) + special.xlog1py(n - hits, -rate))


def _dynamic_quantile(hits: np.ndarray, rate: float, levels: np.ndarray) -> np.ndarray:
    """b'X'X b / (p (1 - p)) of the regression of hits less p on a constant, four lags of them and the forecast, (N,).
    The forecast is taken in units of its own deviation, which changes nothing but rounding."""
    excess = hits - rate
    lagged = np.stack([excess[:, _LAGS - k - 1 : -k - 1] for k in range(_LAGS)], axis=-1)
    now = excess[:, _LAGS:]
    level = levels[_LAGS:]
    known = level[np.isfinite(level)]
    spread = known.std() if len(known) else 0.0
    shape = (*now.shape, 1)
    columns = [np.ones(shape), lagged]
    if spread > 0:
        columns.append(np.broadcast_to(((level - known.mean()) / spread)[None, :, None], shape))
    x = np.concatenate(columns, axis=-1)
    usable = np.isfinite(x).all(axis=-1) & np.isfinite(now)
    x, now = np.where(usable[..., None], x, 0.0), np.where(usable, now, 0.0)
    square = np.einsum("nti,ntj->nij", x, x) + 1e-9 * np.eye(x.shape[-1])
    cross = np.einsum("nti,nt->ni", x, now)
    solved = np.linalg.solve(square, cross[..., None])[..., 0]
    return np.asarray(np.einsum("ni,ni->n", solved, cross) / (rate * (1 - rate)))
