# SPDX-License-Identifier: Apache-2.0
"""The figure of kickers that contend: what a kick costs its sender, by their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter

from kickbench.report.figures.plots import (
    BAND,
    LINEAR,
    LOGARITHMIC,
    Plot,
    draw_cut_ends,
    draw_each,
    draw_intervals,
    draw_legend,
    log_ticks,
    on_both,
    round_ticks,
    scaled,
    style,
    tick_time,
    titled,
)
from kickbench.report.words.contention import answer, contends, place_of, senders, series_of_kickers
from kickbench.report.words.names import Summary, microseconds
from kickbench.summary.data import RunData

_US = 1e-3
_APART = 0.06
"""The distance between methods, in kickers, so that their intervals do not overlap."""


def draw_contention(data: RunData) -> list[Plot]:
    """Send cost against the number of kickers: a plot per state, placement and transport."""
    return draw_each(series_of_kickers(data.summary), lambda cases: _contention_plot(data, cases))


def contention_title(data: RunData, cases: Sequence[Summary]) -> str:
    """What distinguishes the plot from those of other groups."""
    return titled(data, place_of(data.summary, cases[0]))


def _contention_plot(data: RunData, cases: Sequence[Summary]) -> Plot:
    return on_both(
        contention_title(data, cases),
        answer(data.summary, cases),
        lambda axes, scale: draw_contention_on(axes, data, cases, scale),
        LINEAR,
        LOGARITHMIC,
    )


def draw_contention_on(axes: Axes, data: RunData, cases: Sequence[Summary], scale: str) -> None:
    """Draw one of :func:`series_of_kickers`, on an axis of time with this scale."""
    methods = list(dict.fromkeys(method for case in cases for method in senders(case)))
    values: list[float] = []
    marks = []
    for place, method in enumerate(methods):
        drawn = [case for case in cases if method in senders(case)]
        figures = [case["methods"][method] for case in drawn]
        shift = _APART * (place - (len(methods) - 1) / 2)
        x = [case["kickers"] + shift for case in drawn]
        y = [found["send_ns"]["p50"] * _US for found in figures]
        ends = [scaled(found["send_ci95"]["p50"], _US) for found in figures]
        colour, marker = style(data, method)
        axes.plot(x, y, color=colour, linewidth=1.4)
        for case, at, value in zip(drawn, x, y, strict=True):
            face = colour if contends(case) else "none"
            axes.plot([at], [value], marker, color=colour, markerfacecolor=face, markersize=6)
        values += y
        marks.append((x, ends, colour))
    values = [value for value in values if value > 0] or [1.0]
    if scale == LOGARITHMIC:
        axes.set_yscale("log")
        log_ticks(axes, values, "y", tick_time)
    else:
        # An interval of a few rounds can be a hundred times as long as the value.
        tops = [pair[1] for _, ends, _ in marks for pair in ends if pair]
        axes.set_ylim(0, 1.08 * max(*values, min(max(tops, default=0.0), 2 * max(values))))
        round_ticks(axes, "y", tick_time)
    for x, ends, colour in marks:
        draw_intervals(axes, x, ends, colour)
        draw_cut_ends(axes, x, ends, colour)
    kickers = [case["kickers"] for case in cases]
    axes.xaxis.set_major_locator(FixedLocator(kickers))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.set_xlim(min(kickers) - 0.4, max(kickers) + 0.4)
    axes.set_xlabel("kickers")
    axes.set_ylabel(f"kicker's call, p50 [{microseconds(data.summary)}]")
    handles = []
    for method in methods:
        colour, marker = style(data, method)
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=6))
    names = list(methods)
    if not all(contends(case) for case in cases):
        hollow: dict[str, Any] = {"markerfacecolor": "none", "linestyle": "none"}
        handles.append(Line2D([], [], color=BAND, marker="o", markersize=6, **hollow))
        names.append("hollow: kickers took turns")
    draw_legend(axes, handles, names)
