# SPDX-License-Identifier: Apache-2.0
"""The figures of a report: one table of them, each a function from a run to plots.

A figure without data has no plots, and is then absent. A plot is a small matplotlib figure, made
without pyplot or any other global state, and the sentence that it shows, for those who cannot see
it. How a plot becomes part of a page is the business of :mod:`kickbench.report.svg`.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), one per method throughout;
markers and dashes repeat what the colours say.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from kickbench.report.data import MOST, Distribution, RunData
from kickbench.report.numbers import listed, plural, significant, whole
from kickbench.report.words import (
    Series,
    Summary,
    conditions,
    contrast_methods,
    contrasts,
    cost,
    emulation,
    label,
    nanoseconds,
    rate_name,
    seconds,
    series_of,
)
from kickbench.scenario.text import printable, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_T = TypeVar("_T")

INK = "#010203"
"""Text and axes. The page replaces exactly this colour by its own, for light and dark."""
BAND = "#7f8080"
SIZE_INCHES = (4.4, 3.3)
"""So small that the text stays readable where the page has the width of a telephone."""

METHOD_STYLES: dict[str, tuple[str, str]] = {
    # method: (colour, marker)
    "flag_signal": ("#cc79a7", "v"),
    "sigmask": ("#d55e00", "o"),
    "immediate_exit": ("#0072b2", "s"),
    "immediate_exit_remote": ("#56b4e9", "D"),
    "user_exit": ("#009e73", "^"),
    "exitfd": ("#e69f00", "P"),
}
UNKNOWN_STYLE = (BAND, "x")
DASHES = ("-", "--", ":", "-.")

_TITLE_WIDTH = 48

MOST_PLOTS = 12
"""A figure draws no more plots than this; the table has every case."""

# The ticks of a percentile axis.
_PERCENTILES = (0.0, 0.9, 0.99, 0.999, 0.9999, MOST)


@dataclass(frozen=True)
class Plot:
    """One drawing: ``title`` says which part of the run, ``finding`` what it shows."""

    title: str
    finding: str
    canvas: Canvas


@dataclass(frozen=True)
class Figure:
    """One entry of the report: its name (for ids and files), title, reading guide and function.

    ``guide`` may hold {ns}, the unit of time.
    """

    name: str
    title: str
    guide: str
    draw: Callable[[RunData], list[Plot]]


# --- siglock cost ------------------------------------------------------------------------------


def draw_cost(data: RunData) -> list[Plot]:
    """The difference to the baseline against vCPUs: a plot per rate, a line per placement."""
    groups: dict[tuple[Any, ...], list[Series]] = {}
    for series in series_of(data.summary):
        if contrast_methods(series.cases):
            key = (series.program, series.irqchip, series.exit_rate_hz)
            groups.setdefault(key, []).append(series)
    return [_cost_plot(data, group) for group in groups.values()][:MOST_PLOTS]


def _cost_plot(data: RunData, group: Sequence[Series]) -> Plot:
    unit = nanoseconds(data.summary)
    cases = [case for series in group for case in series.cases]
    methods = contrast_methods(cases)
    title = _title(data, _apart_from_placement(data, group[0]))
    canvas, axes = _new(title)
    _vcpu_axis(axes, [case["vcpus"] for case in cases])
    _draw_controls(axes, cases)
    axes.axhline(0, color=INK, linewidth=0.8)
    handles, names, findings = [], [], []
    for index, series in enumerate(group):
        for method in methods:
            points = [(case, contrasts(case)[method]) for case in series.cases
                      if method in contrasts(case)]  # fmt: skip
            if not points:
                continue
            colour, marker = METHOD_STYLES.get(method, UNKNOWN_STYLE)
            x = [case["vcpus"] for case, _ in points]
            y = np.array([contrast["diff"] for _, contrast in points])
            ends = np.array([contrast["ci95"] for _, contrast in points]).T
            dashes = DASHES[index % len(DASHES)]
            axes.plot(x, y, color=colour, linestyle=dashes, linewidth=1.6)
            axes.errorbar(
                x,
                y,
                yerr=np.maximum([y - ends[0], ends[1] - y], 0),
                color=colour,
                linestyle="none",
                capsize=4,
                linewidth=1.6,
            )
            drawn = [(case, contrast["diff"]) for case, contrast in points]
            handle = _markers(axes, data, drawn, colour, marker, dashes)
            handles.append(handle)
            names.append(f"{method}, {series.placement}" if len(methods) > 1 else series.placement)
            case, contrast = _telling(data, points)
            findings.append(f"{_where(data, case)}: {cost(contrast, unit)}.")
    if any(case["control"]["ci95"] for case in cases):
        handles.append(_band_handle(axes))
        names.append("A/A control")
    baselines = listed(list(dict.fromkeys(str(case["baseline"]) for case in cases)))
    what = methods[0] if len(methods) == 1 else "method"
    axes.set_ylabel(f"{_name(what)} - {_name(baselines)}\n[{unit} per exit]")
    axes.margins(y=0.12)
    _legend(axes, handles, names)
    return Plot(title, " ".join(findings), canvas)


def _draw_controls(axes: Axes, cases: Iterable[Summary]) -> None:
    """The A/A controls' intervals as a grey band: differences within it mean nothing."""
    ends: dict[int, list[float]] = {}
    for case in cases:
        if case["control"]["ci95"]:
            ends.setdefault(case["vcpus"], []).extend(case["control"]["ci95"])
    x = sorted(ends)
    low, high = [min(ends[at]) for at in x], [max(ends[at]) for at in x]
    if len(x) == 1:  # no width for a band: a bar
        axes.vlines(x, low, high, color=BAND, alpha=0.35, linewidth=12)
    else:
        axes.fill_between(x, low, high, color=BAND, alpha=0.35, linewidth=0)


