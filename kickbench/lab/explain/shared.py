# SPDX-License-Identifier: Apache-2.0
"""Which cache lines the threads of an exit or a kick share, in a machine with two NUMA nodes.

Each thread has a CPU of its own. QEMU runs the CPUs in turn, so a line costs nothing when it moves.
What is counted is that it would move: who touches it, and who writes to it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from kickbench.errors import MeasurementError
from kickbench.lab.emulator import Limits
from kickbench.lab.explain import lines, symbols
from kickbench.lab.explain.case import STATE
from kickbench.lab.explain.inside import Job
from kickbench.lab.explain.layout import layout_of
from kickbench.lab.explain.lines import Line, Thread
from kickbench.lab.explain.memory import SYMBOLS, Kernel, Space, vmalloced
from kickbench.lab.explain.objects import Objects, physical, slabs
from kickbench.lab.explain.trace import AT, VADDR_BITS, Section
from kickbench.lab.explain.watch import Watched, watched
from kickbench.lab.machines import Machine
from kickbench.lab.qemu import Qemu
from kickbench.lab.structs import Structs
from kickbench.numbers import plural
from kickbench.results.explanation import KICKER, VCPU, Uses
from kickbench.scenario.cases import Case

NODES = ((0, 1, 2), (3, 4, 5))
"""The CPUs by their node, in a machine of :data:`kickbench.lab.machines.LINES`."""
KICKERS = (1, 2, 4)
TIMERS_NS = (1_200_000, 1_600_000)
"""The periods of the timers that end a CPU's turn, one for each vCPU: dozens of exits. With one
period for both, one turn could be all of it and the other nothing."""


@dataclass(frozen=True)
class SharedLine:
    """A line that threads share.

    ``what`` lies in it, on NUMA node ``node`` (None if nobody knows). ``reads`` and ``writes`` are
    those of one exit, or of one kick by all who have to do with it. ``threads`` has (reads,
    writes) of each thread in its own turns. ``functions`` touch it, the most frequent first.
    """

    what: str
    node: int | None
    reads: float
    writes: float
    threads: Uses
    functions: list[str]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of dataclasses.asdict."""
        threads = {name: (reads, writes) for name, (reads, writes) in data["threads"].items()}
        return cls(**{**data, "threads": threads})

    def to_dict(self, per: str) -> dict[str, Any]:
        """What ``--json`` writes of it. ``per`` is "exit" or "kick"."""
        return {
            "what": self.what,
            "node": self.node,
            f"reads_per_{per}": self.reads,
            f"writes_per_{per}": self.writes,
            "threads": {name: list(use) for name, use in self.threads.items()},
            "functions": self.functions,
        }


@dataclass(frozen=True)
class Shared:
    """The shared lines of a method, in one job."""

    job: Job
    method: str
    lines: list[SharedLine]

    @property
    def creator_node(self) -> int:
        """The node on which the process was created."""
        return _node_of(self.job.creator)

    @property
    def vcpu_node(self) -> int:
        """The node of the vCPUs."""
        return _node_of(self.job.vcpus[0])

    def between_kickers(self) -> list[SharedLine]:
        """The lines that two kickers or more touch, and one of them writes to."""
        kickers = {thread.name for thread in threads(self.job) if thread.role == KICKER}
        return [
            line
            for line in self.lines
            if len(own := line.threads.keys() & kickers) > 1
            and any(writes for _, writes in (line.threads[name] for name in own))
        ]


def _node_of(cpu: int) -> int:
    return next(node for node, cpus in enumerate(NODES) if cpu in cpus)


def jobs(cases: Sequence[Case]) -> list[Job]:
    """What to watch for these cases: exits, and kicks of a vCPU that sleeps.

    Exits are of two vCPUs, on the creator's node and on the other one. Kicks are of one vCPU, by
    one kicker and by more: the first two are on the vCPU's node.
    """
    chosen = (case for case in cases if case.kind == "exits" or case.state == STATE)
    return [job for case in chosen for job in _jobs_of(case)]


def _jobs_of(case: Case) -> Iterator[Job]:
    if case.state is None:
        two = replace(case, vcpus=2)
        for near in NODES:
            for home in NODES:
                timers = tuple(zip(home, TIMERS_NS, strict=False))
                yield Job(two, home[:2], (), near[0], near[2], timers)
    else:
        vcpu, *others, last = (cpu for cpus in NODES for cpu in cpus)
        for count in KICKERS:
            kicked = replace(case, kickers=count)
            yield Job(kicked, (vcpu,), tuple(others[:count]), conductor=last)


