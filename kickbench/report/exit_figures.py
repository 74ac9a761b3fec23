# SPDX-License-Identifier: Apache-2.0
"""The figures of exits: what the siglock costs, throughput, and how long single exits take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from kickbench.report.data import MOST, Distribution, RunData
from kickbench.report.exits import kicked_cases
from kickbench.report.names import (
    Series,
    Summary,
    conditions,
    contrast_methods,
    contrasts,
    cost,
    kick_rate_name,
    nanoseconds,
    seconds,
    series_of,
)
from kickbench.report.numbers import listed, plural, significant, whole
from kickbench.report.plots import (
    BAND,
    DASHES,
    INK,
    MOST_PLOTS,
    Plot,
    apart_from_placement,
    draw_legend,
    draw_markers,
    engineering,
    log_ticks,
    new_plot,
    plain,
    style,
    telling,
    tick_time,
    titled,
    vcpu_axis,
    where,
    with_crowd,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Where the axis of the distribution begins and ends: at the first end at which it spans less than
# this factor, so that one preemption of some milliseconds does not make one line of all methods.
_FASTEST, _SLOWEST = 0.001, (0.995, 0.99, 0.95, 0.9)
_WIDEST = 2.0

# The ticks of a percentile axis.
_PERCENTILES = (0.0, 0.9, 0.99, 0.999, 0.9999, MOST)


# --- siglock cost ------------------------------------------------------------------------------


def draw_cost(data: RunData) -> list[Plot]:
    """The difference to the baseline against vCPUs: a plot per rate, a line per placement."""
    groups: dict[Series, list[Series]] = {}
    for series in series_of(data.summary):
        if contrast_methods(series.cases):
            key = replace(series, placement="", cases=())
            groups.setdefault(key, []).append(series)
    return [_cost_plot(data, group) for group in groups.values()][:MOST_PLOTS]


def _cost_plot(data: RunData, group: Sequence[Series]) -> Plot:
    unit = nanoseconds(data.summary)
    cases = [case for series in group for case in series.cases]
    methods = contrast_methods(cases)
    title = titled(data, apart_from_placement(data, group[0]))
    canvas, axes = new_plot(title)
    vcpu_axis(axes, [case["vcpus"] for case in cases])
    _draw_controls(axes, cases)
    axes.axhline(0, color=INK, linewidth=0.8)
    limits = _sound_limits(data, cases)
    handles, names, findings = [], [], []
    for index, series in enumerate(group):
        for method in methods:
            points = [(case, contrasts(case)[method]) for case in series.cases
                      if method in contrasts(case)]  # fmt: skip
            if not points:
                continue
            colour, marker = style(data, method)
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
            if limits is not None:
                _draw_arrows(axes, drawn, limits, colour)
            handle = draw_markers(axes, data, drawn, colour, marker, dashes)
            handles.append(handle)
            names.append(f"{method}, {series.placement}" if len(methods) > 1 else series.placement)
            case, contrast = telling(data, points)
            findings.append(f"{where(data, case)}: {cost(contrast, unit)}.")
    if any(case["control"]["ci95"] for case in cases):
        handles.append(_band_handle(axes))
        names.append("A/A control")
    baselines = listed(list(dict.fromkeys(str(case["baseline"]) for case in cases)))
    what = methods[0] if len(methods) == 1 else "method"
    axes.set_ylabel(f"{plain(what)} - {plain(baselines)}\n[{unit} per exit]")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_time(value)))
    if limits is None:
        axes.margins(y=0.12)
    else:
        axes.set_ylim(limits)
        findings += _cut_off(cases, limits)
    draw_legend(axes, handles, names)
    return Plot(title, " ".join(findings), canvas)


def _sound_limits(data: RunData, cases: Iterable[Summary]) -> tuple[float, float] | None:
    """Where the vertical axis ends so that it shows the cases that had CPUs enough, and their
    controls, not the noise of the others. None when all had, or none.
    """
    by_sound: dict[bool, list[Summary]] = {True: [], False: []}
    for case in cases:
        if contrasts(case):
            by_sound[case["id"] not in data.oversubscribed].append(case)
    if not all(by_sound.values()):
        return None
    low, high = _reach(by_sound[True])
    room = 0.12 * max(high - low, 1e-3)
    return low - room, high + room


def _reach(cases: Iterable[Summary]) -> tuple[float, float]:
    """From where to where the intervals of differences and controls reach, 0 among them."""
    ends = [0.0]
    for case in cases:
        for found in (*contrasts(case).values(), case["control"]):
            ends += found["ci95"] or []
    return min(ends), max(ends)


def _draw_arrows(
    axes: Axes, points: Iterable[tuple[Summary, float]], limits: tuple[float, float], colour: str
) -> None:
    """A hollow arrow at the edge for each value beyond the axis."""
    for case, value in points:
        if not limits[0] <= value <= limits[1]:
            edge, marker = (limits[1], "^") if value > limits[1] else (limits[0], "v")
            axes.plot(
                [case["vcpus"]], [edge], marker, color=colour, markerfacecolor="none",
                markersize=8, clip_on=False,
            )  # fmt: skip


def _cut_off(cases: Iterable[Summary], limits: tuple[float, float]) -> list[str]:
    """Which cases reach beyond the axis, as a sentence."""
    reach = [(int(case["vcpus"]), *_reach([case])) for case in cases]
    beyond = sorted({n for n, low, high in reach if low < limits[0] or high > limits[1]})
    if not beyond:
        return []
    vcpus = f"{listed([str(n) for n in beyond])} {'vCPU' if beyond == [1] else 'vCPUs'}"
    return [f"The axis ends where the cases with enough CPUs do; {vcpus} reach beyond it."]


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
    title = titled(data, conditions(data.summary, series))
    canvas, axes = new_plot(title)
    vcpu_axis(axes, [case["vcpus"] for case in cases])
    x = np.array([cases[0]["vcpus"], cases[-1]["vcpus"]])
    per_vcpu = series.exit_rate_hz or max(_rates(cases[0]).values()) / cases[0]["vcpus"]
    (handle,) = axes.plot(x, x * per_vcpu, color=BAND, linestyle="--", linewidth=1.2)
    handles, names = [handle], ["perfect scaling"]
    findings = []
    for method in dict.fromkeys(method for case in cases for method in _rates(case)):
        points = [(case, _rates(case)[method]) for case in cases if method in _rates(case)]
        colour, marker = style(data, method)
        at, value = [case["vcpus"] for case, _ in points], [rate for _, rate in points]
        axes.plot(at, value, color=colour, linewidth=1.6)
        handle = draw_markers(axes, data, points, colour, marker)
        handles.append(handle)
        names.append(method)
        case, rate = telling(data, points)
        share = significant(100 * rate / (per_vcpu * case["vcpus"]), 3)
        whole_of = "perfect scaling" if series.exit_rate_hz is None else "the rate asked for"
        findings.append(
            f"{method}: {whole(rate)} exits/{seconds(data.summary)} at "
            f"{with_crowd(data, case, plural(case['vcpus'], 'vCPU'))}, {share} % of {whole_of}."
        )
    # Both axes alike, so that scaling is a straight line of slope 1.
    axes.set_yscale("log", base=2)
    values = [rate for case in cases for rate in _rates(case).values()]
    log_ticks(axes, [*values, *(x * per_vcpu)], "y", engineering)
    axes.set_ylabel(f"exits per {'emulated ' if data.summary['emulated'] else ''}second")
    draw_legend(axes, handles, names)
    return Plot(title, " ".join(findings), canvas)


# --- exits while kicks arrive ------------------------------------------------------------------


def draw_kick_rates(data: RunData) -> list[Plot]:
    """Mean time per exit against the rate of kicks: a plot per series, where rates differ."""
    rows = kicked_cases(data.summary, data.oversubscribed)
    drawn = [[case for case in row if _means(case)] for row in rows]
    return [_kick_rate_plot(data, cases) for cases in drawn if len(cases) > 1][:MOST_PLOTS]


def _means(case: Summary) -> dict[str, float]:
    means = {m: figures["ns_per_exit"]["mean"] for m, figures in case["methods"].items()}
    return {method: mean for method, mean in means.items() if mean is not None}


def _kick_rate_plot(data: RunData, ordered: Sequence[Summary]) -> Plot:
    unit = nanoseconds(data.summary)
    title = titled(data, f"{plural(ordered[0]['vcpus'], 'vCPU')}, {ordered[0]['placement']}")
    canvas, axes = new_plot(title)
    names = [engineering(case["kick_rate_hz"] or 0) for case in ordered]
    rates = [kick_rate_name(case["kick_rate_hz"]) for case in ordered]
    handles, methods, findings = [], [], []
    for method in dict.fromkeys(method for case in ordered for method in _means(case)):
        points = [(x, _means(c)[method]) for x, c in enumerate(ordered) if method in _means(c)]
        colour, marker = style(data, method)
        at, values = [x for x, _ in points], [y for _, y in points]
        handles += axes.plot(at, values, color=colour, marker=marker, linewidth=1.6, markersize=6)
        methods.append(method)
        shown = [f"{significant(y)} {unit} with {rates[x]}" for x, y in points]
        findings.append(f"{method}: {listed(shown)}.")
    # Evenly apart: 0 has no place on a logarithmic axis.
    axes.xaxis.set_major_locator(FixedLocator(range(len(names))))
    axes.set_xticklabels(names)
    axes.set_xlim(-0.3, len(names) - 0.7)
    axes.margins(y=0.12)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_time(value)))
    axes.set_xlabel(f"kicks per {'emulated ' if data.summary['emulated'] else ''}second and vCPU")
    axes.set_ylabel(f"time per exit [{unit}]")
    draw_legend(axes, handles, methods)
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
        case, _ = telling(data, [(case, None) for case in series.cases])
        distributions = data.distributions(case["id"])
        if distributions:
            found.append((case, distributions))
    return found


def _ecdf_plot(data: RunData, case: Summary, found: dict[str, Distribution]) -> Plot:
    unit = nanoseconds(data.summary)
    title = titled(data, where(data, case))
    canvas, axes = new_plot(title)
    handles = []
    for index, (method, distribution) in enumerate(found.items()):
        colour, _ = style(data, method)
        (handle,) = axes.plot(
            distribution.ns,
            100 * distribution.probability,
            color=colour,
            linestyle=DASHES[index % len(DASHES)],
            linewidth=1.8,
        )
        handles.append(handle)
    axes.set_xscale("log")
    log_ticks(axes, _bulk(found), "x", tick_time)
    end = axes.get_xlim()[1]
    axes.set_xlabel(f"time per exit [{unit}]")
    axes.set_ylabel("exits that took no longer [%]")
    axes.set_ylim(0, 102)
    draw_legend(axes, handles, list(found), place="lower right")
    medians = [f"{method} {_at(d, 0.5)} {unit}" for method, d in found.items()]
    finding = f"Half of the exits took at most: {listed(medians)}."
    shares = [
        f"{significant(100 * share, 2)} % of {method}"
        for method, d in found.items()
        if (share := 1 - float(np.interp(end, d.ns, d.probability))) > 1 - MOST
    ]
    if shares:
        finding += f" Beyond the axis are {listed(shares)}."
    return Plot(title, finding, canvas)


def _bulk(found: dict[str, Distribution]) -> list[float]:
    """Where all but the fastest and the slowest few exits of all methods lie: from, to."""

    def at(level: float) -> list[float]:
        return [float(np.interp(level, d.probability, d.ns)) for d in found.values()]

    low = min(at(_FASTEST))
    ends = [max(at(level)) for level in _SLOWEST]
    return [low, next((end for end in ends if end < _WIDEST * low), ends[-1])]


def _percentile_plot(data: RunData, case: Summary, found: dict[str, Distribution]) -> Plot:
    unit = nanoseconds(data.summary)
    title = titled(data, where(data, case))
    canvas, axes = new_plot(title)
    handles = []
    for index, (method, distribution) in enumerate(found.items()):
        colour, _ = style(data, method)
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
    log_ticks(axes, _ends(found), "y", tick_time)
    axes.set_xlabel("percentile [%]")
    axes.set_ylabel(f"time per exit [{unit}]")
    draw_legend(axes, handles, list(found))
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
