# SPDX-License-Identifier: Apache-2.0
"""Keeps the kicks of an observation in bounded memory.

All kicks are kept at first. When there are too many, those of random tenths of a second are
dropped, and from then on those of the same share of the time. What is kept is whole tenths of a
second, so that the kicks of a pause stay together. The programs in the kernel count all kicks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kickbench.watch import layout

_KICK = np.dtype(layout.Kick)

MOST_KICKS = 100_000
"""How many are kept at most: 7 MB. A thousand of them lie beyond the p99."""
_SLICE_NS = 100_000_000
_ALL = 2**64 - 1


class KeptKicks:
    """Kicks, at most ``most`` or :data:`MOST_KICKS` of them."""

    def __init__(self, most: int | None = None) -> None:
        self._most = MOST_KICKS if most is None else most
        self._parts: list[NDArray[np.void]] = []
        self._n = 0
        self._limit = np.uint64(_ALL)

    def add(self, rows: NDArray[np.void]) -> None:
        """Add rows in the order in which they were answered."""
        rows = rows[_marks(_slices(rows)) <= self._limit]
        if not len(rows):
            return
        self._parts.append(rows)
        self._n += len(rows)
        if self._n > self._most:
            self._thin()

    @property
    def rows(self) -> NDArray[np.void]:
        """What is kept."""
        return np.concatenate([np.zeros(0, _KICK), *self._parts])

    def _thin(self) -> None:
        """Keep half of them: those of the tenths of a second with the lowest marks."""
        rows = self.rows
        slices, counts = np.unique(_slices(rows), return_counts=True)
        marks = _marks(slices)
        order = np.argsort(marks)
        n_slices = np.searchsorted(np.cumsum(counts[order]), self._most // 2, side="right")
        self._limit = marks[order[max(0, int(n_slices) - 1)]]
        rows = rows[_marks(_slices(rows)) <= self._limit]
        self._parts = [rows[: self._most].copy()]
        self._n = len(self._parts[0])


def _slices(rows: NDArray[np.void]) -> NDArray[np.uint64]:
    slices: NDArray[np.uint64] = rows["sent_ns"] // np.uint64(_SLICE_NS)
    return slices


def _marks(slices: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A number of each slice that is as good as random: splitmix64 (Steele, Lea, Flood, 2014)."""
    with np.errstate(over="ignore"):
        mixed = (slices + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return mixed ^ (mixed >> np.uint64(31))
