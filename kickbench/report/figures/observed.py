# SPDX-License-Identifier: Apache-2.0
"""The figures of a VM that was observed: why it leaves, its times, its rates and its kicks."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from kickbench.numbers import listed, plural, significant
from kickbench.report.figures.plots import (
    BAND,
    INK,
    LINEAR,
    LOGARITHMIC,
    Plot,
    draw_each,
    draw_legend,
    draw_strokes,
    engineering,
    log_ticks,
    new_plot,
    on_both,
    plain,
    round_ticks,
    tick_time,
    titled,
)
from kickbench.report.words.names import (
    Summary,
    duration,
    finished,
    microseconds,
    second_name,
    seconds,
)
from kickbench.report.words.observed import STATES, a_second, percent, vm_name, way_name
from kickbench.stats.quantiles import sample_quantiles
from kickbench.summary.data import RunData
from kickbench.summary.observed import FIGURES, PAUSE_ENDS, find_pauses, merged_bins, read_columns
from kickbench.summary.observed import STATES as STATE_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Rows = dict[str, NDArray[Any]]
    _Line = tuple[str, NDArray[Any], NDArray[Any]]
    """A name, times in s, and exits per second."""

_COLOUR = "#0072b2"
_LOOKS = (
    # Four colours that eyes without one kind of cones tell apart, and dashes that repeat them.
    ("#0072b2", "-"),
    ("#d55e00", "--"),
    ("#009e73", ":"),
    ("#9e7e98", "-."),
)
_TIMES = {
    "gap_ns": "from exit to exit",
    "in_run_ns": "in KVM_RUN",
    "userspace_ns": "in user space",
}
_PAUSED = {"first": "first vCPU", "median": "median vCPU", "last": "last vCPU"}
MOST_WAYS = 8
"""Ways to leave in a drawing; the table has more."""
_MOST_VCPUS = len(_LOOKS) - 1
"""vCPUs with a line of their own if there are more. The others have a line of their mean."""
_BAR_INCHES, _LINE_INCHES = 0.17, 0.15
_LONGEST_LINE = 54
"""Characters of a line beside a bar."""
_MOST_POINTS = 400
"""Points of a line, and strokes of a kind; more would not be seen."""


# --- why it leaves -----------------------------------------------------------------------------


def draw_ways(data: RunData) -> list[Plot]:
    """The most frequent ways to leave: a plot per VM."""
    return draw_each(way_cases(data), lambda case: _ways_plot(data, case))


def way_cases(data: RunData) -> list[Summary]:
    """The VMs that left."""
    return [
        case
        for case in finished(data.summary, "observed")
        if any(way["share"] > 0 for way in case["exits"]["ways"])
    ]


def vm_title(data: RunData, case: Summary) -> str:
    """What distinguishes the plot from those of other VMs."""
    return titled(data, vm_name(case))


def _ways_plot(data: RunData, case: Summary) -> Plot:
    exits = case["exits"]
    ways = exits["ways"][:MOST_WAYS]
    title = vm_title(data, case)
    canvas, axes = new_plot(title, 0.9 + _row_inches(_way_texts(data, case)) * len(ways))
    draw_ways_on(axes, data, case)
    most = ways[0]
    said = (
        f"Most often it leaves {way_name(most)}: {percent(most['share'])} of the "
        f"exits.{_mean_times(data, most)}"
    )
    if (missing := exits["n_ways"] - len(ways)) > 0:
        said += f" {plural(missing, 'rarer way', 'rarer ways')} to leave " + (
            "is not drawn." if missing == 1 else "are not drawn."
        )
    return Plot(title, said, canvas)


def _way_texts(data: RunData, case: Summary) -> list[list[str]]:
    """The lines above the bar of each way that is drawn, without its name."""
    ways = case["exits"]["ways"][:MOST_WAYS]
    return [textwrap.wrap(_times_of(data, case, way), _LONGEST_LINE) for way in ways]


def _row_inches(texts: Sequence[Sequence[str]]) -> float:
    """The height of a bar with its lines."""
    return _BAR_INCHES + _LINE_INCHES * (1 + max(map(len, texts))) + 0.1


def draw_ways_on(axes: Axes, data: RunData, case: Summary) -> None:
    """Draw one of :func:`way_cases`."""
    ways = case["exits"]["ways"][:MOST_WAYS]
    texts = _way_texts(data, case)
    bar = _BAR_INCHES / _row_inches(texts)
    largest = max(100 * way["share"] for way in ways)
    for y, (way, text) in enumerate(zip(ways, texts, strict=True)):
        axes.barh(y, 100 * way["share"], height=bar, color=_COLOUR, linewidth=0)
        looks: dict[str, Any] = {"textcoords": "offset points", "color": INK, "va": "bottom"}
        up = 1.5 + 72 * _LINE_INCHES * len(text)
        for words, size, above in ((_capital(way_name(way)), 9, up), ("\n".join(text), 8.5, 1.5)):
            drawn = axes.annotate(words, (0, y - bar / 2), (3, above), fontsize=size, **looks)
            drawn.set_in_layout(False)  # or the axes would shrink to make room for a long line
    axes.set_xlim(0, 1.02 * largest)
    axes.set_ylim(len(ways) - 1 + bar, bar / 2 - 1)
    axes.yaxis.set_major_locator(NullLocator())
    axes.grid(visible=False, axis="y")
    round_ticks(axes, "x", lambda value: f"{value:.6g}")
    axes.set_xlabel("share of the exits [%]")
    axes.set_ylabel("way to leave")


def _capital(text: str) -> str:
    text = plain(text, 60)
    return text[:1].upper() + text[1:]


def _times_of(data: RunData, case: Summary, way: Summary) -> str:
    """E.g. "92 %, 38,000/s; KVM_RUN 2.5 µs, user space 10 µs"."""
    rate = way["share"] * case["exits"]["per_second"]
    unit = seconds(data.summary)
    words = [f"{percent(way['share'])}, {significant(rate, 3)}/{unit}"]
    times = [
        f"{name} {duration(data.summary, way[key])}"
        for key, name in (("in_run_ns", "KVM_RUN"), ("userspace_ns", "user space"))
        if way[key] is not None
    ]
    return "; ".join([*words, *([", ".join(times)] if times else [])])


def _mean_times(data: RunData, way: Summary) -> str:
    if way["in_run_ns"] is None or way["userspace_ns"] is None:
        return ""
    inside, outside = (duration(data.summary, way[key]) for key in ("in_run_ns", "userspace_ns"))
    return f" On average {inside} in KVM_RUN came before and {outside} in user space after it."


# --- how long ----------------------------------------------------------------------------------


def draw_exit_times(data: RunData) -> list[Plot]:
    """The distributions of the gap, and of the times in and outside KVM_RUN: a plot per VM."""
    return draw_each(time_cases(data), lambda case: _times_plot(data, case))


def time_cases(data: RunData) -> list[Summary]:
    """The VMs of which exits were looked at closely."""
    cases = _with_tables(data)
    return [case for case in cases if any(case["times"][figure]["n"] for figure in FIGURES)]


def _times_plot(data: RunData, case: Summary) -> Plot:
    title = vm_title(data, case)
    canvas, axes = new_plot(title)
    draw_exit_times_on(axes, data, case)
    times = case["times"]
    said = [
        f"{duration(data.summary, times[key]['p50'])} {name}"
        for key, name in _TIMES.items()
        if times[key]["p50"] is not None
    ]
    return Plot(title, f"At p50 it took {listed(said)}." if said else "", canvas)


def draw_exit_times_on(axes: Axes, data: RunData, case: Summary) -> None:
    """Draw one of :func:`time_cases`."""
    rows = read_columns(data.reader, case["id"], "observed_times")
    axes.set_xscale("log")
    handles, names, drawn = [], [], []
    for (key, name), (colour, dashes) in zip(_TIMES.items(), _LOOKS, strict=False):
        chosen = rows["figure"] == FIGURES.index(key)
        low, high, count = merged_bins({name: column[chosen] for name, column in rows.items()})
        if not len(low):
            continue
        # A bin's times are spread over it, so the line begins at the lower edge of the first.
        x = np.maximum(np.append(low[:1], high), 1.0) / 1e3
        share = np.append(0.0, np.cumsum(count) / count.sum())
        handles += axes.plot(x, 100 * share, dashes, color=colour, linewidth=1.6)
        names.append(name)
        drawn += [x[share <= 0.001][-1], x[share >= 0.9999][0]]
    _share_axes(
        axes, drawn, f"time [{microseconds(data.summary)}]", "exits that took no longer [%]"
    )
    draw_legend(axes, handles, names)


def _share_axes(axes: Axes, times: Sequence[float], below: str, beside: str) -> None:
    log_ticks(axes, [max(float(time), 1e-3) for time in times], "x", tick_time)
    axes.set_ylim(0, 101)
    axes.set_xlabel(below)
    axes.set_ylabel(beside)


# --- how often, over time ----------------------------------------------------------------------


@dataclass(frozen=True)
class Turns:
    """What a VM did in the turns of its observation."""

    case: Summary
    turns: Rows
    kicks: Rows


def draw_exits_over_time(data: RunData) -> list[Plot]:
    """Exits per second over the observation, by vCPU, with kicks and pauses: a plot per VM."""
    return draw_each(turn_groups(data), lambda group: _over_time_plot(data, group))


def turn_groups(data: RunData) -> list[Turns]:
    """The VMs that were observed for a turn."""
    found = []
    for case in _with_tables(data):
        turns = read_columns(data.reader, case["id"], "observed_turns")
        if len(turns["turn"]):
            kicks = read_columns(data.reader, case["id"], "observed_kicks")
            found.append(Turns(case, turns, kicks))
    return found


def turn_title(data: RunData, group: Turns) -> str:
    """What distinguishes the plot from those of other VMs."""
    return vm_title(data, group.case)


def _over_time_plot(data: RunData, group: Turns) -> Plot:
    _, total = _lines(group)
    low, high = (significant(end, 3) for end in (total.min(), total.max()))
    said = f"All vCPUs together left {low} times {a_second(data.summary)}"
    said += "." if low == high else f" in the quietest turn, and {high} in the busiest one."
    return on_both(
        turn_title(data, group),
        said,
        lambda axes, scale: draw_exits_over_time_on(axes, data, group, scale),
        LINEAR,
        LOGARITHMIC,
    )


def draw_exits_over_time_on(axes: Axes, data: RunData, group: Turns, scale: str) -> None:
    """Draw one of :func:`turn_groups`, on an axis of rates with this scale."""
    lines, _ = _lines(group)
    rates = np.concatenate([rate for _, _, rate in lines])
    handles = []
    for (_, at, rate), (colour, dashes) in zip(lines, _LOOKS, strict=False):
        if scale == LOGARITHMIC:
            rate = np.maximum(rate, max(float(rates.max()) / 1e6, 0.1))
        marker = "o" if len(at) == 1 else ""
        handles += axes.plot(at, rate, dashes, color=colour, marker=marker, linewidth=1.6)
    _rate_axis(axes, rates, scale)
    axes.set_xlim(0, max(group.case["seconds"], 1e-3))
    axes.set_xlabel(f"time [{seconds(data.summary)}]")
    axes.set_ylabel(f"exits per {second_name(data.summary)}")
    pauses = find_pauses(group.kicks, group.case["vcpus"])
    marks = _draw_marks(axes, {"kick": group.kicks["at_ns"], "pause": pauses["at"]})
    draw_legend(
        axes,
        [*handles, *(handle for handle, _ in marks)],
        [*(name for name, _, _ in lines), *(name for _, name in marks)],
    )


def _lines(group: Turns) -> tuple[list[_Line], NDArray[Any]]:
    """The lines of the busiest vCPUs and of the mean of the others, and the rate of them all."""
    case, turns = group.case, group.turns
    numbers, first, turn = np.unique(turns["turn"], return_index=True, return_inverse=True)
    n_points = min(len(numbers), _MOST_POINTS)
    point_of = np.arange(len(numbers)) * n_points // len(numbers)
    counts = np.zeros((case["vcpus"], n_points))
    np.add.at(counts, (turns["vcpu"], point_of[turn]), turns["exits"])
    elapsed = np.bincount(point_of, np.maximum(turns["elapsed_ns"][first], 1) / 1e9)
    begin = turns["at_ns"][first][np.searchsorted(point_of, np.arange(n_points))] / 1e9
    rates, middle = counts / elapsed, begin + elapsed / 2
    order = np.argsort(-counts.sum(axis=1), kind="stable")
    alone = order if len(order) <= len(_LOOKS) else order[:_MOST_VCPUS]
    found = [(f"vCPU {index}", middle, rates[index]) for index in sorted(alone.tolist())]
    if len(others := order[len(alone) :]):
        found.append((f"mean of the other {len(others)}", middle, rates[others].mean(axis=0)))
    return found, rates.sum(axis=0)


def _rate_axis(axes: Axes, rates: NDArray[Any], scale: str) -> None:
    most = max(float(rates.max()), 1.0)
    if scale == LOGARITHMIC:
        axes.set_yscale("log")
        least = rates[rates > 0].min(initial=most)
        log_ticks(axes, [max(float(least), most / 1e6), 1.5 * most], "y", engineering)
    else:
        axes.set_ylim(0, 1.08 * most)
        round_ticks(axes, "y", engineering)


def _draw_marks(axes: Axes, times_ns: dict[str, NDArray[Any]]) -> list[tuple[Line2D, str]]:
    """Strokes at the upper edge, where kicks and pauses were; returns the legend's entries."""
    entries = []
    for (name, times), (length, colour) in zip(
        times_ns.items(), ((0.03, BAND), (0.07, INK)), strict=True
    ):
        if not len(times):
            continue
        # Strokes that would be one are drawn once.
        end = axes.get_xlim()[1]
        width = end / _MOST_POINTS
        at = np.unique(np.floor(times[times < end * 1e9] / 1e9 / width)) * width + width / 2
        draw_strokes(
            axes,
            (at, np.full(len(at), 1.0)),
            (at, np.full(len(at), 1 - length)),
            colour,
            transform=axes.get_xaxis_transform(),
            linewidth=1,
            capstyle="butt",
        )
        handle = Line2D(
            [], [], color=colour, marker="|", linestyle="none", markersize=3 + 80 * length
        )
        entries.append((handle, plural(len(times), name)))
    return entries


