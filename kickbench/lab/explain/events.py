# SPDX-License-Identifier: Apache-2.0
"""Finds kicks, pauses and round trips in what was watched, on one CPU or on several.

An event lasts from a stamp to a stamp. Meanwhile the kicker and the vCPUs' threads execute what is
the event's own. With one CPU that is all that is executed. If the vCPUs have CPUs of their own,
they do something else until the kick reaches them, and the kicker waits. That is not the event's,
but the clock counts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kickbench.lab.explain import stacks
from kickbench.lab.explain.trace import BEGIN, END, EXECUTED, PAUSE, PAUSED, Section

PHASES = ("call", "switch", "delivery", "way out")
"""The parts of a kick. *call* is the kicker's call. *switch* is what the kicker does then until the
CPU switches to the vCPU's thread. *delivery* is in the kernel, in the vCPU's thread. *way out*
begins when that is back in user space, in a handler or behind KVM_RUN, and ends when the protocol
knows of the kick. A pause has them for each vCPU, and all else that happens in it is *switch*."""
CALL, SWITCH, DELIVERY, WAY_OUT = range(len(PHASES))
_BACK = ("kick_signal_handler", "kb_kick_loop")
"""The functions with a stamp at which the vCPU's thread is back in user space."""


@dataclass(frozen=True)
class Event:
    """Places in a section. It lasts from ``begin`` until before ``end``: two stamps.

    ``kicker`` is the CPU of who begins it. ``calls`` are the marks before its calls, and ``takes``
    has (CPU, stamp) where a vCPU knows of its kick.
    """

    begin: int
    end: int
    kicker: int
    calls: tuple[int, ...]
    takes: tuple[tuple[int, int], ...]

    @property
    def cpus(self) -> list[int]:
        """The CPUs of the kicker and the vCPUs, each once."""
        return list(dict.fromkeys((self.kicker, *(cpu for cpu, _ in self.takes))))


@dataclass(frozen=True)
class Part:
    """What one CPU executes in an event: places of a section, in their order.

    ``calls`` has (begin, end) of the kicker's calls and ``takes`` the ends of the ways out, as
    indices of ``places``. With ``is_all``, all of it is the event's own. Otherwise the kicker has
    nothing but its calls, and the vCPU nothing of what ``waits``.
    """

    cpu: int
    places: NDArray[np.int64]
    calls: tuple[tuple[int, int], ...]
    takes: tuple[int, ...]
    stamps: NDArray[np.int64]
    waits: NDArray[np.bool_]
    is_all: bool

    @property
    def size(self) -> int:
        """How many instructions are the event's own, or are begun and not completed."""
        if self.is_all:
            return len(self.places)
        size = sum(end - begin for begin, end in self.calls)
        if self.takes:
            size += int((~self.waits[: self.takes[-1]]).sum())
        return size


def kicks(section: Section) -> list[Event]:
    """The kicks of a section, or its round trips: each from a mark BEGIN to the next END."""
    found = []
    begin = None
    for place in np.flatnonzero(np.isin(section.marks, (BEGIN, END))).tolist():
        if section.marks[place] == BEGIN:
            begin = place  # what is begun anew did not end: its block was over
        elif begin is not None:
            event = _event(section, begin, (begin,), [place])
            found += [event] if event else []
            begin = None
    return found


def pauses(section: Section, n_vcpus: int) -> list[Event]:
    """The pauses of a section: those in which each vCPU has a call, and knows of it."""
    found = []
    marks = np.flatnonzero(np.isin(section.marks, (BEGIN, END, PAUSE, PAUSED)))
    kinds = section.marks[marks]
    for first in np.flatnonzero(kinds == PAUSE).tolist():
        after = np.flatnonzero(kinds[first + 1 :] == PAUSED)
        if not after.size:
            continue
        inside = slice(first + 1, first + 1 + int(after[0]))
        calls, ends = (marks[inside][kinds[inside] == kind].tolist() for kind in (BEGIN, END))
        if len(calls) == len(ends) == n_vcpus:
            event = _event(section, int(marks[first]), tuple(calls), ends)
            found += [event] if event else []
    return found


