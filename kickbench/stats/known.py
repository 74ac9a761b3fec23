# SPDX-License-Identifier: Apache-2.0
"""Medians and quartiles of what is known: NaN is a value that nobody has.

numpy's functions for this loop over the rows, or warn of a row without values.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_F = TypeVar("_F", np.float32, np.float64)


def median(values: NDArray[_F], axis: int = -1, enough: int = 1) -> NDArray[_F]:
    """The median of what is known along an axis; NaN, without a warning, of too few."""
    ranked = np.sort(values, axis=axis)  # NaN last
    count = np.isfinite(ranked).sum(axis, keepdims=True)
    low, high = (
        np.take_along_axis(ranked, np.minimum(at, ranked.shape[axis] - 1), axis)
        for at in (np.maximum(count - 1, 0) // 2, count // 2)
    )
    found = np.where(count < enough, np.float32(np.nan), (low + high) / 2)
    return np.squeeze(found, axis).astype(values.dtype, copy=False)


def quartiles(values: NDArray[_F], axis: int) -> tuple[NDArray[_F], ...]:
    """The lower quartile, the median and the upper one of what is known along an axis.

    Each is a value that occurs.
    """
    ranked = np.sort(values, axis=axis)
    count = np.isfinite(ranked).sum(axis, keepdims=True)
    found = []
    for quarter in (1, 2, 3):
        at = np.maximum(count - 1, 0) * quarter // 4
        one = np.take_along_axis(ranked, at, axis)
        found.append(np.squeeze(np.where(count > 0, one, np.float32(np.nan)), axis))
    return tuple(found)
