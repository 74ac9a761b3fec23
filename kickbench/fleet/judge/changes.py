# SPDX-License-Identifier: Apache-2.0
"""Which cohorts changed: the fewest that explain what is seen, and what they have in common.

Every cohort is tried on every figure, at one false discovery rate for hosts that moved, and one for
those that did not. Most cohorts share hosts. So the one that shows most is taken first, its hosts
are taken out of the others, and these are looked at again. Hosts that moved come first: a move
explains a change better than a day does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kickbench.fleet.judge.cohorts import SAME_DAYS, Hosts
from kickbench.fleet.judge.effects import Effects, Fleet
from kickbench.fleet.judge.robust import median, trimmed
from kickbench.nightly.evidence import adjust


@dataclass(frozen=True)
class Settings:
    """``min_effect`` is the share of a level that a change must exceed to be told."""

    false_discovery_rate: float = 0.005
    min_effect: float = 0.0005


@dataclass(frozen=True)
class Change:
    """What changed for a cohort. ``figures`` are the places of those that did.

    ``day`` and ``end`` are places of days. ``end`` is when it went by itself; None: it is there.
    """

    effects: Effects
    figures: NDArray[np.intp]
    q: NDArray[np.float64]
    day: int
    end: int | None

    @property
    def hosts(self) -> Hosts:
        """Whose it is."""
        return self.effects.hosts


def changes(
    fleet: Fleet, moved: Sequence[Hosts], settled: Sequence[Hosts], settings: Settings
) -> list[Change]:
    """The changes of these cohorts, those of moves first."""
    tried = [one for one in map(fleet.moved, moved) if one is not None]
    stood = [one for one in map(fleet.settled, settled) if one is not None]
    # Apart: a move that changed much would let more of the others pass.
    judge, judge_of_days = _Judge(tried, settings), _Judge(stood, settings)
    found = []
    for effects in _greedy(tried, fleet.moved, judge):
        assert effects.hosts.day is not None
        figures = judge.found(effects)
        day = int(effects.hosts.day.min())
        found.append(_settle(fleet, Change(effects, figures, judge.q(effects), day, None)))
    return _with_ends(found, _of_days(fleet, stood, judge_of_days))


def _with_ends(moved: Sequence[Change], of_days: Sequence[Change]) -> list[Change]:
    """All changes, but what took back the change of a move is its end, and no change."""
    found, others = [*moved], []
    for back in of_days:
        at = next((at for at, change in enumerate(found) if _took_back(back, change)), None)
        if at is None:
            others.append(back)
        else:
            found[at] = replace(found[at], end=back.day - 1)
    return [*found, *others]


def _took_back(back: Change, change: Change) -> bool:
    """Whether the figures of hosts that moved, and went back, did so by this change."""
    if change.end is None or back.end is not None or change.hosts.day is None:
        return False
    hosts = np.isin(back.hosts.place, change.hosts.place).mean() >= SAME_DAYS
    figures = np.isin(back.figures, change.figures).all()
    if back.day <= change.hosts.day.max() or not hosts or not figures:
        return False
    then = change.effects.value[back.figures]
    left = np.abs(then + back.effects.value[back.figures]) < np.abs(then) / 2
    return bool(left.mean() > 0.5)


class _Judge:
    """The false discovery rate over all that was tried at first, as a limit of p."""

    def __init__(self, tried: Sequence[Effects], settings: Settings) -> None:
        self._settings = settings
        p = np.concatenate([one.p for one in tried] or [np.empty(0)])
        self._p = np.sort(p[np.isfinite(p)])
        self._q = adjust(self._p)
        called = self._p[self._q <= settings.false_discovery_rate]
        first = settings.false_discovery_rate / max(len(self._p), 1)
        self._limit = max(float(called.max(initial=0.0)), first)

    def found(self, effects: Effects) -> NDArray[np.intp]:
        """The figures that changed."""
        large = np.abs(effects.value) > self._settings.min_effect
        return np.flatnonzero(large & (effects.p <= self._limit))

    def q(self, effects: Effects) -> NDArray[np.float64]:
        """The p of all figures, adjusted for all that was tried."""
        if not len(self._p):
            return effects.p
        at = np.minimum(np.searchsorted(self._p, effects.p), len(self._p) - 1)
        return np.maximum(self._q[at], effects.p)

    def score(self, effects: Effects) -> float:
        """How much is seen in a cohort; 0: nothing."""
        return float(np.sum(np.abs(effects.z[self.found(effects)])))


def _greedy(
    tried: Sequence[Effects], look: Callable[[Hosts], Effects | None], judge: _Judge
) -> Iterator[Effects]:
    """The cohorts that show something, the most telling first, each without hosts told before."""
    left = list(tried)
    while left:
        best = max(left, key=lambda one: (judge.score(one), one.hosts.breadth))
        if not judge.score(best):
            return
        yield best
        left = list(_others(left, best.hosts, look))


def _others(
    left: Sequence[Effects], told: Hosts, look: Callable[[Hosts], Effects | None]
) -> Iterator[Effects]:
    """The cohorts without the hosts whose moves on these days were told."""
    assert told.day is not None
    days = dict(zip(told.place.tolist(), told.day.tolist(), strict=True))
    for one in left:
        assert one.hosts.day is not None
        of = zip(one.hosts.place.tolist(), one.hosts.day.tolist(), strict=True)
        shared = np.array([place for place, day in of if days.get(place) == day], np.intp)
        if not len(shared):
            yield one
        elif (rest := one.hosts.without(shared)) and (again := look(rest)):
            yield again


def _settle(fleet: Fleet, change: Change) -> Change:
    """The change, with its end if it is not there any more."""
    steps, hosts = fleet.steps, change.hosts
    days = steps.value.shape[-1]
    since = hosts.day if hosts.day is not None else np.full(len(hosts.place), change.day)
    if not len(change.figures) or days - int(np.max(since)) < 2 * change.effects.nights:
        return change
    figures = change.figures[:, None]
    late = median(steps.value[figures, hosts.place, -change.effects.nights :])
    now = trimmed(late - steps.before[figures, hosts.place, since])
    then = change.effects.value[change.figures]
    left = np.abs(now.value) < np.abs(then) / 2
    told = np.abs(now.value - then) > 4 * now.error
    if not (left & told).mean() > 0.5:
        return change
    return replace(change, end=days - 1)


def _of_days(fleet: Fleet, stood: Sequence[Effects], judge: _Judge) -> list[Change]:
    """The changes of hosts that did not move, each with the figures that changed on about its day.

    A figure that changed for a cohort is no news in another one that shares hosts, near that day.
    """
    told: list[Change] = []
    left = [(one, judge.found(one)) for one in stood]
    while True:
        left = [(one, figures) for one, old in left if len(figures := _news(one, old, told))]
        if not left:
            return told
        one, figures = max(
            left, key=lambda of: (float(np.abs(of[0].z[of[1]]).sum()), of[0].hosts.breadth)
        )
        assert one.day is not None
        days = one.day[figures]
        first = int(np.median(days))
        near = figures[np.abs(days - first) <= one.nights]
        if not len(near):
            near, first = figures[:1], int(days[0])
        told.append(_settle(fleet, Change(one, near, judge.q(one), first, None)))
        assert one.end is not None
        ends = one.end[near]
        if (ends < fleet.steps.value.shape[-1]).mean() > 0.5:
            told[-1] = replace(told[-1], end=int(np.median(ends)) - 1)


def _news(one: Effects, figures: NDArray[np.intp], told: Sequence[Change]) -> NDArray[np.intp]:
    """The figures that no change told before explains."""
    assert one.day is not None
    news = np.ones(len(figures), np.bool_)
    for change in told:
        if np.isin(change.hosts.place, one.hosts.place).any():
            days = [change.day] if change.end is None else [change.day, change.end]
            apart = np.min(np.abs(one.day[figures, None] - days), axis=1)
            news &= ~((apart <= 2 * one.nights) & np.isin(figures, change.figures))
    return figures[news]
