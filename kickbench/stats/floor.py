# SPDX-License-Identifier: Apache-2.0
"""The floor of a run: a low quantile of its quiet exits (:mod:`kickbench.stats.quiet`).

What disturbs a round or a process only ever adds time, so that the floor of two nights agrees far
better than their levels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

FLOOR_LEVEL = 0.10
"""The quantile of a process's rounds that is the floor of the process."""


def floor(rounds: ArrayLike, process: ArrayLike) -> float:
    """The floor of a run's quiet exits: the `FLOOR_LEVEL` quantile of the lowest process's rounds.

    `rounds` and `process` (both: rounds) are the quiet exit of each round, in any unit, and the
    process that measured it. Rounds of NaN do not count. NaN if there are no others.
    """
    values, of = np.asarray(rounds, dtype=np.float64), np.asarray(process)
    known = np.isfinite(values)
    floors = [np.quantile(values[known & (of == one)], FLOOR_LEVEL) for one in set(of[known])]
    return float(min(floors, default=np.nan))
