# SPDX-License-Identifier: Apache-2.0
"""Measures how busy other work kept the CPUs of a measurement.

It reads counters of the kernel before and after. The primary figure is the CPU time that was not
ours: the non-idle time of the CPUs less our own. Every kernel has it, and it does not depend on
whether we had to wait. Standard library only, because the worker uses this module.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from kickbench.host.files import numbered, read_text
from kickbench.host.topology import Topology

_STALLS = ("some", "full")


@dataclass(frozen=True)
class Load:
    """What ran on ``cpus`` CPUs within ``seconds``. All times are in seconds, summed over CPUs.

    ``own_cpu_seconds`` is our own CPU time, the guest's included. ``others_cpu_seconds`` is what
    else ran there: non-idle time but steal (proc_stat(5)), less our own. ``stolen_cpu_seconds`` is
    what the outer host took away. ``waited_seconds`` is how long our threads were runnable but
    waited for a CPU (/proc/PID/task/TID/schedstat). ``stalled_some_seconds`` is the time in which
    anything on this host waited for a CPU, ``stalled_full_seconds`` the time in which everything
    did (/proc/pressure/cpu, Documentation/accounting/psi.rst). None: the kernel does not say.
    """

    seconds: float
    cpus: int
    own_cpu_seconds: float
    others_cpu_seconds: float | None
    stolen_cpu_seconds: float | None
    waited_seconds: float | None
    stalled_some_seconds: float | None
    stalled_full_seconds: float | None


@dataclass(frozen=True)
class Ticks:
    """What a CPU, or all of them, did since boot, in ticks of USER_HZ."""

    busy: int  # the guest's time included
    idle: int  # waiting for input and output included
    steal: int


def cpu_ticks(stat: str) -> dict[str, Ticks]:
    """The lines of a text of /proc/stat (proc_stat(5)) by name: "cpu" of all CPUs, "cpu0"..."""
    found = {}
    for line in stat.splitlines():
        name, *words = line.split() or [""]
        if name.startswith("cpu") and len(words) >= 8 and all(w.isdecimal() for w in words[:8]):
            # The guest's time, further on, is in the user's already.
            user, nice, system, idle, iowait, irq, softirq, steal = map(int, words[:8])
            found[name] = Ticks(user + nice + system + irq + softirq, idle + iowait, steal)
    return found


@dataclass(frozen=True)
class _Counters:
    when: float
    own: float
    busy: float | None
    stolen: float | None
    waited: float | None
    stalled: dict[str, float]


def near(cpus: Iterable[int], root: str | Path = "/") -> frozenset[int]:
    """The CPUs and the other threads of their cores: what runs there takes from ours."""
    siblings = Topology.read(root).siblings
    return frozenset(thread for cpu in cpus for thread in siblings.get(cpu, (cpu,)))


class Watch:
    """Counts from its creation on; :meth:`read` says what has come together since.

    ``cpus`` are the CPUs to look at. ``helpers`` are further processes of ours, by id, whose CPU
    time is our own too. ``root`` is where /proc is below.
    """

    def __init__(
        self, cpus: Collection[int], helpers: Collection[int] = (), root: str | Path = "/"
    ) -> None:
        self._cpus, self._helpers, self._root = frozenset(cpus), tuple(helpers), root
        self._first = self._look()

    def read(self) -> Load:
        """The load since the watch began."""
        first, last = self._first, self._look()
        own = last.own - first.own
        busy = _difference(first.busy, last.busy)
        some, full = (
            _difference(first.stalled.get(name), last.stalled.get(name)) for name in _STALLS
        )
        return Load(
            seconds=last.when - first.when,
            cpus=len(self._cpus),
            own_cpu_seconds=own,
            others_cpu_seconds=None if busy is None else max(0.0, busy - own),
            stolen_cpu_seconds=_difference(first.stolen, last.stolen),
            waited_seconds=_difference(first.waited, last.waited),
            stalled_some_seconds=some,
            stalled_full_seconds=full,
        )

    def _look(self) -> _Counters:
        busy, stolen = self._cpu_seconds()
        return _Counters(
            when=time.monotonic(),
            own=time.process_time() + sum(self._seconds_of(pid) for pid in self._helpers),
            busy=busy,
            stolen=stolen,
            waited=self._waited(),
            stalled=self._stalled(),
        )

    def _cpu_seconds(self) -> tuple[float | None, float | None]:
        """Busy and stolen time of the CPUs since boot."""
        ticks = cpu_ticks(read_text(self._root, "/proc/stat") or "")
        ours = [ticks[name] for name in (f"cpu{cpu}" for cpu in self._cpus) if name in ticks]
        if not ours:
            return None, None
        return sum(t.busy for t in ours) / _HZ, sum(t.steal for t in ours) / _HZ

    def _seconds_of(self, pid: int) -> float:
        """CPU time of another process; 0 when it is gone."""
        _, _, fields = (read_text(self._root, f"/proc/{pid}/stat") or "").rpartition(")")
        words = fields.split()
        return sum(map(int, words[11:13])) / _HZ  # utime, stime

    def _waited(self) -> float | None:
        """What our threads have waited for a CPU; None when the kernel does not count it."""
        waits = [
            (read_text(folder, "schedstat") or "").split()
            for folder in numbered(self._root, f"/proc/{os.getpid()}/task", "").values()
        ]
        known = [int(words[1]) for words in waits if len(words) == 3]
        return sum(known) / 1e9 if known else None

    def _stalled(self) -> dict[str, float]:
        """Seconds of stalls since boot, by the names of the lines; {} without PSI."""
        found = {}
        for line in (read_text(self._root, "/proc/pressure/cpu") or "").splitlines():
            name, total = line.partition(" ")[0], line.rpartition("total=")[2]
            if total.isdecimal():
                found[name] = int(total) / 1e6
        return found


_HZ = os.sysconf("SC_CLK_TCK")  # of the ticks that /proc counts in (USER_HZ)


def _difference(before: float | None, after: float | None) -> float | None:
    """After - before, at least 0; None unless both are known."""
    return None if before is None or after is None else max(0.0, after - before)
