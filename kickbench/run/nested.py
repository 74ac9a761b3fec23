# SPDX-License-Identifier: Apache-2.0
"""The rounds of the kind nested: a guest hypervisor in place of guest and engine.

A block is a number of iterations of one way. The guest runs and times them
(:mod:`kickbench.nested.guest`), in orders of about a second. The worker gives a sign of life
between two orders. Standard library only. :mod:`kickbench.summary.nested` evaluates the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, compress
from time import monotonic
from typing import Any

from kickbench.engine.engine import Clock
from kickbench.nested.guest import WARMUP, NestedGuest
from kickbench.records import Collected, Records, RecordType
from kickbench.run.kinds import PLACE, BaseRecorder, medians
from kickbench.run.schedule import Entry, is_compared
from kickbench.scenario.cases import Case
from kickbench.scenario.kinds import INJECTION, ITERATIONS

# The largest number that the tables take. The detail of an exit can be any 64 bits.
_LARGEST = 2**53

AT_ONCE = INJECTION[0]
"""The way whose entries are looked at: KVM must make L2 leave at once."""

ORDER_SECONDS = 1.0
FIRST_ORDER = 16
"""Iterations of a way's first order, before it is known how long they take."""

# By column of the table: the guest's field. It has the same code, so it is copied as it is.
_COUNTS = {
    "cycles": "cycles",
    "work": "work",
    "detail": "detail",
    "latency_cycles": "latency",
    "exit_reason": "exit_reason",
    "delivered": "delivered",
}
_FLAGS = ("expected", "injected")
_TRUE = bytes(value != 0 for value in range(256))

NESTED = RecordType.of(
    [
        *PLACE,
        *((name, "B") for name in _FLAGS),
        *((name, "Q") for name in ("cycles", "work", "detail", "latency_cycles")),
        *((name, "I") for name in ("exit_reason", "delivered")),
    ]
)


class NestedRecorder(BaseRecorder):
    """Every iteration. It compares the median round trips of those that left L2 as expected."""

    def __init__(self, case: Case, participants: Sequence[Entry]) -> None:
        self._compared = [is_compared(case, entry) for entry in participants]
        self._rows = Collected(NESTED)
        self._round = -1
        self._last: list[tuple[int, Records]] = []

    def add(self, number: int, position: int, entry: int, records: Records) -> None:
        """Take a block: the guest's RECORDs."""
        rows = Records.of(NESTED, len(records), round=number, position=position, entry=entry)
        for name in _FLAGS:
            rows[name] = records[name].tobytes().translate(_TRUE)
        for name, field in _COUNTS.items():
            counts = records[field]
            if max(counts, default=0) <= _LARGEST:
                rows[name] = counts
            else:
                rows[name] = [min(count, _LARGEST) for count in counts]
        self._rows.parts.append(rows)
        if number != self._round:
            self._round, self._last = number, []
        self._last.append((entry, rows))

    def round_cycles(self, entry: int) -> dict[str, float]:
        """The median round trip."""
        if not self._compared[entry]:
            return {}
        mine = [
            compress(rows["cycles"], rows["expected"]) for of, rows in self._last if of == entry
        ]
        return medians("round_trip_p50_ns", chain.from_iterable(mine))

    def arrays(self) -> dict[str, Collected]:
        """The only table."""
        return {"nested": self._rows}


class NestedBench:
    """Rounds in the guest hypervisor.

    If iterations are so slow that one round in each process would exceed ``max_seconds``, a block
    ends at its share of that time, with fewer iterations than the case asks for.
    """

    def __init__(
        self, case: Case, guest: NestedGuest, participants: Sequence[Entry], clock: Clock
    ) -> None:
        assert case.iterations is not None  # or it would not be of this kind
        self._guest, self._participants = guest, participants
        self._iterations = case.iterations
        self._case_seconds = case.max_seconds / case.processes
        self._order_of: dict[str, int] = {}  # by way: the iterations of the next order
        self._entries = self._look_at_entries()
        self.clock = clock
        self.recorder = NestedRecorder(case, participants)

    @property
    def facts(self) -> dict[str, Any]:
        """How L1 enters L2 (VMX or SVM), whether nested page tables map L2's memory, the kicks
        that L1's vCPU had, and what the kernel said of its entries."""
        of = {"vendor": self._guest.vendor, "nested_paging": self._guest.nested_paging}
        return {"nested": {**of, "kicks": self._guest.kicks, "entries": self._entries}}

    def _look_at_entries(self) -> dict[str, int] | None:
        """What the kernel's tracepoint says of one order of pending iterations.

        This is before the rounds, because entries take longer under a tracepoint.
        """
        found = self._guest.entries(AT_ONCE, FIRST_ORDER)
        return found and {"iterations": FIRST_ORDER + WARMUP, **found._asdict()}

    def round(self, number: int, turns: list[int], alive: Callable[[], None]) -> None:
        """Run a block of each of ``turns``, in this order. Raises MeasurementError."""
        seconds = self._case_seconds / max(1, len(turns))
        for position, entry in enumerate(turns):
            way = ITERATIONS[self._participants[entry].method]
            records = self._block(way.id, way.count(self._iterations), seconds, alive)
            self.recorder.add(number, position, entry, records)
            alive()

    def _block(self, way: str, count: int, seconds: float, alive: Callable[[], None]) -> Records:
        """The records of ``count`` iterations, or of fewer when ``seconds`` are over."""
        parts: list[Records] = []
        begin = monotonic()
        while count > 0 and not (parts and monotonic() - begin >= seconds):
            if parts:
                alive()
            parts.append(self._order(way, count))
            count -= len(parts[-1])
        return Records.joined(parts)

    def _order(self, way: str, at_most: int) -> Records:
        count = min(at_most, self._order_of.get(way, FIRST_ORDER))
        begin = monotonic()
        records = self._guest.run(way, count)
        each = (monotonic() - begin) / (count + WARMUP)
        self._order_of[way] = max(1, int(ORDER_SECONDS / max(each, 1e-9)))
        return records
