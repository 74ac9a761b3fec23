# SPDX-License-Identifier: Apache-2.0
"""The figures of rates: exits by how often the guest exits, and by how often it is kicked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from kickbench.numbers import listed, plural, significant
from kickbench.report.figures.plots import (
    INK,
    LINEAR,
    LOGARITHMIC,
    Plot,
    difference_name,
    draw_control,
    draw_cut_ends,
    draw_each,
    draw_intervals,
    draw_legend,
    engineering,
    level,
    log_ticks,
    new_plot,
    on_both,
    round_ticks,
    style,
    tick_time,
    titled,
    with_crowd,
)
from kickbench.report.words.differences import contrasts, cost, cost_names, costs, per_headline
from kickbench.report.words.exits import kicked_cases, paced_cases
from kickbench.report.words.names import Summary, kick_rate_name, label, nanoseconds, rate_name
from kickbench.summary.data import RunData

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# --- exit rates --------------------------------------------------------------------------------


def draw_exit_rates(data: RunData) -> list[Plot]:
    """Exits by their rate, if it varies: for each series what a method costs, and the times."""
    plots = draw_each(exit_rate_cost_groups(data), lambda row: _rate_cost_plot(data, row))
    plots += draw_each(exit_rate_time_groups(data), lambda row: _rate_time_plot(data, row))
    return plots


def exit_rate_cost_groups(data: RunData) -> list[list[Summary]]:
    """The cases with differences, at several rates of exits, those of a plot together."""
    return _several(paced_cases(data.summary, data.oversubscribed), contrasts)


def exit_rate_time_groups(data: RunData) -> list[list[Summary]]:
    """The cases with times, at several rates of exits, those of a plot together."""
    return _several(paced_cases(data.summary, data.oversubscribed), _means)


def exit_rate_cost_title(data: RunData, row: Sequence[Summary]) -> str:
    """What distinguishes the plot from the others of the figure."""
    return _rate_title(data, row, "what a method costs")


def exit_rate_time_title(data: RunData, row: Sequence[Summary]) -> str:
    """What distinguishes the plot from the others of the figure."""
    return _rate_title(data, row, "time per exit")


def _rate_title(data: RunData, row: Sequence[Summary], what: str) -> str:
    # Without its rate, the label fits all cases of the row.
    text = label(data.summary, row[-1]).replace(f", {rate_name(row[-1]['exit_rate_hz'])}", "")
    return titled(data, f"{what}, {with_crowd(data, row[-1], text)}")


def _rate_cost_plot(data: RunData, row: Sequence[Summary]) -> Plot:
    title = exit_rate_cost_title(data, row)
    canvas, axes = new_plot(title)
    draw_exit_rate_cost_on(axes, data, row)
    unit = nanoseconds(data.summary)
    found = [
        f"{rate_name(case['exit_rate_hz'])}: "
        + "; ".join(cost(contrast, unit) for contrast in costs(case).values())
        for case in row
    ]
    return Plot(title, f"{'. '.join(found)}.", canvas)


def draw_exit_rate_cost_on(axes: Axes, data: RunData, row: Sequence[Summary]) -> None:
    """Draw a group of :func:`exit_rate_cost_groups`."""
    methods = cost_names(row)
    baseline = str(row[-1]["baseline"])
    _rate_axis(axes, data, row)
    band = draw_control(axes, list(enumerate(row)))
    axes.axhline(0, color=INK, linewidth=0.8)
    handles = []
    for method in methods:
        points = [(x, costs(c)[method]) for x, c in enumerate(row) if method in costs(c)]
        colour, marker = style(data, method)
        at = [x for x, _ in points]
        handles += axes.plot(
            at, [c["diff"] for _, c in points], color=colour, marker=marker, linewidth=1.6
        )
        draw_intervals(axes, at, [c["ci95"] for _, c in points], colour)
    axes.margins(y=0.12)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_time(value)))
    unit = f"{nanoseconds(data.summary)} {per_headline(row[-1])}"
    axes.set_ylabel(f"{difference_name('method', baseline)}\n[{unit}]")
    draw_legend(axes, [*handles, *band], [*methods, *(["A/A control"] * len(band))])


def _rate_time_plot(data: RunData, row: Sequence[Summary]) -> Plot:
    unit = nanoseconds(data.summary)
    title = exit_rate_time_title(data, row)
    findings = []
    for method in dict.fromkeys(method for case in row for method in _means(case)):
        shown = [
            f"{significant(_means(case)[method][0])} {unit} at {rate_name(case['exit_rate_hz'])}"
            for case in row
            if method in _means(case)
        ]
        findings.append(f"{method}: {listed(shown)}.")

    return on_both(
        title,
        " ".join(findings),
        lambda axes, scale: draw_exit_rate_time_on(axes, data, row, scale),
        LINEAR,
        LOGARITHMIC,
    )


def draw_exit_rate_time_on(axes: Axes, data: RunData, row: Sequence[Summary], scale: str) -> None:
    """Draw a group of :func:`exit_rate_time_groups`, on an axis of time with this scale."""
    _rate_axis(axes, data, row)
    _draw_means(axes, data, row, scale)


def _rate_axis(axes: Axes, data: RunData, row: Sequence[Summary]) -> None:
    rates = [case["exit_rate_hz"] for case in row]
    _category_axis(axes, ["max" if rate is None else engineering(rate) for rate in rates])
    axes.set_xlabel(f"exits per {'emulated ' if data.summary['emulated'] else ''}second and vCPU")


# --- exits while kicks arrive ------------------------------------------------------------------


def draw_kick_rates(data: RunData) -> list[Plot]:
    """Mean time per exit by the rate of kicks: a plot per series in which the rates differ."""
    return draw_each(kick_rate_groups(data), lambda row: _kick_rate_plot(data, row))


def kick_rate_groups(data: RunData) -> list[list[Summary]]:
    """The cases with times, at several rates of kicks, those of a plot together."""
    return _several(kicked_cases(data.summary, data.oversubscribed), _means)


def kick_rate_title(data: RunData, row: Sequence[Summary]) -> str:
    """What distinguishes the plot from those of other groups."""
    return titled(data, f"{plural(row[0]['vcpus'], 'vCPU')}, {row[0]['placement']}")


def _kick_rate_plot(data: RunData, row: Sequence[Summary]) -> Plot:
    unit = nanoseconds(data.summary)
    title = kick_rate_title(data, row)
    rates = [kick_rate_name(case["kick_rate_hz"]) for case in row]
    findings = []
    for method in dict.fromkeys(method for case in row for method in _means(case)):
        shown = [
            f"{significant(_means(case)[method][0])} {unit} with {rate}"
            for case, rate in zip(row, rates, strict=True)
            if method in _means(case)
        ]
        findings.append(f"{method}: {listed(shown)}.")
    canvas, axes = new_plot(title)
    draw_kick_rates_on(axes, data, row)
    return Plot(title, " ".join(findings), canvas)


def draw_kick_rates_on(axes: Axes, data: RunData, row: Sequence[Summary]) -> None:
    """Draw a group of :func:`kick_rate_groups`."""
    _category_axis(axes, [engineering(case["kick_rate_hz"] or 0) for case in row])
    _draw_means(axes, data, row, LINEAR)
    axes.set_xlabel(f"kicks per {'emulated ' if data.summary['emulated'] else ''}second and vCPU")


# --- both --------------------------------------------------------------------------------------


def _several(
    rows: Iterable[Iterable[Summary]], has: Callable[[Summary], object]
) -> list[list[Summary]]:
    """The rows without the cases that have nothing to draw, if several are left."""
    drawn = [[case for case in row if has(case)] for row in rows]
    return [row for row in drawn if len(row) > 1]


def _means(case: Summary) -> dict[str, tuple[float, list[float] | None]]:
    """Time per exit by method, with the interval."""
    found = {
        method: level(figures, "ns_per_exit", figures["ns_per_exit"]["mean"])
        for method, figures in case["methods"].items()
    }
    return {method: mean for method, mean in found.items() if mean is not None}


def _draw_means(axes: Axes, data: RunData, row: Sequence[Summary], scale: str) -> None:
    """Draws a line per method over the cases, evenly apart, with the intervals of its levels."""
    handles, methods, drawn, intervals = [], [], [], []
    for method in dict.fromkeys(method for case in row for method in _means(case)):
        points = [(x, case) for x, case in enumerate(row) if method in _means(case)]
        colour, marker = style(data, method)
        at, values = [x for x, _ in points], [_means(case)[method][0] for _, case in points]
        handles += axes.plot(at, values, color=colour, marker=marker, linewidth=1.6, markersize=6)
        ends = [_means(case)[method][1] for _, case in points]
        draw_intervals(axes, at, ends, colour)
        intervals.append((at, ends, colour))
        drawn += [*values, *(end for pair in ends if pair for end in pair if end > 0)]
        methods.append(method)
    if scale == LOGARITHMIC:
        axes.set_yscale("log")
        log_ticks(axes, drawn, "y", tick_time)
    else:
        axes.margins(y=0.12)
        round_ticks(axes, "y", tick_time)
    axes.set_ylabel(f"time per exit [{nanoseconds(data.summary)}]")
    for at, ends, colour in intervals:
        draw_cut_ends(axes, at, ends, colour)
    draw_legend(axes, handles, methods)


def _category_axis(axes: Axes, names: Sequence[str]) -> None:
    """Names evenly apart, because a logarithmic axis has no place for 0 or for "max"."""
    every = -(-len(names) // 8)
    shown = list(range(len(names)))[::-1][::every][::-1]  # the last one has its name
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([names[index] for index in shown])
    axes.set_xlim(-0.3, len(names) - 0.7)
