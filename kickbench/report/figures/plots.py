# SPDX-License-Identifier: Apache-2.0
"""What the plots of all figures share: their size, colours, axes, legends and words.

A plot is a small matplotlib figure, made without pyplot or any other global state. A sentence says
what it shows, for readers who cannot see it. :mod:`kickbench.report.figures.svg` puts it into a
page.

The first colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/). A method has one
colour throughout, and markers and dashes repeat what the colours say. The other colours are chosen
for a contrast of at least 3 both on white and on the dark page. Within that, they are as far apart
as possible for readers who lack one of the three kinds of cones.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from kickbench.report.words.differences import part_name, parts
from kickbench.report.words.names import (
    Series,
    Summary,
    conditions,
    crowded,
    emulation,
    label,
    rate_name,
)
from kickbench.summary.data import RunData
from kickbench.text import printable, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend
    from numpy.typing import ArrayLike

_T = TypeVar("_T")

# matplotlib has read the matplotlibrc of the user and of the current directory, which can be a
# foreign folder. Neither may start LaTeX, or change the bytes of a report.
mpl.rcdefaults()

INK = "#010203"
"""Text and axes. The page replaces exactly this colour by its own, for light and dark."""
BAND = "#7f8080"
SIZE_INCHES = (4.4, 3.3)
"""Small enough that the text is readable on a page as wide as a telephone."""

METHOD_STYLES: dict[str, tuple[str, str]] = {
    # method: (colour, marker)
    "flag_signal": ("#9e7e98", "v"),
    "sigmask": ("#d55e00", "o"),
    "sigmask_same": ("#c32dff", "p"),
    "immediate_exit": ("#0072b2", "s"),
    "immediate_exit_remote": ("#7e77ff", "D"),
    "user_exit": ("#009e73", "^"),
    "exitfd": ("#946246", "P"),
    "immediate_exit_remote_flag_first": ("#bf397a", "<"),
}
WAY_STYLES: dict[str, tuple[str, str]] = {
    # The ways of a guest hypervisor use four of the same colours: no plot has both.
    "plain": ("#0072b2", "H"),
    "pending": ("#d55e00", ">"),
    "pending_no_injection": ("#009e73", "d"),
    "asynchronous": ("#9e7e98", "8"),
}
STYLES = METHOD_STYLES | WAY_STYLES
OTHER_STYLES = (("#8c8946", "X"), ("#cc331f", "h"), ("#a026ff", "."), (BAND, "*"))
"""For protocols that are not in the catalogue, in the order in which a run has them."""
PART_STYLE = ("#aa7766", "d")
"""For the part of a cost that a control isolates, such as siglock; no method has this marker."""
DASHES = ("-", "--", ":", "-.")

_TITLE_WIDTH = 46
_LONGEST_DIFFERENCE = 38
_LONGEST_TICKS = 48
"""Characters of all ticks of a horizontal axis together, with two after each tick."""
_MOST_TICKS = 9
_LONGEST_IN_TWO_COLUMNS = 44
"""Characters of a legend's two columns: the longest names of both, added."""
_LONGEST_IN_LEGEND = 46
"""Characters of a line of a legend; longer names have two."""
_LEGEND_ROW_INCHES = 0.19

MOST_PLOTS = 8
"""A figure has at most this number of plots; the table has every case."""


class PageCanvas(Canvas):
    """The drawing of a report. Its legend is below the axes, and the drawing grows by it."""


@dataclass(frozen=True)
class Plot:
    """One drawing: ``title`` says which part of the run, ``finding`` what it shows.

    ``alternative`` is the same on another scale. ``scales`` has the names of the two scales, that
    of ``canvas`` first. Both are None if only one scale makes sense.
    """

    title: str
    finding: str
    canvas: Canvas
    alternative: Canvas | None = None
    scales: tuple[str, str] | None = None

    def on(self, *, alternative: bool = False) -> Canvas:
        """The drawing on the main scale, or on the alternative one.

        Raises ValueError if there is no alternative.
        """
        if not alternative:
            return self.canvas
        if self.alternative is None:
            raise ValueError(f"the plot {self.title!r} has one scale only")
        return self.alternative


def draw_each(groups: Sequence[_T], draw: Callable[[_T], Plot]) -> list[Plot]:
    """A plot per group, :data:`MOST_PLOTS` at most; the last one says how many are left out."""
    plots = [draw(group) for group in groups[:MOST_PLOTS]]
    if len(groups) > MOST_PLOTS:
        missing = f"{len(groups) - MOST_PLOTS} more plots like these are left out."
        plots[-1] = replace(plots[-1], finding=f"{plots[-1].finding} {missing}")
    return plots