# --- kicks -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Events:
    """The kicks or the pauses of a VM, and by their names what they took in ns."""

    kind: Literal["kicks", "pauses"]
    case: Summary
    times: dict[str, NDArray[Any]]


def draw_observed_kicks(data: RunData) -> list[Plot]:
    """How long kicks took by what the vCPU did, and how long pauses: two plots per VM."""
    return draw_each(event_groups(data), lambda group: _events_plot(data, group))


def event_groups(data: RunData) -> list[Events]:
    """The kicks and the pauses of each VM, if there were any."""
    found = []
    for case in _with_tables(data):
        rows = read_columns(data.reader, case["id"], "observed_kicks")
        latencies = _latencies(rows)
        pauses = find_pauses(rows, case["vcpus"])
        if latencies:
            found.append(Events("kicks", case, latencies))
        if len(pauses["last"]):
            # Of two vCPUs, the median one is the first.
            ends = {
                _PAUSED[name]: pauses[name]
                for name in PAUSE_ENDS
                if name != "median" or case["vcpus"] > 2
            }
            found.append(Events("pauses", case, ends))
    return found


def event_title(data: RunData, group: Events) -> str:
    """What distinguishes the plot from those of other VMs and of other events."""
    what = "kick latency" if group.kind == "kicks" else "pauses"
    return titled(data, f"{what}, {vm_name(group.case)}")


