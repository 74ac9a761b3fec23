# SPDX-License-Identifier: Apache-2.0
"""The figure of a comparison: every difference of two runs with its interval, one below another.

The differences are in per cent of the base, so that cases and metrics of all sizes fit on one axis.
Each kind has a plot of levels, and one of paired differences. Figures that are no part of a level,
such as kicks lost, are in the tables only. Nothing is judged here.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kickbench.compare.metrics import METRICS
from kickbench.compare.runs import Comparison, Judged, Verdict
from kickbench.numbers import listed, measured, plural
from kickbench.report.figures.plots import BAND, INK, Plot, draw_cut_ends, new_plot, plain
from kickbench.report.words import comparison as compared
from kickbench.report.words.names import emulation, label
from kickbench.report.words.tables import TABLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import FillStyleType

MOST_ROWS = 24
"""A plot has at most this number of differences, the largest, to fit on paper. Tables have all."""

_LOOKS: dict[Verdict, tuple[str, str, FillStyleType]] = {
    # verdict: (colour, marker, how it is filled)
    "worse": ("#d55e00", "X", "full"),
    "maybe worse": ("#d55e00", "D", "left"),
    "same": (BAND, "o", "none"),
    "maybe better": ("#0072b2", "o", "left"),
    "better": ("#0072b2", "o", "full"),
}
_ROW_INCHES = 0.4
_LINE_INCHES = 0.13
_LONGEST_LINE = 58
"""Characters of a line of a label, which has two at most."""
_ROOM = 1.25


@dataclass(frozen=True)
class _Bar:
    """A difference in per cent of the base's level."""

    case: str
    text: str
    value: float
    low: float
    high: float
    verdict: Verdict


@dataclass(frozen=True)
class Bars:
    """The differences of a plot: those of levels, or paired ones, of a kind of measurement."""

    kind: str
    paired: bool
    every: Sequence[_Bar]

    @property
    def name(self) -> str:
        """What is compared."""
        return f"{TABLES[self.kind].title}{', method - baseline' if self.paired else ''}"

    @property
    def cases(self) -> list[str]:
        """The ids of the cases, one for each difference."""
        return [bar.case for bar in self.every]

    @property
    def shown(self) -> Sequence[_Bar]:
        """Those that are drawn."""
        if len(self.every) <= MOST_ROWS:
            return self.every
        largest = sorted(self.every, key=lambda bar: -abs(bar.value))[:MOST_ROWS]
        return [bar for bar in self.every if bar in largest][:MOST_ROWS]

    @property
    def row_inches(self) -> float:
        """The height of a row: a bar, and the text above it."""
        more = max(_label(bar.text).count("\n") for bar in self.shown)
        return _ROW_INCHES + _LINE_INCHES * more


def draw_differences(comparison: Comparison) -> list[Plot]:
    """By kind of measurement, a plot of the levels and one of the paired differences."""
    return [_plot(comparison, bars) for bars in difference_bars(comparison)]


def difference_bars(comparison: Comparison) -> list[Bars]:
    """What is drawn, by plot."""
    plots = []
    kinds = {judged.base.kind for judged in comparison.comparable}
    for kind in (kind for kind in TABLES if kind in kinds):
        for paired in (False, True):
            found = [
                judged
                for judged in comparison.comparable
                if judged.base.kind == kind and (judged.base.baseline is not None) == paired
            ]
            bars = [bar for judged in found if (bar := _bar(comparison, judged)) is not None]
            if bars:
                plots.append(Bars(kind, paired, bars))
    return plots


def bars_title(comparison: Comparison, bars: Bars) -> str:
    """What distinguishes the plot from the others of the comparison."""
    # Every figure of an emulated run says so, although this axis has no times.
    by = emulation(comparison.base) or emulation(comparison.other)
    return ": ".join(filter(None, [by, bars.name]))


def _bar(comparison: Comparison, judged: Judged) -> _Bar | None:
    base = judged.base
    level = abs((base.estimate.value if base.baseline is None else base.reference) or 0.0)
    if not level:
        return None
    # It is judged by this interval. Another one could contradict the verdict.
    found = judged.corrected
    case = next(case for case in comparison.base["cases"] if case["id"] == base.case)
    text = f"{METRICS[base.metric].title}: {base.method}, {label(comparison.base, case)}"
    verdict: Verdict = "worse" if judged.alarm else judged.verdict
    value, low, high = (100 * end / level for end in (found.value, found.low, found.high))
    return _Bar(base.case, text, value, low, high, verdict)


