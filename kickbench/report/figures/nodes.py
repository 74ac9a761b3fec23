# SPDX-License-Identifier: Apache-2.0
"""The heat map of NUMA nodes: the creator's, where the siglock lies, against the vCPUs'."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator

from kickbench.numbers import measured, plural
from kickbench.report.figures.plots import (
    BAND,
    INK,
    Plot,
    apart_from_placement,
    draw_each,
    new_plot,
    plain,
    style,
    titled,
    with_crowd,
)
from kickbench.report.words.differences import amount, cost_names, costs, interval, per_headline
from kickbench.report.words.names import Series, Summary, nanoseconds, series_of
from kickbench.summary.data import RunData

_NODE = re.compile(r"node:([0-9]{1,4})")
_FAINT, _STRONG = 0.06, 0.6
"""The opacity of the colour for the least and the largest cost, so that text is readable."""
_FEW_NODES = 3
"""With more nodes, the cells have no room for an interval."""
_MOST_NODES = 16

Nodes = tuple[int, int]
"""The creator's node and the vCPUs'."""


@dataclass(frozen=True)
class NodeMap:
    """The cost of a method, or a part of it, by nodes. ``series`` is any of those drawn."""

    method: str
    series: Series
    cells: Mapping[Nodes, Summary]
    """By nodes, the case."""

    @property
    def costs(self) -> dict[Nodes, Summary]:
        """By nodes, the difference."""
        return {nodes: costs(case)[self.method] for nodes, case in self.cells.items()}

    @property
    def sides(self) -> tuple[list[int], list[int]]:
        """The nodes of the creators, from above, and of the vCPUs, from the left."""
        creators, homes = (sorted({nodes[i] for nodes in self.cells})[:_MOST_NODES] for i in (0, 1))
        return creators, homes


def draw_nodes(data: RunData) -> list[Plot]:
    """The difference from the baseline by the creator's node and the vCPUs': a plot per method."""
    return draw_each(node_maps(data), lambda found: _node_plot(data, found))


def node_maps(data: RunData) -> list[NodeMap]:
    """The maps with several pairs of nodes, by method or part."""
    groups: dict[Series, list[Series]] = {}
    for series in series_of(data.summary):
        if _nodes(series.cases[0]) is not None:
            groups.setdefault(replace(series, placement="", cases=()), []).append(series)
    found = []
    for group in groups.values():
        for method in cost_names(case for series in group for case in series.cases):
            cells = _cells(data, group, method)
            if len(cells) > 1:
                found.append(NodeMap(method, group[0], cells))
    return found


def _nodes(case: Summary) -> Nodes | None:
    """The nodes of a placement; None unless it names both, and the vCPUs are on one node."""
    spec = case["placement_spec"]
    found = [_NODE.fullmatch(str(spec.get(key))) for key in ("creator", "vcpus")]
    if found[0] is None or found[1] is None:
        return None
    return int(found[0][1]), int(found[1][1])


def _cells(data: RunData, group: Sequence[Series], method: str) -> dict[Nodes, Summary]:
    """The cases by nodes, all with one number of vCPUs.

    It is the number that the most pairs of nodes have; among equals one with enough CPUs, then the
    largest.
    """
    by_vcpus: dict[int, dict[Nodes, Summary]] = {}
    for series in group:
        for case in series.cases:
            nodes = _nodes(case)
            placed = case.get("placed") is not False
            if nodes is not None and placed and method in costs(case):
                # If two placements differ in the kicker only, the first counts.
                by_vcpus.setdefault(int(case["vcpus"]), {}).setdefault(nodes, case)

    def rank(vcpus: int) -> tuple[int, bool, int]:
        cells = by_vcpus[vcpus]
        sound = all(case["id"] not in data.oversubscribed for case in cells.values())
        return len(cells), sound, vcpus

    return by_vcpus[max(by_vcpus, key=rank)] if by_vcpus else {}


def _difference(name: str, case: Summary) -> str:
    """A part's name has both of its methods."""
    return f"{name} - {case['baseline']}" if name in case["methods"] else name


def node_title(data: RunData, found: NodeMap) -> str:
    """What distinguishes the plot from those of other maps."""
    case = next(iter(found.cells.values()))
    unit = f"{nanoseconds(data.summary)} {per_headline(case)}"
    return titled(
        data,
        f"{plain(_difference(found.method, case))} [{unit}], "
        + with_crowd(data, case, plural(case["vcpus"], "vCPU"))
        + f", {apart_from_placement(data, found.series)}",
    )


def _node_plot(data: RunData, found: NodeMap) -> Plot:
    title = node_title(data, found)
    creators, homes = found.sides
    canvas, axes = new_plot(title, 1.5 + min(0.62 * len(creators), 3.4))
    draw_nodes_on(axes, data, found)
    unit, cells = nanoseconds(data.summary), len(creators) * len(homes)
    return Plot(title, _finding(found.costs, unit, cells), canvas)


def draw_nodes_on(axes: Axes, data: RunData, found: NodeMap) -> None:
    """Draw one of :func:`node_maps`."""
    found_costs = found.costs
    creators, homes = found.sides
    colour, _ = style(data, found.method)
    least, most = (f(contrast["diff"] for contrast in found_costs.values()) for f in (min, max))
    low = min(least, 0.0)
    most = max(most, low + 1e-9)
    for y, creator in enumerate(creators):
        for x, home in enumerate(homes):
            contrast = found_costs.get((creator, home))
            cell = (x - 0.5, y - 0.5)
            if contrast is None:
                axes.add_patch(
                    Rectangle(cell, 1, 1, fill=False, hatch="///", edgecolor=BAND, linewidth=0)
                )
                continue
            share = (contrast["diff"] - low) / (most - low)
            alpha = _FAINT + (_STRONG - _FAINT) * share
            axes.add_patch(Rectangle(cell, 1, 1, facecolor=colour, alpha=alpha, linewidth=0))
            middle, first, last = measured(contrast["diff"], contrast["ci95"])
            few = max(len(creators), len(homes)) <= _FEW_NODES
            axes.text(
                x, y - (0.12 if few else 0), middle, ha="center", va="center", color=INK,
                fontsize=12 if few else 8,
            )  # fmt: skip
            if few:
                axes.text(
                    x, y + 0.22, f"{first} to {last}", ha="center", va="center", color=INK,
                    fontsize=8.5,
                )  # fmt: skip
    for axis, nodes in ((axes.xaxis, homes), (axes.yaxis, creators)):
        axis.set_major_locator(FixedLocator(range(len(nodes))))
        axis.set_minor_locator(NullLocator())
        axis.set_ticklabels([str(node) for node in nodes])
    axes.set_xlim(-0.5, len(homes) - 0.5)
    axes.set_ylim(len(creators) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_xlabel("node of the vCPUs [number]")
    axes.set_ylabel("node of the creator\n[number]")


def _finding(costs: Mapping[Nodes, Summary], unit: str, cells: int) -> str:
    ordered = sorted(costs, key=lambda nodes: float(costs[nodes]["diff"]))

    def said(nodes: Nodes) -> str:
        contrast = costs[nodes]
        return (
            f"{amount(contrast, unit)} {interval(contrast)} with the creator on node {nodes[0]} "
            f"and the vCPUs on node {nodes[1]}"
        )

    text = f"Least: {said(ordered[0])}. Most: {said(ordered[-1])}."
    missing = cells - len(costs)
    if missing > 0:
        were = "was" if missing == 1 else "were"
        text += f" {plural(missing, 'pair')} of nodes {were} not measured (hatched)."
    return text
