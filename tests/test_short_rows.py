"""Reductions of short rows are numpy's, and a row's result does not depend on the rows beside it."""

from __future__ import annotations

import numpy as np
import pytest

from mtquant_rllib.short_rows import row_any, row_max, row_sums


@pytest.mark.parametrize("width", [1, 3, 8, 13])
def test_each_is_the_reduction_of_its_name(width: int) -> None:
    values = np.random.default_rng(width).standard_normal((257, width))
    np.testing.assert_allclose(row_sums(values), values.sum(axis=1), rtol=0, atol=1e-14)
    np.testing.assert_array_equal(row_max(values), values.max(axis=1))
    np.testing.assert_array_equal(row_any(values > 1.5), (values > 1.5).any(axis=1))
    for reduce in (row_sums, row_max):
        np.testing.assert_array_equal(reduce(values)[5:8], reduce(values[5:8].copy()))


def test_the_rows_are_left_as_they_are() -> None:
    values = np.arange(6.0).reshape(2, 3)
    row_max(values)
    np.testing.assert_array_equal(values, np.arange(6.0).reshape(2, 3))
