# SPDX-License-Identifier: Apache-2.0
"""The quiet exit of a block: what the path itself costs, when nothing disturbs it.

A block's mean holds everything: the path, waiting for a lock, interrupts, preemption. Its low
quantiles hold the path, as long as half of the exits or more went undisturbed. The input is
quantiles of all exits of a block; this module does not compute them, and does not know their unit.
`docs/statistics.md` compares other levels and estimators.

Source: the mean of a few quantiles is an L-estimator; P. J. Huber, "Robust Statistics", 1981,
section 3.3. It moves at most as far as its highest level: what happens to the slower exits of a
block does not reach it. The floor of a run is a low quantile again, of its quiet exits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

QUIET_LEVELS = (0.10, 0.15, 0.20, 0.25, 0.30)
"""The quantiles of a block whose mean is its quiet exit. Each is a level that the engine stores."""


FLOOR_LEVEL = 0.10
"""The quantile of a process's rounds that is the floor of the process."""


def quiet(quantiles: ArrayLike) -> NDArray[np.float64]:
    """The quiet exit of each block, in the unit of `quantiles` (shape: that without the last axis).

    `quantiles` (... x levels) holds a block's quantiles at `QUIET_LEVELS`, in that order. A block
    without a quantile, NaN, has a quiet exit of NaN. Raises ValueError unless there are as many
    levels as that.
    """
    values = np.asarray(quantiles, dtype=np.float64)
    if values.shape[-1:] != (len(QUIET_LEVELS),):
        raise ValueError(
            f"expected the {len(QUIET_LEVELS)} levels of QUIET_LEVELS, got shape {values.shape}"
        )
    return np.asarray(values.mean(axis=-1))


def floor(rounds: ArrayLike, process: ArrayLike) -> float:
    """The floor of a run's quiet exits: the `FLOOR_LEVEL` quantile of the lowest process's rounds.

    `rounds` and `process` (both: rounds) are the quiet exit of each round, in any unit, and the
    process that measured it. What disturbs a round or a process only ever adds time, so that the
    floor of two nights agrees far better than their levels. Rounds of NaN do not count. NaN if
    there are no others.
    """
    values, of = np.asarray(rounds, dtype=np.float64), np.asarray(process)
    known = np.isfinite(values)
    floors = [np.quantile(values[known & (of == one)], FLOOR_LEVEL) for one in set(of[known])]
    return float(min(floors, default=np.nan))
