# SPDX-License-Identifier: Apache-2.0
"""Quantiles: raw values and histograms agree, intervals resample rounds and respect processes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kickbench.stats import quantiles
from kickbench.stats.quantiles import (
    bin_samples,
    histogram_quantiles,
    quantile_bound,
    quantile_intervals,
    sample_quantiles,
)

VALUES = st.lists(st.integers(0, 5000), min_size=1, max_size=300).map(np.array)
PROBABILITY = st.floats(0, 1) | st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.9, 0.99, 0.999])
EDGES = st.lists(st.integers(1, 4999), max_size=40, unique=True).map(
    lambda inner: np.array([0, *sorted(inner), 5001])
)


def rounds(seed: int, processes: int, n: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Exponential values and the round (of all processes) of each."""
    rng = np.random.default_rng(seed)
    return rng.exponential(100, processes * n * 50), np.repeat(np.arange(processes * n), 50)


@given(VALUES, PROBABILITY)
def test_a_sample_quantile_is_the_smallest_value_with_enough_below(
    values: NDArray[np.int64], p: float
) -> None:
    (found,) = sample_quantiles(values, [p])
    assert found in values
    assert np.mean(values <= found) >= p * (1 - 1e-9)
    assert np.mean(values < found) <= p * (1 + 1e-9)


@given(VALUES, EDGES, PROBABILITY)
def test_a_histogram_agrees_with_its_values_to_a_bin(
    values: NDArray[np.int64], edges: NDArray[np.int64], p: float
) -> None:
    count, _ = np.histogram(values, edges)
    (exact,) = sample_quantiles(values, p)
    (found,) = histogram_quantiles(edges[:-1], edges[1:], count, p)
    i = np.searchsorted(edges, exact, side="right") - 1
    assert edges[i] <= found <= edges[i + 1]


@given(VALUES, EDGES, st.lists(PROBABILITY, min_size=2, max_size=6).map(sorted))
def test_quantiles_rise_with_the_probability(
    values: NDArray[np.int64], edges: NDArray[np.int64], p: list[float]
) -> None:
    count, _ = np.histogram(values, edges)
    assert (np.diff(sample_quantiles(values, p)) >= 0).all()
    assert (np.diff(histogram_quantiles(edges[:-1], edges[1:], count, p)) >= 0).all()


@given(VALUES, EDGES, PROBABILITY, st.integers(1, 10**9))
def test_a_histogram_a_million_times_as_tall_has_the_same_quantiles(
    values: NDArray[np.int64], edges: NDArray[np.int64], p: float, factor: int
) -> None:
    count, _ = np.histogram(values, edges)
    here = histogram_quantiles(edges[:-1], edges[1:], count, p)
    there = histogram_quantiles(edges[:-1], edges[1:], count * factor, p)
    assert there == pytest.approx(here, rel=1e-6, abs=1e-6)


def test_interpolates_in_the_bin_and_skips_gaps() -> None:
    low, high, count = [0, 10, 100], [10, 20, 200], [4, 0, 4]
    found = histogram_quantiles(low, high, count, [0, 0.25, 0.5, 0.75, 1])
    assert found.tolist() == [0, 5, 10, 150, 200]
    assert histogram_quantiles(low, high, [0, 0, 4], [0.0]).tolist() == [100]


def test_a_rank_that_is_whole_but_for_rounding_is_whole() -> None:
    assert 0.07 * 100 > 7
    assert sample_quantiles(np.arange(100), 0.07).tolist() == [6]
    assert histogram_quantiles([0, 500], [10, 600], [7, 93], 0.07).tolist() == [10]


@given(VALUES, st.integers(1, 5), st.integers(1, 50))
def test_binned_samples_are_all_there_in_their_group(
    values: NDArray[np.int64], groups: int, bins: int
) -> None:
    group = np.arange(values.size) % groups
    low, high, counts = bin_samples(values, group, groups, bins=bins)
    assert counts.sum(axis=1).tolist() == np.bincount(group, minlength=groups).tolist()
    assert low[0] == values.min()
    assert high[-1] > values.max()
    for g in range(groups):
        expected, _ = np.histogram(values[group == g], [*low, high[-1]])
        assert counts[g].tolist() == expected.tolist()