def _event(
    section: Section, mark: int, calls: tuple[int, ...], ends: Sequence[int]
) -> Event | None:
    """The event that begins with the stamp after a mark, and ends with the last of ``ends``.

    None if it has no two stamps.
    """
    kicker = int(section.cpus[mark])
    begin = section.stamp_after(kicker, mark)
    takes = tuple((int(section.cpus[end]), section.stamp_before(end)) for end in ends)
    end = max(stamp for _, stamp in takes)
    if begin is None or end <= begin:
        return None
    return Event(begin, end, kicker, calls, takes)


def parts(section: Section, event: Event, waits: NDArray[np.bool_]) -> list[Part]:
    """What the event's CPUs execute. ``waits`` says of each entry whether its thread waits.

    A guest that spins, or a loop that spends its time in user space, does nothing for the kick.
    """
    found = []
    is_all = len(event.cpus) == 1
    window = np.arange(event.begin, event.end)
    executed = window[section.kinds[event.begin : event.end] == EXECUTED]
    for cpu in event.cpus:
        places = executed[section.cpus[executed] == cpu]
        stamps = np.flatnonzero(section.stamps[places])
        calls = []
        if cpu == event.kicker:
            for mark in event.calls:
                first = int(np.searchsorted(stamps, np.searchsorted(places, mark)))
                ends = [*stamps[first : first + 2].tolist(), len(places), len(places)]
                calls.append((ends[0], ends[1]))
        takes = [int(np.searchsorted(places, at)) for where, at in event.takes if where == cpu]
        found.append(Part(cpu, places, tuple(calls), tuple(takes), stamps, waits[places], is_all))
    return found


def clock_begin(section: Section, event: Event, loop: NDArray[np.bool_]) -> int:
    """From where the engine times a kick of a vCPU in user space: the end of the loop's own time.

    ``loop`` says of each entry whether it is of the loop's time in user space, which is no part of
    the protocol (kickbench/engine/src/kick.c).
    """
    cpu, _ = event.takes[-1]
    inside = slice(event.begin, event.end)
    spins = (section.cpus[inside] == cpu) & section.stamps[inside] & loop[inside]
    places = np.flatnonzero(spins)
    return event.begin + int(places[-1]) if places.size else event.begin


def phases(part: Part, paths: Sequence[tuple[str, ...]]) -> list[int | None]:
    """The phase of each instruction of a part, an index of PHASES. None: it is not the event's."""
    other = SWITCH if part.is_all else None
    found: list[int | None] = [other] * len(paths)
    switches = [
        i for i in range(1, len(paths)) if (paths[i - 1][-1], paths[i][-1]) in stacks.SWITCHES
    ]
    called = 0
    for begin, end in part.calls:
        called = next((place for place in switches if begin < place < end), end)
        found[begin:called] = [CALL] * (called - begin)
    for begin, end in pairwise([0, *switches, len(paths)]):
        taken = [place for place in part.takes if begin < place <= end]
        if taken and begin >= called:
            back = _back(part, paths, begin, taken[0])
            found[begin:back] = [DELIVERY] * (back - begin)
            found[back : taken[0]] = [WAY_OUT] * (taken[0] - back)
    if not part.is_all:
        for place in np.flatnonzero(part.waits).tolist():
            found[place] = None
    return found


def _back(part: Part, paths: Sequence[tuple[str, ...]], begin: int, end: int) -> int:
    """Where a thread is back in user space, of what it executes from ``begin`` to ``end``.

    A thread that was not in KVM_RUN, and has no handler, makes no stamp there.
    """
    stamps: list[int] = part.stamps.tolist()
    for places in (stamps, range(begin, end)):
        for place in places:
            # A function's cold part has a name of its own.
            if (
                begin <= place < end
                and paths[place][-1].partition(" ")[0].partition(".")[0] in _BACK
            ):
                return place
    return end
