# SPDX-License-Identifier: Apache-2.0
"""Hosts with something in common: those that got a new kernel, those of one CPU model, all.

Cohorts are what a change is looked for in, and what explains it. For example: the hosts with an
EPYC 9004 that moved to Linux 6.12.9.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kickbench.fleet.judge.panel import FACTS, Panel
from kickbench.fleet.judge.robust import FEWEST

Fact = tuple[str, str]
"""A fact and its value, such as ("kernel", "6.12.9")."""

SAME_DAYS = 0.9
"""The share of a cohort's hosts that must have made another move on the same day to tell of it."""

GROUPING = tuple(fact for fact in FACTS if fact != "fingerprint")
"""The facts that make cohorts. A fingerprint is made of these."""


@dataclass(frozen=True)
class Hosts:
    """Places of hosts in a panel. ``day`` is when each moved; None: they have not ``moved``."""

    where: tuple[Fact, ...]
    moved: Fact | None
    place: NDArray[np.intp]
    day: NDArray[np.intp] | None

    @property
    def breadth(self) -> int:
        """How few conditions it takes to say who they are."""
        return -len(self.where)

    def without(self, places: NDArray[np.intp]) -> Hosts | None:
        """The other hosts; None if they are too few."""
        kept = self.only(~np.isin(self.place, places))
        return None if len(kept.place) < FEWEST else kept

    def only(self, some: NDArray[np.bool_]) -> Hosts:
        """Those of them, however few."""
        day = None if self.day is None else self.day[some]
        return Hosts(self.where, self.moved, self.place[some], day)


class Histories:
    """What each host was on each day: a panel's facts, without the days on which it was silent."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self.codes = {fact: _filled(panel.facts[fact]) for fact in GROUPING}

    def fact(self, fact: str, code: int) -> Fact:
        """A fact by its code."""
        return fact, self._panel.names[fact][code] if code >= 0 else ""

    @cached_property
    def moves(self) -> dict[Fact, tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """For each fact that hosts have got: the hosts, and the day on which each last got it."""
        found: dict[Fact, tuple[NDArray[np.intp], NDArray[np.intp]]] = {}
        for fact, codes in self.codes.items():
            host, day = np.nonzero(_moves(codes))
            to = codes[host, day]
            for code in np.unique(to):
                latest = dict(zip(host[to == code], day[to == code], strict=True))
                places = np.array([*latest], np.intp), np.array([*latest.values()], np.intp)
                found[fact, self._panel.names[fact][code]] = places
        return found

    def moves_of(self, host: int) -> list[tuple[int, str, str]]:
        """All moves of a host, oldest first: the day, the fact, and its new value."""
        found = []
        for fact, codes in self.codes.items():
            (days,) = np.nonzero(_moves(codes[[host]])[0])
            found += [(int(day), *self.fact(fact, codes[host, day])) for day in days]
        return sorted(found, key=lambda move: move[0])

    def nights_apart(self, hosts: Hosts) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The nights between each host's last move, of any fact, and this one, and until its next.

        A host that never moved before, or since, has more than there are days.
        """
        assert hosts.day is not None
        moves = np.any([_moves(codes) for codes in self.codes.values()], axis=0)[hosts.place]
        days = moves.shape[1]
        day, at = hosts.day[:, None], np.arange(days)
        since = day - np.where(moves & (at < day), at, -days).max(1, keepdims=True)
        until = np.where(moves & (at > day), at, 2 * days).min(1, keepdims=True) - day
        return since[:, 0], until[:, 0]

    def before(self, hosts: Hosts) -> tuple[str, ...]:
        """What the hosts were before they moved, the most frequent first."""
        if hosts.moved is None or hosts.day is None:
            return ()
        fact = hosts.moved[0]
        codes, count = np.unique(self.codes[fact][hosts.place, hosts.day - 1], return_counts=True)
        return tuple(self._panel.names[fact][codes[at]] for at in np.argsort(-count, kind="stable"))

    def also(self, hosts: Hosts) -> tuple[Fact, ...]:
        """The other moves that nearly all of the hosts made on the same days."""
        if hosts.day is None:
            return ()
        own = dict(zip(hosts.place.tolist(), hosts.day.tolist(), strict=True))
        found = []
        for moved, (place, day) in self.moves.items():
            same = sum(own.get(p) == d for p, d in zip(place.tolist(), day.tolist(), strict=True))
            if moved != hosts.moved and same >= SAME_DAYS * len(own):
                found.append(moved)
        return tuple(found)

    def unsettled(self, nights: int, past: int) -> NDArray[np.bool_]:
        """(hosts, days): whether a step of so many ``nights``, or its ``past``, has a move."""
        (hosts, days) = next(iter(self.codes.values())).shape
        found = np.zeros((hosts, days), np.bool_)
        for place, day in self.moves.values():
            for host, at in zip(place.tolist(), day.tolist(), strict=True):
                found[host, max(0, at - nights + 1) : at + past + 1] = True
        return found

    def moved(self) -> list[Hosts]:
        """Those that moved, and of them those that share one more fact. No two are the same."""
        found = []
        for moved, (place, day) in self.moves.items():
            wheres: Iterable[tuple[tuple[Fact, ...], NDArray[np.bool_]]] = [
                ((), np.ones(len(place), np.bool_)),
                *self._shared(place, moved[0]),
            ]
            found += [Hosts(where, moved, place[some], day[some]) for where, some in wheres]
        return _distinct(found)

    def settled(self) -> list[Hosts]:
        """All hosts, and those that share one fact."""
        everyone = np.arange(len(self._panel.hosts))
        found = [Hosts((), None, everyone, None)]
        found += [
            Hosts(where, None, everyone[some], None) for where, some in self._shared(everyone)
        ]
        return _distinct(found)

    def _shared(
        self, place: NDArray[np.intp], but: str | None = None
    ) -> Iterator[tuple[tuple[Fact, ...], NDArray[np.bool_]]]:
        """What some of the hosts, and not all, have in common now, and which of them have it."""
        for fact, codes in self.codes.items():
            now = codes[place, -1]
            for code in np.unique(now[now >= 0]) if fact != but else ():
                if not (now == code).all():
                    yield ((fact, self._panel.names[fact][code]),), now == code


def _distinct(cohorts: Iterable[Hosts]) -> list[Hosts]:
    """The first of those that are the same hosts on the same days, and none of too few hosts."""
    found: dict[tuple[bytes, bytes], Hosts] = {}
    for hosts in cohorts:
        if len(hosts.place) >= FEWEST:
            key = hosts.place.tobytes(), b"" if hosts.day is None else hosts.day.tobytes()
            found.setdefault(key, hosts)
    return [*found.values()]


def _moves(codes: NDArray[np.int32]) -> NDArray[np.bool_]:
    """(hosts, days): whether a fact is another one than on the day before."""
    found = np.zeros(codes.shape, np.bool_)
    found[:, 1:] = (codes[:, 1:] != codes[:, :-1]) & (codes[:, :-1] >= 0)
    return found


def _filled(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """The codes with the last known one where it is -1; -1 before the first."""
    known = np.where(codes >= 0, np.arange(codes.shape[1]), -1)
    last = np.maximum.accumulate(known, axis=1)
    found = np.take_along_axis(codes, np.maximum(last, 0), 1)
    return np.where(last >= 0, found, np.int32(-1))
