# SPDX-License-Identifier: Apache-2.0
"""Exact bounds: the same as scipy's, in order, and narrower with more trials."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.special import gammaincinv
from scipy.stats import binomtest

from kickbench.stats.proportions import clopper_pearson, upper_bound

COUNTS = st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
CONFIDENCES = st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.9999])


@given(COUNTS, CONFIDENCES)
def test_agrees_with_scipy(counts: tuple[int, int], confidence: float) -> None:
    k, n = counts
    found = clopper_pearson(k, n, confidence=confidence)
    reference = binomtest(k, n).proportion_ci(confidence, method="exact")
    assert found.low == pytest.approx(reference.low, rel=1e-6, abs=1e-12)
    assert found.high == pytest.approx(reference.high, rel=1e-6, abs=1e-12)
    less = binomtest(k, n, alternative="less").proportion_ci(confidence, method="exact")
    assert upper_bound(k, n, confidence=confidence) == pytest.approx(less.high, rel=1e-6)


@given(COUNTS, CONFIDENCES)
def test_bounds_are_ordered(counts: tuple[int, int], confidence: float) -> None:
    k, n = counts
    found = clopper_pearson(k, n, confidence=confidence)
    assert 0 <= found.low <= found.estimate <= found.high <= 1
    assert upper_bound(k, n, confidence=confidence) <= found.high


@given(st.integers(1, 2**53).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@example((1000, 2**28))
@example((2**28 - 1000, 2**28))
@example((1000, 2**44))
@example((1000, 2**53))
def test_bounds_of_very_many_trials_contain_the_share(counts: tuple[int, int]) -> None:
    k, n = counts
    found = clopper_pearson(k, n)
    assert 0 <= found.low <= k / n <= found.high <= 1
    assert k / n <= upper_bound(k, n) <= found.high


@pytest.mark.parametrize("trials", [2**28, 2**30, 2**42, 2**49])
@pytest.mark.parametrize("successes", [1, 3, 999, 1000, 1001, 10**6])
def test_bounds_of_rare_successes_are_poissons(successes: int, trials: int) -> None:
    found = clopper_pearson(successes, trials)
    low, high = gammaincinv(successes, 0.025), gammaincinv(successes + 1, 0.975)
    assert found.low * trials == pytest.approx(low, rel=1e-2 * successes / 10**6 + 1e-4)
    assert found.high * trials == pytest.approx(high, rel=1e-2 * successes / 10**6 + 1e-4)


@given(COUNTS.filter(lambda c: c[0] < c[1]))
def test_bounds_grow_with_the_successes_and_shrink_with_the_trials(counts: tuple[int, int]) -> None:
    k, n = counts
    here, more = clopper_pearson(k, n), clopper_pearson(k + 1, n)
    assert here.low < more.low
    assert here.high < more.high or here.high == 1
    assert upper_bound(k, n + 1) < upper_bound(k, n)


@given(COUNTS)
def test_failures_mirror_successes(counts: tuple[int, int]) -> None:
    k, n = counts
    assert clopper_pearson(n - k, n).low == pytest.approx(1 - clopper_pearson(k, n).high, abs=1e-9)


def test_no_loss_in_a_thousand_kicks_bounds_the_rate_by_three_per_thousand() -> None:
    assert clopper_pearson(0, 1000).low == 0
    assert upper_bound(0, 1000) == pytest.approx(1 - 0.05**0.001)


@pytest.mark.parametrize(
    ("successes", "trials", "confidence", "message"),
    [
        (0, 0, 0.95, "at least one trial"),
        (-1, 5, 0.95, "between 0 and 5"),
        (6, 5, 0.95, "between 0 and 5"),
        (1, 5, 1.0, "between 0 and 1"),
    ],
)
def test_refuses_what_is_no_proportion(
    successes: int, trials: int, confidence: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        clopper_pearson(successes, trials, confidence=confidence)
    with pytest.raises(ValueError, match=message):
        upper_bound(successes, trials, confidence=confidence)
