# SPDX-License-Identifier: Apache-2.0
"""The figure of the race: which share of the kicks each protocol lost, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from kickbench.numbers import whole
from kickbench.report.figures.plots import (
    BAND,
    INK,
    Plot,
    draw_each,
    draw_intervals,
    draw_legend,
    log_ticks,
    new_plot,
    plain,
    style,
    titled,
)
from kickbench.report.words.kicks import MIN_LANDED, answer_race
from kickbench.report.words.names import Summary, finished, label, window_name
from kickbench.report.words.tables import CLAIMS
from kickbench.scenario.kinds import NOISE
from kickbench.summary.data import RunData

_KEYS = ("vcpus", "placement", "program", "irqchip", "transport", "kickers", *NOISE)


def draw_race(data: RunData) -> list[Plot]:
    """The share of kicks lost by window and method: a plot per vCPUs, placement and transport."""
    return draw_each(race_groups(data), lambda cases: _race_plot(data, cases))


def race_groups(data: RunData) -> list[list[Summary]]:
    """The cases in which kicks could have been lost, those of a plot together."""
    groups: dict[tuple[Any, ...], list[Summary]] = {}
    for case in finished(data.summary, "race"):
        if _tested(case):
            groups.setdefault(tuple(case[key] for key in _KEYS), []).append(case)
    return list(groups.values())


def _tested(case: Summary) -> list[str]:
    """The methods with enough kicks that could have been lost. The others were not tested."""
    return [
        method
        for method, figures in case["methods"].items()
        if figures["lost_ci95"] is not None and (figures["lost"] or figures["landed"] >= MIN_LANDED)
    ]


def _race_plot(data: RunData, cases: Sequence[Summary]) -> Plot:
    rows = sum(len(_tested(case)) for case in cases)
    title = race_title(data, cases)
    canvas, axes = new_plot(title, 1.0 + 0.26 * rows + 0.3 * len(cases))
    draw_race_on(axes, data, cases)
    said = answer_race({**data.summary, "cases": cases}, data.oversubscribed)[0]
    return Plot(title, said, canvas)


def race_title(data: RunData, cases: Sequence[Summary]) -> str:
    """What distinguishes the plot from those of other groups."""
    return titled(data, label(data.summary, cases[0], of_kind=False))


def draw_race_on(axes: Axes, data: RunData, cases: Sequence[Summary]) -> None:
    """Draw a group of :func:`race_groups`."""
    axes.set_xscale("log")
    y, places, drawn = 0.0, [], []
    for case in cases:
        methods = _tested(case)
        places.append((y + (len(methods) - 1) / 2, case))
        for method in methods:
            drawn += _shares(case["methods"][method])
            y += 1
        y += 0.8
    log_ticks(axes, [*drawn, 100.0], "x", lambda value: f"{value:.6g}")
    y = 0.0
    for case in cases:
        for method in _tested(case):
            _draw_row(axes, data, y, method, case["methods"][method])
            y += 1
        y += 0.8
    axes.set_ylim(y - 1.2, -0.7)
    axes.yaxis.set_major_locator(FixedLocator([at for at, _ in places]))
    axes.set_yticklabels([_window(data, case) for _, case in places])
    axes.tick_params(axis="y", length=0, pad=8)  # of the arrows at the axis
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("kicks lost, of those that could have been [%]")
    axes.set_ylabel("window")
    methods = list(dict.fromkeys(method for case in cases for method in _tested(case)))
    handles = []
    names = []
    for method in methods:
        colour, marker = style(data, method)
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=6))
        claims = {c["methods"][method]["race_free_claim"] for c in cases if method in _tested(c)}
        claim = False if False in claims else True if True in claims else None
        names.append(f"{method} (claim: {CLAIMS.get(claim, 'unknown')})")
    handles.append(Line2D([], [], color=BAND, marker="<", markersize=6, markerfacecolor="none"))
    names.append("none lost: at most so many (95 %)")
    draw_legend(axes, handles, names, split=len(methods))


def _shares(figures: Summary) -> list[float]:
    """The values of a row in %: the share's interval, or the bound if none was lost."""
    if not figures["lost"]:
        return [100 * figures["lost_upper95"]]
    return [100 * end for end in figures["lost_ci95"] if end > 0]


def _draw_row(axes: Axes, data: RunData, y: float, method: str, figures: Summary) -> None:
    colour, marker = style(data, method)
    lost, landed = figures["lost"], max(figures["lost"], figures["landed"])
    left, right = axes.get_xlim()
    if lost:
        # A smaller share is drawn at the end of the axis. The count beside it is exact.
        share, *ends = (max(100 * x, left) for x in (lost / landed, *figures["lost_ci95"]))
        draw_intervals(axes, [y], [ends], colour, flat=True)
        axes.plot([share], [y], marker, color=colour, markersize=6)
        edge = ends[1]
    else:
        edge = max(100 * figures["lost_upper95"], left)
        axes.plot([left, edge], [y, y], color=colour, linewidth=1.2)
        axes.plot([left], [y], "<", color=colour, markersize=6, clip_on=False)
        axes.plot([edge], [y], marker, color=colour, markerfacecolor="none", markersize=6)
    # The count goes where there is room: to the left of a row in the right half.
    middle = (left * right) ** 0.5
    start = edge < middle
    axes.annotate(
        f"{whole(lost)} of {whole(landed)}"
        + (": breaks its claim" if lost and figures["race_free_claim"] else ""),
        (edge if start else max(figures["lost_ci95"][0] * 100, left), y),
        (8 if start else -8, 0),
        textcoords="offset points",
        ha="left" if start else "right",
        va="center",
        fontsize=8.5,
        color=INK,
    )


def _window(data: RunData, case: Summary) -> str:
    # A tick's label has no switch for formulas, but an escaped dollar begins none.
    name = window_name(data.summary, case["window_ns"]).removeprefix("a window of ")
    name = "natural" if name == "the natural window" else name
    return plain(name).replace("$", r"\$") + (" *" if case["id"] in data.oversubscribed else "")
