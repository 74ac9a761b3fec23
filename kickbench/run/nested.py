# SPDX-License-Identifier: Apache-2.0
"""The rounds of the kind nested: a guest hypervisor in place of guest and engine.

A block is a number of iterations of one way. The guest runs and times them
(:mod:`kickbench.nested.guest`), in orders of about a second. The worker gives a sign of life
between two orders. Standard library and numpy only. :mod:`kickbench.summary.nested` evaluates the
figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kickbench.engine.engine import Clock
from kickbench.nested.guest import WARMUP, NestedGuest
from kickbench.run.kinds import PLACE, BaseRecorder, joined, medians
from kickbench.run.schedule import Entry, is_compared
from kickbench.scenario.cases import Case
from kickbench.scenario.kinds import ITERATIONS

# The largest number that the tables take. The detail of an exit can be any 64 bits.
_LARGEST = 2**53

ORDER_SECONDS = 1.0
FIRST_ORDER = 16
"""Iterations of a way's first order, before it is known how long they take."""

# By column of the table: the guest's field.
_COUNTS = {
    "cycles": "cycles",
    "exit_reason": "exit_reason",
    "delivered": "delivered",
    "work": "work",
    "detail": "detail",
    "latency_cycles": "latency",
}
_FLAGS = ("expected", "injected")

NESTED = np.dtype([*PLACE, *((name, "?") for name in _FLAGS), *((name, "i8") for name in _COUNTS)])


class NestedRecorder(BaseRecorder):
    """Every iteration. It compares the median round trips of those that left L2 as expected."""

    def __init__(self, case: Case, participants: Sequence[Entry]) -> None:
        self._compared = [is_compared(case, entry) for entry in participants]
        self._rows: list[NDArray[Any]] = []
        self._round = -1
        self._last: list[NDArray[Any]] = []

    def add(self, number: int, position: int, entry: int, records: NDArray[Any]) -> None:
        """Take a block: the guest's RECORDs."""
        rows = np.zeros(len(records), NESTED)
        rows["round"], rows["position"], rows["entry"] = number, position, entry
        for name in _FLAGS:
            rows[name] = records[name] != 0
        for name, field in _COUNTS.items():
            rows[name] = np.minimum(records[field].astype(np.uint64), _LARGEST)
        self._rows.append(rows)
        if number != self._round:
            self._round, self._last = number, []
        self._last.append(rows)

    def round_cycles(self, entry: int) -> dict[str, float]:
        """The median round trip."""
        if not self._compared[entry]:
            return {}
        mine = [rows["cycles"][rows["expected"] & (rows["entry"] == entry)] for rows in self._last]
        return medians("round_trip_p50_ns", np.concatenate(mine) if mine else np.empty(0))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The only table."""
        return {"nested": joined(self._rows, NESTED)}


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
        self.clock = clock
        self.recorder = NestedRecorder(case, participants)

    @property
    def facts(self) -> dict[str, Any]:
        """How L1 enters L2 (VMX or SVM), and whether nested page tables map L2's memory."""
        of = {"vendor": self._guest.vendor, "nested_paging": self._guest.nested_paging}
        return {"nested": of}

    def round(self, number: int, turns: list[int], alive: Callable[[], None]) -> None:
        """Run a block of each of ``turns``, in this order. Raises MeasurementError."""
        seconds = self._case_seconds / max(1, len(turns))
        for position, entry in enumerate(turns):
            way = ITERATIONS[self._participants[entry].method]
            records = self._block(way.id, way.count(self._iterations), seconds, alive)
            self.recorder.add(number, position, entry, records)
            alive()

    def _block(
        self, way: str, count: int, seconds: float, alive: Callable[[], None]
    ) -> NDArray[Any]:
        """The records of ``count`` iterations, or of fewer when ``seconds`` are over."""
        parts: list[NDArray[Any]] = []
        begin = monotonic()
        while count > 0 and not (parts and monotonic() - begin >= seconds):
            if parts:
                alive()
            parts.append(self._order(way, count))
            count -= len(parts[-1])
        return np.concatenate(parts)

    def _order(self, way: str, at_most: int) -> NDArray[Any]:
        count = min(at_most, self._order_of.get(way, FIRST_ORDER))
        begin = monotonic()
        records = self._guest.run(way, count)
        each = (monotonic() - begin) / (count + WARMUP)
        self._order_of[way] = max(1, int(ORDER_SECONDS / max(each, 1e-9)))
        return records