LOGARITHMIC, LINEAR = "logarithmic", "linear"
"""The names of scales."""


def on_both(
    title: str, finding: str, draw: Callable[[Axes, str], object], main: str, other: str
) -> Plot:
    """A plot on two scales; ``draw`` gets the axes and the name of the scale."""

    def on(scale: str) -> Canvas:
        canvas, axes = new_plot(title)
        draw(axes, scale)
        return canvas

    return Plot(title, finding, on(main), on(other), (main, other))


# --- parts of a plot ---------------------------------------------------------------------------


def style(data: RunData, method: str) -> tuple[str, str]:
    """The colour and marker of a method, or of a part of its cost, the same in all figures."""
    if method in STYLES:
        return STYLES[method]
    if any(method == part_name(part) for case in data.finished for part in parts(case)):
        return PART_STYLE
    methods = dict.fromkeys(m for case in data.finished for m in case["methods"])
    others = [m for m in methods if m not in STYLES]
    return OTHER_STYLES[others.index(method) % len(OTHER_STYLES)]


def telling(data: RunData, points: Sequence[tuple[Summary, _T]]) -> tuple[Summary, _T]:
    """The point for a sentence: that with the most vCPUs that had enough CPUs."""
    sound = [point for point in points if point[0]["id"] not in data.oversubscribed]
    return sound[-1] if sound else points[0]


def with_crowd(data: RunData, case: Summary, text: str) -> str:
    """The text, with a remark if the case had more vCPUs than CPUs."""
    return text + crowded(case, data.oversubscribed)


def where(data: RunData, case: Summary) -> str:
    """A case in a few words, with a remark if it had more vCPUs than CPUs."""
    return with_crowd(data, case, label(data.summary, case))


def titled(data: RunData, text: str) -> str:
    """A plot's title; that of an emulated run begins with "Emulated"."""
    return ": ".join(filter(None, [emulation(data.summary), text]))


def case_title(data: RunData, case: Summary) -> str:
    """The title of a plot of one case."""
    return titled(data, where(data, case))


def apart_from_placement(data: RunData, series: Series) -> str:
    """What distinguishes this plot from the others of the figure, without the placement."""
    words = conditions(data.summary, series, of_kind=False)
    words = words.removeprefix(str(series.placement)).lstrip(", ")
    return words or rate_name(series.exit_rate_hz)


def difference_name(method: str, baseline: str) -> str:
    """The words of a vertical axis of differences; "method - baseline" if they do not fit."""
    name = f"{plain(method)} - {plain(baseline)}"
    return name if len(name) <= _LONGEST_DIFFERENCE else "method - baseline"


