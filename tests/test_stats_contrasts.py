# SPDX-License-Identifier: Apache-2.0
"""Paired contrasts: robust, indifferent to unit and order, honest about few processes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import t, trim_mean

from kickbench.stats.blocks import block_length, block_model, mean_variances
from kickbench.stats.contrasts import (
    FLOOR,
    Interval,
    family_confidence,
    paired_contrast,
    running_interval,
)
from kickbench.stats.location import huber, trimmed_mean

Processes = list[NDArray[np.float64]]
Method = Callable[..., Interval]
ROUND = st.floats(-1e6, 1e6, allow_subnormal=False)
PROCESS = st.lists(ROUND, min_size=2, max_size=60).map(np.array)
PROCESSES = st.lists(PROCESS, min_size=1, max_size=5)
BOTH = pytest.mark.parametrize("method", [paired_contrast, running_interval])


def noise(seed: int, *shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(shape)


def assert_close(found: Interval, low: float, high: float, scale: float) -> None:
    assert found.low == pytest.approx(low, rel=1e-6, abs=1e-6 * scale)
    assert found.high == pytest.approx(high, rel=1e-6, abs=1e-6 * scale)


@BOTH
@given(PROCESSES)
def test_bounds_enclose_the_estimate(method: Method, processes: Processes) -> None:
    found = method(processes)
    assert found.low <= found.estimate <= found.high
    assert found.half_width == pytest.approx((found.high - found.low) / 2)
    assert found.n_processes == len(processes)
    assert found.n_rounds == sum(p.size for p in processes)


@given(PROCESSES)
def test_the_estimate_is_the_mean_of_the_trimmed_means(processes: Processes) -> None:
    expected = np.mean([trim_mean(p, 0.1) for p in processes])
    found = paired_contrast(processes).estimate
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)
    assert found == running_interval(processes).estimate


@BOTH
@given(
    st.lists(st.integers(5, 60), min_size=1, max_size=5),
    st.integers(0, 1000),
    st.floats(-1e4, 1e4),
    st.floats(1e-3, 1e3),
)
def test_follows_a_shift_and_a_change_of_unit(
    method: Method, sizes: list[int], seed: int, shift: float, scale: float
) -> None:
    processes = [noise(seed + i, n) for i, n in enumerate(sizes)]
    here = method(processes)
    moved = method([p * scale + shift for p in processes])
    assert_close(moved, here.low * scale + shift, here.high * scale + shift, scale + abs(shift))
    mirrored = method([-p * scale for p in processes])
    assert_close(mirrored, -here.high * scale, -here.low * scale, scale)


@BOTH
@given(st.permutations(range(4)))
def test_the_order_of_processes_does_not_matter(method: Method, order: list[int]) -> None:
    processes = [noise(i, 20 + 10 * i) + i for i in range(4)]
    here, there = method(processes), method([processes[i] for i in order])
    assert_close(there, here.low, here.high, 1.0)


@given(PROCESSES, st.sampled_from([(0.5, 0.9), (0.9, 0.95), (0.95, 0.9999)]))
def test_more_confidence_is_never_narrower(
    processes: Processes, confidences: tuple[float, float]
) -> None:
    less, more = (paired_contrast(processes, confidence=c) for c in confidences)
    assert more.low <= less.low
    assert less.high <= more.high


@given(PROCESSES)
def test_the_contrast_is_never_much_narrower_than_its_rounds_allow(processes: Processes) -> None:
    floor = FLOOR * running_interval(processes).half_width
    assert paired_contrast(processes).half_width >= floor * (1 - 1e-6) - 1e-6


def test_preempted_rounds_do_not_move_the_estimate_or_its_interval() -> None:
    quiet = noise(1, 400)
    hit = quiet.copy()
    hit[[7, 90, 211, 399]] = [1e9, -4e8, 1e12, -1e10]
    a, b = paired_contrast([quiet]), paired_contrast([hit])
    assert abs(a.estimate - b.estimate) < 0.02
    assert b.half_width < 1.2 * a.half_width


def test_neighbouring_rounds_that_agree_count_for_less() -> None:
    independent = noise(2, 400)
    in_runs = np.repeat(independent[:40], 10)
    assert running_interval([in_runs]).half_width > 2 * running_interval([independent]).half_width


def test_processes_that_differ_widen_the_interval_to_students_t() -> None:
    processes = [noise(3, 100) + offset for offset in (0.0, 10.0, 20.0)]
    means = [trimmed_mean(p) for p in processes]
    low, high = t.interval(0.95, 2, np.mean(means), np.std(means, ddof=1) / math.sqrt(3))
    assert_close(paired_contrast(processes), low, high, 1.0)
    assert running_interval(processes).high < 12


def test_processes_that_agree_by_luck_do_not_make_it_narrow() -> None:
    process = noise(4, 100)
    within = running_interval([process, process, process])
    found = paired_contrast([process, process, process])
    assert found.half_width == pytest.approx(FLOOR * within.half_width)
    assert found.half_width > 0.3 * within.half_width


def test_one_process_speaks_for_itself_only() -> None:
    process = noise(5, 100)
    assert paired_contrast([process]) == running_interval([process])


@given(st.floats(-1e6, 1e6), st.integers(2, 50), st.integers(1, 5))
def test_constant_rounds_give_an_interval_without_width(value: float, n: int, count: int) -> None:
    found = paired_contrast([np.full(n, value)] * count)
    assert found.estimate == pytest.approx(value, rel=1e-12)
    assert found.half_width <= 1e-9 * abs(value)


def test_integers_and_lists_are_taken_as_they_are() -> None:
    assert paired_contrast([[1, 2, 4, 3], [2, 2, 3, 5]]).n_rounds == 8


@BOTH
@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ([], "at least one process"),
        ([[]], "process 0: .*2 rounds or more, got 0"),
        ([[1.0, 2.0], [1.0]], "process 1: .*2 rounds or more, got 1"),
        ([[1.0, math.nan]], "process 0: .*not a finite number"),
        ([[1.0, math.inf]], "process 0: .*not a finite number"),
        ([[[1.0, 2.0]]], "process 0: .*1-D"),
    ],
)
def test_refuses_what_has_no_interval(
    method: Method, differences: list[list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        method(differences)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, 95.0, math.nan])
def test_refuses_a_confidence_that_is_none(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        paired_contrast([[1.0, 2.0]], confidence=confidence)
    with pytest.raises(ValueError, match="between 0 and 1"):
        family_confidence(confidence, 2)


@given(st.floats(0.5, 0.999), st.integers(1, 1000))
def test_a_family_of_intervals_holds_at_once_with_the_confidence_asked(c: float, n: int) -> None:
    each = family_confidence(c, n)
    assert c <= each < 1
    assert each**n == pytest.approx(c)


def test_a_family_has_members() -> None:
    with pytest.raises(ValueError, match="at least one interval"):
        family_confidence(0.95, 0)


@given(st.integers(2, 5000))
def test_a_block_is_at_most_half_of_the_rounds(n: int) -> None:
    assert 1 <= block_length(n) <= n // 2
    assert block_length(n) <= block_length(n + 1)


@given(PROCESSES)
def test_the_correction_never_claims_more_than_independent_rounds(processes: Processes) -> None:
    model = block_model([p - p.mean() for p in processes])
    assert 0 <= model.autocorrelation <= 0.95
    assert all(factor >= 1 - 1e-9 for factor in model.factors)
    assert model.df >= 1


def test_the_closed_form_is_the_moving_block_bootstrap_without_its_noise() -> None:
    rng = np.random.default_rng(6)
    series = np.convolve(rng.standard_normal(124), np.ones(5), mode="valid")
    series -= series.mean()
    model = block_model([series])
    length = model.lengths[0]
    blocks = -(-series.size // length)
    starts = rng.integers(0, series.size - length + 1, (40_000, blocks))
    resamples = series[starts[:, :, np.newaxis] + np.arange(length)].mean(axis=(1, 2))
    drawn = resamples.var() * blocks * length / series.size
    assert mean_variances([series], model)[0] == pytest.approx(drawn * model.factors[0], rel=0.03)


def test_rounds_that_alternate_have_an_interval_too() -> None:
    # Huber's influences of these are +a, -a, +a, -a: in blocks of two they cancel.
    interval = running_interval([[-10.0, 9.0, -11.0, 12.0]], location=huber)
    assert interval.high - interval.low > 1
