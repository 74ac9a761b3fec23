# SPDX-License-Identifier: Apache-2.0
"""The kicks of a long observation are kept in bounded memory, and those kept are like all."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kickbench.observe.kept import KeptKicks
from kickbench.observe.observer import Rows
from kickbench.watch import layout

SLICE_NS = 100_000_000
KICK = np.dtype(layout.Kick)


def kicks(at_ns: list[int]) -> Rows:
    rows = np.zeros(len(at_ns), KICK)
    rows["sent_ns"] = np.sort(np.array(at_ns, np.uint64))
    rows["left_ns"] = rows["sent_ns"] + np.arange(len(rows), dtype=np.uint64)
    return rows


@given(
    st.lists(st.integers(1, 10**11), max_size=300),
    st.integers(2, 400),
    st.lists(st.integers(0, 300), max_size=10),
)
def test_no_more_are_kept_than_the_limit_and_nothing_is_made_up(
    at_ns: list[int], most: int, cuts: list[int]
) -> None:
    every = kicks(at_ns)
    kept = KeptKicks(most)
    for part in np.split(every, sorted(cuts)):
        kept.add(part)
        assert len(kept.rows) <= most
    rows = kept.rows
    assert len(every) == 0 or len(rows) > 0
    known = {row.tobytes(): 0 for row in every}
    assert all(row.tobytes() in known for row in rows)
    if len(every) <= most:
        assert rows.tobytes() == every.tobytes()
        return
    # A tenth of a second is there as a whole, or not at all, unless it has too many.
    slices, counts = np.unique(every["sent_ns"] // SLICE_NS, return_counts=True)
    found, n_found = np.unique(rows["sent_ns"] // SLICE_NS, return_counts=True)
    if counts.max() <= most // 2:
        assert (n_found == counts[np.isin(slices, found)]).all()


def test_those_kept_are_spread_over_the_whole_time() -> None:
    kept = KeptKicks(1000)
    n = 100_000
    for part in np.split(kicks([i * 10_000_000 for i in range(1, n + 1)]), 100):
        kept.add(part)
    rows = kept.rows
    assert 400 <= len(rows) <= 1000
    in_quarters = np.bincount(rows["sent_ns"].astype(np.int64) * 4 // (n * 10_000_000 + 1))
    assert (in_quarters > len(rows) / 8).all()
