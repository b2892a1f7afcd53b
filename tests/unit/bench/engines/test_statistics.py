"""Intervals against SciPy's exact ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from edge_behavior.bench.engines.statistics import median_of, share_of, sign_test


@pytest.mark.parametrize("count", [6, 7, 20, 50, 51])
def test_the_medians_interval_covers_and_is_the_narrowest_that_does(count: int) -> None:
    values = [float(v) for v in np.random.default_rng(0).permutation(count)]
    found = median_of(values)
    assert found.value == np.median(values)
    # The values are their own ranks: `low` of them lie below the interval, and as many above.
    outside = int(found.low)
    assert found.high == count - 1 - outside
    assert 2 * binom.cdf(outside, count, 0.5) <= 0.05
    assert 2 * binom.cdf(outside + 1, count, 0.5) > 0.05


def test_few_values_have_no_interval_but_their_range() -> None:
    found = median_of([3.0, 1.0, 9.0])
    assert (found.value, found.low, found.high) == (3.0, 1.0, 9.0)


@pytest.mark.parametrize(("right", "count"), [(0, 8), (3, 8), (8, 8), (26, 50)])
def test_shares(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(method="wilson")
    found = share_of(right, count)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (5, 5), (0, 6), (12, 3)])
def test_signs(better: int, worse: int) -> None:
    count = better + worse
    expected = binomtest(better, count).pvalue if count else 1.0
    assert sign_test(better, worse) == pytest.approx(expected)
