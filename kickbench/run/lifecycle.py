# SPDX-License-Identifier: Apache-2.0
"""The rounds of the kind lifecycle: a fresh VM for each kick, all methods in turn.

A block is one VM with one vCPU, which is kicked once, at one moment of its thread's life. The delay
from the moment's begin to the kick is random, on a logarithmic scale: the moments are of very
different lengths. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from kickbench.engine.lifecycle import LOST, LOST_AFTER_NS, Vmm
from kickbench.records import Collected, Records, RecordType
from kickbench.run.kinds import ENOUGH_LOST, PLACE, BaseRecorder
from kickbench.run.schedule import Entry
from kickbench.scenario.cases import Case

MIN_DELAY_NS, MAX_DELAY_NS = 10, 300_000
"""A first KVM_RUN of an unloaded host takes some tens of microseconds until the guest runs."""

LIVES = RecordType.of(
    [
        *PLACE,
        ("fate", "B"),
        ("met", "B"),
        ("error", "i"),
        ("delay_ns", "q"),
        ("latency_cycles", "q"),
        ("waited_cycles", "q"),
    ]
)


class LifeRecorder(BaseRecorder):
    """Every VM, until each method had its number of them, or lost enough kicks."""

    def __init__(self, case: Case, n_entries: int) -> None:
        self._lives = Collected(LIVES)
        self._wanted = -(-(case.vms or 0) // case.processes)
        self._counts = [{"sent": 0, "lost": 0} for _ in range(n_entries)]

    def add(self, rows: Records) -> None:
        """Take the rows of a round."""
        self._lives.parts.append(rows)
        for entry, fate in zip(rows["entry"], rows["fate"]):
            self._counts[entry]["sent"] += 1
            self._counts[entry]["lost"] += fate == LOST

    def counts(self, entry: int) -> dict[str, int]:
        return self._counts[entry]

    def is_settled(self, entry: int) -> bool:
        counts = self._counts[entry]
        return counts["sent"] >= self._wanted or counts["lost"] >= ENOUGH_LOST

    def arrays(self) -> dict[str, Collected]:
        """The only table."""
        return {"lives": self._lives}


class LifecycleBench:
    """Rounds of VMs. In a round each entry has two of them (ABBA)."""

    def __init__(self, case: Case, vmm: Vmm, participants: Sequence[Entry], rng: Random) -> None:
        self._moment, self.clock = case.moment or "", vmm.clock
        self._vmm, self._participants, self._rng = vmm, participants, rng
        self.recorder = LifeRecorder(case, len(participants))

    @property
    def facts(self) -> dict[str, Any]:
        """When a kick counts as lost."""
        return {"lost_timeout_ns": LOST_AFTER_NS}

    def round(self, number: int, turns: list[int], alive: Callable[[], None]) -> None:
        """A VM for each of ``turns``, in this order. Raises MeasurementError."""
        rows = []
        for position, entry in enumerate(turns):
            rows.append(self._block(number, position, entry))
            alive()
        self.recorder.add(Records.joined(rows))

    def _block(self, number: int, position: int, entry: int) -> Records:
        scale = MAX_DELAY_NS / MIN_DELAY_NS
        delay_ns = int(MIN_DELAY_NS * scale ** self._rng.random())
        life = self._vmm.live(self._participants[entry].protocol, self._moment, delay_ns)
        return Records.of(
            LIVES,
            1,
            round=number,
            position=position,
            entry=entry,
            fate=life.fate,
            met=life.met,
            error=life.error,
            delay_ns=delay_ns,
            latency_cycles=life.latency,
            waited_cycles=life.waited,
        )