@given(st.integers(0, 100), st.integers(1, 3), st.floats(0.01, 0.99))
def test_bounds_enclose_the_estimate(seed: int, processes: int, p: float) -> None:
    values, group = rounds(seed, processes, 12)
    bins = bin_samples(values, group, processes * 12, bins=100)
    process = np.repeat(np.arange(processes), 12)
    (found,) = quantile_intervals(*bins, process, p, seed=seed, resamples=50)
    assert found.low <= found.estimate <= found.high
    assert (found.n_processes, found.n_rounds) == (processes, processes * 12)
    pooled = histogram_quantiles(bins[0], bins[1], bins[2].sum(axis=0), p)
    assert found.estimate == pytest.approx(pooled[0])


@given(st.floats(0.1, 100), st.floats(-1000, 1000))
def test_follows_a_shift_and_a_change_of_unit(scale: float, shift: float) -> None:
    values, group = rounds(1, 2, 20)
    low, high, counts = bin_samples(values, group, 40, bins=100)
    process = np.repeat([0, 1], 20)
    here = quantile_intervals(low, high, counts, process, [0.5, 0.9], seed=1, resamples=100)
    moved = quantile_intervals(
        low * scale + shift,
        high * scale + shift,
        counts,
        process,
        [0.5, 0.9],
        seed=1,
        resamples=100,
    )
    for a, b in zip(here, moved, strict=True):
        assert b.low == pytest.approx(a.low * scale + shift, rel=1e-6, abs=1e-6)
        assert b.high == pytest.approx(a.high * scale + shift, rel=1e-6, abs=1e-6)


def test_the_same_seed_gives_the_same_interval_in_pieces_of_any_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values, group = rounds(2, 1, 30)
    bins = bin_samples(values, group, 30, bins=100)
    whole = quantile_intervals(*bins, np.zeros(30), 0.9, seed=3)
    assert quantile_intervals(*bins, np.zeros(30), 0.9, seed=3) == whole
    assert quantile_intervals(*bins, np.zeros(30), 0.9, seed=4) != whole
    monkeypatch.setattr(quantiles, "CHUNK_CELLS", 1000)
    (pieces,) = quantile_intervals(*bins, np.zeros(30), 0.9, seed=3)
    assert pieces.half_width == pytest.approx(whole[0].half_width, rel=0.2)


def test_rounds_that_differ_widen_the_interval() -> None:
    values, group = rounds(3, 1, 60)
    wandering = values + 200 * np.sin(group / 10)
    even, uneven = (
        quantile_intervals(*bin_samples(v, group, 60), np.zeros(60), 0.5, seed=1)[0]
        for v in (values, wandering)
    )
    assert uneven.half_width > 3 * even.half_width


def test_processes_that_differ_widen_the_interval() -> None:
    values, group = rounds(4, 3, 30)
    process = np.repeat([0, 1, 2], 30)
    apart = values + 50 * process[group]
    near, far = (
        quantile_intervals(*bin_samples(v, group, 90), process, 0.5, seed=1)[0]
        for v in (values, apart)
    )
    assert far.half_width > 3 * near.half_width


def test_a_histogram_per_process_is_enough_when_there_are_several() -> None:
    values, group = rounds(5, 3, 1)
    (found,) = quantile_intervals(*bin_samples(values, group, 3), [0, 1, 2], 0.5, seed=1)
    assert found.low < found.estimate < found.high


def test_rounds_without_exits_are_allowed() -> None:
    counts = np.array([[3, 2], [0, 0], [1, 4], [2, 2], [0, 0]])
    (found,) = quantile_intervals([0, 10], [10, 20], counts, np.zeros(5), 0.5, seed=1)
    assert 0 <= found.estimate <= 20
    assert np.isfinite([found.low, found.high]).all()