def _band_handle(axes: Axes) -> Any:
    return axes.fill_between([], [], [], color=BAND, alpha=0.35, linewidth=0)


# --- throughput --------------------------------------------------------------------------------


def draw_throughput(data: RunData) -> list[Plot]:
    """Exits per second of all vCPUs together against their number, a plot per series."""
    plots = []
    for series in series_of(data.summary):
        drawn = [case for case in series.cases if _rates(case)]
        if len({case["vcpus"] for case in drawn}) > 1:
            plots.append(_throughput_plot(data, series, drawn))
    return plots[:MOST_PLOTS]


def _rates(case: Summary) -> dict[str, float]:
    return {
        method: figures["exits_per_second"]
        for method, figures in case["methods"].items()
        if figures["exits_per_second"]
    }


def _throughput_plot(data: RunData, series: Series, cases: Sequence[Summary]) -> Plot:
    title = _title(data, conditions(data.summary, series))
    canvas, axes = _new(title)
    _vcpu_axis(axes, [case["vcpus"] for case in cases])
    x = np.array([cases[0]["vcpus"], cases[-1]["vcpus"]])
    per_vcpu = series.exit_rate_hz or max(_rates(cases[0]).values()) / cases[0]["vcpus"]
    (handle,) = axes.plot(x, x * per_vcpu, color=BAND, linestyle="--", linewidth=1.2)
    handles, names = [handle], ["perfect scaling"]
    findings = []
    for method in dict.fromkeys(method for case in cases for method in _rates(case)):
        points = [(case, _rates(case)[method]) for case in cases if method in _rates(case)]
        colour, marker = METHOD_STYLES.get(method, UNKNOWN_STYLE)
        at, value = [case["vcpus"] for case, _ in points], [rate for _, rate in points]
        axes.plot(at, value, color=colour, linewidth=1.6)
        handle = _markers(axes, data, points, colour, marker)
        handles.append(handle)
        names.append(method)
        case, rate = _telling(data, points)
        share = significant(100 * rate / (per_vcpu * case["vcpus"]), 3)
        whole_of = "perfect scaling" if series.exit_rate_hz is None else "the rate asked for"
        findings.append(
            f"{method}: {whole(rate)} exits/{seconds(data.summary)} at "
            f"{_crowd(data, case, plural(case['vcpus'], 'vCPU'))}, {share} % of {whole_of}."
        )
    # Both axes alike, so that scaling is a straight line of slope 1.
    axes.set_yscale("log", base=2)
    values = [rate for case in cases for rate in _rates(case).values()]
    _ticks(axes, [*values, *(x * per_vcpu)], "y", _engineering)
    axes.set_ylabel(f"exits per {'emulated ' if data.summary['emulated'] else ''}second")
    _legend(axes, handles, names)
    return Plot(title, " ".join(findings), canvas)


# --- distributions -----------------------------------------------------------------------------


def draw_ecdf(data: RunData) -> list[Plot]:
    """The share of exits that took no longer, on a logarithmic axis of time."""
    return [_ecdf_plot(data, case, found) for case, found in _distributions(data)]


