# SPDX-License-Identifier: Apache-2.0
"""The figure of the kind lifecycle: what became of the kicks of fresh VMs, by moment and method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator

from kickbench.numbers import whole
from kickbench.report.figures.plots import (
    BAND,
    INK,
    Plot,
    draw_each,
    draw_legend,
    new_plot,
    plain,
    style,
    titled,
)
from kickbench.report.words.lifecycle import answer_lifecycle
from kickbench.report.words.names import Summary, finished, label
from kickbench.scenario.kinds import NOISE, moment_name
from kickbench.summary.data import RunData
from kickbench.summary.lifecycle import FAULTS

_KEYS = ("vcpus", "placement", "program", "irqchip", "transport", *NOISE)

_FATES = {"answered": "", "late": "....", "lost": "", "refused": "////", "poisoned": "xxxx"}
"""By fate, the hatch of its part of a bar. Killed VMMs have the colour of the text."""

_PALE = 0.35
"""How opaque kicks are that were answered: what went wrong is to be seen first."""

_LEAST = 1.5
"""In %: a fault is drawn at least this wide, or one of 1,000 kicks could not be seen."""


def draw_lifecycle(data: RunData) -> list[Plot]:
    """The shares of all kicks by what became of them: a plot per vCPUs, placement and transport."""
    return draw_each(lifecycle_groups(data), lambda cases: _plot(data, cases))


def lifecycle_groups(data: RunData) -> list[list[Summary]]:
    """The cases with kicks, those of a plot together."""
    groups: dict[tuple[Any, ...], list[Summary]] = {}
    for case in finished(data.summary, "lifecycle"):
        if _kicked(case):
            groups.setdefault(tuple(case[key] for key in _KEYS), []).append(case)
    return list(groups.values())


def lifecycle_title(data: RunData, cases: Sequence[Summary]) -> str:
    """What distinguishes the plot from those of other groups."""
    return titled(data, label(data.summary, cases[0], of_kind=False))


def _kicked(case: Summary) -> dict[str, Summary]:
    return {method: figures for method, figures in case["methods"].items() if figures["sent"]}


def _plot(data: RunData, cases: Sequence[Summary]) -> Plot:
    rows = sum(len(_kicked(case)) for case in cases)
    title = lifecycle_title(data, cases)
    canvas, axes = new_plot(title, 1.0 + 0.21 * rows + 0.36 * len(cases))
    draw_lifecycle_on(axes, data, cases)
    said = answer_lifecycle({**data.summary, "cases": cases}, data.oversubscribed)[0]
    return Plot(title, said, canvas)


def draw_lifecycle_on(axes: Axes, data: RunData, cases: Sequence[Summary]) -> None:
    """Draw a group of :func:`lifecycle_groups`."""
    y, places = 0.0, []
    for case in cases:
        axes.annotate(
            plain(moment_name(case["moment"]), 60),
            (0, y),
            textcoords="data",
            ha="left",
            va="center",
            fontsize=9,
            color=INK,
        )
        for method, figures in _kicked(case).items():
            y += 1
            places.append((y, method))
            _draw_row(axes, y, style(data, method)[0], figures)
        y += 1.5
    axes.set_xlim(0, 100)
    axes.set_ylim(y - 0.9, -0.6)
    axes.yaxis.set_major_locator(FixedLocator([at for at, _ in places]))
    names = [plain(method).replace("$", r"\$") for _, method in places]
    axes.set_yticklabels(names, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)
    axes.set_xlabel("kicks [%]")
    axes.set_ylabel("moment")
    shown = [fate for fate in ("answered", *FAULTS) if any(_count(case, fate) for case in cases)]
    handles: list[Any] = [Patch(**_look(fate, BAND)) for fate in shown]
    names = ["killed the VMM" if fate == "killed" else fate for fate in shown]
    handles.append(Line2D([], [], color=INK, marker="v", linestyle="none", markersize=4))
    draw_legend(axes, handles, [*names, "sent in time"])


def _count(case: Summary, fate: str) -> int:
    return sum(figures[fate] for figures in case["methods"].values())


def _look(fate: str, colour: str) -> dict[str, Any]:
    """How a part of a bar looks, and its entry in the legend."""
    return {
        "facecolor": INK if fate == "killed" else colour,
        "edgecolor": INK,  # of the hatch
        "hatch": _FATES.get(fate, ""),
        "alpha": _PALE if fate == "answered" else None,
        "linewidth": 0,
    }


def _draw_row(axes: Axes, y: float, colour: str, figures: Mapping[str, Any]) -> None:
    """A bar of all kicks of a method at a moment, a mark at those in time, and how many failed."""
    sent = figures["sent"]
    widths = {fault: max(100 * figures[fault] / sent, _LEAST) for fault in FAULTS if figures[fault]}
    answered = max(0.0, 100 - sum(widths.values())) if figures["answered"] else 0.0
    total = answered + sum(widths.values())
    left = 0.0
    for fate, width in {"answered": answered, **widths}.items():
        share = 100 * width / total
        axes.barh(y, share, 0.64, left=left, **_look(fate, colour))
        left += share
    met = 100 * figures["met"] / sent
    axes.plot([met], [y - 0.46], "v", color=INK, markersize=4, clip_on=False)
    if widths:
        axes.annotate(
            whole(sum(figures[fault] for fault in FAULTS)),
            (100, y),
            (5, 0),
            textcoords="offset points",
            ha="left",
            va="center",
            fontsize=8,
            color=INK,
            annotation_clip=False,
        )
