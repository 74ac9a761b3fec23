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

    text: str
    value: float
    low: float
    high: float
    verdict: Verdict


def draw_differences(comparison: Comparison) -> list[Plot]:
    """By kind of measurement, a plot of the levels and one of the paired differences."""
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
                title = f"{TABLES[kind].title}{', method - baseline' if paired else ''}"
                plots.append(_draw(comparison, title, bars, paired=paired))
    return plots


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
    return _Bar(text, value, low, high, verdict)


def _draw(comparison: Comparison, title: str, bars: Sequence[_Bar], *, paired: bool) -> Plot:
    shown = bars
    if len(bars) > MOST_ROWS:
        largest = sorted(bars, key=lambda bar: -abs(bar.value))[:MOST_ROWS]
        shown = [bar for bar in bars if bar in largest][:MOST_ROWS]
    # Every figure of an emulated run says so, although this axis has no times.
    by = emulation(comparison.base) or emulation(comparison.other)
    full = ": ".join(filter(None, [by, title]))
    labels = [_label(bar.text) for bar in shown]
    more = max(text.count("\n") for text in labels)
    row_inches = _ROW_INCHES + _LINE_INCHES * more
    canvas, axes = new_plot(full, height_inches=0.9 + row_inches * len(shown))
    limit = _limit(comparison, shown, paired=paired)
    axes.set_xlim(-limit, limit)
    axes.set_ylim(len(shown) - 0.35, -0.75)
    axes.axvline(0, color=INK, linewidth=1, alpha=0.7)
    if not paired:
        effect = 100 * comparison.min_effect
        axes.axvspan(-effect, effect, color=BAND, alpha=0.15, linewidth=0)
    for row, (bar, text) in enumerate(zip(shown, labels, strict=True)):
        _draw_bar(axes, row, bar, limit)
        axes.text(
            0.0,
            row - 0.13 / row_inches,
            text,
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
    of = "of the baseline's level" if paired else "of the base"
    first, second = compared.names(comparison)
    axes.set_xlabel(plain(f"{second} - {first}", 60) + f" [% {of}]", parse_math=False)
    return Plot(full, _finding(title, bars, shown), canvas)


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


def _limit(comparison: Comparison, bars: Sequence[_Bar], *, paired: bool) -> float:
    """Where the axis ends: it shows most differences, and a few huge ones do not stretch it."""
    sizes = [abs(bar.value) for bar in bars]
    ends = [max(abs(bar.low), abs(bar.high)) for bar in bars]
    wanted = max(float(np.quantile(sizes, 0.9)), float(np.median(ends)))
    least = 0.0 if paired else 100 * comparison.min_effect
    return _ROOM * max(wanted, least, 1e-6)


def _finding(title: str, bars: Sequence[_Bar], shown: Sequence[_Bar]) -> str:
    counts = Counter(bar.verdict for bar in bars)
    order: tuple[Verdict, ...] = ("worse", "maybe worse", "better", "maybe better")
    seen = [verdict for verdict in order if counts[verdict]]
    of = plural(len(bars), "figure")
    if seen:
        largest = max((b for b in bars if b.verdict == seen[0]), key=lambda bar: abs(bar.value))
        value, low, high = measured(largest.value, (largest.low, largest.high))
        sign = "+" if largest.value > 0 else ""
        said = (
            f"{title}: of {of}, {listed([f'{counts[verdict]} {verdict}' for verdict in seen])}; "
            f"the largest {'' if len(seen) == 1 else f'({seen[0]}) '}is {largest.text}, "
            f"{sign}{value} % ({low} to {high})."
        )
    else:
        said = f"{title}: no difference seen in {of}."
    if len(shown) < len(bars):
        said += f" The {len(shown)} largest are drawn."
    return said