def draw_percentiles(data: RunData) -> list[Plot]:
    """Time per exit against the percentile up to 99.999 %, on an axis of nines."""
    return [_percentile_plot(data, case, found) for case, found in _distributions(data)]


def _distributions(data: RunData) -> list[tuple[Summary, dict[str, Distribution]]]:
    """Of each series the case with the most vCPUs for which there were CPUs."""
    found = []
    for series in series_of(data.summary)[:MOST_PLOTS]:
        case, _ = _telling(data, [(case, None) for case in series.cases])
        distributions = data.distributions(case["id"])
        if distributions:
            found.append((case, distributions))
    return found


def _ecdf_plot(data: RunData, case: Summary, found: dict[str, Distribution]) -> Plot:
    unit = nanoseconds(data.summary)
    title = _title(data, _where(data, case))
    canvas, axes = _new(title)
    handles = []
    for index, (method, distribution) in enumerate(found.items()):
        colour, _ = METHOD_STYLES.get(method, UNKNOWN_STYLE)
        (handle,) = axes.plot(
            distribution.ns,
            100 * distribution.probability,
            color=colour,
            linestyle=DASHES[index % len(DASHES)],
            linewidth=1.8,
        )
        handles.append(handle)
    axes.set_xscale("log")
    _ticks(axes, _ends(found), "x", _tick_time)
    axes.set_xlabel(f"time per exit [{unit}]")
    axes.set_ylabel("exits that took no longer [%]")
    axes.set_ylim(0, 102)
    _legend(axes, handles, list(found), place="lower right")
    medians = [f"{method} {_at(d, 0.5)} {unit}" for method, d in found.items()]
    return Plot(title, f"Half of the exits took at most: {listed(medians)}.", canvas)


