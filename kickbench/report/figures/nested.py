# SPDX-License-Identifier: Apache-2.0
"""The figures of nesting: what L2 gets done while L1 waits, and how long round trips take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from kickbench.numbers import listed, significant
from kickbench.report.figures.plots import (
    BAND,
    DASHES,
    INK,
    LINEAR,
    LOGARITHMIC,
    Plot,
    draw_each,
    draw_legend,
    engineering,
    log_ticks,
    new_plot,
    on_both,
    plain,
    round_ticks,
    style,
    tick_time,
    titled,
)
from kickbench.report.words.names import Summary, finished, label, nanoseconds
from kickbench.report.words.nested import answer_nested
from kickbench.scenario.kinds import ITERATIONS
from kickbench.summary.data import Floats, RunData
from kickbench.summary.nested import read_nested

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 400
"""Points of a line of a distribution."""
_SLOWEST = 0.99
"""The axis of round trips ends at this quantile. One preemption would press all into one line."""

RoundTrips = tuple[Summary, dict[str, Floats]]
"""A case, and by way all its round trips in ns, the shortest first."""


# --- work --------------------------------------------------------------------------------------


def draw_work(data: RunData) -> list[Plot]:
    """The work of L2 by way, on an axis that shows both 0 and millions: a plot per case."""
    return draw_each(work_cases(data), lambda case: _work_plot(data, case))


def work_cases(data: RunData) -> list[Summary]:
    """The cases that measured a way of entering L2."""
    return [case for case in finished(data.summary, "nested") if _measured(case)]


def nested_title(data: RunData, case: Summary) -> str:
    """What distinguishes the plot from those of other cases."""
    return titled(data, label(data.summary, case))


def _measured(case: Summary) -> list[str]:
    return [method for method, figures in case["methods"].items() if figures["n"]]


def _work_plot(data: RunData, case: Summary) -> Plot:
    title = nested_title(data, case)
    canvas, axes = new_plot(title, 1.0 + 0.5 * len(_measured(case)))
    draw_work_on(axes, data, case)
    said = answer_nested({**data.summary, "cases": [case]}, ())
    return Plot(title, said[0], canvas)


def draw_work_on(axes: Axes, data: RunData, case: Summary) -> None:
    """Draw one of :func:`work_cases`."""
    methods = _measured(case)
    for y, method in enumerate(methods):
        work = case["methods"][method]["work"]
        colour, marker = style(data, method)
        # The name is above its line, because long names beside the axis would take its room.
        axes.text(
            *(0.01, y - 0.24, plain(method)),
            transform=axes.get_yaxis_transform(),
            color=INK,
            fontsize=9,
            va="bottom",
            parse_math=False,
        )
        axes.plot([work["p50"], work["max"]], [y, y], color=colour, linewidth=1.2)
        axes.plot([work["p50"], work["p99"]], [y, y], color=colour, linewidth=4)
        axes.plot([work["p50"]], [y], marker, color=colour, markersize=8, clip_on=False)
    limit = case["nested"]["at_once_turns"]
    most = max(case["methods"][method]["work"]["max"] for method in methods)
    end = max(10.0, 1.3 * most, 1.3 * (limit or 0))
    # The axis shows 0. From 1 on, every power of ten has the same width.
    axes.set_xscale("symlog", linthresh=1.0, linscale=0.5)
    axes.set_xlim(-0.15, end)
    powers = [10.0**power for power in range(int(np.log10(end)) + 1)]
    axes.xaxis.set_major_locator(FixedLocator([0.0, *powers[:: 1 + len(powers) // 7]]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: engineering(value)))
    axes.set_xlabel("work of L2 before the exit [turns of its loop]")
    axes.set_ylabel("way of entering L2")
    axes.set_ylim(len(methods) - 0.5, -0.8)
    axes.yaxis.set_major_locator(NullLocator())
    if limit is not None:
        axes.axvline(limit, color=BAND, linestyle="--", linewidth=1.4)
        handle = Line2D([], [], color=BAND, linestyle="--", linewidth=1.4)
        draw_legend(axes, [handle], [f"late beyond {engineering(limit)} turns"])


# --- round trips -------------------------------------------------------------------------------


def draw_round_trips(data: RunData) -> list[Plot]:
    """The share of round trips that took no longer, by way: a plot per case that has its table."""
    return draw_each(round_trip_groups(data), lambda group: _round_trip_plot(data, group))


def round_trip_groups(data: RunData) -> list[RoundTrips]:
    """The cases with round trips that are compared, and still have their table."""
    return [
        (case, times)
        for case in finished(data.summary, "nested")
        if case["id"] not in data.without_tables and (times := _round_trips(data, case))
    ]


def round_trip_title(data: RunData, group: RoundTrips) -> str:
    """What distinguishes the plot from those of other cases."""
    return nested_title(data, group[0])


def _round_trips(data: RunData, case: Summary) -> dict[str, Floats]:
    """As in :data:`RoundTrips`, for the ways that are compared."""
    every = read_nested(data.reader, case["id"])
    found = {}
    for index, method in enumerate(case["methods"]):
        chosen = every.expected & (every.entry == index)
        if chosen.any() and method in ITERATIONS and ITERATIONS[method].compared:
            found[method] = np.sort(every.round_trip_ns[chosen])
    return found


def _round_trip_plot(data: RunData, group: RoundTrips) -> Plot:
    case, times = group
    unit = nanoseconds(data.summary)
    _, high = _bulk(times)
    medians = [
        f"{method} {significant(case['methods'][method]['round_trip_ns']['p50'])} {unit}"
        for method in times
    ]
    finding = f"Half of the round trips took at most: {listed(medians)}."
    shares = [
        f"{significant(100 * share, 2)} % of {method}"
        for method, ns in times.items()
        if (share := float(np.mean(ns > high))) > 0
    ]
    if shares:
        finding += f" The slowest, {listed(shares)}, are beyond the axis."
    return on_both(
        round_trip_title(data, group),
        finding,
        lambda axes, scale: draw_round_trips_on(axes, data, group, scale),
        LOGARITHMIC,
        LINEAR,
    )


def draw_round_trips_on(axes: Axes, data: RunData, group: RoundTrips, scale: str) -> None:
    """Draw one of :func:`round_trip_groups`, on an axis of time with this scale."""
    _, times = group
    handles = [
        _draw_line(axes, data, method, index, ns)
        for index, (method, ns) in enumerate(times.items())
    ]
    low, high = _bulk(times)
    if scale == LOGARITHMIC:
        axes.set_xscale("log")
        log_ticks(axes, [low, high], "x", tick_time)
    else:
        room = 0.05 * (high - low)
        axes.set_xlim(low - room, high + room)
        round_ticks(axes, "x", tick_time)
    axes.set_xlabel(f"round trip [{nanoseconds(data.summary)}]")
    axes.set_ylabel("round trips that took no longer [%]")
    axes.set_ylim(0, 102)
    draw_legend(axes, handles, list(times))


def _bulk(times: dict[str, Floats]) -> tuple[float, float]:
    """The range of all but the slowest round trips."""
    low = min(float(ns[0]) for ns in times.values())
    high = max(float(np.quantile(ns, _SLOWEST)) for ns in times.values())
    return low, max(high, 1.02 * low)


def _draw_line(axes: Axes, data: RunData, method: str, index: int, ns: Floats) -> Any:
    colour, marker = style(data, method)
    place = np.unique(np.linspace(0, len(ns) - 1, _POINTS).astype(np.int64))
    (line,) = axes.plot(
        ns[place],
        100 * (place + 1) / len(ns),
        color=colour,
        linestyle=DASHES[index % len(DASHES)],
        linewidth=1.8,
        drawstyle="steps-post",
        marker=marker,
        markersize=5,
        # Not all at the same place, where lines meet.
        markevery=(15 + 25 * index, 110),
    )
    return line
