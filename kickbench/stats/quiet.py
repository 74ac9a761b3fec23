# SPDX-License-Identifier: Apache-2.0
"""The quiet exit of a block: what the path itself costs, when nothing disturbs it.

A block's mean holds everything: the path, waiting for a lock, interrupts, preemption. Its low
quantiles hold the path, as long as half of the exits or more went undisturbed. The input is
quantiles of all exits of a block; this module does not compute them, and does not know their unit.
`docs/statistics.md` compares other levels and estimators. The worker imports it: standard library
only.

Source: the mean of a few quantiles is an L-estimator; P. J. Huber, "Robust Statistics", 1981,
section 3.3. It moves at most as far as its highest level: what happens to the slower exits of a
block does not reach it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

QUIET_LEVELS = (0.10, 0.15, 0.20, 0.25, 0.30)
"""The quantiles of a block whose mean is its quiet exit. Each is a level that the engine stores."""

Exits = TypeVar("Exits", bound=Any)
"""A float for a block, or an array of float64 for many."""


def quiet(quantiles: Sequence[Exits]) -> Exits:
    """The quiet exit of each block, in the unit of `quantiles` (shape: that of one of them).

    `quantiles` holds a block's quantiles at `QUIET_LEVELS`, in that order. A block without a
    quantile, NaN, has a quiet exit of NaN. Raises ValueError unless there are as many levels as
    that.
    """
    if len(quantiles) != len(QUIET_LEVELS):
        raise ValueError(
            f"expected the {len(QUIET_LEVELS)} levels of QUIET_LEVELS, got {len(quantiles)}"
        )
    mean: Exits = sum(quantiles) / len(QUIET_LEVELS)
    return mean
