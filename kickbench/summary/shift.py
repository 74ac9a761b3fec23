# SPDX-License-Identifier: Apache-2.0
"""The shift function of two methods: how much they differ at each quantile of an exit's time.

A cost that every exit pays shifts all quantiles by the same amount. Contention makes a few exits
much longer, and the difference grows towards the tail.

Sources: K. Doksum, "Empirical Probability Plots and Statistical Inference for Nonlinear Models in
the Two-Sample Case", Annals of Statistics 2 (1974); R. R. Wilcox, "Comparing Two Independent Groups
via Multiple Quantiles", The Statistician 44 (1995). Here the quantiles are those of blocks, so that
the differences are paired round by round, as all contrasts are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kickbench.summary.shared import Floats, Ints, Paired, bounds, number

FEWEST_BEYOND = 5
"""Exits that a block must have beyond a quantile, on average. With fewer, a block does not show the
quantile, but its shortest or its longest exit."""


def shift_functions(
    process: Ints,
    quantiles_ns: Mapping[float, Floats],
    exits_per_block: float,
    methods: Sequence[str],
    pairs: Sequence[tuple[str, str]],
) -> list[dict[str, Any]]:
    """By pair (method, baseline), its differences at the levels for which blocks have enough exits.

    ``quantiles_ns`` has, by level from 0 to 1, an array of shape (rounds, entries) in ns;
    ``process`` is the process of each round. A difference without an interval is left out.
    """
    beyond = {level: exits_per_block * min(level, 1 - level) for level in quantiles_ns}
    levels = [level for level, exits in beyond.items() if round(exits, 6) >= FEWEST_BEYOND]
    found = []
    for method, baseline in pairs:
        index, other = methods.index(method), methods.index(baseline)
        points = []
        for level in levels:
            values = quantiles_ns[level]
            paired = Paired.of(process, values[:, index], values[:, other], steady=True)
            interval = paired.contrast()
            ends = bounds(interval)
            if interval is not None and ends is not None:
                points.append({"level": level, "diff": number(interval.estimate), "ci95": ends})
        if points:
            found.append({"method": method, "baseline": baseline, "points": points})
    return found
