# SPDX-License-Identifier: Apache-2.0
"""What was recorded of a running guest, as keys of a scenario.

:mod:`kickbench.run.schedule` makes the guest's tables of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kickbench.guest.mix import MAX_EXITS, nearest
from kickbench.scenario.kinds import MAX_GAP_US, MAX_GAPS, MIN_GAP_US

Exit = tuple[str, int, int]
"""What a guest did (a key of :data:`kickbench.guest.mix.EXITS`), the port or address, the bytes."""


def mix_tables(counts: Mapping[Exit, int], irqchip: str) -> list[dict[str, Any]]:
    """The tables ``[[guest.mix]]`` of a guest that made so many exits of each kind.

    The most frequent comes first. Shares have five digits. An address at which the guest program
    mix cannot leave with ``irqchip`` becomes the nearest one at which it can. Of more than 256
    kinds the rarest are left out. Kinds without an exit are, too.
    """
    moved: Counter[Exit] = Counter()
    for (exit_, address, size), count in counts.items():
        moved[exit_, nearest(exit_, address, size, irqchip), size] += count
    common = [(one, count) for one, count in moved.most_common(MAX_EXITS) if count > 0]
    total = sum(count for _, count in common)
    return [
        {"exit": exit_, "address": address, "size": size, "share": _short(count / total)}
        for (exit_, address, size), count in common
    ]


def gap_means(gaps_us: Sequence[float], counts: Sequence[int], parts: int = 100) -> list[float]:
    """The key ``gaps_us`` of a guest that had so many gaps of each length, in microseconds.

    ``parts`` numbers, 2 to 1,024: each is the mean of an equal part of all gaps. So their mean is
    that of the recorded gaps, also if a few long ones decide it. ``gaps_us`` may have any order.
    They are values, or the means of a histogram's bins. The numbers have five digits.

    Gaps beyond what a scenario can have count as its shortest or longest. Raises ValueError if
    there is no gap.
    """
    if not 2 <= parts <= MAX_GAPS:
        raise ValueError(f"expected 2 to {MAX_GAPS} parts, found {parts}")
    values = np.clip(np.asarray(gaps_us, np.float64), MIN_GAP_US, MAX_GAP_US)
    weights = np.asarray(counts, np.float64)
    if not weights.sum() > 0:
        raise ValueError("no gaps were recorded")
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order] / weights.sum()
    # The integral of the quantiles up to each value: linear between them.
    reached = np.concatenate([[0.0], np.cumsum(weights)])
    integral = np.concatenate([[0.0], np.cumsum(weights * values)])
    ends = np.linspace(0, reached[-1], parts + 1)
    means = np.diff(np.interp(ends, reached, integral)) * parts / reached[-1]
    # Rounding must not leave the limits, nor the order.
    means = np.maximum.accumulate(np.clip(means, values[0], values[-1]))
    return [_short(mean) for mean in means]


def _short(value: float) -> float:
    """Five digits: for people, and exact enough for a table of 4,096 places."""
    return float(f"{value:.5g}")
