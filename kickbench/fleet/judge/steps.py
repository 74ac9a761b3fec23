# SPDX-License-Identifier: Apache-2.0
"""How much each figure of each host stepped on each day: the field that all findings come from.

A step at a day is the median of the nights from that day on, less the median of the nights before
it, as a share of the host's own level. A host's busy nights move a median little, and what hosts
differ in goes out. So hosts can be put together that cost 2 us and 7 us an exit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kickbench.fleet.judge.found import Figure
from kickbench.fleet.judge.panel import Panel
from kickbench.fleet.judge.robust import median

Floats = NDArray[np.float32]

BEFORE = 14
"""Nights before a day that are its past."""

AFTER = (14, 7, 3, 1)
"""Nights from a day on that are its present, the longest first."""

FRESH = 3
"""Those that are enough to tell of hosts that changed on the same day."""

_ENOUGH = {3: 2, 7: 4, 14: 5}
"""Nights of a window that must have been measured."""

_AT_ONCE = 16_000_000  # values in the copies that windows are sorted in


@dataclass(frozen=True)
class Steps:
    """The steps of all figures (figures, hosts, days), as shares; NaN where nights are missing.

    ``field`` has them by the nights that are the present: see :data:`AFTER`. ``value`` has the
    nights themselves, ``level`` (figures, hosts) their median, and ``before`` that of the nights
    before each day.
    """

    value: Floats
    level: Floats
    before: Floats
    field: dict[int, Floats]


def steps(panel: Panel) -> Steps:
    """The steps of a panel."""
    value, level = shares(panel)
    days = value.shape[-1]
    middle = {1: value} | {n: rolling_median(value, n) for n in {BEFORE, *AFTER} - {1}}
    before = np.full_like(value, np.nan)
    before[..., 1:] = middle[BEFORE][..., :-1]
    field = {}
    for nights in AFTER:
        found = np.full_like(value, np.nan)
        if nights <= days:
            found[..., : days - nights + 1] = middle[nights][..., nights - 1 :]
            found -= before
        field[nights] = found
    return Steps(value, level, before, field)


def shares(panel: Panel) -> tuple[Floats, Floats]:
    """The values, and their medians, as shares of what a change of each is a share of, by host.

    That is the host's own median. Of a paired difference it is that of its baseline's level, and of
    what is a share already it is 1.
    """
    level = median(panel.value)
    place = {_key(figure): index for index, figure in enumerate(panel.figures)}
    of = level.copy()
    for index, figure in enumerate(panel.figures):
        if figure.unit == "share":
            of[index] = 1.0
        elif (
            figure.baseline is not None
            and (base := place.get(_key_of_baseline(figure))) is not None
        ):
            of[index] = level[base]
    of = np.abs(of)
    of[of == 0] = np.nan
    return panel.value / of[:, :, None], level / of


def _key(figure: Figure) -> tuple[str, str, str, str | None, str]:
    return figure.scenario, figure.case, figure.method, figure.baseline, figure.metric


def _key_of_baseline(figure: Figure) -> tuple[str, str, str, None, str]:
    assert figure.baseline is not None
    metric = figure.metric.removesuffix(" difference")
    return figure.scenario, figure.case, figure.baseline, None, metric


def rolling_median(values: Floats, nights: int) -> Floats:
    """The median of the last ``nights`` at each day, NaN where too few of them are known."""
    flat = values.reshape(-1, values.shape[-1])
    result = np.empty_like(flat)
    rows = max(1, _AT_ONCE // (flat.shape[1] * nights))
    for first in range(0, len(flat), rows):
        part = flat[first : first + rows]
        early = np.full((len(part), nights - 1), np.nan, np.float32)
        windows = sliding_window_view(np.concatenate([early, part], axis=1), nights, axis=1)
        result[first : first + rows] = median(windows, enough=_ENOUGH[nights])
    return result.reshape(values.shape)
