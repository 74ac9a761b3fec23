# SPDX-License-Identifier: Apache-2.0
"""Which cache lines several threads touch, so that the line moves between their CPUs.

A line is *shared* if two threads or more touch it and one of them writes to it. What happens in
fewer than a tenth of a thread's turns, or in one or two, does not count: a timer's interrupt
touches lines as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kickbench.lab.explain.trace import (
    AT,
    BEGIN,
    END,
    EXECUTED,
    NOT_RARE,
    SENT,
    VADDR_BITS,
    WROTE,
    Section,
)

LINE_BYTES = 64
LEAST_TURNS = 3
"""In how many turns a thread touches a line at least, if that counts."""

Turns = list[tuple[int, int]]
"""Ranges of a section's entries."""


@dataclass(frozen=True)
class Thread:
    """A thread that is alone on its CPU. ``turns`` finds its turns in a section.

    The turns of threads with the same ``role`` are of the same kind, for example exits.
    """

    name: str
    role: str
    cpu: int
    turns: Callable[[Section, int], Turns]


@dataclass(frozen=True)
class Use:
    """How often a thread reads and writes a line in one of its turns, on average."""

    reads: float
    writes: float


@dataclass(frozen=True)
class Line:
    """A shared line.

    ``place`` is where QEMU keeps it, in bytes from the begin of its memory, and no physical
    address. ``uses`` has each thread's use, by its name. ``accesses`` counts each thread's accesses
    by their virtual address, and ``by`` all by the instruction, a number of a record of the code.
    """

    place: int
    uses: dict[str, Use]
    accesses: dict[str, Counter[int]]
    by: Counter[int]


def exits(section: Section, cpu: int) -> Turns:
    """A vCPU's exits, but for the first one: from each stamp of its loop to the next."""
    stamps = np.flatnonzero((section.cpus == cpu) & section.stamps)
    return [
        pair
        for begin, end in section.between_marks(cpu, END)
        for pair in pairwise(stamps[(stamps > begin) & (stamps < end)].tolist()[1:])
    ]


def calls(section: Section, cpu: int) -> Turns:
    """A kicker's calls."""
    return section.between_marks(cpu, SENT)


def takings(section: Section, cpu: int) -> Turns:
    """What a vCPU does from when a kick is begun, on any CPU, until it knows of it."""
    begins = np.flatnonzero(section.marks == BEGIN)
    found, after = [], 0
    for end in np.flatnonzero((section.cpus == cpu) & (section.marks == END)).tolist():
        place = int(np.searchsorted(begins, after))
        if place < begins.size and begins[place] < end:
            found.append((int(begins[place]), end))
        after = end
    return found


@dataclass(frozen=True)
class _Accesses:
    """A thread's accesses in its turns, as arrays of the same length."""

    n_turns: int
    turn: NDArray[np.int64]
    line: NDArray[np.int64]
    wrote: NDArray[np.bool_]
    vaddr: NDArray[np.uint64]
    by: NDArray[np.int64]

    @classmethod
    def of(cls, section: Section, thread: Thread) -> _Accesses:
        turns = thread.turns(section, thread.cpu)
        turn = np.full(section.kinds.size, -1, np.int64)
        for number, (begin, end) in enumerate(turns):
            turn[begin:end] = number
        own = np.flatnonzero(section.cpus == thread.cpu)
        kinds, values = section.kinds[own], section.values[own]
        executed = np.flatnonzero(kinds == EXECUTED)
        # An access has two entries, and is of the instruction before them.
        at = np.flatnonzero((kinds == AT) & (turn[own] >= 0))
        at = at[at > (executed[0] if executed.size else kinds.size)]
        before = executed[np.searchsorted(executed, at) - 1]
        return cls(
            len(turns),
            turn[own][at],
            values[at - 1] // LINE_BYTES,
            kinds[at - 1] == WROTE,
            _canonical(values[at]),
            values[before],
        )

    def not_rare(self, chosen: NDArray[np.bool_]) -> set[int]:
        """The lines of the chosen accesses that are in enough turns."""
        # A number for each line in each turn: to sort numbers is much faster than to sort pairs.
        n_turns = max(self.n_turns, 1)
        pairs = np.unique(self.line[chosen] * n_turns + self.turn[chosen])
        lines, counts = np.unique(pairs // n_turns, return_counts=True)
        return set(lines[counts >= max(LEAST_TURNS, NOT_RARE * self.n_turns)].tolist())

    def use(self, line: int) -> Use:
        wrote = self.wrote[self.line == line]
        writes = int(wrote.sum())
        return Use((wrote.size - writes) / self.n_turns, writes / self.n_turns)


def shared(section: Section, threads: Sequence[Thread]) -> list[Line]:
    """The shared lines of a section: those with the most accesses first."""
    found = {thread.name: _Accesses.of(section, thread) for thread in threads}
    touched = {name: one.not_rare(np.full(one.line.size, True)) for name, one in found.items()}
    written = [one.not_rare(one.wrote) for one in found.values()]
    by_many = Counter(line for lines in touched.values() for line in lines)
    lines = [
        _line(line, {name: one for name, one in found.items() if line in touched[name]})
        for line in set().union(*written)
        if by_many[line] > 1
    ]
    return sorted(lines, key=lambda line: (-line.by.total(), line.place))


def _line(line: int, found: dict[str, _Accesses]) -> Line:
    by: Counter[int] = Counter()
    for one in found.values():
        by.update(one.by[one.line == line].tolist())
    return Line(
        line * LINE_BYTES,
        {name: one.use(line) for name, one in found.items()},
        {name: Counter(one.vaddr[one.line == line].tolist()) for name, one in found.items()},
        by,
    )


def per_turn(line: Line, threads: Iterable[Thread]) -> Use:
    """A line's use in one exit, or in one kick by all who have to do with it.

    That is the sum over roles of what a thread of the role does on average.
    """
    roles: dict[str, list[Use]] = {}
    for thread in threads:
        roles.setdefault(thread.role, []).append(line.uses.get(thread.name, Use(0, 0)))
    means = [
        (np.mean([use.reads for use in uses]), np.mean([use.writes for use in uses]))
        for uses in roles.values()
    ]
    return Use(float(sum(reads for reads, _ in means)), float(sum(writes for _, writes in means)))


def _canonical(vaddr: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Virtual addresses, as far as the trace has them: the bits above repeat the highest one."""
    shift = 64 - VADDR_BITS
    return ((vaddr << shift) >> shift).astype(np.uint64)
