# SPDX-License-Identifier: Apache-2.0
"""The figure of the shift function: a difference at each quantile of an exit's time."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from kickbench.report.figures.plots import (
    INK,
    PART_STYLE,
    Plot,
    case_title,
    draw_each,
    draw_legend,
    new_plot,
    style,
    telling,
    tick_time,
)
from kickbench.report.words.differences import amount
from kickbench.report.words.names import Summary, nanoseconds, series_of
from kickbench.report.words.shift import percentile, shift_points
from kickbench.summary.data import RunData


def draw_shift(data: RunData) -> list[Plot]:
    """The differences by quantile, with intervals: a plot per series, of :func:`telling`."""
    cases = []
    for series in series_of(data.summary):
        known = [(case, None) for case in series.cases if case.get("shift")]
        if known:
            cases.append(telling(data, known)[0])
    return draw_each(cases, lambda case: _shift_plot(data, case))


def shift_cases(data: RunData) -> list[Summary]:
    """The cases with differences by quantile."""
    return [case for case in data.finished if case.get("shift")]


def _shift_plot(data: RunData, case: Summary) -> Plot:
    title = case_title(data, case)
    canvas, axes = new_plot(title)
    draw_shift_on(axes, data, case)
    unit = nanoseconds(data.summary)
    findings = []
    for one in case["shift"]:
        points = shift_points(case, one["method"], one["baseline"])
        shown = [
            f"{amount(point, unit)} at {percentile(point['level'])}"
            for point in (points[0], points[-1])
        ]
        findings.append(f"{one['method']} - {one['baseline']}: {shown[0]}, {shown[1]}.")
    return Plot(title, " ".join(findings), canvas)


def draw_shift_on(axes: Axes, data: RunData, case: Summary) -> None:
    """Draw a case of :func:`shift_cases`."""
    levels = sorted({point["level"] for one in case["shift"] for point in one["points"]})
    at = {level: index for index, level in enumerate(levels)}
    handles, names = [], []
    for one in case["shift"]:
        colour, marker = style(data, one["method"])
        is_part = one["baseline"] != case["baseline"]
        if is_part:
            colour, marker = PART_STYLE
        points = shift_points(case, one["method"], one["baseline"])
        x = [at[point["level"]] for point in points]
        axes.fill_between(
            x,
            [point["ci95"][0] for point in points],
            [point["ci95"][1] for point in points],
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
        handles += axes.plot(
            x,
            [point["diff"] for point in points],
            color=colour,
            marker=marker,
            markersize=4,
            linewidth=1.6,
        )
        names.append(f"{one['method']} - {one['baseline']}")
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_ylim(_limits(case))
    every = max(1, -(-len(levels) // 8))
    shown_ticks = list(range(len(levels)))[::-1][::every][::-1]
    axes.xaxis.set_major_locator(FixedLocator(shown_ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{100 * levels[index]:.6g}" for index in shown_ticks])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_time(value)))
    axes.set_xlabel("percentile of a block's exits [%]")
    axes.set_ylabel(f"difference [{nanoseconds(data.summary)} per exit]")
    draw_legend(axes, handles, names)


def _limits(case: Summary) -> tuple[float, float]:
    """The limits of the axis: all estimates, and on each side as much room again at most."""
    points = [point for one in case["shift"] for point in one["points"]]
    low = min(0.0, *(point["diff"] for point in points))
    high = max(0.0, *(point["diff"] for point in points))
    room = max(high - low, 1e-3)
    ends = [end for point in points for end in point["ci95"]]
    low, high = max(min(ends), low - room), min(max(ends), high + room)
    return low - 0.05 * room, high + 0.05 * room
