# SPDX-License-Identifier: Apache-2.0
"""Counts every instruction of an exit by function, in an emulated machine.

QEMU runs the machine with the plugin (``plugin.c``), and :mod:`kickbench.lab.explain.inside` runs
the methods in it. The loop is the same as in every run of kickbench. So the instructions add up to
the count of ``kickbench lab counts``, and that is checked here for each method.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from kickbench.errors import MeasurementError, UsageError
from kickbench.lab.emulator import Limits
from kickbench.lab.explain import events, stacks
from kickbench.lab.explain.events import PHASES, Event, Part
from kickbench.lab.explain.inside import Job
from kickbench.lab.explain.shared import Shared
from kickbench.lab.explain.subject import EXIT, Subject
from kickbench.lab.explain.trace import EXECUTED, Section, usual
from kickbench.lab.explain.watch import Watched, watched
from kickbench.lab.machines import COUNTING_LINES, MACHINES, Machine
from kickbench.lab.qemu import Qemu
from kickbench.methods import method_label
from kickbench.results.explanation import GUEST, SCHEMA, SEPARATOR
from kickbench.run.kinds import kicking_threads
from kickbench.scenario.cases import Case
from kickbench.scenario.kinds import NESTED_BASELINE

RUNNING = COUNTING_LINES
"""By architecture, the machine for vCPUs that run while they are kicked. Its CPUs take turns."""
_RUNNING_VCPUS, _RUNNING_KICKER, _RUNNING_TIMERS = (1, 3), 5, (0, 2, 4)
"""Its CPUs. Before each of the others comes one with a timer, which ends the other's turn: a timer
is set anew when its own CPU has a turn. Nothing is counted on the timers' CPUs."""
_TURN_NS = 50_000
"""Long enough for many kicks to be over within a turn of each CPU."""
_NEAREST = 5
_LOOPS_TIME = "kb_come_round [kickbench]"
"""The function in which a loop spends its time in user space, which is no protocol's."""

Folded = Counter[tuple[str, ...]]