def _plot(comparison: Comparison, bars: Bars) -> Plot:
    title = bars_title(comparison, bars)
    canvas, axes = new_plot(title, height_inches=0.9 + bars.row_inches * len(bars.shown))
    draw_bars_on(axes, comparison, bars)
    return Plot(title, _finding(bars), canvas)


def draw_bars_on(axes: Axes, comparison: Comparison, bars: Bars) -> None:
    """Draw one of :func:`difference_bars`."""
    shown = bars.shown
    limit = _limit(comparison, bars)
    axes.set_xlim(-limit, limit)
    axes.set_ylim(len(shown) - 0.35, -0.75)
    axes.axvline(0, color=INK, linewidth=1, alpha=0.7)
    if not bars.paired:
        effect = 100 * comparison.min_effect
        axes.axvspan(-effect, effect, color=BAND, alpha=0.15, linewidth=0)
    for row, bar in enumerate(shown):
        _draw_bar(axes, row, bar, limit)
        axes.text(
            0.0,
            row - 0.13 / bars.row_inches,
            _label(bar.text),
            transform=axes.get_yaxis_transform(),
            color=INK,
            fontsize=8.5,
            linespacing=1.1,
            verticalalignment="bottom",
            parse_math=False,
        )
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
    of = "of the baseline's level" if bars.paired else "of the base"
    first, second = compared.names(comparison)
    axes.set_xlabel(plain(f"{second} - {first}", 60) + f" [% {of}]", parse_math=False)


def _draw_bar(axes: Axes, row: int, bar: _Bar, limit: float) -> None:
    colour, marker, fill = _LOOKS[bar.verdict]
    low, high = np.clip([bar.low, bar.high], -limit, limit)
    axes.plot([low, high], [row, row], color=colour, linewidth=1.8, solid_capstyle="butt")
    draw_cut_ends(axes, [row], [[bar.low, bar.high]], colour, flat=True)
    if abs(bar.value) > limit:
        marker, fill = "<" if bar.value < 0 else ">", "none"
    axes.plot(
        [float(np.clip(bar.value, -limit, limit))],
        [row],
        marker,
        color=colour,
        markersize=6.5,
        fillstyle=fill,
        markerfacecoloralt="none",
        clip_on=False,
    )


def _label(text: str) -> str:
    lines = textwrap.wrap(plain(text, 2 * _LONGEST_LINE), _LONGEST_LINE)
    return "\n".join(lines[:2])


def _limit(comparison: Comparison, bars: Bars) -> float:
    """Where the axis ends: it shows most differences, and a few huge ones do not stretch it."""
    sizes = [abs(bar.value) for bar in bars.shown]
    ends = [max(abs(bar.low), abs(bar.high)) for bar in bars.shown]
    wanted = max(float(np.quantile(sizes, 0.9)), float(np.median(ends)))
    least = 0.0 if bars.paired else 100 * comparison.min_effect
    return _ROOM * max(wanted, least, 1e-6)


def _finding(bars: Bars) -> str:
    counts = Counter(bar.verdict for bar in bars.every)
    order: tuple[Verdict, ...] = ("worse", "maybe worse", "better", "maybe better")
    seen = [verdict for verdict in order if counts[verdict]]
    of = plural(len(bars.every), "figure")
    if seen:
        largest = max(
            (b for b in bars.every if b.verdict == seen[0]), key=lambda bar: abs(bar.value)
        )
        value, low, high = measured(largest.value, (largest.low, largest.high))
        sign = "+" if largest.value > 0 else ""
        said = (
            f"{bars.name}: of {of}, {listed([f'{counts[one]} {one}' for one in seen])}; "
            f"the largest {'' if len(seen) == 1 else f'({seen[0]}) '}is {largest.text}, "
            f"{sign}{value} % ({low} to {high})."
        )
    else:
        said = f"{bars.name}: no difference seen in {of}."
    if len(bars.shown) < len(bars.every):
        said += f" The {len(bars.shown)} largest are drawn."
    return said
