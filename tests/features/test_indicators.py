"""Primitives against pandas and textbook recursions, and what a doubled window promises."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mtquant_rllib.features import indicators as ind

N = 400


@pytest.fixture
def x() -> np.ndarray:
    rng = np.random.default_rng(1)
    return 50 + np.cumsum(rng.standard_normal((N, 3)), axis=0)


@pytest.fixture
def gappy(x: np.ndarray) -> np.ndarray:
    out = x.copy()
    out[np.random.default_rng(2).random(x.shape) < 0.15] = np.nan
    out[:25, 1] = np.nan
    return out


def same(ours: np.ndarray, theirs: pd.DataFrame, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(ours, theirs.to_numpy(), atol=atol, rtol=1e-9)


@pytest.mark.parametrize("window", [1, 2, 3, 14, 20, 60, 64, 252])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_rolling_windows_equal_pandas_with_missing_values(gappy: np.ndarray, window: int, share: float) -> None:
    minimum = max(int(window * share), 1)
    rolling = pd.DataFrame(gappy).rolling(window, min_periods=minimum)
    same(ind.rolling_sum(gappy, window, minimum), rolling.sum())
    same(ind.rolling_mean(gappy, window, minimum), rolling.mean())
    same(ind.rolling_max(gappy, window, minimum), rolling.max())
    same(ind.rolling_min(gappy, window, minimum), rolling.min())
    if window > 1:
        ours, theirs = ind.rolling_std(gappy, window, minimum), rolling.std().to_numpy()
        two = rolling.count().to_numpy() >= 2
        np.testing.assert_allclose(ours[two], theirs[two], atol=1e-7)


def test_rolling_zscore_equals_pandas(x: np.ndarray) -> None:
    frame = pd.DataFrame(x)
    same(ind.rolling_zscore(x, 60), (frame - frame.rolling(60).mean()) / frame.rolling(60).std(), atol=1e-8)


def test_rolling_correlation_and_beta_equal_numpy(x: np.ndarray) -> None:
    y = np.random.default_rng(3).standard_normal(x.shape) + x
    corr, beta = ind.rolling_corr(x, y, 30), ind.rolling_beta(y, x, 30)
    assert np.isnan(corr[:29]).all()
    for t in (29, 100, N - 1):
        for j in range(3):
            a, b = x[t - 29 : t + 1, j], y[t - 29 : t + 1, j]
            assert corr[t, j] == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-10)
            assert beta[t, j] == pytest.approx(np.polyfit(a, b, 1)[0], abs=1e-9)


def test_rolling_correlation_uses_rows_that_have_both(gappy: np.ndarray, x: np.ndarray) -> None:
    theirs = pd.DataFrame(gappy).rolling(50, min_periods=25).corr(pd.DataFrame(x))
    same(ind.rolling_corr(gappy, x, 50, 25), theirs, atol=1e-8)


def test_slope_equals_polyfit(x: np.ndarray) -> None:
    slope = ind.rolling_slope(x, 20)
    assert np.isnan(slope[:19]).all()
    for t in (19, 77, N - 1):
        assert slope[t, 2] == pytest.approx(np.polyfit(np.arange(20), x[t - 19 : t + 1, 2], 1)[0], abs=1e-12)


def test_mean_deviation_equals_its_definition(x: np.ndarray) -> None:
    theirs = pd.DataFrame(x).rolling(20).apply(lambda w: np.abs(w - w.mean()).mean(), raw=True)
    same(ind.rolling_mean_deviation(x, 20), theirs)


@pytest.mark.parametrize("span", [2, 9, 60])
def test_ewma_equals_pandas(gappy: np.ndarray, span: int) -> None:
    same(ind.ewma(gappy, span, span), pd.DataFrame(gappy).ewm(span=span, min_periods=span).mean())


def test_wilder_equals_the_textbook_recursion(x: np.ndarray) -> None:
    expected = np.full(x.shape, np.nan)
    expected[14] = x[1:15].mean(axis=0)
    for t in range(15, N):
        expected[t] = (13 * expected[t - 1] + x[t]) / 14
    np.testing.assert_allclose(ind.wilder(x, 14, start=1), expected, rtol=1e-12)


def test_a_constant_window_has_exactly_no_variance() -> None:
    x = np.concatenate([np.random.default_rng(4).standard_normal(30) + 1e4, np.full(40, 1.1e4 / 3)])[:, None]
    assert (ind.rolling_std(x, 20)[-15:] == 0).all()
    assert (ind.rolling_zscore(x, 20)[-15:] == 0).all()


def test_a_huge_value_is_forgotten_when_it_leaves_the_window() -> None:
    x = np.random.default_rng(5).standard_normal((200, 1))
    spoiled = x.copy()
    spoiled[50] = 1e200
    for function in (ind.rolling_sum, ind.rolling_mean, ind.rolling_max):
        np.testing.assert_array_equal(function(spoiled, 20)[70:], function(x, 20)[70:])


def test_hold_keeps_the_last_value_and_starts_at_zero() -> None:
    x = np.array([np.nan, 2.0, np.nan, np.nan, 5.0])[:, None]
    assert ind.hold(x)[:, 0].tolist() == [0, 2, 2, 2, 5]


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.float64, (40, 2), elements=st.floats(-100, 100) | st.just(np.nan)),
    arrays(np.float64, (40, 2), elements=st.floats(-100, 100) | st.just(np.nan)),
    st.integers(0, 39),
    st.integers(2, 30),
)
def test_no_primitive_sees_a_later_row(x: np.ndarray, other: np.ndarray, t: int, window: int) -> None:
    changed = np.concatenate([x[: t + 1], other[t + 1 :]])
    for function in (ind.rolling_sum, ind.rolling_std, ind.rolling_zscore, ind.rolling_max, ind.rolling_min, ind.ewma):
        before, after = function(x, window, 1), function(changed, window, 1)
        assert before[: t + 1].tobytes() == after[: t + 1].tobytes(), function.__name__
    before, after = ind.rolling_corr(x, x**2, window, 1), ind.rolling_corr(changed, changed**2, window, 1)
    assert before[: t + 1].tobytes() == after[: t + 1].tobytes()
    assert ind.hold(x)[: t + 1].tobytes() == ind.hold(changed)[: t + 1].tobytes()


def test_trailing_axes_do_not_matter(x: np.ndarray) -> None:
    stacked = np.stack([x, 2 * x], axis=1)
    for function in (ind.rolling_std, ind.rolling_max, ind.ewma, ind.rolling_zscore):
        np.testing.assert_array_equal(function(stacked, 20)[:, 0], function(x, 20))