def threads(job: Job) -> list[Thread]:
    """The threads of a job whose lines count."""
    vcpus = lines.exits if job.case.state is None else lines.takings
    return [
        *(Thread(f"{VCPU} {i}", VCPU, cpu, vcpus) for i, cpu in enumerate(job.vcpus)),
        *(Thread(f"{KICKER} {i}", KICKER, cpu, lines.calls) for i, cpu in enumerate(job.kickers)),
    ]


def shared(
    machine: Machine, kernel: Path, wanted: Sequence[Job], limits: Limits | None = None
) -> list[Shared]:
    """The shared lines of each method of these jobs, in a machine whose CPUs take turns.

    Raises as :func:`kickbench.lab.explain.watch.watched` does.
    """
    emulator = machine.emulator
    assert isinstance(emulator, Qemu)
    system_map = symbols.system_map_of(kernel)
    layout = layout_of(kernel)
    known = Kernel(emulator.arch, symbols.values(system_map, SYMBOLS), layout.structs)
    data = symbols.Symbols.of(symbols.variables(system_map))
    with watched(machine, emulator, kernel, wanted, limits, memory_of=known) as seen:
        known = replace(known, structs=Structs.from_json(seen.facts["structs"]))
        if not known.structs.by_name:
            print(
                f"{kernel}: {layout.why}: what it allocates has no names",
                file=sys.stderr,
                flush=True,
            )
        # One thread unpacks a section while another one evaluates the section before it. numpy lets
        # both run at once.
        with ThreadPoolExecutor(1) as pool:
            found = [
                pool.submit(_shared, seen, job, section["method"], entries, known, data)
                for job, section, entries in seen.sections()
            ]
            return [one.result() for one in found]


def check_turns(section: Section, ours: Sequence[Thread], method: str) -> None:
    """Raise MeasurementError if a thread has hardly a turn: its lines would seem not to be shared.

    It may not be on the CPU that it is thought to be on, or not have had its share of the time.
    """
    for thread in ours:
        if (count := len(thread.turns(section, thread.cpu))) < lines.LEAST_TURNS:
            raise MeasurementError(
                f"{method}: {thread.name}, on CPU {thread.cpu}, has {plural(count, 'turn')} in the "
                "trace, too few to say what it shares; please report it"
            )


def _shared(
    seen: Watched,
    job: Job,
    method: str,
    entries: Section,
    kernel: Kernel,
    data: symbols.Symbols,
) -> Shared:
    facts = seen.facts["jobs"][seen.jobs.index(job)]
    books = {**facts["books"], "vmalloced": vmalloced(facts["books"]["vmallocinfo"])}
    pages = seen.folder / books["pages"]
    addresses = [address for address, *_ in books["caches"]]
    found = slabs(pages.read_bytes(), kernel, addresses) if pages.exists() else None
    objects = Objects(books, found, facts["maps"], kernel, data)
    moved = _moved(entries, kernel.space)
    ours = threads(job)
    check_turns(entries, ours, method)
    return Shared(
        job,
        method,
        [_named(line, ours, seen, objects, moved) for line in lines.shared(entries, ours)],
    )


def _named(
    line: Line, ours: Sequence[Thread], seen: Watched, objects: Objects, moved: set[int]
) -> SharedLine:
    use = lines.per_turn(line, ours)
    functions: Counter[str] = Counter()
    for number, count in line.by.items():
        functions[seen.functions.name(int(seen.trace.code["vaddr"][number]))] += count
    addresses = [address for counts in line.accesses.values() for address in counts]
    try:
        space = objects.kernel.space
        node = objects.node(physical(addresses, line.place, objects.books, moved, space))
    except LookupError:
        node = None
    # Threads that use different objects share the line all the same.
    names = {_mostly(counts, objects) for counts in line.accesses.values()}
    return SharedLine(
        " and ".join(sorted(names)),
        node,
        round(use.reads, 1),
        round(use.writes, 1),
        {name: (round(one.reads, 1), round(one.writes, 1)) for name, one in line.uses.items()},
        [name for name, _ in functions.most_common()],
    )


def _mostly(accesses: Counter[int], objects: Objects) -> str:
    names: Counter[str] = Counter()
    for address, count in accesses.items():
        names[objects.name(address)] += count
    return names.most_common(1)[0][0]


def _moved(entries: Section, space: Space) -> set[int]:
    """The differences between QEMU's places and physical addresses, from the direct map."""
    at = np.flatnonzero(entries.kinds == AT)
    mapped = entries.values[at] - (space.direct_map.start & (1 << VADDR_BITS) - 1)
    direct = (mapped >= 0) & (mapped < 1 << 40)
    left = entries.values[at - 1][direct] - mapped[direct] - space.memory
    found = set()
    while left.size:  # once for each node
        found.add(int(left[0]))
        left = left[left != left[0]]
    return found
