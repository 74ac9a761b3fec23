# SPDX-License-Identifier: Apache-2.0
"""The figures of rounds: what each of them found, and what disturbed it, in the order of time.

They show the data behind the summary, so that a reader sees drift, outliers and single processes
that differ. For a long run they draw only a part, and say so. The estimates are of all rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from kickbench.numbers import listed, ordinal, plural, sentence, significant, whole
from kickbench.report.figures.plots import (
    BAND,
    INK,
    Plot,
    case_title,
    draw_each,
    draw_legend,
    draw_strokes,
    new_plot,
    plain,
    style,
    telling,
    tick_time,
    titled,
    where,
)
from kickbench.report.words.differences import amount, contrasts, cost, interval, per
from kickbench.report.words.names import Summary, finished, nanoseconds, series_of
from kickbench.summary.data import RunData
from kickbench.summary.exits import Rounds, read_disturbances, read_pairs, read_rounds
from kickbench.summary.shared import Floats, Ints, Paired

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 120
"""Points of a line over the rounds. If there are more rounds, a point is a median of several."""
MOST_DOTS = 400
"""Differences drawn for a method. If there are more, every second, third and so on is drawn."""

_HEIGHT_INCHES = 3.4
_APART = 1.08
"""From the beginning of the method's dots to that of the control's, in lengths of the longer."""
_FEW = 60
"""Up to this number of rounds, each has a marker."""
_MOST_NUMBERED = 12
"""Up to this number of processes, each has its number."""
_BULK = (0.05, 0.95)
"""The axis shows the values between these quantiles, and half of that range on either side."""
_ROW = 0.075
"""The height of a row of disturbances, as a share of the axis above."""
_SHORTEST = 0.25

_DISTURBED = {
    # column of the blocks: (at its row, in a sentence)
    "involuntary_switches": ("preempted", "involuntary switches"),
    "run_delay_ns": ("waited", "waiting for a CPU"),
    "migrations": ("moved", "moves to another CPU"),
    "steal_ns": ("stolen", "steal time"),
    "rescues": ("rescued", "kicks repeated to end a block"),
}

CaseAndMethod = tuple[Summary, str]


# --- cost over time ----------------------------------------------------------------------------


def draw_over_time(data: RunData) -> list[Plot]:
    """Time per exit round by round, a line per method: a plot per series, of :func:`telling`."""
    return draw_each(_telling_cases(data), lambda case: _over_time_plot(data, case))


def round_cases(data: RunData) -> list[Summary]:
    """The cases whose rounds can be drawn."""
    return [case for case in finished(data.summary, "exits") if _has_rounds(data, case)]


def _telling_cases(data: RunData) -> list[Summary]:
    found = []
    for series in series_of(data.summary):
        points = [(case, None) for case in series.cases if _has_rounds(data, case)]
        if points:
            found.append(telling(data, points)[0])
    return found


def _has_rounds(data: RunData, case: Summary) -> bool:
    """Whether there are rounds with exits. A case known only from its summary has none."""
    timed = any(figures["n"] for figures in case["methods"].values())
    return timed and case["id"] not in data.without_tables


def _over_time_plot(data: RunData, case: Summary) -> Plot:
    title = case_title(data, case)
    canvas, axes = new_plot(title, _HEIGHT_INCHES)
    return Plot(title, draw_over_time_on(axes, data, case), canvas)


def draw_over_time_on(axes: Axes, data: RunData, case: Summary) -> str:
    """Draw one of :func:`round_cases`. Returns what the plot shows, in sentences."""
    rounds = read_rounds(data.reader, case["id"])
    methods = list(case["methods"])
    values = rounds.ns_per_exit[:, : len(methods)]
    each = -(-len(values) // MOST_POINTS)
    lines = _grouped(rounds.process, values, each)
    low, high = _bulk(lines.median)
    handles: list[Any] = []
    for index, method in enumerate(methods):
        colour, marker = style(data, method)
        if each > 1:
            low_ends, high_ends = lines.low[:, index], lines.high[:, index]
            known = np.isfinite(low_ends)
            begins, ends = (lines.at[known], low_ends[known]), (lines.at[known], high_ends[known])
            draw_strokes(axes, begins, ends, colour, linewidth=1.6, alpha=0.25, capstyle="butt")
        looks: dict[str, Any] = {"color": colour, "linewidth": 1.1}
        if len(values) <= _FEW:
            looks |= {"marker": marker, "markersize": 3.5}
        gaps = [part.start for part in lines.processes[1:]]  # no line from process to process
        axes.plot(
            np.insert(lines.at, gaps, np.nan),
            np.insert(lines.median[:, index], gaps, np.nan),
            **looks,
        )
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=5))
    found = read_disturbances(data.reader, case["id"])
    disturbed = {name: total for name, total in found.items() if total.any()}
    _draw_disturbances(axes, disturbed, lines, (low, high))
    for index, method in enumerate(methods):
        colour, _ = style(data, method)
        edges = (low, axes.get_ylim()[1])
        _draw_beyond(axes, lines.at, lines.median[:, index], edges, colour)
    _draw_processes(axes, rounds.process)
    margin = 0.5 + 0.01 * len(values)
    axes.set_xlim(1 - margin, len(values) + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_time(value)))
    axes.set_xlabel("round [number], one process after the other")
    axes.set_ylabel(f"time per exit [{nanoseconds(data.summary)}]")
    draw_legend(axes, handles, methods, split=(len(methods) + 1) // 2)
    return _over_time_finding(data, case, rounds, disturbed, each)


@dataclass(frozen=True)
class _Lines:
    """Groups of consecutive rounds of one process: where, and by method their median and range."""

    at: Floats
    median: Floats
    low: Floats
    high: Floats
    group: NDArray[np.intp]
    """Per round, its group."""
    processes: tuple[slice, ...]
    """The groups of each process."""


def _grouped(process: Ints, values: Floats, each: int) -> _Lines:
    """The rounds in groups of ``each``; the last group of a process can have fewer."""
    starts = np.flatnonzero(np.diff(process, prepend=process[0] - 1))
    sizes = np.diff(np.append(starts, len(process)))
    local = np.arange(len(process)) - np.repeat(starts, sizes)
    groups = -(-sizes // each)
    first = np.cumsum(groups) - groups
    group = np.repeat(first, sizes) + local // each
    padded = np.full((int(groups.sum()), each, values.shape[1]), np.nan)
    padded[group, local % each] = values
    empty = np.isnan(padded).all(axis=1)
    padded[:, 0][empty] = np.inf  # so that numpy does not warn of a group without exits
    low, median, high = (
        np.where(empty, np.nan, found)
        for found in (
            np.nanmin(padded, axis=1),
            np.nanmedian(padded, axis=1),
            np.nanmax(padded, axis=1),
        )
    )
    at = np.bincount(group, np.arange(1, len(process) + 1)) / np.bincount(group)
    slices = tuple(slice(int(a), int(a + n)) for a, n in zip(first, groups, strict=True))
    return _Lines(at, median, low, high, group, slices)


def _bulk(values: Floats, *more: float) -> tuple[float, float]:
    """The limits of an axis that shows the bulk of the values, and ``more``, but no outliers."""
    finite = values[np.isfinite(values)]
    first, last = np.quantile(finite, _BULK)
    room = 0.5 * (last - first)
    low = min(max(finite.min(), first - room), *more, last)
    high = max(min(finite.max(), last + room), *more, first)
    margin = 0.06 * max(high - low, 1e-3 * abs(high), 1e-3)
    return float(low - margin), float(high + margin)


def _draw_beyond(
    axes: Axes, at: Floats, values: Floats, limits: tuple[float, float], colour: str
) -> None:
    """Draws a short stroke at the edge of the axis for each value beyond it."""
    length = 0.03 * (limits[1] - limits[0])
    for edge, beyond, end in (
        (limits[1], values > limits[1], limits[1] - length),
        (limits[0], values < limits[0], limits[0] + length),
    ):
        draw_strokes(axes, (at[beyond], edge), (at[beyond], end), colour, linewidth=1.6)


def _draw_disturbances(
    axes: Axes, disturbed: Mapping[str, Ints], lines: _Lines, limits: tuple[float, float]
) -> None:
    """Draws a row per kind of disturbance under the lines: the taller a bar, the more of it."""
    low, high = limits
    step = _ROW * (high - low)
    ticks = list(MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high))
    ticks = [tick for tick in ticks if low <= tick <= high]
    names = [tick_time(tick) for tick in ticks]
    base = low - 0.3 * step
    for name, total in disturbed.items():
        base -= step
        amounts = np.bincount(lines.group, total)
        there = amounts > 0
        share = amounts[there] / amounts.max()
        height = 0.85 * step * (_SHORTEST + (1 - _SHORTEST) * share)
        at = lines.at[there]
        draw_strokes(
            axes, (at, base), (at, base + height), INK, alpha=0.75, linewidth=1.2, capstyle="butt"
        )
        ticks.append(base + 0.4 * step)
        names.append(_DISTURBED[name][0])
    if disturbed:
        axes.axhline(low, color=INK, alpha=0.5, linewidth=0.8)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FixedFormatter(names))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(base - (0.3 * step if disturbed else 0), high + 0.08 * (high - low))


def _draw_processes(axes: Axes, process: Ints) -> None:
    """Draws a line between each two processes, and their numbers if there is room."""
    starts = np.flatnonzero(np.diff(process, prepend=process[0] - 1))
    for start in starts[1:]:
        axes.axvline(start + 0.5, color=INK, alpha=0.45, linewidth=0.8, linestyle=":")
    if not 1 < len(starts) <= _MOST_NUMBERED:
        return
    for i, start in enumerate(starts):
        text = f"{'process ' if i == 0 and len(starts) < 6 else ''}{process[start]}"
        axes.annotate(
            text, (start + 0.5, 1), (2, -1), xycoords=("data", "axes fraction"),
            textcoords="offset points", fontsize=8, color=INK, va="top",
        )  # fmt: skip


def _over_time_finding(
    data: RunData, case: Summary, rounds: Rounds, disturbed: Mapping[str, Ints], each: int
) -> str:
    unit = nanoseconds(data.summary)
    n = len(rounds.process)
    found = []
    for index, method in enumerate(case["methods"]):
        values = rounds.ns_per_exit[:, index]
        values = values[np.isfinite(values)]
        if len(values):
            low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
            found.append(
                f"{method} {significant(middle)} {unit} "
                f"({significant(low)} to {significant(high)} in 90 % of the rounds)"
            )
    text = f"Median over {plural(n, 'round')}: {listed(found)}."
    marks = [
        f"{_DISTURBED[name][1]} in {whole(int((total > 0).sum()))}"
        for name, total in disturbed.items()
    ]
    text += f" Rounds with disturbances: {listed(marks)}." if marks else " No round was disturbed."
    if each > 1:
        text += (
            f" A point is the median of {each} consecutive rounds of a process, "
            "the pale bar their range."
        )
    return text


# --- paired differences ------------------------------------------------------------------------


def draw_differences(data: RunData) -> list[Plot]:
    """Method - baseline round by round, beside the A/A control: a plot per series and method."""
    pairs = [(case, method) for case in _telling_cases(data) for method in contrasts(case)]
    return draw_each(pairs, lambda pair: _differences_plot(data, pair))


def difference_pairs(data: RunData) -> list[CaseAndMethod]:
    """The cases whose rounds can be drawn, each with the methods that are compared."""
    return [(case, method) for case in round_cases(data) for method in contrasts(case)]


def difference_title(data: RunData, pair: CaseAndMethod) -> str:
    """What distinguishes the plot from those of other cases and methods."""
    case, method = pair
    return titled(data, f"{plain(method)} - {plain(str(case['baseline']))}, {where(data, case)}")


def _differences_plot(data: RunData, pair: CaseAndMethod) -> Plot:
    title = difference_title(data, pair)
    canvas, axes = new_plot(title, _HEIGHT_INCHES)
    return Plot(title, draw_differences_on(axes, data, pair), canvas)


def draw_differences_on(axes: Axes, data: RunData, pair: CaseAndMethod) -> str:
    """Draw one of :func:`difference_pairs`. Returns what the plot shows, in sentences."""
    case, method = pair
    unit = nanoseconds(data.summary)
    contrast, control, baseline = contrasts(case)[method], case["control"], str(case["baseline"])
    found = read_pairs(data.reader, case["id"], contrast["metric"])
    sides = [(found[method], contrast, style(data, method)[0])]
    if control["ci95"] is not None:
        sides.append((found[baseline], control, BAND))
    every = np.concatenate([part for paired, _, _ in sides for part in paired.differences])
    means = [mean for paired, _, _ in sides for mean in paired.processes()]
    ends = [end for _, summary, _ in sides for end in summary["ci95"]]
    limits = _bulk(every, 0.0, *means, *ends)
    longest = max(paired.count for paired, _, _ in sides)
    each = -(-longest // MOST_DOTS)
    for index, (paired, summary, colour) in enumerate(sides):
        left = _APART * index * longest
        _draw_side(axes, left, longest / 1000, paired, summary, colour, limits, each)
    if len(sides) > 1:
        axes.axvline((1 + _APART) / 2 * longest, color=INK, alpha=0.5, linewidth=0.8)
    axes.axhline(0, color=INK, linewidth=0.9)
    axes.set_ylim(limits)
    axes.set_xlim(-0.02 * longest, (1 + _APART * (len(sides) - 1) + 0.02) * longest)
    middles = [(_APART * index + 0.5) * longest for index in range(len(sides))]
    axes.xaxis.set_major_locator(FixedLocator(middles))
    # A tick's label has no switch for formulas, but an escaped dollar begins none.
    names = [plain(method, 25).replace("$", r"\$"), "A/A control"]
    axes.xaxis.set_major_formatter(FixedFormatter(names[: len(sides)]))
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_time(value)))
    drawn = "each" if each == 1 else f"every {ordinal(each)}"
    axes.set_xlabel(f"rounds in the order of time [{drawn} is a dot]")
    axes.set_ylabel(f"difference [{unit} {per(contrast['metric'])}]")
    _differences_legend(axes, [colour for _, _, colour in sides])
    beyond = int(((every < limits[0]) | (every > limits[1])).sum())
    finding = [f"{cost(contrast, unit)}, from {plural(contrast['rounds'], 'round')}"]
    if len(sides) > 1:
        finding.append(
            f"the A/A control, {baseline} against itself, is at {amount(control, unit)} "
            f"{interval(control)}"
        )
    text = sentence("; ".join(finding))
    if beyond:
        text += f" {plural(beyond, 'dot lies', 'dots lie')} beyond the axis, marked at its edge."
    return text


def _draw_side(
    axes: Axes,
    left: float,
    dot: float,
    paired: Paired,
    summary: Summary,
    colour: str,
    limits: tuple[float, float],
    each: int,
) -> None:
    """The dots of one side, the location of each process, and the estimate with its band."""
    parts = paired.differences
    values = np.concatenate(parts)
    at: Floats = left + np.arange(len(values), dtype=np.float64) + 0.5
    ends = (left, left + len(values))
    low, high = summary["ci95"]
    axes.fill_between(ends, low, high, color=colour, alpha=0.25, linewidth=0)
    shown = (at[::each], values[::each])
    inside = (shown[1] >= limits[0]) & (shown[1] <= limits[1])
    size = 2.6 if len(shown[0]) < MOST_DOTS / 2 else 2.0
    x, y = shown[0][inside], shown[1][inside]
    draw_strokes(axes, (x, y), (x + dot, y), colour, linewidth=size, alpha=0.6)
    _draw_beyond(axes, at, values, limits, colour)
    axes.plot(ends, [summary["diff"]] * 2, color=colour, linewidth=1.8)
    edges = left + np.cumsum([0, *map(len, parts)])
    if len(parts) > 1:
        means = np.array(paired.processes())
        gap = 0.06 * np.diff(edges)
        draw_strokes(
            axes, (edges[:-1] + gap, means), (edges[1:] - gap, means), INK, linewidth=2.0,
            capstyle="butt",
        )  # fmt: skip


def _differences_legend(axes: Axes, colours: Sequence[str]) -> None:
    dot: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 3}
    handles: list[Any] = [
        Line2D([], [], color=colours[0], **dot),
        Line2D([], [], color=INK, linewidth=2.0),
        Line2D([], [], color=colours[0], linewidth=1.8),
        Patch(color=colours[0], alpha=0.25),
    ]
    names = ["a round", "estimate of a process", "estimate", "95 % interval"]
    draw_legend(axes, handles, names, split=2)
