# SPDX-License-Identifier: Apache-2.0
"""Hosts that are unlike their like: a broken one, one with a noisy neighbour, one that changed.

Peers are the hosts of the same CPU model and kernel. How far they usually differ from each other is
what a host is measured by.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from kickbench.fleet.judge.cohorts import Fact, Histories
from kickbench.fleet.judge.effects import Fleet
from kickbench.fleet.judge.found import Odd, Oddity
from kickbench.fleet.judge.panel import Panel
from kickbench.fleet.judge.robust import median
from kickbench.fleet.judge.steps import AFTER, Floats
from kickbench.nightly.evidence import adjust

FEWEST_PEERS = 8
"""Hosts, with itself, that a host can be odd among."""

LATE = 28
"""Nights that show how much a host scatters, and days on which it may have stepped."""

LEVEL, STEP, SCATTER = 0.02, 0.005, 3.0
"""The share that a host must be off or have stepped, and the factor of its scatter, to be told."""

_TELLING: tuple[Oddity, ...] = ("step", "scatter", "level")
_RATE = 0.002  # false discoveries among the odd hosts of each kind
_NORMAL = 1.4826


def odd_hosts(
    panel: Panel, histories: Histories, fleet: Fleet, explained: NDArray[np.bool_]
) -> tuple[list[Odd], Floats]:
    """The odd hosts, and how far each figure of each host is from its like (figures, hosts).

    A host is odd in one way. Of hosts that are ``explained`` by a change that was told, a step is
    no news. The words are not there yet.
    """
    off = np.full(panel.value.shape[:2], np.nan, np.float32)
    found: list[Odd] = []
    level = median(panel.value[..., -AFTER[0] :], 2)
    scatter = _scatter(fleet.steps.value)
    for like, place in _peers(histories):
        own = level[:, place]
        middle = median(own, 1)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            off[:, place] = (own - middle) / np.where(middle == 0, np.nan, np.abs(middle))
            spread = np.log(scatter[:, place])
            spread -= median(spread, 1)[:, None]
        spread[~np.isfinite(spread)] = np.nan
        if len(place) >= FEWEST_PEERS:
            args = (panel, like, place)
            found += _far(*args, off[:, place], "level", LEVEL)
            found += _far(*args, spread, "scatter", np.log(SCATTER))
    found += _stepped(panel, histories, fleet, explained)
    # A host that stepped scatters by that, and one that scatters is off by chance.
    found.sort(key=lambda one: _TELLING.index(one.oddity))
    once = {one.host: one for one in reversed(found)}
    return [*once.values()], off


def _peers(histories: Histories) -> Iterator[tuple[tuple[Fact, ...], NDArray[np.intp]]]:
    """The hosts of each CPU model and kernel."""
    both = np.stack([histories.codes[fact][:, -1] for fact in ("cpu_model", "kernel")])
    for model, kernel in np.unique(both, axis=1).T:
        place = np.flatnonzero((both[0] == model) & (both[1] == kernel))
        yield (histories.fact("cpu_model", model), histories.fact("kernel", kernel)), place


def _scatter(value: Floats) -> Floats:
    """(figures, hosts): how far a host's last nights are from their median, but for a fifth."""
    late = value[..., -LATE:]
    apart = np.sort(np.abs(late - median(late, 2)[..., None]), axis=2)  # NaN last
    at = np.maximum((0.8 * np.isfinite(apart).sum(2)).astype(np.intp) - 1, 0)
    return np.take_along_axis(apart, at[..., None], 2)[..., 0]


def _far(
    panel: Panel,
    like: tuple[Fact, ...],
    place: NDArray[np.intp],
    off: Floats,
    oddity: Oddity,
    least: float,
) -> Iterator[Odd]:
    """The hosts that are far from their peers, by how far these are from each other.

    A host may be off in one figure, or a little in all of them, which say so together. Its scatter
    is that of all of them, because a single figure may have had two bad nights.
    """
    alone = _standard(off)
    together = median(off, 0)[None]
    z = np.concatenate([_standard(together), alone])
    p = 2 * student.sf(np.abs(z), max(len(place) - 1, 1))
    if oddity == "scatter":
        p[1:] = np.nan
    called = adjust(p.ravel()).reshape(p.shape) <= _RATE
    sizes = np.concatenate([together, off])
    told = called & ((np.abs(sizes) if oddity == "level" else sizes) >= least)
    for column in np.flatnonzero(told.any(0)):
        figures = np.flatnonzero(told[1:, column])
        if told[0, column]:
            figures = np.flatnonzero(np.abs(off[:, column]) >= least)
        figures = figures[np.argsort(-np.abs(alone[figures, column]), kind="stable")]
        share = float(off[figures[0], column])
        yield Odd(
            panel.hosts[place[column]].name,
            oddity,
            dict(like),
            len(place) - 1,
            tuple(int(figure) for figure in figures),
            float(np.expm1(share)) if oddity == "scatter" else share,
            float(np.nanmax(np.abs(z[:, column]))),
            panel.days[0],
            "",
        )


def _standard(off: Floats) -> Floats:
    """By figure, in the usual distance of hosts from their median."""
    usual = _NORMAL * median(np.abs(off), 1)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(usual > 0, off / usual, np.nan).astype(np.float32)


def _stepped(
    panel: Panel, histories: Histories, fleet: Fleet, explained: NDArray[np.bool_]
) -> Iterator[Odd]:
    """The hosts of which most figures stepped on one of the last days, more than they ever do.

    A host alone may have a bad night or two, so it takes two weeks to say this.
    """
    calm = fleet.calm(AFTER[0])
    step = calm - median(calm, 1)[:, None]  # without what all hosts did on that day
    together = median(step, 0)  # (hosts, days)
    usual = _NORMAL * median(np.abs(together), 1)[:, None]
    typical = float(np.nanmedian(usual)) if np.isfinite(usual).any() else np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        z = together / np.maximum(usual, typical)
    late = z[:, -(LATE + AFTER[0]) :]
    p = 2 * student.sf(np.abs(late), 5)
    told = (adjust(p.ravel()).reshape(p.shape) <= _RATE) & ~explained[:, None]
    told &= np.abs(together[:, -late.shape[1] :]) >= STEP
    first = z.shape[1] - late.shape[1]
    for host in np.flatnonzero(told.any(1)):
        day = first + int(np.argmax(np.where(told[host], np.abs(late[host]), -1.0)))
        size = step[:, host, day]
        figures = np.flatnonzero(np.abs(size) >= STEP)
        figures = figures[np.argsort(-np.abs(size[figures]), kind="stable")]
        like = dict(
            histories.fact(fact, int(histories.codes[fact][host, -1]))
            for fact in ("cpu_model", "kernel")
        )
        yield Odd(
            panel.hosts[host].name,
            "step",
            like,
            len(z) - 1,
            tuple(int(figure) for figure in figures),
            float(together[host, day]),
            float(z[host, day]),
            panel.days[_begin(fleet.steps.field[1], int(host), day, float(together[host, day]))],
            "",
        )


def _begin(night: Floats, host: int, day: int, size: float) -> int:
    """The first night of a step that was seen on a day.

    A host that moved shortly before it stepped is not looked at until the move is past.
    """
    for at in range(day - 1, max(day - AFTER[0], 0), -1):
        alone = night[:, host, at] - median(night[:, :, at], 1)
        size_then = float(median(alone))
        if size_then / size > 0.5:
            day = at
        elif np.isfinite(size_then):
            break
    return day
