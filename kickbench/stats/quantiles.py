# SPDX-License-Identifier: Apache-2.0
"""Quantiles of samples and of histograms, and their intervals.

A single exit resembles the one before it, so an interval must not resample exits. Rounds are
resampled, in blocks, and the spread between processes is added as for the contrasts. The unit is
that of the data. This module does not choose the bins of a histogram that was measured.

Quantile p is the smallest value with at least p * n values at or below it (type 1 of Hyndman and
Fan, 1996); a histogram interpolates in the bin that holds that value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from kickbench.stats.blocks import block_length, block_model
from kickbench.stats.contrasts import Interval, check_confidence, t_quantile, widen

ONE_SIGMA = (0.158655, 0.5, 0.841345)
"""The probabilities of a normal distribution at its mean and one standard deviation around it."""

CHUNK_CELLS = 1 << 21
"""The largest matrix made while resampling, in float64: 16 MiB, and a few of that size at once."""


def sample_quantiles(values: ArrayLike, probabilities: ArrayLike) -> NDArray[np.float64]:
    """The quantiles of raw values, each of them a value that occurred.

    Raises ValueError without values, for NaN, or a probability outside [0, 1].
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    if ordered.size == 0:
        raise ValueError("a quantile needs at least one value, got none")
    if np.isnan(ordered[-1]):
        raise ValueError("a quantile needs numbers, got NaN")
    targets = _targets(np.array([float(ordered.size)]), _probabilities(probabilities))[0]
    ranks = np.maximum(np.ceil(targets).astype(np.int64), 1)
    return np.asarray(ordered[ranks - 1])


def quantile_bound(
    values: ArrayLike, probability: float, *, confidence: float = 0.95
) -> float | None:
    """The least value that is above a quantile with this confidence, whatever the distribution.

    It is the order statistic k for which at most 1 - ``confidence`` of all samples have k values or
    more below the quantile (David and Nagaraja, Order Statistics, 2003, section 7.1). None if there
    are too few values: p99.9 needs 2,995 of them for 95 %. Values may be infinite. They are taken
    to be independent. Raises ValueError for a probability or a confidence outside (0, 1).
    """
    check_confidence(confidence)
    if not 0 < probability < 1:
        raise ValueError(f"a probability must be between 0 and 1, not {probability}")
    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    # ppf is the least k with P(at most k values are below the quantile) >= confidence.
    below = int(binom.ppf(confidence, ordered.size, probability)) if ordered.size else 0
    return float(ordered[below]) if below < ordered.size else None


def histogram_quantiles(
    low: ArrayLike, high: ArrayLike, count: ArrayLike, probabilities: ArrayLike
) -> NDArray[np.float64]:
    """The quantiles of a histogram (shape: probabilities).

    Bin i holds `count[i]` values in [`low[i]`, `high[i]`); the bins are in ascending order and do
    not overlap, but may leave gaps. Within a bin the values are taken as evenly spread. Raises
    ValueError for bins that break this, a histogram without counts, or a probability outside
    [0, 1].
    """
    histogram = np.asarray(count, dtype=np.float64)
    bins = _bins(low, high, histogram[np.newaxis])
    cumulative = np.cumsum(histogram)[np.newaxis]
    if not cumulative[0, -1:].sum() > 0:
        raise ValueError("a quantile needs at least one value, got an empty histogram")
    return np.asarray(_quantiles(*bins, cumulative, _probabilities(probabilities))[0])


