# SPDX-License-Identifier: Apache-2.0
"""The difference of two independent estimates, against scipy, a published example and coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from kickbench.stats.independent import Difference, Estimate, difference

numbers = st.floats(-1e6, 1e6)
arms = st.floats(0, 1e6)
counts = st.integers(0, 50)
estimates = st.builds(
    lambda value, below, above, processes: Estimate(value, value - below, value + above, processes),
    numbers,
    arms,
    arms,
    counts,
)
confidences = st.floats(0.5, 0.999)


def of_sample(sample: np.ndarray) -> Estimate:
    mean, n = float(sample.mean()), len(sample)
    half = scipy.stats.t.ppf(0.975, n - 1) * float(sample.std(ddof=1)) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.9987])
@pytest.mark.parametrize("sizes", [(2, 2), (3, 10), (10, 5)])
def test_symmetric_intervals_give_welchs(sizes: tuple[int, int], confidence: float) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(10, 1, sizes[0]), rng.normal(11, 3, sizes[1])
    expected = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(confidence)
    found = difference(of_sample(a), of_sample(b), confidence=confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.value == pytest.approx(a.mean() - b.mean())


def test_asymmetric_intervals_give_newcombes_published_example() -> None:
    # R. G. Newcombe, Statistics in Medicine 17 (1998): 56/70 - 48/80 from two Wilson intervals.
    a = scipy.stats.binomtest(56, 70).proportion_ci(method="wilson")
    b = scipy.stats.binomtest(48, 80).proportion_ci(method="wilson")
    found = difference(Estimate(56 / 70, a.low, a.high, 0), Estimate(48 / 80, b.low, b.high, 0))
    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)


@given(estimates, estimates, confidences)
def test_the_other_way_round_is_the_mirror_image(
    a: Estimate, b: Estimate, confidence: float
) -> None:
    forth, back = (difference(x, y, confidence=confidence) for x, y in ((a, b), (b, a)))
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low), rel=1e-9, abs=1e-6)
    assert forth.value == -back.value
    assert forth.low <= forth.value <= forth.high


@given(estimates, estimates, confidences, confidences)
def test_more_confidence_is_never_narrower(
    a: Estimate, b: Estimate, one: float, two: float
) -> None:
    less, more = (difference(a, b, confidence=c) for c in sorted((one, two)))
    slack = 1e-9 * (abs(less.value) + less.high - less.low)
    assert more.low <= less.low + slack
    assert more.high >= less.high - slack


@given(estimates, confidences)
def test_nothing_differs_from_itself(a: Estimate, confidence: float) -> None:
    assert not difference(a, a, confidence=confidence).seen


@given(numbers, numbers, counts)
def test_exact_counts_have_an_exact_difference(a: float, b: float, processes: int) -> None:
    found = difference(Estimate(a, a, a, processes), Estimate(b, b, b, processes))
    assert found == Difference(a - b, a - b, a - b, 0.95)
    assert found.seen == (a != b)


def test_a_single_process_counts_as_none() -> None:
    one, none = (Estimate(10, 8, 13, processes) for processes in (1, 0))
    other = Estimate(0, -1, 1, 5)
    assert difference(one, other, confidence=0.99) == difference(none, other, confidence=0.99)


@pytest.mark.parametrize("confidence", [0, 1, -1, 2])
def test_a_confidence_is_between_0_and_1(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        difference(Estimate(0, 0, 0, 0), Estimate(0, 0, 0, 0), confidence=confidence)


@pytest.mark.parametrize("confidence", [0.95, 0.997])
def test_it_covers_as_often_as_it_says(confidence: float) -> None:
    """Few processes and unequal spreads, as two runs have them; 6,000 pairs of runs."""
    rng = np.random.default_rng(7)
    a, b = rng.normal(0, 1, (6000, 5)), rng.normal(0, 3, (6000, 4))
    missed = sum(
        difference(of_sample(x), of_sample(y), confidence=confidence).seen
        for x, y in zip(a, b, strict=True)
    )
    expected = 6000 * (1 - confidence)
    # Welch's degrees of freedom are an estimate too, so that far out it is not exact; the normal
    # distribution would miss five times as often as it says.
    assert 0.5 * expected < missed < 2 * expected
