# SPDX-License-Identifier: Apache-2.0
"""The days on which the middle of a group's hosts changed, as the nightly job finds them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kickbench.fleet.judge.panel import Panel
from kickbench.nightly.changes import change_points
from kickbench.nightly.settings import Settings
from kickbench.nightly.trends import Key, Nights, Trend


def level_changes(panel: Panel, middle: NDArray[np.float32]) -> Iterator[tuple[int, str, float]]:
    """The changes (figure, day, share) of ``middle`` (figures, days), which is around 0."""
    nights = Nights(panel.days, panel.days, ({},) * len(panel.days))
    trends = []
    for place, row in enumerate(middle):
        known = np.flatnonzero(np.isfinite(row))
        none = np.full(len(known), np.nan)
        figure = panel.figures[place]
        trends.append(
            Trend(
                # The key only has to say which one it is.
                key=Key(str(place), figure.method, figure.baseline, figure.metric),
                better=figure.better,
                night=known,
                value=1.0 + row[known].astype(np.float64),
                low=none,
                high=none,
                processes=np.zeros(len(known), np.int64),
                reference=None,
                usable=np.ones(len(known), np.bool_),
                accepted_from=0,
            )
        )
    for point in change_points(trends, nights, Settings()):
        yield int(point.key.case), panel.days[point.night], float(point.size)
