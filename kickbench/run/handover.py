# SPDX-License-Identifier: Apache-2.0
"""The rounds of the kind handover: each pair of CPUs hands a cache line over and back.

It has no machine and needs no KVM. A block is one pair, or one CPU alone, and is many short bouts:
the bouts that nothing disturbed give its quiet hand-over, as a block's quiet exit is made
(:mod:`kickbench.stats.quiet`). Standard library only. :mod:`kickbench.summary.handover` evaluates
the figures.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Any

from kickbench.engine.engine import Clock
from kickbench.engine.handover import exchange
from kickbench.host.topology import Topology, distances, place
from kickbench.records import Collected, Records, RecordType
from kickbench.run.kinds import PLACE, BaseRecorder, medians
from kickbench.run.schedule import Entry, generator, interpolated
from kickbench.scenario.cases import Case
from kickbench.stats.quiet import QUIET_LEVELS, quiet

MAX_PAIRS = 64 * 63 // 2
"""The pairs of 64 CPUs. Of the pairs of more CPUs, so many are measured."""

HANDOVERS = 64
"""Hand-overs of a bout. It is shorter than any turn of the scheduler, and far longer than a stamp
of the clock."""

BOUTS = 128
"""Bouts of a block, enough for its low quantiles. They take about as long as it takes to start the
second thread."""

UNKNOWN = -1

_FACTS = ("first_cpu", "second_cpu", "first_node", "second_node", "distance")
HANDOVER_ROWS = RecordType.of(
    [
        *PLACE,
        ("siblings", "B"),
        *((name, "i") for name in _FACTS),
        ("quiet_cycles", "f"),
        ("handovers", "q"),
        ("elapsed_cycles", "q"),
    ]
)


@dataclass(frozen=True)
class Pair:
    """Two CPUs, or one twice. ``nodes`` and ``distance`` are UNKNOWN if sysfs does not tell.

    ``siblings``: they are threads of one core.
    """

    cpus: tuple[int, int]
    nodes: tuple[int, int]
    distance: int
    siblings: bool

    @property
    def turned(self) -> Pair:
        """The same pair with the line's memory on the other CPU's node."""
        return Pair(self.cpus[::-1], self.nodes[::-1], self.distance, self.siblings)


def every_pair(cpus: Sequence[int], topology: Topology, root: str = "/") -> list[Pair]:
    """All pairs of different CPUs, each once."""
    node = {cpu: found if (found := place(cpu, root)[0]) is not None else UNKNOWN for cpu in cpus}
    nodes = sorted(topology.nodes)
    away = {one: dict(zip(nodes, distances(one, root))) for one in nodes}
    return [
        Pair(
            (one, other),
            (node[one], node[other]),
            away.get(node[one], {}).get(node[other], UNKNOWN),
            other in topology.siblings.get(one, ()),
        )
        for one, other in itertools.combinations(sorted(cpus), 2)
    ]


def alone(cpus: Sequence[int], root: str = "/") -> list[Pair]:
    """Each CPU as a pair with itself."""
    found = []
    for cpu in cpus:
        node = place(cpu, root)[0]
        node = UNKNOWN if node is None else node
        found.append(Pair((cpu, cpu), (node, node), UNKNOWN, False))
    return found


def sample(pairs: Sequence[Pair], at_most: int, rng: Random) -> list[Pair]:
    """At most so many of the pairs, in their order.

    Each two nodes give as many as the others, and so do the siblings, as long as they have more.
    """
    if len(pairs) <= at_most:
        return list(pairs)
    groups: dict[tuple[Any, ...], list[Pair]] = {}
    for pair in rng.sample(pairs, len(pairs)):
        groups.setdefault((*sorted(pair.nodes), pair.siblings), []).append(pair)
    by_turns = itertools.chain.from_iterable(itertools.zip_longest(*groups.values()))
    chosen = itertools.islice((pair for pair in by_turns if pair is not None), at_most)
    return sorted(chosen, key=lambda pair: pair.cpus)


class HandoverRecorder(BaseRecorder):
    """Every block. It compares the median pair's quiet hand-over."""

    def __init__(self) -> None:
        self._rounds = Collected(HANDOVER_ROWS)

    def add(self, rows: Records) -> None:
        """Take the rows of a round."""
        self._rounds.parts.append(rows)

    def round_cycles(self, entry: int) -> dict[str, float]:
        """The median over the pairs, each with the mean of its two blocks."""
        last = self._rounds.parts[-1]
        pairs: dict[tuple[int, int], list[float]] = {}
        columns = (last[name] for name in ("entry", "first_cpu", "second_cpu", "quiet_cycles"))
        for of, first, second, cycles in zip(*columns):
            if of == entry:
                pairs.setdefault((min(first, second), max(first, second)), []).append(cycles)
        return medians("handover_ns", map(fmean, pairs.values()))

    def arrays(self) -> dict[str, Collected]:
        """The only table."""
        return {"handovers": self._rounds}


class HandoverBench:
    """Rounds of the pairs of ``cpus``. In a round each entry has its turn twice (ABBA).

    A turn is a block of each pair, or of each CPU alone, in random order. The second turn has the
    reverse of that order, and the line's memory on the node of the other CPU.
    """

    def __init__(
        self,
        case: Case,
        cpus: Sequence[int],
        participants: Sequence[Entry],
        clock: Clock,
        rng: Random,
    ) -> None:
        topology = Topology.read()
        # All processes of a case measure the same pairs.
        every = every_pair(cpus, topology)
        pairs = sample(every, MAX_PAIRS, generator(case))
        self.sampled = f"{len(pairs)} of {len(every)} pairs" if len(pairs) < len(every) else ""
        seats = {"handover": pairs, "alone": alone(sorted(cpus))}
        self._seats = [seats[entry.method] for entry in participants]
        self.clock, self._rng = clock, rng
        self.recorder = HandoverRecorder()

    @property
    def facts(self) -> dict[str, Any]:
        """None: a row has all of its pair."""
        return {}

    def round(self, number: int, turns: list[int], alive: Callable[[], None]) -> None:
        """Run a block of each seat of ``turns``, in this order. Raises MeasurementError."""
        rows: list[Records] = []
        orders: dict[int, list[Pair]] = {}
        for entry in turns:
            if entry in orders:
                order = [pair.turned for pair in reversed(orders[entry])]
            else:
                seats = self._seats[entry]
                order = self._rng.sample(seats, len(seats))
            orders[entry] = order
            for pair in order:
                rows.append(self._block(pair, number, len(rows), entry))
                alive()
        self.recorder.add(Records.joined(rows))

    def _block(self, pair: Pair, number: int, position: int, entry: int) -> Records:
        cycles = sorted(exchange(*pair.cpus, self.clock, handovers=HANDOVERS, bouts=BOUTS))
        levels = [interpolated(cycles, level * (len(cycles) - 1)) for level in QUIET_LEVELS]
        return Records.of(
            HANDOVER_ROWS,
            1,
            round=number,
            position=position,
            entry=entry,
            siblings=pair.siblings,
            handovers=HANDOVERS * BOUTS,
            elapsed_cycles=sum(cycles),
            quiet_cycles=quiet(levels) / HANDOVERS,
            **dict(zip(_FACTS, (*pair.cpus, *pair.nodes, pair.distance))),
        )
