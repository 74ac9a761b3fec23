# SPDX-License-Identifier: Apache-2.0
"""The map of hosts by figures: a picture for each group, a row for each host.

A picture has a pixel for each host and figure, which the page enlarges. Its colours are more or
less opaque, so it suits light and dark pages. The page has the extreme cells as a table.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib import image
from numpy.typing import NDArray

from kickbench.fleet.judge.found import Found
from kickbench.fleet.pages.words import figure_name, figure_order, group_name, percent, worse
from kickbench.numbers import fixed, plural
from kickbench.text import printable, shorten

MOST_HOSTS, MOST_FIGURES = 2000, 400
"""What a map shows at most: the hosts and figures that are furthest off."""
MOST_CELLS, MOST_OF_A_HOST = 30, 3
"""Extreme cells that have words, in all and of one host."""
_LONGEST = 60
_HEIGHT, _MOST_HEIGHT = 900, 2000
_HIGHEST_ROW, _LABEL = 18, 15
"""Pixels: the height of a row with a name, and the distance of two names."""

# Vermilion and blue of Okabe and Ito, as in the figures of a run.
_WORSE, _BETTER, _UNKNOWN = (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2), (0x7F, 0x80, 0x80, 0x60)
_OPACITY = (0x38, 0x70, 0xA0, 0xD0, 0xFF)

# Not which version of matplotlib wrote the picture: the same data give the same bytes.
_UNSIGNED: dict[str, Any] = {"Software": None}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """A group's picture. ``labels`` are (pixels from the top, host).

    ``names`` has the hosts from top to bottom, as JSON for an attribute.
    """

    title: str
    group: int | None
    hosts: int
    figures: int
    height: int
    address: Markup
    names: Markup
    words: str
    labels: list[tuple[int, str]]


@dataclass(frozen=True)
class Swatch:
    """A colour of the legend, as CSS has it, and what it means."""

    colour: str
    words: str


@dataclass(frozen=True)
class Cell:
    """A cell that is far off: ``share`` is that of :attr:`Found.map`."""

    host: str
    figure: int
    share: float


@dataclass(frozen=True)
class Map:
    """The whole map. ``kinds`` are (kind, first column, last column), counted from 1.

    A cell that is off by less than ``least`` has no colour.
    """

    bands: list[Band]
    figures: list[int]
    kinds: list[tuple[str, int, int]]
    legend: list[Swatch]
    cells: list[Cell]
    least: str
    left_out: str


def draw(found: Found) -> Map:
    """Draw the map. It has no bands if nothing was measured."""
    cost = _cost(found)
    order = np.array(figure_order(found), dtype=int)
    hosts = _furthest(cost, 0, MOST_HOSTS)
    figures = order[np.isin(order, _furthest(cost, 1, MOST_FIGURES))]
    steps = _steps(cost)
    height = _row_height(len(hosts))
    bands = [
        _band(found, cost[np.ix_(rows, figures)], rows, steps, height, group)
        for group, rows in _grouped(found, hosts, cost)
        if len(figures)
    ]
    kinds = [found.figures[index].kind for index in figures]
    return Map(
        bands,
        [int(index) for index in figures],
        list(_runs(kinds)),
        _legend(steps),
        list(_extremes(found, cost, steps[0])),
        percent(steps[0]).lstrip("+"),
        _left_out(found, len(hosts), len(figures)),
    )


def _row_height(hosts: int) -> int:
    """Pixels: names fit beside the rows of a small fleet, and a row of a large one is seen."""
    least = 2 if 2 * hosts <= _MOST_HEIGHT else 1
    return min(max(_HEIGHT // max(hosts, 1), least), _HIGHEST_ROW)


def _cost(found: Found) -> Floats:
    """(hosts, figures): how far each is off its like, positive if it is worse."""
    signs = np.array([worse(figure) for figure in found.figures], dtype=float)
    shape = (len(found.hosts), len(found.figures))
    cost: Floats = np.asarray(found.map, dtype=float).reshape(shape) * signs
    return cost


def _furthest(cost: Floats, axis: int, most: int) -> NDArray[np.int_]:
    """The rows (axis 0) or columns to show, in their order: all, or those furthest off."""
    if cost.shape[axis] <= most:
        return np.arange(cost.shape[axis])
    off = np.nanmax(np.nan_to_num(np.abs(cost), nan=-1.0), axis=1 - axis, initial=-1.0)
    return np.sort(np.argsort(-off, kind="stable")[:most])


def _grouped(
    found: Found, hosts: NDArray[np.int_], cost: Floats
) -> Iterator[tuple[int | None, NDArray[np.int_]]]:
    """Each group with its hosts, the worst first; hosts that are in no group come last."""
    middle = np.array(
        [np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else -np.inf for row in cost]
    )
    ranked = hosts[np.argsort(-middle[hosts], kind="stable")]
    names = np.array([host.name for host in found.hosts], dtype=object)
    left = np.ones(len(names), dtype=bool)
    for index, group in enumerate(found.groups):
        of_group = set(group.hosts)
        rows = np.array([row for row in ranked if left[row] and names[row] in of_group], dtype=int)
        left[rows] = False
        if len(rows):
            yield index, rows
    if len(rest := ranked[left[ranked]]):
        yield None, rest


def _steps(cost: Floats) -> list[float]:
    """Five shares, such as 1, 2, 5, 10 and 20 %, at which the colour changes.

    The first is about three usual deviations, so what is mere noise has no colour.
    """
    off = np.abs(cost[np.isfinite(cost)])
    usual = 1.4826 * float(np.median(off)) if len(off) else 0.0
    series = [step * 10.0**power for power in range(-3, 40) for step in (1, 2, 5)]
    far = np.abs(np.log(series) - np.log(max(3 * usual, series[0])))
    first = min(int(np.argmin(far)), len(series) - 5)
    return series[first : first + 5]


def _band(
    found: Found,
    cost: Floats,
    rows: NDArray[np.int_],
    steps: Sequence[float],
    height: int,
    group: int | None,
) -> Band:
    title = "Other hosts" if group is None else group_name(found.groups[group])
    return Band(
        title,
        group,
        len(rows),
        cost.shape[1],
        height * len(rows),
        _picture(cost, steps),
        escape(json.dumps([shorten(printable(found.hosts[row].name), _LONGEST) for row in rows])),
        _words(cost, steps),
        _labels(found, rows, height),
    )


def _picture(cost: Floats, steps: Sequence[float]) -> Markup:
    """A PNG as the address of an image."""
    strength = np.searchsorted(steps, np.abs(cost), side="right")
    pixels = np.zeros((*cost.shape, 4), dtype=np.uint8)
    for sign, colour in ((1, _WORSE), (-1, _BETTER)):
        for index, alpha in enumerate(_OPACITY, 1):
            pixels[(np.sign(cost) == sign) & (strength == index)] = (*colour, alpha)
    pixels[np.isnan(cost)] = _UNKNOWN
    out = io.BytesIO()
    image.imsave(out, pixels, format="png", metadata=_UNSIGNED)
    data = base64.b64encode(out.getvalue()).decode("ascii")
    return Markup(f"data:image/png;base64,{data}")  # noqa: S704 (our own)


def _words(cost: Floats, steps: Sequence[float]) -> str:
    """What the picture shows, for readers who cannot see it."""
    count, most = cost.size, percent(steps[-1]).lstrip("+")
    bad, good = int(np.sum(cost >= steps[-1])), int(np.sum(cost <= -steps[-1]))
    unknown = int(np.sum(np.isnan(cost)))
    words = f"{plural(cost.shape[0], 'host')} by {plural(cost.shape[1], 'figure')}. "
    words += f"Of {count:,} cells {bad:,} are worse than their like by {most} or more, "
    words += f"and {good:,} better."
    return f"{words} {unknown:,} were not measured." if unknown else words


def _labels(found: Found, rows: NDArray[np.int_], height: int) -> list[tuple[int, str]]:
    """The hosts to name beside the picture: all if there is room, else the odd ones."""
    odd = {one.host for one in found.odd}
    labels: list[tuple[int, str]] = []
    for number, row in enumerate(rows):
        name, top = found.hosts[row].name, number * height + height // 2
        if (height >= _LABEL or name in odd) and (not labels or top - labels[-1][0] >= _LABEL):
            labels.append((top, name))
    return labels


def _runs(kinds: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    at = 0
    for kind, some in groupby(kinds):
        count = len(list(some))
        yield kind, at + 1, at + count
        at += count


def _legend(steps: Sequence[float]) -> list[Swatch]:
    """From far better to far worse, then what was not measured."""
    ends = [f"{fixed(100 * step, 3).rstrip('0').rstrip('.')} %" for step in steps]
    words = [
        *(f"{low} to {high}" for low, high in pairwise(ends)),
        f"{ends[-1]} or more",
    ]
    better = [
        Swatch(_css(_BETTER, alpha), f"better by {text}")
        for alpha, text in zip(_OPACITY, words, strict=True)
    ]
    dearer = [
        Swatch(_css(_WORSE, alpha), f"worse by {text}")
        for alpha, text in zip(_OPACITY, words, strict=True)
    ]
    near = Swatch("transparent", f"within {ends[0]}")
    return [
        *reversed(better),
        near,
        *dearer,
        Swatch(_css(_UNKNOWN[:3], _UNKNOWN[3]), "not measured"),
    ]


def _css(colour: tuple[int, ...], alpha: int) -> str:
    red, green, blue = colour
    return f"rgb({red} {green} {blue} / {alpha / 255:.2f})"


def _extremes(found: Found, cost: Floats, least: float) -> Iterator[Cell]:
    """The cells with a colour, the furthest off first, a few of each host."""
    off = np.nan_to_num(np.abs(cost), nan=-1.0, posinf=np.inf)
    shown: Counter[int] = Counter()
    for flat in np.argsort(-off, axis=None, kind="stable"):
        row, column = (int(at) for at in np.unravel_index(flat, cost.shape))
        if off[row, column] < least or shown.total() == MOST_CELLS:
            return
        if shown[row] < MOST_OF_A_HOST:
            shown[row] += 1
            yield Cell(found.hosts[row].name, column, float(found.map[row, column]))


def _left_out(found: Found, hosts: int, figures: int) -> str:
    """E.g. "100 hosts and 20 figures are left out: all others are further off."; "" if none."""
    missing = [
        plural(count, what)
        for count, what in (
            (len(found.hosts) - hosts, "host"),
            (len(found.figures) - figures, "figure"),
        )
        if count
    ]
    return f"{' and '.join(missing)} left out. All others are further off." if missing else ""


def column_names(found: Found, figures: Sequence[int]) -> list[tuple[int, str]]:
    """(number of the column, name of the figure), as the map has them."""
    return [(number, figure_name(found, index)) for number, index in enumerate(figures, 1)]
