# SPDX-License-Identifier: Apache-2.0
"""The heat map of hand-overs: each CPU against each other one, with the nodes marked."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, NullLocator

from kickbench.numbers import measured, plural, significant
from kickbench.report.figures.plots import (
    BAND,
    INK,
    Plot,
    draw_each,
    draw_legend,
    new_plot,
    titled,
)
from kickbench.report.words.handover import answer_handover, timed_pairs
from kickbench.report.words.names import Summary, finished, label, nanoseconds
from kickbench.summary.data import RunData

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOUR = "#d55e00"
_FAINT, _STRONG = 0.15, 0.85
"""The opacity of the colour for the shortest and the longest time."""
_SHADES = 10
"""Steps of the colour. Each is one path, because a square for each pair would be megabytes."""
_MOST_WRITTEN = 6
"""With more CPUs, the squares have no room for a time."""
_MOST_TICKS = 16
_STRONGEST_BEHIND_TEXT = 0.6
_INCHES_PER_CPU = 0.5
_MAP_INCHES = (1.6, 3.6)
"""The least and the largest height of the map."""

_MOST_HATCHED = 64
"""Of more CPUs only some pairs are measured, and the others are left blank."""

Square = tuple[float, float]
"""The middle of a square of the map."""
Entries = list[tuple[Any, str]]
"""Handles and names of the legend."""


def draw_handovers(data: RunData) -> list[Plot]:
    """The hand-over time of each pair of CPUs: a plot per case."""
    return draw_each(handover_cases(data), lambda case: _map(data, case))


def handover_cases(data: RunData) -> list[Summary]:
    """The cases with pairs that were timed."""
    return [case for case in finished(data.summary, "handover") if timed_pairs(case)]


def handover_title(data: RunData, case: Summary) -> str:
    """What distinguishes the plot from those of other cases."""
    return titled(data, f"hand-over [{nanoseconds(data.summary)}], {label(data.summary, case)}")


def _map(data: RunData, case: Summary) -> Plot:
    pairs = timed_pairs(case)
    cpus = len(_nodes(pairs))
    title = handover_title(data, case)
    low, high = _MAP_INCHES
    canvas, axes = new_plot(title, 1.2 + min(max(_INCHES_PER_CPU * cpus, low), high))
    draw_handover_on(axes, data, case)
    said = " ".join(answer_handover({**data.summary, "cases": [case]}, ()))
    if missing := _missing(pairs, cpus):
        look = "hatched" if cpus <= _MOST_HATCHED else "blank"
        said += f" {plural(missing, 'pair')} of CPUs had no turn ({look})."
    return Plot(title, said, canvas)


def draw_handover_on(axes: Axes, data: RunData, case: Summary) -> None:
    """Draw one of :func:`handover_cases`."""
    pairs = timed_pairs(case)
    node_of = _nodes(pairs)
    cpus = list(node_of)
    at = {cpu: index for index, cpu in enumerate(cpus)}
    entries = _draw_shades(axes, pairs, at, nanoseconds(data.summary))
    _draw_times(axes, pairs, at)
    if _missing(pairs, len(cpus)) and len(cpus) <= _MOST_HATCHED:
        entries += _draw_missing(axes, pairs, at)
    entries += _draw_siblings(axes, pairs, at)
    _mark_nodes(axes, list(node_of.values()))
    _cpu_axes(axes, cpus)
    draw_legend(axes, [handle for handle, _ in entries], [name for _, name in entries])


def _nodes(pairs: Iterable[Summary]) -> dict[int, int | None]:
    """The CPUs in the order of the map, each with its node."""
    found = {
        cpu: node for pair in pairs for cpu, node in zip(pair["cpus"], pair["nodes"], strict=True)
    }
    return dict(sorted(found.items(), key=lambda one: (one[1] is None, one[1], one[0])))


def _missing(pairs: Iterable[Summary], cpus: int) -> int:
    """The number of pairs of these CPUs that were not timed."""
    return math.comb(cpus, 2) - len({frozenset(pair["cpus"]) for pair in pairs})


def _cpu_axes(axes: Axes, cpus: Sequence[int]) -> None:
    step = -(-len(cpus) // _MOST_TICKS)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(range(0, len(cpus), step)))
        axis.set_minor_locator(NullLocator())
        axis.set_ticklabels([str(cpu) for cpu in cpus[::step]])
    axes.set_xlim(-0.5, len(cpus) - 0.5)
    axes.set_ylim(len(cpus) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_xlabel("CPU [number]")
    axes.set_ylabel("CPU [number]")


def _squares(pair: Summary, at: dict[int, int]) -> tuple[Square, Square]:
    """The two squares of a pair: the map is symmetric."""
    x, y = (float(at[cpu]) for cpu in pair["cpus"])
    return (x, y), (y, x)


def _draw_missing(axes: Axes, pairs: Sequence[Summary], at: dict[int, int]) -> Entries:
    """Hatches the squares of pairs without a time."""
    timed = {square for pair in pairs for square in _squares(pair, at)}
    every = {(float(x), float(y)) for x, y in itertools.permutations(range(len(at)), 2)}
    looks: dict[str, Any] = {"facecolor": "none", "edgecolor": BAND, "hatch": "////"}
    axes.add_patch(PathPatch(_path(sorted(every - timed)), linewidth=0, **looks))
    return [(Patch(linewidth=0, **looks), "not measured")]


def _draw_siblings(axes: Axes, pairs: Sequence[Summary], at: dict[int, int]) -> Entries:
    squares = [square for pair in pairs if pair["siblings"] for square in _squares(pair, at)]
    if not squares:
        return []
    below_the_time = 0.3 if len(at) <= _MOST_WRITTEN else 0.0
    x, y = [x for x, _ in squares], [y + below_the_time for _, y in squares]
    (dots,) = axes.plot(x, y, "o", color=INK, markersize=max(1.5, 4 - len(at) / 16))
    return [(dots, "threads of one core")]


def _draw_shades(axes: Axes, pairs: Sequence[Summary], at: dict[int, int], unit: str) -> Entries:
    """Draws the squares of the pairs, one path for each shade."""
    times = [float(pair["value"]) for pair in pairs]
    low, high = times[0], times[-1]  # the fastest is first
    strongest = _STRONGEST_BEHIND_TEXT if len(at) <= _MOST_WRITTEN else _STRONG
    width = (high - low) / _SHADES
    shades: dict[int, list[Square]] = {}
    for pair, time in zip(pairs, times, strict=True):
        shade = min(int((time - low) / width), _SHADES - 1) if width > 0 else _SHADES // 2
        shades.setdefault(shade, []).extend(_squares(pair, at))
    entries: Entries = []
    words = partial(significant, digits=3)
    for shade, squares in sorted(shades.items()):
        alpha = _FAINT + (strongest - _FAINT) * shade / (_SHADES - 1)
        looks: dict[str, Any] = {"facecolor": _COLOUR, "alpha": alpha, "linewidth": 0}
        axes.add_patch(PathPatch(_path(squares), **looks))
        if len(shades) <= 4 or shade in (min(shades), max(shades)):
            first, last = low + shade * width, low + (shade + 1) * width
            same = width == 0 or words(first) == words(last)
            ends = words(first) if same else f"{words(first)} to {words(last)}"
            entries.append((Patch(**looks), f"{ends} {unit}"))
    return entries


def _draw_times(axes: Axes, pairs: Sequence[Summary], at: dict[int, int]) -> None:
    if len(at) > _MOST_WRITTEN:
        return
    for pair in pairs:
        value = significant(pair["value"])
        ends = ""
        if pair["ci95"] is not None:
            value, low, high = measured(pair["value"], pair["ci95"])
            ends = f"{low} to {high}"
        for x, y in _squares(pair, at):
            looks: dict[str, Any] = {"ha": "center", "va": "center", "color": INK}
            small = len(at) > 3
            axes.text(x, y - 0.08, value, fontsize=9 if small else 12, **looks)
            if not small:
                axes.text(x, y + 0.2, ends, fontsize=8.5, **looks)


def _mark_nodes(axes: Axes, nodes: Sequence[int | None]) -> None:
    """Draws a line between two nodes, and their numbers above the map."""
    begins = [0, *(i for i in range(1, len(nodes)) if nodes[i] != nodes[i - 1]), len(nodes)]
    for begin in begins[1:-1]:
        for line in (axes.axvline, axes.axhline):
            line(begin - 0.5, color=INK, linewidth=1.2)
    known = [ends for ends in itertools.pairwise(begins) if nodes[ends[0]] is not None]
    if not known:
        return
    top = axes.secondary_xaxis("top")
    top.set_ticks([(begin + end - 1) / 2 for begin, end in known])
    top.set_xticklabels([str(nodes[begin]) for begin, _ in known])
    top.tick_params(colors=INK, labelsize=9, length=0)
    top.set_xlabel("node [number]", color=INK, size=10)
    top.spines["top"].set_visible(False)


def _path(squares: Iterable[Square]) -> Path:
    """All squares, each around its middle, as one path."""
    corner = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)])
    middles = np.array(list(squares))
    points = (middles[:, None, :] + corner[None, :, :]).reshape(-1, 2)
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(points, np.tile(codes, len(middles)))