@dataclass(frozen=True)
class Explained:
    """How many instructions each call path has, the outermost function first.

    ``share`` is the share of the exits, kicks, pauses or round trips that have as many instructions
    as this one. ``phases`` are the parts of a kick or a pause. ``machine`` describes where it was
    counted, if that is another machine than the explanation's.
    """

    method: str
    subject: Subject
    folded: Folded
    share: float
    phases: dict[str, Folded]
    machine: str | None = None

    @property
    def instructions(self) -> int:
        """All of them."""
        return self.folded.total()

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` writes of it."""
        return {
            f"instructions_per_{self.subject.per}": self.instructions,
            "share": self.share,
            "functions": dict(stacks.self_counts(self.folded).most_common()),
            "paths": {SEPARATOR.join(path): count for path, count in self.folded.items()},
            "inclusive": dict(stacks.inclusive_counts(self.folded).most_common()),
            **({"phases": {n: p.total() for n, p in self.phases.items()}} if self.phases else {}),
            **({"vcpus": self.subject.vcpus} if self.subject.kind == "pause_all" else {}),
            **({"machine": self.machine} if self.machine else {}),
        }


@dataclass(frozen=True)
class Explanation:
    """What was found in one machine with one kernel."""

    machine: str
    kernel: str
    baseline: str
    found: list[Explained]
    skipped: dict[str, str]
    shared: tuple[Shared, ...] = ()

    def by_subject(self) -> dict[Subject, dict[str, Explained]]:
        """By what is explained, then by method, in the order of the scenario."""
        subjects: dict[Subject, dict[str, Explained]] = {}
        for one in self.found:
            subjects.setdefault(one.subject, {})[one.method] = one
        return subjects

    def baseline_of(self, methods: Mapping[str, Explained]) -> Explained | None:
        """The one that others are compared with. A guest hypervisor's ways have their own."""
        return methods.get(self.baseline) or methods.get(NESTED_BASELINE)

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` writes."""
        subjects = {
            subject: {name: one.to_dict() for name, one in methods.items()}
            for subject, methods in self.by_subject().items()
        }
        for one in self.shared:
            _add_lines(subjects[Subject.of(one.job.case)].get(one.method, {}), one)
        pauses = {s.program: found for s, found in subjects.items() if s.kind == "pause_all"}
        round_trips = [found for s, found in subjects.items() if s.kind == "nested"]
        return {
            "schema": SCHEMA,
            "machine": self.machine,
            "kernel": self.kernel,
            "baseline": self.baseline,
            "methods": subjects.get(EXIT, {}),
            "kicks": {s.state: found for s, found in subjects.items() if s.kind == "kick"},
            **({"pauses": pauses} if pauses else {}),
            **({"nested": round_trips[0]} if round_trips else {}),
            "skipped": self.skipped,
        }


def _add_lines(document: dict[str, Any], one: Shared) -> None:
    """Add the shared lines of a job to what is written of its method."""
    if one.job.case.state is None:
        found = [line.to_dict("exit") for line in one.lines]
        document.setdefault("shared_lines", found)  # those of the first placement
        nodes = {"creator_node": one.creator_node, "vcpu_node": one.vcpu_node}
        document.setdefault("placements", []).append({**nodes, "shared_lines": found})
    else:
        found = [line.to_dict("kick") for line in one.lines]
        document.setdefault("shared_lines_by_kickers", {})[len(one.job.kickers)] = found


def explain(
    machine: Machine, kernel: Path, cases: Sequence[Case], limits: Limits | None = None
) -> Explanation:
    """Explain what each method of these cases executes.

    A kick of a vCPU that runs, and a pause of such vCPUs, are of the architecture's machine in
    RUNNING. All else is of ``machine``.

    Raises UsageError for a machine that does not count single instructions, HostError if QEMU has
    no plugins or the kernel no System.map, MeasurementError if the machine fails or the sum is not
    the machine's own count.
    """
    _watchable(machine)
    jobs = {
        machine: [_job(case) for case in cases if not _must_run(case)],
        RUNNING[machine.emulator.arch]: [_running_job(case) for case in cases if _must_run(case)],
    }
    found: list[Explained] = []
    facts: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for where, wanted in jobs.items():
        if wanted:
            marked = where.description() if where is not machine else None
            with watched(where, _qemu(where), kernel, wanted, limits) as seen:
                facts = seen.facts
                skipped |= facts["skipped"]
                for job, section, entries in seen.sections():
                    found.append(replace(_explained(seen, job, entries, section), machine=marked))
    order = [Subject.of(case) for case in cases]
    found.sort(key=lambda one: order.index(one.subject))
    return Explanation(
        machine.description(), facts["release"], method_label(cases[0].baseline), found, skipped
    )


def _must_run(case: Case) -> bool:
    """Whether a vCPU of the case has to run while it is kicked."""
    return case.kind in ("kick", "pause_all") and not Subject.of(case).sleeps


def _job(case: Case) -> Job:
    return Job(case, (0,) * case.vcpus, (0,) * kicking_threads(case))


def _running_job(case: Case) -> Job:
    return Job(
        replace(case, kickers=1),
        _RUNNING_VCPUS[: case.vcpus],
        (_RUNNING_KICKER,),
        conductor=_RUNNING_TIMERS[0],
        timers=tuple((cpu, _TURN_NS) for cpu in _RUNNING_TIMERS),
    )


def _watchable(machine: Machine) -> None:
    if machine.count_step == 1 and isinstance(machine.emulator, Qemu):
        return
    usable = [one.id for one in MACHINES.values() if one.count_step == 1]
    raise UsageError(
        f"{machine.id} cannot be watched instruction by instruction; use {', '.join(usable)}"
    )


def _qemu(machine: Machine) -> Qemu:
    assert isinstance(machine.emulator, Qemu)
    return machine.emulator


def _explained(seen: Watched, job: Job, entries: Section, section: dict[str, Any]) -> Explained:
    subject, method = Subject.of(job.case), section["method"]
    try:
        if subject == EXIT:
            return _explained_exit(seen, method, entries, section["counts"])
        return _Events(seen, subject, method, entries).explained(section["counts"])
    except ValueError as error:
        raise MeasurementError(f"{method}: the trace has no whole {subject.per}: {error}") from None


def _explained_exit(
    seen: Watched, method: str, entries: Section, counts: Sequence[int]
) -> Explained:
    turns = [turn for block in entries.stretches() for turn in block.turns()]
    place, share = usual([turn.size for turn in turns])
    paths = seen.paths(turns[place])
    folded = stacks.fold(compress(paths, stacks.completed(paths)))
    _check(method, EXIT, folded.total(), counts)
    return Explained(method, EXIT, folded, share, {})


class _Events:
    """The kicks, pauses or round trips of a method in a section."""

    def __init__(self, seen: Watched, subject: Subject, method: str, entries: Section) -> None:
        self._seen, self._subject, self._method, self._entries = seen, subject, method, entries
        self._loop = seen.executes(entries, lambda name: name == _LOOPS_TIME)
        guest = seen.executes(entries, lambda name: name == GUEST)
        # An interrupt that is pending comes before the next instruction of the guest.
        exits = stacks.ENTRIES | stacks.VECTORS
        self._of_guest = guest | seen.executes(entries, lambda name: name in exits)
        found = (
            events.pauses(entries, subject.vcpus)
            if subject.kind == "pause_all"
            else events.kicks(entries)
        )
        parts = [(event, events.parts(entries, event, self._loop | guest)) for event in found]
        self._found = [one for one in parts if self._is_in_state(*one)]

    def _is_in_state(self, event: Event, parts: Sequence[Part]) -> bool:
        """Whether the vCPUs that are kicked on CPUs of their own do what they should."""
        if self._subject.state == "userspace":
            return events.clock_begin(self._entries, event, self._loop) > event.begin
        if self._subject.state == "guest" or self._subject.program == "spin":
            begun = [part.places[0] for part in parts if part.takes and part.places.size]
            return bool(self._of_guest[begun].all())
        return True

    def explained(self, counts: Sequence[int]) -> Explained:
        """The usual one. Raises ValueError if there is none, MeasurementError as _check does."""
        place, share = usual([sum(part.size for part in parts) for _, parts in self._found])
        event, parts = self._found[place]
        folded: Folded = Counter()
        by_phase: list[Folded] = [Counter() for _ in PHASES]
        incomplete: list[int] = []
        for part in parts:
            paths = self._seen.paths(self._entries.values[part.places])
            kept = stacks.completed(paths)
            incomplete += part.places[~np.array(kept, np.bool_)].tolist()
            for path, is_kept, phase in zip(paths, kept, events.phases(part, paths), strict=True):
                if is_kept and phase is not None:
                    folded[path] += 1
                    by_phase[phase][path] += 1
        begin = event.begin
        if self._subject.state == "userspace":
            begin = events.clock_begin(self._entries, event, self._loop)
        executed = int((self._entries.kinds[begin : event.end] == EXECUTED).sum())
        total = executed - sum(begin <= place < event.end for place in incomplete)
        _check(self._method, self._subject, total, counts)
        phases = dict(zip(PHASES, by_phase, strict=True)) if self._subject.has_phases else {}
        return Explained(self._method, self._subject, folded, share, phases)


def _check(method: str, subject: Subject, total: int, counts: Sequence[int]) -> None:
    """Raise MeasurementError if the clock of the machine counted something else."""
    if total not in counts:
        nearest = sorted(set(counts), key=lambda count: abs(count - total))[:_NEAREST]
        raise MeasurementError(
            f"{method}: the plugin saw {total:,} instructions of {subject.name}, "
            f"and the nearest that the machine's clock counted are "
            f"{', '.join(f'{count:,}' for count in nearest) or 'none'}; please report it"
        )
