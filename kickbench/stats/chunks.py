# SPDX-License-Identifier: Apache-2.0
"""Paired differences of a quantile, if a single round may have too few values for it.

A round can have 20 kicks of each method; a p99 of 20 values is just their maximum. Consecutive
rounds are therefore pooled into chunks that have enough values of both sides, the quantile is taken
in each chunk on either side, and the differences are what `paired_contrast` gets. Chunks are in
time order and do not overlap, so their differences are as paired as those of rounds.
`kickbench.stats.contrasts` makes the interval.

Source: R. J. Hyndman and Y. Fan, "Sample Quantiles in Statistical Packages", The American
Statistician 50 (1996): type 8, about median-unbiased whatever the distribution is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pool_rounds(first: ArrayLike, second: ArrayLike, at_least: int) -> NDArray[np.int64]:
    """Per round the index of its chunk; all -1 when the rounds are not enough for one chunk.

    `first` and `second` (rounds, in time order) are the numbers of values on either side. A chunk
    ends with the round that gives both of them `at_least`. The rounds that are left at the end join
    the last chunk, so no round is left out. Raises ValueError for arrays of different length or
    `at_least` below 1.
    """
    a, b = np.cumsum(np.asarray(first, np.int64)), np.cumsum(np.asarray(second, np.int64))
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"expected a count per round, got {a.shape} and {b.shape}")
    if at_least < 1:
        raise ValueError(f"a chunk has at least one value, got {at_least}")
    chunk = np.full(a.size, -1, np.int64)
    start, index = 0, 0
    while start < a.size:
        before = (a[start - 1], b[start - 1]) if start else (0, 0)
        end = 1 + max(
            int(np.searchsorted(a, before[0] + at_least)),
            int(np.searchsorted(b, before[1] + at_least)),
        )
        if end > a.size:
            break
        chunk[start:end] = index
        start, index = end, index + 1
    chunk[start:] = index - 1
    return chunk


def group_quantiles(
    values: ArrayLike, groups: ArrayLike, n_groups: int, probability: float
) -> NDArray[np.float64]:
    """The quantile (type 8) of each group's values, shape n_groups; NaN for a group without any.

    `groups[i]` in [0, `n_groups`) is the group of `values[i]`. Raises ValueError for arrays of
    different length, a group out of range, or a probability outside [0, 1].
    """
    value, group = np.asarray(values, np.float64), np.asarray(groups, np.int64)
    if value.shape != group.shape or value.ndim != 1:
        raise ValueError(f"expected one group per value, got {group.shape} for {value.shape}")
    if group.size and not (group.min() >= 0 and group.max() < n_groups):
        raise ValueError(f"a group is between 0 and {n_groups - 1}")
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability is between 0 and 1, got {probability}")
    out = np.full(n_groups, np.nan)
    if not value.size:
        return out
    ordered = value[np.lexsort((value, group))]
    count = np.bincount(group, minlength=n_groups)
    used = np.flatnonzero(count)
    n = count[used]
    start = (np.cumsum(count) - count)[used]
    rank = np.clip((n + 1 / 3) * probability + 1 / 3, 1, n) - 1
    below = np.floor(rank).astype(np.int64)
    above = np.minimum(below + 1, n - 1)
    low = ordered[start + below]
    out[used] = low + (rank - below) * (ordered[start + above] - low)
    return out


def paired_quantiles(
    values: ArrayLike,
    rounds: ArrayLike,
    baseline_values: ArrayLike,
    baseline_rounds: ArrayLike,
    n_rounds: int,
    probability: float,
    *,
    at_least: int,
) -> NDArray[np.float64]:
    """Per chunk of one process the quantile of `values` minus that of `baseline_values`.

    `rounds[i]` in [0, `n_rounds`) is the round of `values[i]`; the rounds are in time order. Empty
    when one side has fewer than `at_least` values in all. Errors as for the functions above.
    """
    round_, baseline_round = np.asarray(rounds, np.int64), np.asarray(baseline_rounds, np.int64)
    chunk = pool_rounds(
        np.bincount(round_, minlength=n_rounds),
        np.bincount(baseline_round, minlength=n_rounds),
        at_least,
    )
    n_chunks = int(chunk[-1]) + 1 if chunk.size else 0
    if n_chunks == 0:
        return np.empty(0)
    of_method = group_quantiles(values, chunk[round_], n_chunks, probability)
    of_baseline = group_quantiles(baseline_values, chunk[baseline_round], n_chunks, probability)
    return np.asarray(of_method - of_baseline)