def _latencies(rows: Rows) -> dict[str, NDArray[Any]]:
    """Latencies in ns by what the vCPU did, and until the handler was entered."""
    left, handled = rows["latency_ns"], rows["handled_ns"]
    found = {
        words: left[(rows["state"] == STATE_NAMES.index(state)) & (left >= 0)]
        for state, words in STATES.items()
    }
    found["until the handler ran"] = handled[handled >= 0]
    return {name: times for name, times in found.items() if len(times)}


def _events_plot(data: RunData, group: Events) -> Plot:
    title = event_title(data, group)
    canvas, axes = new_plot(title)
    draw_events_on(axes, data, group)
    finding = _kicks_finding if group.kind == "kicks" else _pauses_finding
    return Plot(title, finding(data, group.times), canvas)


def draw_events_on(axes: Axes, data: RunData, group: Events) -> None:
    """Draw one of :func:`event_groups`."""
    axes.set_xscale("log")
    looks = iter(_LOOKS)
    handles, drawn = [], []
    for name, values in group.times.items():
        colour, dashes = (INK, (0, (1, 1))) if name.startswith("until") else next(looks)
        x, share = _steps(values)
        handles += axes.plot(
            x, 100 * share, linestyle=dashes, color=colour, linewidth=1.6, drawstyle="steps-post"
        )
        drawn += [x[0], x[-1]]
    which = "first kick" if group.kind == "pauses" else "kick"
    below = f"time since the {which} [{microseconds(data.summary)}]"
    _share_axes(axes, drawn, below, f"{group.kind} that took no longer [%]")
    names = [f"{name} ({len(values):,})" for name, values in group.times.items()]
    draw_legend(axes, handles, names)


