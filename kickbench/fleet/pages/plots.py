# SPDX-License-Identifier: Apache-2.0
"""The plots of a fleet's pages: a group or a host over time, and a host among its like."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from matplotlib import dates
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from kickbench.fleet.judge.found import Found, Group, Track
from kickbench.fleet.pages.words import case_name, metric_name, percent
from kickbench.numbers import plural
from kickbench.report.figures.plots import INK, STYLES, Plot, draw_strokes, new_plot, plain
from kickbench.text import shorten

MOST_NAMED = 6
"""Changes that the words of a plot name; the table has all."""
_ROW_INCHES = 0.36
_LONGEST_LABEL = 62
_COLOUR = STYLES["immediate_exit"][0]
_HOST = STYLES["sigmask"][0]
_MOVE = STYLES["user_exit"][0]
_DATES: Any = dates  # which has no types

Floats = NDArray[np.float64]


def over_time(found: Found, group: Group, figure: int) -> Plot:
    """A figure of a group: the median of its hosts, and the quartiles as a band."""
    changes = changes_of(group, figure)
    return _over_time(found, figure, ("median", _COLOUR), group.middle[figure], group, changes)


def host_over_time(found: Found, track: Track, group: Group | None, figure: int) -> Plot:
    """A figure of a host, with the quartiles of its group as a band, and with its moves."""
    own = track.value[track.figures.index(figure)]
    changes, days = changes_of(track, figure), {day for day, _, _ in track.moves}
    return _over_time(found, figure, ("night", _HOST), own, group, changes, days)


def _over_time(
    found: Found,
    figure: int,
    look: tuple[str, str],
    line: NDArray[np.float32],
    group: Group | None,
    changes: Sequence[tuple[int, str, float]],
    moves: Collection[str] = (),
) -> Plot:
    """A line before the band of a group, with the days of changes and of moves.

    ``look`` says what a point of the line is, and its colour.
    """
    one = found.figures[figure]
    what, colour = look
    title = f"{case_name(found, one)}: {metric_name(one)}"
    canvas, axes = new_plot(title)
    own = _percent(line)
    middle, low, high = (
        np.full_like(own, np.nan) if some is None else _percent(some[figure])
        for some in ((group.middle, group.low, group.high) if group else (None,) * 3)
    )
    at = np.array(
        [_DATES.date2num(datetime.datetime.fromisoformat(day)) for day in found.days], dtype=float
    )
    known = np.isfinite(own)
    axes.fill_between(at, low, high, color=_COLOUR, alpha=0.2, linewidth=0)
    few: dict[str, Any] = {"marker": "o", "markersize": 3} if known.sum() <= 60 else {}
    axes.plot(at[known], own[known], color=colour, linewidth=1.2, **few)
    for _, day, _ in changes:
        if day in found.days:
            where = at[found.days.index(day)]
            axes.axvline(where, color=INK, alpha=0.6, linewidth=1, linestyle="--")
    moved = [at[found.days.index(day)] for day in moves if day in found.days]
    # Above the axes, where no line can hide them.
    top = axes.get_xaxis_transform()
    axes.plot(
        moved, [1.0] * len(moved), "v", color=_MOVE, markersize=7, transform=top, clip_on=False
    )
    if known.any():
        _limit(axes, np.concatenate([own, middle]), low, high)
    locator = _DATES.AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(_DATES.ConciseDateFormatter(locator))
    axes.xaxis.get_offset_text().set(color=INK, fontsize=9)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.set_ylabel("% from the level")
    return Plot(title, _of_time(metric_name(one), what, own, changes), canvas)


def _percent(shares: NDArray[np.float32]) -> Floats:
    """In hundredths. What is not finite is NaN, which is not drawn."""
    values = 100 * np.asarray(shares, dtype=float)
    return np.where(np.isfinite(values), values, np.nan)


def _limit(axes: Any, values: Floats, low: Floats, high: Floats) -> None:
    """Make room for the line, and for the band unless it would dwarf the line."""
    line = values[np.isfinite(values)]
    ends = [some[np.isfinite(some)] for some in (low, high)]
    wide = float(np.median(ends[1]) - np.median(ends[0])) if all(map(len, ends)) else 0.0
    room = max(0.15 * float(np.ptp(line)), abs(wide), 0.05, 1e-3 * float(np.abs(line).max()))
    axes.set_ylim(float(line.min()) - room, float(line.max()) + room)


def changes_of(of: Group | Track, figure: int) -> list[tuple[int, str, float]]:
    """The change points of one figure, oldest first."""
    return sorted((one for one in of.changes if one[0] == figure), key=lambda one: one[1])


def _of_time(
    name: str, what: str, middle: Floats, changes: Sequence[tuple[int, str, float]]
) -> str:
    latest = middle[np.isfinite(middle)]
    if not len(latest):
        return f"{name}: nothing was measured."
    words = f"{name}: the latest {what} is {percent(latest[-1] / 100)} from the level."
    if not changes:
        return f"{words} No lasting change is seen."
    told = ", ".join(f"{percent(share)} on {day}" for _, day, share in changes[-MOST_NAMED:])
    more = len(changes) - MOST_NAMED
    return f"{words} It changed by {told}{f', and {more} times before' if more > 0 else ''}."


def among_its_like(
    found: Found, host: int, peers: NDArray[np.int_], figures: Sequence[int]
) -> Plot:
    """A host in some figures, beside the others of its group: a row for each figure."""
    name = found.hosts[host].name
    others = peers[peers != host]
    title = f"{name} and {plural(len(others), 'other host')} of its group"
    labels = [_label(found, figure) for figure in figures]
    row_inches = _ROW_INCHES * (1.4 if any("\n" in label for label in labels) else 1)
    canvas, axes = new_plot(title, 0.9 + row_inches * max(len(figures), 1))
    values = _percent(found.map)
    rows = -np.arange(len(figures), dtype=float)
    for colour, ends, width in ((_COLOUR, (5, 95), 1.2), (_COLOUR, (25, 75), 4.0)):
        spans = np.array([_span(values[others, figure], ends) for figure in figures]).reshape(-1, 2)
        draw_strokes(axes, (spans[:, 0], rows), (spans[:, 1], rows), colour, linewidth=width)
    axes.plot(values[host, list(figures)], rows, "o", color=_HOST, markersize=6, clip_on=False)
    for row, label in zip(rows, labels, strict=True):
        axes.annotate(
            label,
            (0, row),
            xycoords=("axes fraction", "data"),
            xytext=(2, 5),
            textcoords="offset points",
            fontsize=7.5,
            color=INK,
            parse_math=False,
        )
    axes.axvline(0, color=INK, alpha=0.4, linewidth=1)
    axes.set_ylim(-len(figures) + 0.4, 0.9)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("% from the median of its like")
    if figures:
        first = figures[0]
        finding = (
            f"{name} is furthest off in {metric_name(found.figures[first])}, by "
            f"{percent(found.map[host, first])}."
        )
    else:
        finding = f"Nothing was measured on {name}."
    return Plot(title, finding, canvas)


def _label(found: Found, figure: int) -> str:
    """The name of a figure, on two lines if one is too short for it."""
    one = found.figures[figure]
    words = [plain(text, 200) for text in (metric_name(one), case_name(found, one))]
    between = ", " if len(", ".join(words)) <= _LONGEST_LABEL else ",\n"
    return between.join(shorten(text, _LONGEST_LABEL) for text in words)


def _span(values: Floats, ends: tuple[int, int]) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.percentile(known, ends)
    return float(low), float(high)
