# SPDX-License-Identifier: Apache-2.0
"""Hosts one by one over time: the figures that tell most of each, with what happened to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kickbench.fleet.judge.cohorts import Histories
from kickbench.fleet.judge.found import Found, Track
from kickbench.fleet.judge.panel import Panel
from kickbench.fleet.judge.steps import Steps
from kickbench.fleet.judge.trends import level_changes

MOST_FIGURES = 4
"""Figures of a host."""


def tracks(panel: Panel, histories: Histories, steps: Steps, found: Found) -> Iterator[Track]:
    """Those of the foremost hosts of a report."""
    places = {host.name: place for place, host in enumerate(panel.hosts)}
    for name in found.foremost:
        host = places[name]
        value = steps.value[:, host] - steps.level[:, host, None]
        changes = list(level_changes(panel, value))
        figures = _telling(found, name, host, changes)
        yield Track(
            name,
            tuple(figures),
            value[figures],
            tuple(change for change in changes if change[0] in figures),
            tuple((panel.days[day], fact, value) for day, fact, value in histories.moves_of(host)),
        )


def _telling(
    found: Found, name: str, host: int, changes: Sequence[tuple[int, str, float]]
) -> list[int]:
    """The figures that changed, last and most first, then those that were told of, then others."""
    latest = sorted(changes, key=lambda change: (change[1], abs(change[2])), reverse=True)
    figures = [figure for figure, _, _ in latest]
    figures += [figure for odd in found.odd if odd.host == name for figure in odd.figures]
    figures += [
        effect.figure
        for finding in found.findings
        if name in finding.cohort.hosts
        for effect in finding.effects
    ]
    off = np.nan_to_num(np.abs(found.map[host]), nan=-1.0)
    figures += np.argsort(-off, kind="stable").tolist()
    return list(dict.fromkeys(figures))[:MOST_FIGURES]