def _percentile_plot(data: RunData, case: Summary, found: dict[str, Distribution]) -> Plot:
    unit = nanoseconds(data.summary)
    title = _title(data, _where(data, case))
    canvas, axes = _new(title)
    handles = []
    for index, (method, distribution) in enumerate(found.items()):
        colour, _ = METHOD_STYLES.get(method, UNKNOWN_STYLE)
        (handle,) = axes.plot(
            _nines(distribution.probability),
            distribution.ns,
            color=colour,
            linestyle=DASHES[index % len(DASHES)],
            linewidth=1.8,
        )
        handles.append(handle)
    axes.xaxis.set_major_locator(FixedLocator(_nines(_PERCENTILES).tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{100 * level:.7g}" for level in _PERCENTILES])
    axes.set_xlim(0, 5.1)
    axes.set_yscale("log")
    _ticks(axes, _ends(found), "y", _tick_time)
    axes.set_xlabel("percentile [%]")
    axes.set_ylabel(f"time per exit [{unit}]")
    _legend(axes, handles, list(found))
    tails = [
        f"{method} {_at(d, d.probability[-1])} {unit} at {100 * d.probability[-1]:.5g} %"
        for method, d in found.items()
    ]
    return Plot(title, f"The slowest exits reached: {listed(tails)}.", canvas)


def _ends(found: dict[str, Distribution]) -> list[float]:
    return [float(d.ns[i]) for d in found.values() for i in (0, -1)]


def _nines(probability: Any) -> Any:
    """0 at 0 %, 1 at 90 %, 2 at 99 % and so on."""
    return -np.log10(1 - np.asarray(probability, np.float64))


def _at(distribution: Distribution, probability: float) -> str:
    return significant(float(np.interp(probability, distribution.probability, distribution.ns)))


# --- parts of a plot ---------------------------------------------------------------------------


def _telling(data: RunData, points: Sequence[tuple[Summary, _T]]) -> tuple[Summary, _T]:
    """The point that a sentence should be about: the most vCPUs for which there were CPUs."""
    sound = [point for point in points if point[0]["id"] not in data.oversubscribed]
    return sound[-1] if sound else points[0]


def _crowd(data: RunData, case: Summary, text: str) -> str:
    return f"{text}, more vCPUs than CPUs" if case["id"] in data.oversubscribed else text


def _where(data: RunData, case: Summary) -> str:
    return _crowd(data, case, label(data.summary, case))


def _title(data: RunData, text: str) -> str:
    """A plot's title; that of an emulated run begins with saying so."""
    return ": ".join(filter(None, [emulation(data.summary), text]))


def _apart_from_placement(data: RunData, series: Series) -> str:
    """What tells this plot from the others of the figure, but for the placement."""
    words = conditions(data.summary, series).removeprefix(str(series.placement)).lstrip(", ")
    return words or rate_name(series.exit_rate_hz)


def _new(title: str) -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=SIZE_INCHES, layout="constrained")
    axes = canvas.add_subplot()
    shown = "\n".join(textwrap.wrap(_name(title, 100), _TITLE_WIDTH))
    axes.set_title(shown, color=INK, fontsize=10, loc="left", parse_math=False)
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


def _legend(
    axes: Axes,
    handles: list[Any],
    names: Sequence[str],
    place: Literal["best", "lower right"] = "best",
) -> None:
    # matplotlib leaves out names that begin with an underscore.
    shown = [_name(name) if not name.startswith("_") else f" {_name(name)}" for name in names]
    legend = axes.legend(
        handles, shown, loc=place, fontsize=9, labelcolor=INK, framealpha=0, handlelength=2.4
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _markers(
    axes: Axes,
    data: RunData,
    points: Iterable[tuple[Summary, float]],
    colour: str,
    marker: str,
    dashes: str = "-",
) -> Any:
    """Draw a marker per case, hollow when it was short of CPUs, and return the legend's handle."""
    for case, value in points:
        face = "none" if case["id"] in data.oversubscribed else colour
        axes.plot(
            [case["vcpus"]], [value], marker, color=colour, markerfacecolor=face, markersize=6
        )
    return axes.plot([], [], color=colour, linestyle=dashes, marker=marker, markersize=6)[0]


def _vcpu_axis(axes: Axes, vcpus: Iterable[int]) -> None:
    ticks = sorted(set(vcpus))
    axes.set_xscale("log", base=2)
    # Not more ticks than fit: the powers of two, then every second of them and so on.
    shown = ticks
    if len(shown) > 9:
        shown = [tick for tick in ticks if tick & (tick - 1) == 0] or ticks
        shown = shown[:: -(-len(shown) // 9)]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
    axes.set_xlabel("vCPUs")


def _ticks(axes: Axes, values: Sequence[float], which: str, words: Callable[[float], str]) -> None:
    """Round ticks on a logarithmic axis: several also where it spans less than a power of ten."""
    high = max(values)
    low = max(min(values), high / 1e9)  # 0 has no place on a logarithmic axis
    axis, limit = (axes.xaxis, axes.set_xlim) if which == "x" else (axes.yaxis, axes.set_ylim)
    if high / low < 4:
        ticks = [
            tick for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high) if tick > 0
        ]
    else:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 2, 5) if high / low < 1e4 else (1,)
        ticks = [step * 10.0**power for power in powers for step in steps]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
    room = (high / low) ** 0.05 * 1.01
    limit(low / room, high * room)


def _tick_time(value: float) -> str:
    return f"{value:,.10g}"


def _engineering(value: float) -> str:
    for scale, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= scale:
            return f"{value / scale:.4g}{suffix}"
    return f"{value:.4g}"


def _name(text: str, longest: int = 40) -> str:
    """A stranger's text, fit for a plot."""
    return shorten(printable(text), longest)


FIGURES: tuple[Figure, ...] = (
    Figure(
        "cost",
        "What a method costs more per exit than the baseline",
        "Paired differences with 95 % intervals. The grey band is the A/A control, the baseline "
        "against itself: a difference within it means nothing. A hollow marker has more vCPUs "
        "than CPUs.",
        draw_cost,
    ),
    Figure(
        "throughput",
        "Exits per second against vCPUs",
        "All vCPUs together, both axes logarithmic. The dashed line is perfect scaling: the best "
        "method's rate at the fewest vCPUs, or the rate that was asked for, times the vCPUs. "
        "A hollow marker has more vCPUs than CPUs.",
        draw_throughput,
    ),
    Figure(
        "ecdf",
        "Time per exit: distribution",
        "Every timed exit. Further left is faster; of each placement and rate, the case with the "
        "most vCPUs for which there were CPUs.",
        draw_ecdf,
    ),
    Figure(
        "percentiles",
        "Time per exit: the slowest exits",
        "The same exits; each step to the right is another nine. A line ends where fewer than one "
        "exit is slower.",
        draw_percentiles,
    ),
)
"""The figures in the order of the page. A new one is a function above and an entry here."""
