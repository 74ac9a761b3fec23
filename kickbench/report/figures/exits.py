# SPDX-License-Identifier: Apache-2.0
"""The figures of exits: what the siglock costs, throughput, and how long single exits take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from kickbench.numbers import listed, plural, significant, whole
from kickbench.report.figures.plots import (
    BAND,
    DASHES,
    INK,
    LINEAR,
    LOGARITHMIC,
    Plot,
    apart_from_placement,
    case_title,
    difference_name,
    draw_control,
    draw_cut_ends,
    draw_each,
    draw_intervals,
    draw_legend,
    draw_markers,
    engineering,
    level,
    linear_vcpu_axis,
    log_ticks,
    new_plot,
    on_both,
    round_ticks,
    scaled,
    style,
    telling,
    tick_time,
    titled,
    vcpu_axis,
    where,
    with_crowd,
)
from kickbench.report.words.differences import (
    contrast_methods,
    cost,
    cost_names,
    costs,
    per_headline,
)
from kickbench.report.words.names import (
    Series,
    Summary,
    conditions,
    nanoseconds,
    second_name,
    seconds,
    series_of,
)
from kickbench.summary.data import MOST, Distribution, RunData

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kickbench.summary.data import Floats

# Where the axis of the distribution begins and ends. It ends at the first of the slowest quantiles
# at which it spans less than this factor. Else one long preemption would press all lines into one.
_FASTEST, _SLOWEST = 0.001, (0.995, 0.99, 0.95, 0.9)
_WIDEST = 2.0

Scaling = tuple[Series, list[Summary]]
"""A series, and those of its cases that had exits."""

# The ticks of a percentile axis.
_PERCENTILES = (0.0, 0.9, 0.99, 0.999, 0.9999, MOST)


# --- siglock cost ------------------------------------------------------------------------------


def draw_cost(data: RunData) -> list[Plot]:
    """The differences from the baseline, and the part that is siglock, by vCPUs.

    There is a plot per rate, with a line per placement.
    """
    return draw_each(cost_groups(data), lambda group: _cost_plot(data, group))


def cost_groups(data: RunData) -> list[list[Series]]:
    """The series with differences, those of a plot together."""
    groups: dict[Series, list[Series]] = {}
    for series in series_of(data.summary):
        if contrast_methods(series.cases):
            key = replace(series, placement="", cases=())
            groups.setdefault(key, []).append(series)
    return list(groups.values())


def _cost_plot(data: RunData, group: Sequence[Series]) -> Plot:
    title = cost_title(data, group)
    canvas, axes = new_plot(title)
    return Plot(title, " ".join(draw_cost_on(axes, data, group)), canvas)


def cost_title(data: RunData, group: Sequence[Series]) -> str:
    """What distinguishes the plot from those of other groups."""
    return titled(data, apart_from_placement(data, group[0]))


def draw_cost_on(axes: Axes, data: RunData, group: Sequence[Series]) -> list[str]:
    """Draw a group of :func:`cost_groups`. Returns what the plot shows, in sentences."""
    unit = nanoseconds(data.summary)
    cases = [case for series in group for case in series.cases]
    methods = cost_names(cases)
    vcpu_axis(axes, [case["vcpus"] for case in cases])
    limits = _sound_limits(data, cases)
    # The control of a case that waits for CPUs would fill the plot, and hide the others.
    sound = [c for c in cases if limits is None or c["id"] not in data.oversubscribed]
    sound = [case for case in sound if costs(case)]
    band = draw_control(axes, [(case["vcpus"], case) for case in sound])
    axes.axhline(0, color=INK, linewidth=0.8)
    handles, names, findings, intervals = [], [], [], []
    for index, series in enumerate(group):
        for method in methods:
            points = [(case, costs(case)[method]) for case in series.cases
                      if method in costs(case)]  # fmt: skip
            if not points:
                continue
            colour, marker = style(data, method)
            x = [case["vcpus"] for case, _ in points]
            y = [contrast["diff"] for _, contrast in points]
            dashes = DASHES[index % len(DASHES)]
            axes.plot(x, y, color=colour, linestyle=dashes, linewidth=1.6)
            ends = [contrast["ci95"] for _, contrast in points]
            draw_intervals(axes, x, ends, colour)
            intervals.append((x, ends, colour))
            drawn = [(case, contrast["diff"]) for case, contrast in points]
            if limits is not None:
                _draw_arrows(axes, drawn, limits, colour)
            handle = draw_markers(axes, data, drawn, colour, marker, dashes)
            handles.append(handle)
            names.append(f"{method}, {series.placement}" if len(methods) > 1 else series.placement)
            case, contrast = telling(data, points)
            findings.append(f"{where(data, case)}: {cost(contrast, unit)}.")
    handles += band
    names += ["A/A control"] * len(band)
    baselines = listed(list(dict.fromkeys(str(case["baseline"]) for case in cases)))
    what = methods[0] if len(methods) == 1 else "method"
    axes.set_ylabel(f"{difference_name(what, baselines)}\n[{unit} {per_headline(cases[0])}]")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_time(value)))
    if limits is None:
        axes.margins(y=0.12)
    else:
        axes.set_ylim(limits)
        for at, ends, colour in intervals:
            draw_cut_ends(axes, at, ends, colour)
        findings += _cut_off(cases, limits)
    draw_legend(axes, handles, names)
    return findings


def _sound_limits(data: RunData, cases: Iterable[Summary]) -> tuple[float, float] | None:
    """The limits of a vertical axis that shows the cases with enough CPUs, and their controls.

    The noise of the other cases is then beyond it. None if all cases had enough CPUs, or none.
    """
    by_sound: dict[bool, list[Summary]] = {True: [], False: []}
    for case in cases:
        if costs(case):
            by_sound[case["id"] not in data.oversubscribed].append(case)
    if not all(by_sound.values()):
        return None
    low, high = _reach(by_sound[True])
    room = 0.12 * max(high - low, 1e-3)
    return low - room, high + room


def _reach(cases: Iterable[Summary]) -> tuple[float, float]:
    """The range of the intervals of differences and controls, including 0."""
    ends = [0.0]
    for case in cases:
        for found in (*costs(case).values(), case["control"]):
            ends += found["ci95"] or []
    return min(ends), max(ends)


def _draw_arrows(
    axes: Axes, points: Iterable[tuple[Summary, float]], limits: tuple[float, float], colour: str
) -> None:
    """Draws a hollow arrow at the edge for each value beyond the axis."""
    for case, value in points:
        if not limits[0] <= value <= limits[1]:
            edge, marker = (limits[1], "^") if value > limits[1] else (limits[0], "v")
            axes.plot(
                [case["vcpus"]], [edge], marker, color=colour, markerfacecolor="none",
                markersize=8, clip_on=False,
            )  # fmt: skip


def _cut_off(cases: Iterable[Summary], limits: tuple[float, float]) -> list[str]:
    """A sentence that says which cases reach beyond the axis."""
    reach = [(int(case["vcpus"]), *_reach([case])) for case in cases]
    beyond = sorted({n for n, low, high in reach if low < limits[0] or high > limits[1]})
    if not beyond:
        return []
    vcpus = f"{listed([str(n) for n in beyond])} {'vCPU' if beyond == [1] else 'vCPUs'}"
    return [f"The axis ends where the cases with enough CPUs do; {vcpus} reach beyond it."]


# --- throughput --------------------------------------------------------------------------------


def draw_throughput(data: RunData) -> list[Plot]:
    """Exits per second of all vCPUs together against their number, a plot per series."""
    return draw_each(scaling_groups(data), lambda group: _throughput_plot(data, group))


def draw_throughput_per_vcpu(data: RunData) -> list[Plot]:
    """Exits per second and vCPU against the number of vCPUs, a plot per series."""
    return draw_each(scaling_groups(data), lambda group: _per_vcpu_plot(data, group))


def scaling_groups(data: RunData) -> list[Scaling]:
    """The series with exits at several numbers of vCPUs."""
    found = []
    for series in series_of(data.summary):
        drawn = [case for case in series.cases if _rates(case)]
        if len({case["vcpus"] for case in drawn}) > 1:
            found.append((series, drawn))
    return found


def scaling_title(data: RunData, group: Scaling) -> str:
    """What distinguishes the plot from those of other groups."""
    return titled(data, conditions(data.summary, group[0]))


def _rates(case: Summary) -> dict[str, tuple[float, list[float] | None]]:
    """Exits per second by method, with the interval."""
    found = {
        method: level(figures, "exits_per_second", figures["exits_per_second"])
        for method, figures in case["methods"].items()
    }
    return {method: rate for method, rate in found.items() if rate is not None}


def _perfect(series: Series, cases: Sequence[Summary]) -> float:
    """The rate per vCPU with perfect scaling: that asked for, or the best at the fewest vCPUs."""
    best = max(rate for rate, _ in _rates(cases[0]).values())
    return series.exit_rate_hz or best / int(cases[0]["vcpus"])


def _throughput_plot(data: RunData, group: Scaling) -> Plot:
    series, cases = group
    title = scaling_title(data, group)
    perfect = _perfect(series, cases)
    findings = []
    for method in _methods(cases):
        points = [(case, _rates(case)[method][0]) for case in cases if method in _rates(case)]
        case, rate = telling(data, points)
        share = significant(100 * rate / (perfect * case["vcpus"]), 3)
        whole_of = "perfect scaling" if series.exit_rate_hz is None else "the rate asked for"
        findings.append(
            f"{method}: {whole(rate)} exits/{seconds(data.summary)} at "
            f"{with_crowd(data, case, plural(case['vcpus'], 'vCPU'))}, {share} % of {whole_of}."
        )

    return on_both(
        title,
        " ".join(findings),
        lambda axes, scale: draw_throughput_on(axes, data, group, scale),
        LOGARITHMIC,
        LINEAR,
    )


def draw_throughput_on(axes: Axes, data: RunData, group: Scaling, scale: str) -> None:
    """Draw a group of :func:`scaling_groups`: the exits of all vCPUs together."""
    series, cases = group
    # Both axes have the same scale, so that perfect scaling is a line of slope 1.
    _vcpu_scale(axes, cases, scale)
    x = np.array([case["vcpus"] for case in cases])
    _draw_rates(axes, data, cases, (x, x * _perfect(series, cases)), scale, per_vcpu=False)
    axes.set_ylabel(f"exits per {second_name(data.summary)}")


def _per_vcpu_plot(data: RunData, group: Scaling) -> Plot:
    _, cases = group
    title = scaling_title(data, group)
    findings = []
    for method in _methods(cases):
        points = [
            (case, _rates(case)[method][0] / case["vcpus"])
            for case in cases
            if method in _rates(case)
        ]
        case, rate = telling(data, points)
        first, before = points[0]
        findings.append(
            f"{method}: {whole(rate)} exits/{seconds(data.summary)} for each of "
            f"{with_crowd(data, case, plural(case['vcpus'], 'vCPU'))}"
            + (f", {whole(before)} at {first['vcpus']}." if first is not case else ".")
        )

    return on_both(
        title,
        " ".join(findings),
        lambda axes, scale: draw_per_vcpu_on(axes, data, group, scale),
        LINEAR,
        LOGARITHMIC,
    )


def draw_per_vcpu_on(axes: Axes, data: RunData, group: Scaling, scale: str) -> None:
    """Draw a group of :func:`scaling_groups`: the exits of each vCPU. The rates have the scale."""
    series, cases = group
    _vcpu_scale(axes, cases, LOGARITHMIC)
    x = np.array([case["vcpus"] for case in cases])
    perfect = np.full(len(x), _perfect(series, cases))
    _draw_rates(axes, data, cases, (x, perfect), scale, per_vcpu=True)
    axes.set_ylabel(f"exits per {second_name(data.summary)} and vCPU")


def _methods(cases: Iterable[Summary]) -> list[str]:
    return list(dict.fromkeys(method for case in cases for method in _rates(case)))


def _vcpu_scale(axes: Axes, cases: Sequence[Summary], scale: str) -> None:
    if scale == LOGARITHMIC:
        vcpu_axis(axes, [case["vcpus"] for case in cases])
    else:
        linear_vcpu_axis(axes, [case["vcpus"] for case in cases])


def _draw_rates(
    axes: Axes,
    data: RunData,
    cases: Sequence[Summary],
    perfect: tuple[Any, Any],
    scale: str,
    *,
    per_vcpu: bool,
) -> None:
    """A line per method with the intervals of its levels, on an axis that has all of them."""
    (handle,) = axes.plot(*perfect, color=BAND, linestyle="--", linewidth=1.2)
    handles, names = [handle], ["perfect scaling"]
    drawn: list[float] = perfect[1].tolist()
    intervals = []
    for method in _methods(cases):
        of = [case for case in cases if method in _rates(case)]
        parts = [case["vcpus"] if per_vcpu else 1 for case in of]
        levels = [_rates(case)[method] for case in of]
        rates = [rate / part for (rate, _), part in zip(levels, parts, strict=True)]
        ends = [scaled(ci95, 1 / part) for (_, ci95), part in zip(levels, parts, strict=True)]
        colour, marker = style(data, method)
        x = [case["vcpus"] for case in of]
        axes.plot(x, rates, color=colour, linewidth=1.6)
        draw_intervals(axes, x, ends, colour)
        intervals.append((x, ends, colour))
        handles.append(draw_markers(axes, data, zip(of, rates, strict=True), colour, marker))
        names.append(method)
        drawn += [*rates, *(end for pair in ends if pair for end in pair if end > 0)]
    if scale == LOGARITHMIC:
        axes.set_yscale("log", base=2)
        log_ticks(axes, drawn, "y", engineering)
    else:
        axes.set_ylim(0, 1.05 * max(drawn))
        round_ticks(axes, "y", engineering)
    for at, ends, colour in intervals:
        draw_cut_ends(axes, at, ends, colour)
    draw_legend(axes, handles, names)


# --- distributions -----------------------------------------------------------------------------


def draw_ecdf(data: RunData) -> list[Plot]:
    """The share of exits that took no longer, on a logarithmic axis of time."""
    return draw_each(_distributions(data), lambda found: _ecdf_plot(data, *found))


def draw_percentiles(data: RunData) -> list[Plot]:
    """Time per exit against the percentile up to 99.999 %, on an axis of nines."""
    return draw_each(_distributions(data), lambda found: _percentile_plot(data, *found))


def _distributions(data: RunData) -> list[tuple[Summary, dict[str, Distribution]]]:
    """For each series, the case with the most vCPUs that had enough CPUs."""
    found = []
    for series in series_of(data.summary):
        case, _ = telling(data, [(case, None) for case in series.cases])
        distributions = data.distributions(case["id"])
        if distributions:
            found.append((case, distributions))
    return found


def _ecdf_plot(data: RunData, case: Summary, found: dict[str, Distribution]) -> Plot:
    unit = nanoseconds(data.summary)
    title = case_title(data, case)
    ends = [0.0]

    def draw(axes: Axes, scale: str) -> None:
        draw_ecdf_on(axes, data, found, scale)
        ends.append(axes.get_xlim()[1])

    plot = on_both(title, "", draw, LOGARITHMIC, LINEAR)
    medians = [f"{method} {_at(d, 0.5)} {unit}" for method, d in found.items()]
    finding = f"Half of the exits took at most: {listed(medians)}."
    shares = [
        f"{significant(100 * share, 2)} % of {method}"
        for method, d in found.items()
        if (share := 1 - float(np.interp(max(ends), d.ns, d.probability))) > 1 - MOST
    ]
    if shares:
        finding += f" Beyond the axis are {listed(shares)}."
    return replace(plot, finding=finding)


def draw_ecdf_on(axes: Axes, data: RunData, found: dict[str, Distribution], scale: str) -> None:
    """Draw the share of exits that took no longer, on an axis of time with this scale."""
    handles = [
        _draw_distribution(axes, data, method, index, d.ns, 100 * d.probability)
        for index, (method, d) in enumerate(found.items())
    ]
    low, high = _bulk(found)
    if scale == LOGARITHMIC:
        axes.set_xscale("log")
        log_ticks(axes, [low, high], "x", tick_time)
    else:
        axes.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        round_ticks(axes, "x", tick_time)
    axes.set_xlabel(f"time per exit [{nanoseconds(data.summary)}]")
    axes.set_ylabel("exits that took no longer [%]")
    axes.set_ylim(0, 102)
    draw_legend(axes, handles, list(found))


def _draw_distribution(
    axes: Axes, data: RunData, method: str, index: int, x: Floats, y: Floats
) -> Any:
    """A line of a distribution, with its marker at a few places; returns the legend's handle."""
    colour, marker = style(data, method)
    (line,) = axes.plot(
        x,
        y,
        color=colour,
        linestyle=DASHES[index % len(DASHES)],
        linewidth=1.8,
        marker=marker,
        markersize=5,
        # Not all at the same place, where lines meet.
        markevery=(3 + 5 * index, 30),
    )
    return line


