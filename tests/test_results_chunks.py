# SPDX-License-Identifier: Apache-2.0
"""Chunks of rounds: enough of both sides in each, none left out; quantiles as numpy has them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kickbench.stats.chunks import group_quantiles, paired_quantiles, pool_rounds

COUNTS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=60)


def test_chunks_by_hand():
    assert pool_rounds([5, 5, 5, 5, 5], [5, 5, 5, 5, 5], 10).tolist() == [0, 0, 1, 1, 1]
    assert pool_rounds([9, 9, 0, 9], [1, 1, 9, 9], 9).tolist() == [0, 0, 0, 1]
    assert pool_rounds([9, 9], [0, 8], 9).tolist() == [-1, -1]
    assert pool_rounds([1, 1], [1, 1], 1).tolist() == [0, 1]
    assert pool_rounds([], [], 5).tolist() == []


@given(COUNTS, st.integers(1, 100))
def test_every_chunk_has_enough_of_both_and_is_no_longer_than_needed(counts, at_least):
    first, second = np.array(counts, int).reshape(-1, 2).T
    chunk = pool_rounds(first, second, at_least)
    assert chunk.shape == first.shape
    if min(first.sum(), second.sum()) < at_least:
        assert (chunk == -1).all()
        return
    assert chunk[0] == 0
    assert set(np.diff(chunk).tolist()) <= {0, 1}
    for index in range(chunk[-1] + 1):
        rounds = np.flatnonzero(chunk == index)
        assert min(first[rounds].sum(), second[rounds].sum()) >= at_least
        if index < chunk[-1]:
            assert min(first[rounds[:-1]].sum(), second[rounds[:-1]].sum()) < at_least


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(-1000, 1000)), max_size=100),
    st.floats(0, 1),
)
def test_quantiles_of_groups_are_those_of_numpy(pairs, p):
    groups, values = np.array(pairs, float).reshape(-1, 2).T
    found = group_quantiles(values, groups.astype(int), 5, p)
    for group in range(5):
        chosen = values[groups == group]
        if chosen.size:
            wanted = np.quantile(chosen, p, method="median_unbiased")
            assert found[group] == pytest.approx(wanted, abs=1e-6)
        else:
            assert np.isnan(found[group])


def test_differences_by_hand():
    found = paired_quantiles(
        [10, 12, 14, 20, 22], [0, 0, 0, 1, 2], [1, 3, 5, 7], [0, 0, 1, 2], 3, 0.5, at_least=2
    )
    # Round 0 has three and two; rounds 1 and 2 together two and two.
    assert found.tolist() == [12 - 2, 21 - 6]
    assert paired_quantiles([1], [0], [1], [0], 1, 0.5, at_least=2).size == 0
    assert paired_quantiles([], [], [], [], 0, 0.5, at_least=1).size == 0


def test_bad_arguments():
    with pytest.raises(ValueError, match="a count per round"):
        pool_rounds([1, 2], [1], 1)
    with pytest.raises(ValueError, match="at least one value"):
        pool_rounds([1], [1], 0)
    with pytest.raises(ValueError, match="one group per value"):
        group_quantiles([1.0], [0, 1], 2, 0.5)
    with pytest.raises(ValueError, match="a group is between"):
        group_quantiles([1.0], [2], 2, 0.5)
    with pytest.raises(ValueError, match="a probability"):
        group_quantiles([1.0], [0], 1, 1.5)
