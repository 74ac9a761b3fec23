# SPDX-License-Identifier: Apache-2.0
"""The figures of kicks: latency by state with its phases, and pausing all vCPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from kickbench.numbers import listed
from kickbench.report.figures.plots import (
    BAND,
    INK,
    LINEAR,
    LOGARITHMIC,
    Plot,
    draw_cut_ends,
    draw_each,
    draw_intervals,
    draw_legend,
    draw_markers,
    linear_vcpu_axis,
    log_ticks,
    new_plot,
    on_both,
    plain,
    round_ticks,
    scaled,
    style,
    telling,
    tick_time,
    titled,
    vcpu_axis,
    with_crowd,
)
from kickbench.report.words.differences import contrasts, cost
from kickbench.report.words.kicks import answer_kick, by_state
from kickbench.report.words.names import (
    Series,
    Summary,
    conditions,
    duration,
    finished,
    label,
    microseconds,
    nanoseconds,
    series_of,
)
from kickbench.scenario.kinds import NOISE
from kickbench.summary.data import RunData

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_US = 1e-3
_BEYOND = 4.0
"""The axis of latency ends at this multiple of the longest median: tails would flatten it."""
_MOMENTS = (
    # moment: (what has happened by then, how dark the bar is that ends there)
    ("delivery", "until the handler", 1.0),
    ("returned", "until KVM_RUN returns", 0.6),
    ("known", "until the protocol knows", 0.35),
    ("resumed", "until the guest runs again", 0.12),
)


# --- latency -----------------------------------------------------------------------------------


def draw_kick_latency(data: RunData) -> list[Plot]:
    """Latency by state and method: a plot per vCPUs, placement, transport and kickers."""
    return draw_each(latency_groups(data), lambda cases: _latency_plot(data, cases))


def latency_groups(data: RunData) -> list[list[Summary]]:
    """The cases with kicks that were timed, those of a plot together."""
    groups: dict[tuple[Any, ...], list[Summary]] = {}
    for case in finished(data.summary, "kick"):
        if _timed(case):
            keys = ("vcpus", "placement", "irqchip", "transport", "kickers", *NOISE)
            groups.setdefault(tuple(case[key] for key in keys), []).append(case)
    return list(groups.values())


def _timed(case: Summary) -> list[str]:
    return [m for m, figures in case["methods"].items() if figures["latency_ns"]["p50"] is not None]


def _latency_plot(data: RunData, cases: Sequence[Summary]) -> Plot:
    bars = sum(len(_timed(case)) for case in cases)
    title = latency_title(data, cases)
    canvas, axes = new_plot(title, 0.9 + 0.2 * bars + 0.25 * len(cases))
    draw_latency_on(axes, data, cases)
    return Plot(title, _latency_finding(data, cases), canvas)


def latency_title(data: RunData, cases: Sequence[Summary]) -> str:
    """What distinguishes the plot from those of other groups."""
    return titled(data, _apart_from_state(data, cases[0]))


def draw_latency_on(axes: Axes, data: RunData, cases: Sequence[Summary]) -> None:
    """Draw a group of :func:`latency_groups`."""
    bars = [(case, method) for case in cases for method in _timed(case)]
    medians = [max(_moments(case["methods"][method]).values()) * _US for case, method in bars]
    tails = [_p99(case["methods"][method]) for case, method in bars]
    end = 1.08 * max(*medians, min(max(tails), _BEYOND * max(medians)), 1e-3)
    axes.set_xlim(0, end)
    y, places = 0.0, []
    for case in cases:
        methods = _timed(case)
        places.append((y + (len(methods) - 1) / 2, case))
        for method in methods:
            colour, _ = style(data, method)
            _draw_bar(axes, y, case["methods"][method], colour, end)
            y += 1
        y += 0.7
    axes.set_ylim(y - 1.2, -0.6)
    axes.yaxis.set_major_locator(FixedLocator([at for at, _ in places]))
    axes.set_yticklabels([_state(data, case) for _, case in places])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_time(value)))
    axes.set_xlabel(f"latency [{microseconds(data.summary)}]")
    axes.set_ylabel("state when kicked")
    _latency_legend(axes, data, bars)


def _apart_from_state(data: RunData, case: Summary) -> str:
    # Each state has its own program, so the title has none.
    text = label(data.summary, case, of_kind=False)
    program = f", {case['program']}"
    return text.replace(program, "") if case["program"] else text


def _state(data: RunData, case: Summary) -> str:
    # A tick's label has no switch for formulas, but an escaped dollar begins none.
    text = plain(str(case["state"])).replace("$", r"\$")
    return text + (" *" if case["id"] in data.oversubscribed else "")


def _p99(figures: Summary) -> float:
    return float(figures["latency_ns"]["p99"] or 0) * _US


def _moments(figures: Summary) -> dict[str, float]:
    """The moments, p50 from just before the kick; the latency ends when the kick is known."""
    phases = figures["phases_ns"]
    found = {name: phases[name]["p50"] for name, *_ in _MOMENTS if phases.get(name)}
    return found | {"known": figures["latency_ns"]["p50"]}


def _draw_bar(axes: Axes, y: float, figures: Summary, colour: str, end: float) -> None:
    begin, moments = 0.0, _moments(figures)
    for name, _, alpha in _MOMENTS:
        if name in moments and (width := moments[name] * _US - begin) > 0:
            axes.barh(y, width, 0.78, left=begin, color=colour, alpha=alpha)
            begin += width
    send = figures["phases_ns"]["send"]
    if send and send["p50"]:
        axes.plot([0, send["p50"] * _US], [y, y], color=INK, linewidth=1.4)
    draw_intervals(axes, [y], [scaled(figures["latency_ci95"]["p50"], _US)], INK, flat=True)
    draw_cut_ends(axes, [y], [scaled(figures["latency_ci95"]["p50"], _US)], INK, flat=True)
    tail = _p99(figures)
    if tail <= end:
        ends = [scaled(figures["latency_ci95"]["p99"], _US)]
        draw_intervals(axes, [y], ends, colour, flat=True)
        draw_cut_ends(axes, [y], ends, colour, flat=True)
    if tail > end:
        axes.plot([end], [y], ">", color=colour, markersize=6, clip_on=False, markeredgecolor=INK)
    elif tail:
        axes.plot([tail], [y], "D", color=colour, markersize=5, markeredgecolor=INK)


def _latency_legend(axes: Axes, data: RunData, bars: Sequence[tuple[Summary, str]]) -> None:
    methods = list(dict.fromkeys(method for _, method in bars))
    handles: list[Any] = [Patch(color=style(data, method)[0]) for method in methods]
    there = {name for case, method in bars for name in _moments(case["methods"][method])}
    parts: list[tuple[str, Any]] = [
        (what, Patch(color=BAND, alpha=alpha)) for name, what, alpha in _MOMENTS if name in there
    ]
    parts.append(("kicker's call", Line2D([], [], color=INK, linewidth=1.4)))
    diamond: dict[str, Any] = {"color": BAND, "markeredgecolor": INK, "linestyle": "none"}
    parts.append(("p99", Line2D([], [], marker="D", markersize=5, **diamond)))
    if any(case["id"] in data.oversubscribed for case, _ in bars):
        parts.append(("* more vCPUs than CPUs", Patch(alpha=0)))
    names = [*methods, *(name for name, _ in parts)]
    draw_legend(axes, [*handles, *(handle for _, handle in parts)], names, split=len(methods))


def _latency_finding(data: RunData, cases: Sequence[Summary]) -> str:
    said = answer_kick({**data.summary, "cases": cases}, data.oversubscribed)[0]
    shown = [case for case in cases if case["baseline"] in _timed(case)]
    return f"{said} {by_state(data.summary, shown)}" if shown else said


# --- pause all ---------------------------------------------------------------------------------

_LINES: tuple[tuple[str, Literal[":", "--", "-"]], ...] = (
    ("first", ":"),
    ("median", "--"),
    ("last", "-"),
)

Pauses = tuple[Series, list[Summary]]
"""A series, and those of its cases that had pauses."""


def draw_pauses(data: RunData) -> list[Plot]:
    """Time to pause all vCPUs against their number: a plot per program and placement."""
    return draw_each(pause_groups(data), lambda group: _pause_plot(data, group))


def pause_groups(data: RunData) -> list[Pauses]:
    """The series with pauses at several numbers of vCPUs."""
    found = []
    for series in series_of(data.summary, "pause_all"):
        drawn = [case for case in series.cases if _paused(case)]
        if len(drawn) > 1:
            found.append((series, drawn))
    return found


def pause_title(data: RunData, group: Pauses) -> str:
    """What distinguishes the plot from those of other groups."""
    return titled(data, conditions(data.summary, group[0], of_kind=False))


def _paused(case: Summary) -> list[str]:
    return [m for m, figures in case["methods"].items() if figures["last_ns"]["p50"]]


def _pause_plot(data: RunData, group: Pauses) -> Plot:
    title = pause_title(data, group)

    return on_both(
        title,
        _pause_finding(data, group[1]),
        lambda axes, scale: draw_pauses_on(axes, data, group, scale),
        LOGARITHMIC,
        LINEAR,
    )


def draw_pauses_on(axes: Axes, data: RunData, group: Pauses, scale: str) -> None:
    """Draw a group of :func:`pause_groups`, on axes with this scale."""
    _, cases = group
    methods = list(dict.fromkeys(method for case in cases for method in _paused(case)))
    vcpus = [case["vcpus"] for case in cases]
    values = np.concatenate(
        [
            _draw_method(axes, data, [case for case in cases if method in _paused(case)], method)
            for method in methods
        ]
    )
    if scale == LOGARITHMIC:
        vcpu_axis(axes, vcpus)
        axes.set_yscale("log")
        log_ticks(axes, values.tolist(), "y", tick_time)
    else:
        linear_vcpu_axis(axes, vcpus)
        axes.set_ylim(0, 1.08 * values.max())
        round_ticks(axes, "y", tick_time)
    axes.set_ylabel(f"time to acknowledge [{microseconds(data.summary)}]")
    handles: list[Any] = []
    for method in methods:
        colour, marker = style(data, method)
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=6))
    names = list(methods)
    for which, dashes in reversed(_LINES):
        handles.append(Line2D([], [], color=BAND, linestyle=dashes))
        names.append(f"the {which} vCPU")
    draw_legend(axes, handles, names, split=len(methods))


def _draw_method(axes: Axes, data: RunData, cases: Sequence[Summary], method: str) -> Any:
    """Draw the three lines of a method; returns all values that the axis must show."""
    colour, marker = style(data, method)
    x = [case["vcpus"] for case in cases]
    every = []
    for which, dashes in _LINES:
        figures = [case["methods"][method] for case in cases]
        y = np.array([f[f"{which}_ns"]["p50"] * _US for f in figures])
        every.append(y)
        width = 1.6 if which == "last" else 1.1
        axes.plot(x, y, color=colour, linestyle=dashes, linewidth=width)
        if which != "last":
            continue
        ends = [scaled(f["last_ci95"]["p50"], _US) for f in figures]
        draw_intervals(axes, x, ends, colour)
        every += [np.array(pair) for pair in ends if pair]
        draw_markers(axes, data, zip(cases, y, strict=True), colour, marker)
    values = np.concatenate(every)
    return values[values > 0]


def _pause_finding(data: RunData, cases: Sequence[Summary]) -> str:
    case, _ = telling(data, [(case, None) for case in cases])
    unit = nanoseconds(data.summary)
    clauses = "; ".join(cost(contrast, unit) for contrast in contrasts(case).values())
    place = with_crowd(data, case, label(data.summary, case, of_kind=False))
    shown = [
        f"{duration(data.summary, one['methods'][one['baseline']]['last_ns']['p50'])} "
        f"at {one['vcpus']}"
        for one in cases
        if one["baseline"] in _paused(one)
    ]
    grown = f"Time until the last of N vCPUs ({case['baseline']}, p50): {listed(shown)}."
    return f"{grown} {place}: {clauses}." if clauses else grown
