# SPDX-License-Identifier: Apache-2.0
"""The page of a host: what was found of it, its figures over time, and its place in its group."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from kickbench.fleet.judge.found import Found, Track
from kickbench.fleet.pages import plots, tables, words
from kickbench.fleet.pages.links import Links
from kickbench.numbers import NOTHING
from kickbench.report.figures.svg import inline
from kickbench.report.pages.html import TABLES, Head, Rows, render

MOST_FIGURES = 12
"""Figures in the plot."""


def page(found: Found, name: str, links: Links, most_plots: int) -> str:
    """The whole HTML document of the host with this name."""
    host = next(index for index, host in enumerate(found.hosts) if host.name == name)
    one = found.hosts[host]
    group = next((g for g, some in enumerate(found.groups) if name in some.hosts), None)
    peers = _peers(found, group, host)
    track = next((track for track in found.tracks if track.host == name), None)
    of_group = None if group is None else found.groups[group]
    over_time = [
        plots.host_over_time(found, one, of_group, figure)
        for one in ([track] if track else [])
        for figure in one.figures[:most_plots]
    ]
    plot = plots.among_its_like(found, host, peers, _furthest(found, host))
    return render(
        "fleet_host.html.j2",
        scripts=[TABLES],
        store=found.store,
        host=one,
        badges=_badges(found, name),
        group=None if group is None else links.group(group, words.group_name(found.groups[group])),
        said=list(_said(found, name)),
        findings=[
            (number, links.finding(number), words.finding_title(found, finding))
            for number, finding in enumerate(found.findings, 1)
            if name in finding.cohort.hosts
        ],
        moves=list(_moves(track)),
        plots=[
            (plot.finding, Markup(inline(plot, f"over-time-{number}")))  # noqa: S704 (our own)
            for number, plot in enumerate(over_time)
        ],
        plot=(plot.finding, Markup(inline(plot, "place"))),  # noqa: S704 (our own)
        table=_table(found, host, peers),
        facts=[
            *((words.fact_name(fact), value or "not known") for fact, value in one.facts.items()),
            ("runs", f"{one.runs:,}, {one.first_day} to {one.last_day}"),
        ],
    )


def _peers(found: Found, group: int | None, host: int) -> NDArray[np.int_]:
    """The hosts of its group, itself among them."""
    names = set() if group is None else set(found.groups[group].hosts)
    return np.array(
        [index for index, one in enumerate(found.hosts) if one.name in names or index == host]
    )


def _badges(found: Found, name: str) -> list[tuple[str, str]]:
    odd = any(one.host == name for one in found.odd)
    return [("doubt", "Odd among its like")] if odd else [("plain", "Like its like")]


def _said(found: Found, name: str) -> Iterator[str]:
    """What is odd about the host, a sentence each."""
    for odd in found.odd:
        if odd.host == name:
            yield odd.words or f"{words.ODDITY[odd.oddity].capitalize()}."


def _moves(track: Track | None) -> Iterator[str]:
    """E.g. "On 2026-10-19 the host moved to kernel 6.12.9 and microcode 0x12.", oldest first."""
    for day, of_day in groupby(track.moves if track else (), key=lambda move: move[0]):
        to = " and ".join(words.facts({fact: value}) for _, fact, value in of_day)
        yield f"On {day} the host moved to {to}."


def _furthest(found: Found, host: int) -> list[int]:
    """The figures in which the host is furthest off, the furthest first."""
    off = np.abs(np.asarray(found.map[host], dtype=float))
    order = np.argsort(-np.nan_to_num(off, nan=-1.0), kind="stable")[:MOST_FIGURES]
    return [int(figure) for figure in order if np.isfinite(off[figure])]


def _table(found: Found, host: int, peers: NDArray[np.int_]) -> tuple[list[Head], Rows]:
    names = [("figure", False), ("from its like", True), ("it is", False), ("place", True)]
    return tables.heads(names), tables.rows(
        [
            tables.name(words.figure_name(found, figure)),
            tables.number(words.percent(share), share),
            tables.name(_word(share * words.worse(found.figures[figure]))),
            tables.number(*_place(found, host, peers, figure)),
        ]
        for figure in words.figure_order(found)
        for share in [float(found.map[host, figure])]
    )


def _word(cost: float) -> str:
    if not np.isfinite(cost):
        return NOTHING
    return "worse" if cost > 0 else "better" if cost < 0 else "the same"


def _place(found: Found, host: int, peers: NDArray[np.int_], figure: int) -> tuple[str, float]:
    """E.g. ("3 of 214", 3): the first is the worst of the group."""
    cost = np.asarray(found.map[peers, figure], dtype=float) * words.worse(found.figures[figure])
    own = float(found.map[host, figure]) * words.worse(found.figures[figure])
    if not np.isfinite(own):
        return NOTHING, np.nan
    place = 1 + int(np.sum(cost > own))
    return f"{place:,} of {int(np.isfinite(cost).sum()):,}", place