def new_plot(title: str, height_inches: float = SIZE_INCHES[1]) -> tuple[Canvas, Axes]:
    """An empty plot with its title, in the colours of the page."""
    canvas = PageCanvas(figsize=(SIZE_INCHES[0], height_inches), layout="constrained")
    axes = canvas.add_subplot()
    draw_title(axes, title)
    for spine in axes.spines.values():
        spine.set_color(INK)
        spine.set_alpha(0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.label.set(color=INK, size=10)
    axes.yaxis.label.set(color=INK, size=10, parse_math=False)
    axes.grid(color=INK, alpha=0.12, linewidth=0.8)
    axes.patch.set_visible(False)
    canvas.patch.set_visible(False)
    return canvas, axes


def draw_title(axes: Axes, title: str) -> None:
    """The title in lines that fit. It can be foreign text."""
    shown = "\n".join(textwrap.wrap(plain(title, 100), _TITLE_WIDTH))
    axes.set_title(shown, color=INK, fontsize=10, loc="left", parse_math=False)


def draw_legend(
    axes: Axes,
    handles: list[Any],
    names: Sequence[str],
    *,
    split: int | None = None,
) -> None:
    """Draws the legend below the axes, so that no line crosses it. The plot grows by it.

    It has two columns if they fit. The first has ``split`` entries, by default half of them. Names
    can be foreign text. In a drawing that is no report's the legend is within the axes.
    """
    # matplotlib leaves out names that begin with an underscore.
    shown = [f" {name}" if name.startswith("_") else name for name in map(_folded, names)]
    canvas = axes.get_figure()
    if not isinstance(canvas, PageCanvas):
        _without_formulas(axes.legend(handles, shown, fontsize="small"))
        return
    first = -(-len(shown) // 2) if split is None else split
    longest = [max(map(len, part), default=0) for part in (shown[:first], shown[first:])]
    columns = 2 if sum(longest) <= _LONGEST_IN_TWO_COLUMNS else 1
    handles = list(handles)
    if columns == 2:
        missing = 2 * first - len(shown)  # pad the shorter column
        at = len(shown) if missing > 0 else first
        handles[at:at] = [Patch(alpha=0)] * abs(missing)
        shown[at:at] = [""] * abs(missing)
    lines = len(shown) // columns + sum(name.count("\n") for name in shown)
    canvas.set_figheight(canvas.get_figheight() + _LEGEND_ROW_INCHES * lines)
    legend = canvas.legend(
        handles,
        shown,
        loc="outside lower left",
        ncols=columns,
        handlelength=2.2,
        fontsize=9,
        labelcolor=INK,
        framealpha=0,
    )
    _without_formulas(legend)


def _without_formulas(legend: Legend) -> None:
    for text in legend.get_texts():
        text.set_parse_math(False)


def _folded(name: str) -> str:
    return "\n".join(textwrap.wrap(plain(name, 2 * _LONGEST_IN_LEGEND), _LONGEST_IN_LEGEND))


def draw_markers(
    axes: Axes,
    data: RunData,
    points: Iterable[tuple[Summary, float]],
    colour: str,
    marker: str,
    dashes: str = "-",
) -> Any:
    """Draw a marker per case, hollow if it had too few CPUs, and return the legend's handle."""
    points = list(points)
    for crowd in (False, True):
        drawn = [(c["vcpus"], v) for c, v in points if (c["id"] in data.oversubscribed) == crowd]
        if drawn:
            face = "none" if crowd else colour
            x, y = zip(*drawn, strict=True)
            axes.plot(x, y, marker, color=colour, markerfacecolor=face, markersize=6)
    return axes.plot([], [], color=colour, linestyle=dashes, marker=marker, markersize=6)[0]


def draw_intervals(
    axes: Axes,
    at: Sequence[float],
    intervals: Sequence[Sequence[float] | None],
    colour: str,
    *,
    flat: bool = False,
) -> None:
    """Draws the intervals that exist as bars with caps, at ``at``, vertical or ``flat``."""
    there = [(x, ends) for x, ends in zip(at, intervals, strict=True) if ends is not None]
    if not there:
        return
    places = [x for x, _ in there]
    low, high = np.array([ends for _, ends in there], dtype=np.float64).T
    middle, half = (low + high) / 2, (high - low) / 2
    looks: dict[str, Any] = {"color": colour, "linestyle": "none", "capsize": 4, "linewidth": 1.4}
    if flat:
        axes.errorbar(middle, places, xerr=half, **looks)
    else:
        axes.errorbar(places, middle, yerr=half, **looks)


def draw_cut_ends(
    axes: Axes,
    at: Sequence[float],
    intervals: Sequence[Sequence[float] | None],
    colour: str,
    *,
    flat: bool = False,
) -> None:
    """Draws an arrow at the edge for each end of :func:`draw_intervals` beyond the axis.

    The limits of the axis must be final.
    """
    low, high = axes.get_xlim() if flat else axes.get_ylim()
    before, after = ("<", ">") if flat else ("v", "^")
    for place, ends in zip(at, intervals, strict=True):
        if ends is None or ends[1] < low or ends[0] > high:
            continue
        for edge, cut, marker in ((low, ends[0] < low, before), (high, ends[1] > high, after)):
            if cut:
                x, y = (edge, place) if flat else (place, edge)
                axes.plot([x], [y], marker, color=colour, markersize=4.5, clip_on=False)


def level(
    figures: Summary, name: str, total: float | None
) -> tuple[float, list[float] | None] | None:
    """A method's own level, e.g. of "ns_per_exit", with its 95 % interval.

    Both come from the estimator that comparisons of runs use. A summary without it has only the
    ``total``, and no interval.
    """
    found = figures.get("estimates", {}).get(name, {})
    if (found.get("value") or 0) > 0:
        return float(found["value"]), found["ci95"]
    return (float(total), None) if total else None


def scaled(interval: Sequence[float] | None, factor: float) -> list[float] | None:
    """An interval in another unit."""
    return None if interval is None else [end * factor for end in interval]


def draw_control(axes: Axes, points: Iterable[tuple[float, Summary]]) -> list[Any]:
    """Draws the A/A controls' intervals as grey bars: differences within them mean nothing.

    Returns the legend's handle in a list, which is empty without a control.
    """
    ends: dict[float, list[float]] = {}
    for at, case in points:
        if case["control"]["ci95"]:
            ends.setdefault(at, []).extend(case["control"]["ci95"])
    if not ends:
        return []
    x = sorted(ends)
    low, high = [min(ends[at]) for at in x], [max(ends[at]) for at in x]
    axes.vlines(x, low, high, color=BAND, alpha=0.35, linewidth=14)
    return [Patch(color=BAND, alpha=0.35, linewidth=0)]


def draw_strokes(
    axes: Axes,
    begins: tuple[ArrayLike, ArrayLike],
    ends: tuple[ArrayLike, ArrayLike],
    colour: str,
    **looks: Any,
) -> None:
    """Draws many straight lines, from (x, y) to (x, y), as one path.

    One artist per line would make a page of megabytes. Very short lines are dots.
    """
    points = [
        np.column_stack(np.broadcast_arrays(*map(np.atleast_1d, at))) for at in (begins, ends)
    ]
    if not len(points[0]):
        return
    path = Path(
        np.stack(points, axis=1).reshape(-1, 2),
        np.tile([Path.MOVETO, Path.LINETO], len(points[0])),
    )
    axes.add_patch(PathPatch(path, fill=False, edgecolor=colour, **{"capstyle": "round", **looks}))


def vcpu_axis(axes: Axes, vcpus: Iterable[int]) -> None:
    """A logarithmic horizontal axis of vCPUs, with a tick at each number that was measured."""
    ticks = sorted(set(vcpus))
    axes.set_xscale("log", base=2)
    # If the ticks do not fit, the powers of two have one, or every second of them, and so on.
    shown = ticks
    if len(shown) > 9:
        shown = [tick for tick in ticks if tick & (tick - 1) == 0] or ticks
        shown = shown[:: -(-len(shown) // 9)]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
    axes.set_xlabel("vCPUs")


def linear_vcpu_axis(axes: Axes, vcpus: Iterable[int]) -> None:
    """A linear horizontal axis of vCPUs."""
    vcpus = list(vcpus)
    axes.set_xlim(0, 1.05 * max(vcpus))
    round_ticks(axes, "x", lambda value: f"{value:.0f}")
    most = max(vcpus)
    quarters = [most * i // 4 for i in range(5)]
    even = most % 4 == 0  # so are powers of two, and their quarters are usually measured
    axes.xaxis.set_major_locator(
        FixedLocator(quarters) if even else MaxNLocator(6, steps=[1, 2, 5, 10], integer=True)
    )
    axes.set_xlabel("vCPUs")


def log_ticks(
    axes: Axes, values: Sequence[float], which: str, words: Callable[[float], str]
) -> None:
    """Round ticks on a logarithmic axis, no more than fit beside each other.

    There are several even if the axis spans less than a power of ten.
    """
    high = max(values)
    low = max(min(values), high / 1e9)  # 0 has no place on a logarithmic axis
    axis, limit = (axes.xaxis, axes.set_xlim) if which == "x" else (axes.yaxis, axes.set_ylim)
    room = (high / low) ** 0.05 * 1.01
    low, high = low / room, high * room
    for candidates in _round_values(low, high):
        ticks = [tick for tick in candidates if low <= tick <= high]
        long = sum(len(words(tick)) + 2 for tick in ticks)
        if (long <= _LONGEST_TICKS) if which == "x" else (len(ticks) <= _MOST_TICKS):
            break
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
    limit(low, high)


def round_ticks(axes: Axes, which: str, words: Callable[[float], str]) -> None:
    """Round ticks on a linear axis."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))


def _round_values(low: float, high: float) -> Iterator[list[float]]:
    """Lists of round numbers from about ``low`` to about ``high``, the longest list first."""
    if high / low < 6:
        for count in (6, 5, 4, 3, 2):
            yield list(MaxNLocator(count, steps=[1, 2, 5, 10]).tick_values(low, high))
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        yield [step * 10.0**power for power in powers for step in steps]
    yield from ([10.0**power for power in powers if power % every == 0] for every in (2, 3))


def tick_time(value: float) -> str:
    """A tick of an axis of time."""
    return f"{value:,.10g}"


def engineering(value: float) -> str:
    """E.g. "20 k" or "1.5 M"."""
    for scale, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= scale:
            return f"{value / scale:.4g}{suffix}"
    return f"{value:.4g}"


def plain(text: str, longest: int = 40) -> str:
    """Foreign text, made safe and short enough for a plot."""
    return shorten(printable(text), longest)