def bin_samples(
    values: ArrayLike,
    groups: ArrayLike,
    n_groups: int,
    *,
    bins: int = 1024,
    levels: ArrayLike | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Raw samples as one histogram per group: low, high (bins) and counts (groups x bins).

    `groups[i]` in [0, `n_groups`) is the group (a round of a process) of `values[i]`. The bins hold
    about the same number of samples each, so that they are narrow where the samples are; or their
    edges are the quantiles of all samples at `levels`, for a tail that needs narrower ones. Raises
    ValueError for no samples, arrays of different length, a group or a level out of range.
    """
    sample = np.asarray(values, dtype=np.float64)
    group = np.asarray(groups, dtype=np.int64)
    if sample.shape != group.shape or sample.ndim != 1:
        raise ValueError(f"expected one group per value, got {group.shape} for {sample.shape}")
    if group.size and not (group.min() >= 0 and group.max() < n_groups):
        raise ValueError(f"a group is between 0 and {n_groups - 1}")
    inner = np.linspace(0, 1, bins + 1) if levels is None else np.asarray(levels, np.float64)
    edges = np.unique(sample_quantiles(sample, np.concatenate([[0.0], inner, [1.0]])))
    if edges.size == 1:
        edges = np.repeat(edges, 2)
    edges[-1] = np.nextafter(edges[-1], np.inf)  # so that the largest value is in the last bin
    column = np.searchsorted(edges, sample, side="right") - 1
    width = edges.size - 1
    counts = np.bincount(group * width + column, minlength=n_groups * width)
    return edges[:-1], edges[1:], counts.reshape(n_groups, width).astype(np.int64)


def quantile_intervals(
    low: ArrayLike,
    high: ArrayLike,
    counts: ArrayLike,
    processes: ArrayLike,
    probabilities: ArrayLike,
    *,
    confidence: float = 0.95,
    seed: int,
    resamples: int = 1000,
) -> list[Interval]:
    """One interval per probability, from histograms per round.

    `low`, `high`: the bins, as for `histogram_quantiles`. `counts` (groups x bins): a histogram per
    round, rounds of a process in time order. `processes` (groups): the process of each. The
    estimate is the quantile of all counts together. Blocks of rounds are resampled within each
    process `resamples` times; the deviation at one sigma on either side is scaled by Student's t
    and by the correction for autocorrelated rounds (`kickbench.stats.blocks`). With two or more
    processes the interval is then widened by the spread of the processes' own quantiles, as for a
    contrast. Memory: some copies of `counts` and of `CHUNK_CELLS`, whatever `resamples` is.

    A process may be a single group (a histogram of all its rounds) when there are others: then
    only the spread between processes counts. Interval.n_rounds is the number of groups.

    Raises ValueError for a process without counts, a single group in all, mismatched shapes, bad
    bins, or a probability or confidence out of range.
    """
    check_confidence(confidence)
    p = _probabilities(probabilities)
    matrix = np.asarray(counts, dtype=np.float64)
    process = np.asarray(processes)
    if matrix.ndim != 2 or process.shape != matrix.shape[:1]:
        raise ValueError(f"expected one process per row, got {process.shape} for {matrix.shape}")
    if matrix.shape[0] < 2:
        raise ValueError(f"an interval needs 2 rounds or more, got {matrix.shape[0]}")
    bin_low, bin_high = _bins(low, high, matrix)
    used = matrix.any(axis=0)
    bin_low, bin_high, matrix = bin_low[used], bin_high[used], matrix[:, used]

    rows = [np.flatnonzero(process == value) for value in np.unique(process)]
    cumulative = np.cumsum(matrix, axis=1)
    totals = np.array([cumulative[r].sum(axis=0) for r in rows])
    if matrix.shape[1] == 0 or not (totals[:, -1] > 0).all():
        raise ValueError("a quantile needs at least one value in every process")
    of_all = totals.sum(axis=0, keepdims=True)
    estimates = _quantiles(bin_low, bin_high, of_all, p)[0]
    of_processes = _quantiles(bin_low, bin_high, totals, p)
    deviations = _resampled_deviations(bin_low, bin_high, cumulative, rows, p, resamples, seed)

    intervals = []
    for i, estimate in enumerate(estimates):
        scale = _scale(bin_low, bin_high, matrix, rows, float(estimate), confidence)
        bounds = (
            float(estimate - scale * deviations[0, i]),
            float(estimate + scale * deviations[1, i]),
        )
        intervals.append(
            Interval(
                float(estimate),
                *widen(float(estimate), *bounds, of_processes[:, i].tolist(), confidence),
                confidence=confidence,
                n_processes=len(rows),
                n_rounds=matrix.shape[0],
            )
        )
    return intervals


def _resampled_deviations(
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    cumulative: NDArray[np.float64],
    rows: Sequence[NDArray[np.int64]],
    probabilities: NDArray[np.float64],
    resamples: int,
    seed: int,
) -> NDArray[np.float64]:
    """How far one sigma reaches below and above (2 x probabilities, not negative).

    From the resamples' median, not from the estimate: moving blocks draw the first and last rounds
    less often, which shifts all resamples together.
    """
    rng = np.random.default_rng(seed)
    groups, bins = cumulative.shape
    chunk = max(1, CHUNK_CELLS // max(groups, bins))
    found = []
    for start in range(0, resamples, chunk):
        weights = _weights(rng, min(chunk, resamples - start), groups, rows)
        found.append(_quantiles(low, high, weights @ cumulative, probabilities))
    return np.diff(np.nanquantile(np.concatenate(found), ONE_SIGMA, axis=0), axis=0)


def _weights(
    rng: np.random.Generator, resamples: int, groups: int, rows: Sequence[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """How often each group is drawn (resamples x groups): moving blocks of a process's rounds."""
    weights = np.empty((resamples, groups))
    for members in rows:
        n = members.size
        length = block_length(n)
        starts = rng.integers(0, n - length + 1, (resamples, -(-n // length)))
        drawn = (starts[:, :, np.newaxis] + np.arange(length)).reshape(resamples, -1)[:, :n]
        flat = drawn + n * np.arange(resamples)[:, np.newaxis]
        weights[:, members] = np.bincount(flat.ravel(), minlength=resamples * n).reshape(-1, n)
    return weights


def _scale(
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    matrix: NDArray[np.float64],
    rows: Sequence[NDArray[np.int64]],
    estimate: float,
    confidence: float,
) -> float:
    """The factor of one bootstrap sigma.

    To first order a quantile moves with the share of values at or below it. So the series of each
    round's surplus of such values shows how the rounds depend on each other.
    """
    share = np.clip((estimate - low) / (high - low), 0.0, 1.0)
    below, total = matrix @ share, matrix.sum(axis=1)
    series = []
    for members in rows:
        if members.size > 1:
            part = below[members].sum() / total[members].sum()
            series.append(below[members] - part * total[members])
    if not series:
        return 0.0
    model = block_model(series)
    return t_quantile(confidence, model.df) * math.sqrt(np.mean(model.factors))


def _quantiles(
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    cumulative: NDArray[np.float64],
    probabilities: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The quantiles (rows x probabilities) of cumulative counts; NaN for a row without counts."""
    row = np.arange(cumulative.shape[0])
    targets = _targets(cumulative[:, -1], probabilities)
    out = np.empty(targets.shape)
    for i, target in enumerate(targets.T):
        # The smallest positive number keeps p = 0 off the empty bins in front.
        reached = cumulative >= np.maximum(target, np.finfo(np.float64).tiny)[:, np.newaxis]
        index = reached.argmax(axis=1)
        upto = cumulative[row, index]
        before = np.where(index > 0, cumulative[row, index - 1], 0.0)
        inside = np.divide(
            target - before, upto - before, out=np.full(row.size, np.nan), where=upto > before
        )
        out[:, i] = low[index] + inside * (high[index] - low[index])
    return out


def _targets(
    totals: NDArray[np.float64], probabilities: NDArray[np.float64]
) -> NDArray[np.float64]:
    """p * n (totals x probabilities); a whole number is exact in spite of rounding."""
    targets = np.multiply.outer(totals, probabilities)
    whole = np.round(targets)
    return np.where(np.abs(targets - whole) <= 1e-12 * targets, whole, targets)


def _probabilities(probabilities: ArrayLike) -> NDArray[np.float64]:
    p = np.atleast_1d(np.asarray(probabilities, dtype=np.float64))
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"a probability is between 0 and 1, got {p.tolist()}")
    return p


def _bins(
    low: ArrayLike, high: ArrayLike, counts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    lows, highs = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    if not lows.shape == highs.shape == counts.shape[1:] or lows.ndim != 1:
        raise ValueError(
            f"low, high and count differ in shape: {lows.shape}, {highs.shape}, {counts.shape[1:]}"
        )
    if not ((lows < highs).all() and (highs[:-1] <= lows[1:]).all()):
        raise ValueError("the bins must be ascending, not empty, and must not overlap")
    if not (counts >= 0).all():
        raise ValueError("a count is a number not below 0")
    return lows, highs