def _bulk(found: dict[str, Distribution]) -> list[float]:
    """The range of all but the fastest and the slowest few exits of all methods: [from, to]."""

    def at(level: float) -> list[float]:
        return [float(np.interp(level, d.probability, d.ns)) for d in found.values()]

    low = min(at(_FASTEST))
    ends = [max(at(level)) for level in _SLOWEST]
    return [low, next((end for end in ends if end < _WIDEST * low), ends[-1])]


def _percentile_plot(data: RunData, case: Summary, found: dict[str, Distribution]) -> Plot:
    unit = nanoseconds(data.summary)
    title = case_title(data, case)

    tails = [
        f"{method} {_at(d, d.probability[-1])} {unit} at {100 * d.probability[-1]:.5g} %"
        for method, d in found.items()
    ]
    return on_both(
        title,
        f"The slowest exits reached: {listed(tails)}.",
        lambda axes, scale: draw_percentiles_on(axes, data, found, scale),
        LOGARITHMIC,
        LINEAR,
    )


def draw_percentiles_on(
    axes: Axes, data: RunData, found: dict[str, Distribution], scale: str
) -> None:
    """Draw the time per exit, on an axis with this scale, against an axis of nines."""
    handles = [
        _draw_distribution(axes, data, method, index, _nines(d.probability), d.ns)
        for index, (method, d) in enumerate(found.items())
    ]
    axes.xaxis.set_major_locator(FixedLocator(_nines(_PERCENTILES).tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{100 * level:.7g}" for level in _PERCENTILES])
    axes.set_xlim(0, 5.1)
    if scale == LOGARITHMIC:
        axes.set_yscale("log")
        log_ticks(axes, _ends(found), "y", tick_time)
    else:
        low, high = min(_ends(found)), max(_ends(found))
        room = 0.05 * max(high - low, 1e-3 * high)
        axes.set_ylim(low - room, high + room)
        round_ticks(axes, "y", tick_time)
    axes.set_xlabel("percentile [%]")
    axes.set_ylabel(f"time per exit [{nanoseconds(data.summary)}]")
    draw_legend(axes, handles, list(found))


def _ends(found: dict[str, Distribution]) -> list[float]:
    return [float(d.ns[i]) for d in found.values() for i in (0, -1)]


def _nines(probability: Any) -> Any:
    """0 at 0 %, 1 at 90 %, 2 at 99 % and so on."""
    return -np.log10(1 - np.asarray(probability, np.float64))


def _at(distribution: Distribution, probability: float) -> str:
    return significant(float(np.interp(probability, distribution.probability, distribution.ns)))