def _steps(values_ns: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The share of the times up to each of them in µs, thinned to what can be seen."""
    x = np.maximum(np.sort(values_ns.astype(np.float64)) / 1e3, 1e-3)
    share = np.arange(1, len(x) + 1) / len(x)
    if len(x) > _MOST_POINTS:
        share = np.linspace(0, 1, _MOST_POINTS + 1)[1:]
        x = sample_quantiles(x, share)
    return np.append(x[:1], x), np.append(0.0, share)


def _kicks_finding(data: RunData, times: dict[str, NDArray[Any]]) -> str:
    medians = [f"{_median(data, values)} {name}" for name, values in times.items()]
    return f"At p50 a kick took {listed(medians)}."


def _pauses_finding(data: RunData, times: dict[str, NDArray[Any]]) -> str:
    medians = [f"{_median(data, ns)} until the {name} had answered" for name, ns in times.items()]
    return f"At p50 a pause took {listed(medians)}."


def _median(data: RunData, values_ns: NDArray[Any]) -> str:
    return duration(data.summary, float(sample_quantiles(values_ns, [0.5])[0]))


def _with_tables(data: RunData) -> Iterable[Summary]:
    """The cases whose tables are there."""
    cases = finished(data.summary, "observed")
    return [case for case in cases if case["id"] not in data.without_tables]
