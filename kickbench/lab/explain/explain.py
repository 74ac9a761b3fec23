# SPDX-License-Identifier: Apache-2.0
"""Counts every instruction of an exit by function, in an emulated machine.

QEMU runs the machine with the plugin (``plugin.c``), and :mod:`kickbench.lab.explain.inside` runs
the methods in it. The loop is the same as in every run of kickbench. So the instructions add up to
the count of ``kickbench lab counts``, and that is checked here for each method.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, pairwise
from pathlib import Path
from typing import Any

from kickbench.errors import MeasurementError, UsageError
from kickbench.lab.emulator import Limits
from kickbench.lab.explain import stacks
from kickbench.lab.explain.inside import Job
from kickbench.lab.explain.shared import Shared
from kickbench.lab.explain.trace import Stretch, usual
from kickbench.lab.explain.watch import Watched, watched
from kickbench.lab.machines import MACHINES, Machine
from kickbench.lab.qemu import Qemu
from kickbench.methods import method_label
from kickbench.run.kinds import kicking_threads
from kickbench.scenario.cases import Case

SCHEMA = 1
PHASES = ("call", "switch", "delivery", "way out")
"""The parts of a kick. *call* is the kicker's call. *switch* is what the kicker does then until the
CPU switches to the vCPU's thread. *delivery* is in the kernel, in the vCPU's thread. *way out*
begins when that is back in user space, in a handler or behind KVM_RUN, and ends when the protocol
knows of the kick."""
_BACK = ("kick_signal_handler", "kb_kick_loop")
"""The functions with a stamp at which the vCPU's thread is back in user space."""

Folded = Counter[tuple[str, ...]]


@dataclass(frozen=True)
class Explained:
    """How many instructions each call path of an exit or a kick has, the outermost function first.

    ``state`` is that of the vCPU that is kicked, None for an exit. ``share`` is the share of the
    exits or kicks that have as many instructions as this one. ``phases`` are a kick's parts.
    """

    method: str
    state: str | None
    folded: Folded
    share: float
    phases: dict[str, Folded]

    @property
    def instructions(self) -> int:
        """All of them."""
        return self.folded.total()

    @property
    def what(self) -> str:
        """What was counted, in words."""
        return f"kick ({self.state})" if self.state else "exit"

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` writes of it."""
        return {
            f"instructions_per_{'kick' if self.state else 'exit'}": self.instructions,
            "share": self.share,
            "functions": dict(stacks.self_counts(self.folded).most_common()),
            "inclusive": dict(stacks.inclusive_counts(self.folded).most_common()),
            **({"phases": {n: p.total() for n, p in self.phases.items()}} if self.phases else {}),
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

    def by_state(self) -> dict[str | None, dict[str, Explained]]:
        """By state (None for exits), then by method, in the order of the scenario."""
        states: dict[str | None, dict[str, Explained]] = {}
        for one in self.found:
            states.setdefault(one.state, {})[one.method] = one
        return states

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` writes."""
        states = {
            state: {name: one.to_dict() for name, one in methods.items()}
            for state, methods in self.by_state().items()
        }
        for one in self.shared:
            _add_lines(states[one.job.case.state].get(one.method, {}), one)
        return {
            "schema": SCHEMA,
            "machine": self.machine,
            "kernel": self.kernel,
            "baseline": self.baseline,
            "methods": states.pop(None, {}),
            "kicks": states,
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
    """Explain an exit, or a kick, of each method of these cases.

    Raises UsageError for a machine that does not count single instructions, HostError if QEMU has
    no plugins or the kernel no System.map, MeasurementError if the machine fails or the sum is not
    the machine's own count.
    """
    emulator = _watchable(machine)
    jobs = [Job(case, (0,) * case.vcpus, (0,) * kicking_threads(case)) for case in cases]
    found = []
    with watched(machine, emulator, kernel, jobs, limits) as seen:
        for job, section, entries in seen.sections():
            one = _explained(seen, entries.stretches(), section["method"], job.case.state)
            _check_sum(one, section["counts"])
            found.append(one)
    return Explanation(
        machine.description(),
        seen.facts["release"],
        method_label(cases[0].baseline),
        found,
        seen.facts["skipped"],
    )


def _watchable(machine: Machine) -> Qemu:
    if machine.count_step == 1 and isinstance(machine.emulator, Qemu):
        return machine.emulator
    usable = [one.id for one in MACHINES.values() if one.count_step == 1]
    raise UsageError(
        f"{machine.id} cannot be watched instruction by instruction; use {', '.join(usable)}"
    )


def _explained(
    seen: Watched, stretches: list[Stretch], method: str, state: str | None
) -> Explained:
    try:
        if state is None:
            turns = [turn for block in stretches for turn in block.turns()]
        else:
            turns = [kick.whole() for kick in stretches]
        turn, share = usual(turns)
    except ValueError as error:
        what = f"kick of a {state} vCPU" if state else "exit"
        raise MeasurementError(f"{method}: the trace has no whole {what}: {error}") from None
    executed = [
        stacks.Instruction(int(record["vaddr"]), record["bytes"][: record["size"]].tobytes())
        for record in seen.trace.code[turn.executed]
    ]
    paths = stacks.call_paths(executed, seen.functions.name)
    kept = stacks.completed(paths)

    def folded(begin: int, end: int) -> Folded:
        return stacks.fold(compress(paths[begin:end], kept[begin:end]))

    cuts = [] if state is None else _phases(paths, turn.stamps.tolist())
    phases = {
        name: folded(begin, end) for name, (begin, end) in zip(PHASES, pairwise(cuts), strict=False)
    }
    return Explained(method, state, folded(0, len(paths)), share, phases)


def _function(name: str) -> str:
    """A function's own name, without the file that it is in."""
    return name.partition(" ")[0]


def _phases(paths: Sequence[tuple[str, ...]], stamps: Sequence[int]) -> list[int]:
    """Where each of PHASES begins, and where the last one ends.

    ``stamps`` are the places of the stamps. The first one is just before the kicker's call.
    """
    end = len(paths)
    switched = next((i for i, path in enumerate(paths) if path[-1] == stacks.SWITCH[1]), end)
    returned = next((place for place in stamps[1:] if place < switched), switched)
    back = next(
        (place for place in stamps if place > switched and _function(paths[place][-1]) in _BACK),
        end,
    )
    return [0, returned, switched, max(back, switched), end]


def _check_sum(one: Explained, counts: Sequence[int]) -> None:
    """Raise MeasurementError if the clock of the machine counted something else."""
    if one.instructions not in counts:
        raise MeasurementError(
            f"{one.method}: the plugin saw {one.instructions:,} instructions of one {one.what}, "
            f"and the machine's clock counted {', '.join(map(str, sorted(set(counts))))}; "
            "please report it"
        )