def test_values_that_are_all_alike_give_no_more_width_than_their_bin() -> None:
    (found,) = quantile_intervals([7], [8], np.full((10, 1), 5), np.zeros(10), 0.5, seed=1)
    assert (found.low, found.estimate, found.high) == (7.5, 7.5, 7.5)


@pytest.mark.parametrize(
    ("low", "high", "count", "p", "message"),
    [
        ([0], [1], [0], 0.5, "empty histogram"),
        ([], [], [], 0.5, "empty histogram"),
        ([0, 1], [2, 3], [1, 1], 0.5, "must not overlap"),
        ([1], [1], [1], 0.5, "not empty"),
        ([0], [1], [-1], 0.5, "not below 0"),
        ([0], [1], [np.nan], 0.5, "not below 0"),
        ([0], [1, 2], [1], 0.5, "differ in shape"),
        ([0], [1], [1], 1.5, "between 0 and 1"),
        ([0], [1], [1], np.nan, "between 0 and 1"),
    ],
)
def test_refuses_what_is_no_histogram(
    low: list[float], high: list[float], count: list[float], p: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        histogram_quantiles(low, high, count, p)


@pytest.mark.parametrize(("values", "message"), [([], "at least one"), ([1.0, np.nan], "NaN")])
def test_refuses_samples_without_quantiles(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_quantiles(values, 0.5)


@pytest.mark.parametrize(
    ("groups", "message"), [([0], "one group per value"), ([0, 2], "between 0 and 1")]
)
def test_refuses_samples_without_a_group(groups: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bin_samples([1.0, 2.0], groups, 2)


@pytest.mark.parametrize(
    ("counts", "processes", "message"),
    [
        ([[1, 1]], [0], "2 rounds or more"),
        ([[1, 1], [1, 1]], [0], "one process per row"),
        ([[1, 1], [0, 0]], [0, 1], "every process"),
        ([[0, 0], [0, 0]], [0, 0], "every process"),
    ],
)
def test_refuses_counts_without_an_interval(
    counts: list[list[int]], processes: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        quantile_intervals([0, 1], [1, 2], counts, processes, 0.5, seed=1)


@pytest.mark.parametrize(("n", "rank"), [(2994, None), (2995, 2995), (5000, 4999), (10_000, 9996)])
def test_a_bound_of_p99_9_is_the_order_statistic_that_tables_have(n: int, rank: int | None) -> None:
    assert quantile_bound(np.arange(1, n + 1), 0.999) == rank


@given(
    values=st.lists(st.floats(0, 1e9) | st.just(np.inf), max_size=200),
    probability=st.floats(0.01, 0.99),
    confidence=st.floats(0.5, 0.99),
)
def test_a_bound_is_a_value_at_or_above_the_quantile(
    values: list[float], probability: float, confidence: float
) -> None:
    bound = quantile_bound(values, probability, confidence=confidence)
    if bound is None:
        assert not values or probability ** len(values) > 1 - confidence - 1e-9
    else:
        assert bound in values
        surer = quantile_bound(values, probability, confidence=(1 + confidence) / 2)
        assert surer is None or surer >= bound


def test_a_bound_covers_the_quantile_as_often_as_it_says() -> None:
    rng = np.random.default_rng(20261130)
    samples = rng.exponential(size=(4000, 120))
    true = -np.log(0.1)  # p90
    bounds = [quantile_bound(sample, 0.9) for sample in samples]
    assert None not in bounds
    covered = np.mean([bound >= true for bound in bounds if bound is not None])
    # Discrete, so at least 95 %: binom.cdf(113, 120, 0.9) is 0.962. Four standard errors are 0.012.
    assert 0.95 < covered < 0.974


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_bound_needs_a_probability(probability: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        quantile_bound([1.0], probability)
