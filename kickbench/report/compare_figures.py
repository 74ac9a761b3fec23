# SPDX-License-Identifier: Apache-2.0
"""The figure of a comparison: every difference of two runs with its interval, one below another.

In per cent of the base, so that cases and metrics of all sizes stand beside each other: per kind of
measurement a plot of levels, and one of what is paired within a run. What has no level to be a part
of, such as kicks lost, is in the tables only. Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kickbench.report import compare as compared
from kickbench.report.names import emulation, label
from kickbench.report.numbers import plural
from kickbench.report.plots import BAND, INK, Plot, new_plot, plain
from kickbench.report.tables import TABLES
from kickbench.results.compare import Comparison, Judged
from kickbench.results.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 24
"""A plot has no more differences than this, the largest, to fit on paper; the tables have all."""

_LOOKS: dict[str, tuple[str, str]] = {
    # severity: (colour, marker)
    "bad": ("#d55e00", "X"),
    "good": ("#0072b2", "o"),
    "none": (BAND, "o"),
}
_ROW_INCHES = 0.4
_LONGEST_LABEL = 80
_ROOM = 1.25


@dataclass(frozen=True)
class _Bar:
    """A difference in per cent of the base's level."""

    text: str
    value: float
    low: float
    high: float
    severity: str


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
    found = judged.difference
    case = next(case for case in comparison.base["cases"] if case["id"] == base.case)
    text = f"{METRICS[base.metric].title}: {base.method}, {label(comparison.base, case)}"
    severity = {"worse": "bad", "better": "good"}.get(judged.verdict, "none")
    value, low, high = (100 * end / level for end in (found.value, found.low, found.high))
    return _Bar(text, value, low, high, severity)


def _draw(comparison: Comparison, title: str, bars: Sequence[_Bar], *, paired: bool) -> Plot:
    shown = bars
    if len(bars) > MOST_ROWS:
        largest = sorted(bars, key=lambda bar: -abs(bar.value))[:MOST_ROWS]
        shown = [bar for bar in bars if bar in largest][:MOST_ROWS]
    # Of an emulated run every figure says so; the axis has no time, only parts of one.
    by = emulation(comparison.base) or emulation(comparison.other)
    full = ": ".join(filter(None, [by, title]))
    canvas, axes = new_plot(full, height_inches=0.9 + _ROW_INCHES * len(shown))
    limit = _limit(comparison, shown, paired=paired)
    axes.set_xlim(-limit, limit)
    axes.set_ylim(len(shown) - 0.35, -0.75)
    axes.axvline(0, color=INK, linewidth=1, alpha=0.7)
    if not paired:
        effect = 100 * comparison.min_effect
        axes.axvspan(-effect, effect, color=BAND, alpha=0.15, linewidth=0)
    for row, bar in enumerate(shown):
        _draw_bar(axes, row, bar, limit)
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
    colour, marker = _LOOKS[bar.severity]
    low, high = np.clip([bar.low, bar.high], -limit, limit)
    axes.plot([low, high], [row, row], color=colour, linewidth=1.8, solid_capstyle="butt")
    beyond = abs(bar.value) > limit
    if beyond:
        marker = "<" if bar.value < 0 else ">"
    axes.plot(
        [float(np.clip(bar.value, -limit, limit))],
        [row],
        marker,
        color=colour,
        markersize=6,
        markerfacecolor="none" if bar.severity == "none" or beyond else colour,
        clip_on=False,
    )
    axes.text(
        0.0,
        row - 0.32,
        plain(bar.text, _LONGEST_LABEL),
        transform=axes.get_yaxis_transform(),
        color=INK,
        fontsize=7.5,
        verticalalignment="center",
        parse_math=False,
    )


def _limit(comparison: Comparison, bars: Sequence[_Bar], *, paired: bool) -> float:
    """Where the axis ends: most differences are within; a few huge ones do not stretch it."""
    sizes = [abs(bar.value) for bar in bars]
    ends = [max(abs(bar.low), abs(bar.high)) for bar in bars]
    wanted = max(float(np.quantile(sizes, 0.9)), float(np.median(ends)))
    least = 0.0 if paired else 100 * comparison.min_effect
    return _ROOM * max(wanted, least, 1e-6)


def _finding(title: str, bars: Sequence[_Bar], shown: Sequence[_Bar]) -> str:
    worse = sum(bar.severity == "bad" for bar in bars)
    better = sum(bar.severity == "good" for bar in bars)
    said = f"{title}: of {plural(len(bars), 'figure')}, {worse} worse and {better} better."
    if len(shown) < len(bars):
        said += f" The {len(shown)} largest are drawn."
    return said
