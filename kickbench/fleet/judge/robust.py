# SPDX-License-Identifier: Apache-2.0
"""The mean over hosts that a few odd hosts do not move, with its error; medians of known values.

A host is the unit: its nights are not independent of each other, and its figures are not either.
Source: K. K. Yuen, "The two-sample trimmed t for unequal population variances", Biometrika 61
(1974).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TRIM = 0.2
"""The share of the hosts that is left out at each end."""

FEWEST = 3
"""Hosts that have a mean with an error."""


@dataclass(frozen=True)
class Mean:
    """Trimmed means over hosts, their standard errors and degrees of freedom; NaN of too few."""

    value: Floats
    error: Floats
    df: Floats


def trimmed(values: NDArray[np.floating]) -> Mean:
    """The trimmed mean over the last axis. NaN is a host without a value."""
    ranked = np.sort(values, axis=-1)  # NaN last
    count = np.isfinite(ranked).sum(-1)
    cut = (TRIM * count).astype(np.intp)
    last = np.maximum(count - cut - 1, 0)
    low, high = (
        np.take_along_axis(ranked, np.minimum(at, ranked.shape[-1] - 1)[..., None], -1)
        for at in (cut, last)
    )
    # Winsorised: those that are left out count as the nearest that is not.
    pulled = np.clip(ranked.astype(np.float64), low, high)
    pulled[~np.isfinite(ranked)] = 0.0
    kept = np.maximum(count - 2 * cut, 1)
    ends = (low + high)[..., 0].astype(np.float64)
    value = (pulled.sum(-1) - cut * ends) / kept
    mean = pulled.sum(-1) / np.maximum(count, 1)
    squares = np.square(pulled - mean[..., None])
    squares[~np.isfinite(ranked)] = 0.0
    error = np.sqrt(squares.sum(-1) / np.maximum(kept * (kept - 1), 1))
    few = count < FEWEST
    return Mean(*(np.where(few, np.nan, array) for array in (value, error, kept - 1.0)))


def median(values: NDArray[np.float32], axis: int = -1, enough: int = 1) -> NDArray[np.float32]:
    """The median of what is known along an axis; NaN, without a warning, of too few."""
    ranked = np.sort(values, axis=axis)  # NaN last
    count = np.isfinite(ranked).sum(axis, keepdims=True)
    low, high = (
        np.take_along_axis(ranked, np.minimum(at, ranked.shape[axis] - 1), axis)
        for at in (np.maximum(count - 1, 0) // 2, count // 2)
    )
    found = np.where(count < enough, np.float32(np.nan), (low + high) / 2)
    return np.squeeze(found, axis).astype(np.float32)


def quartiles(values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.float32], ...]:
    """The lower quartile, the median and the upper one of what is known along an axis."""
    ranked = np.sort(values, axis=axis)
    count = np.isfinite(ranked).sum(axis, keepdims=True)
    found = []
    for quarter in (1, 2, 3):
        at = np.maximum(count - 1, 0) * quarter // 4
        one = np.take_along_axis(ranked, at, axis)
        found.append(np.squeeze(np.where(count > 0, one, np.float32(np.nan)), axis))
    return tuple(found)
