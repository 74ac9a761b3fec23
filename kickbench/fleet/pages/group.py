# SPDX-License-Identifier: Apache-2.0
"""The page of a group of hosts: its figures over time, with the days on which they changed."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from kickbench.fleet.judge.found import Found, Group
from kickbench.fleet.pages import plots, tables, words
from kickbench.fleet.pages.links import Links
from kickbench.numbers import NOTHING, plural
from kickbench.report.figures.svg import inline
from kickbench.report.pages.html import TABLES, Head, Rows, render

MOST_PLOTS = 8
"""Plots of a page. Fewer if there are many groups."""
MOST_NAMES = 500


def page(found: Found, index: int, links: Links, most_plots: int) -> str:
    """The whole HTML document of the group with this index."""
    group = found.groups[index]
    ranked = _ranked(found, group)
    drawn = [plots.over_time(found, group, figure) for figure in ranked[:most_plots]]
    changed = {figure for figure, _, _ in group.changes}
    return render(
        "fleet_group.html.j2",
        scripts=[TABLES],
        store=found.store,
        days=found.days,
        title=words.group_name(group),
        badges=[
            ("plain", plural(len(group.hosts), "host")),
            ("doubt" if changed else "good", plural(len(changed), "figure") + " changed"),
        ],
        plots=[
            (plot.finding, Markup(inline(plot, f"over-time-{number}")))  # noqa: S704 (our own)
            for number, plot in enumerate(drawn)
        ],
        figures=len(ranked),
        table=_table(found, group),
        hosts=[links.host(name) for name in group.hosts[:MOST_NAMES]],
        more_hosts=max(len(group.hosts) - MOST_NAMES, 0),
        facts=[
            (words.fact_name(name), value or "not known") for name, value in group.facts.items()
        ],
    )


def _ranked(found: Found, group: Group) -> list[int]:
    """The figures that were measured: those that changed last and most come first."""
    known = np.isfinite(np.asarray(group.middle, dtype=float)).any(axis=1)
    latest: dict[int, tuple[str, float]] = {}
    for figure, day, share in group.changes:
        latest[figure] = max(latest.get(figure, ("", 0.0)), (day, abs(share)))
    order = [figure for figure in words.figure_order(found) if known[figure]]
    return sorted(order, key=lambda figure: latest.get(figure, ("", 0.0)), reverse=True)


def _table(found: Found, group: Group) -> tuple[list[Head], Rows]:
    names = [("figure", False), ("latest", True), ("hosts' quartiles", True), ("changes", False)]
    return tables.heads(names), tables.rows(
        [
            tables.name(words.figure_name(found, figure)),
            tables.number(words.percent(latest), latest),
            tables.number(_quartiles(low, high), high - low),
            tables.long(_changes(group, figure)),
        ]
        for figure in words.figure_order(found)
        for latest, low, high in [_latest(group, figure)]
    )


def _latest(group: Group, figure: int) -> tuple[float, float, float]:
    """The newest median and quartiles; NaN if nothing was measured."""
    known = np.flatnonzero(np.isfinite(np.asarray(group.middle[figure], dtype=float)))
    if not len(known):
        return np.nan, np.nan, np.nan
    at = known[-1]
    middle, low, high = (float(some[figure, at]) for some in (group.middle, group.low, group.high))
    return middle, low, high


def _quartiles(low: float, high: float) -> str:
    if not np.isfinite([low, high]).all():
        return NOTHING
    return f"{words.percent(low)} to {words.percent(high)}"


def _changes(group: Group, figure: int) -> str:
    changes = plots.changes_of(group, figure)[-plots.MOST_NAMED :]
    return (
        ", ".join(
            f"{percent} on {day}" for _, day, share in changes for percent in [words.percent(share)]
        )
        or NOTHING
    )
