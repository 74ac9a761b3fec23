# SPDX-License-Identifier: Apache-2.0
"""What this host can run of a scenario, and where each thread of a case goes.

It decides and does not run: see :mod:`kickbench.run.runner`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kickbench.errors import HostError
from kickbench.guest.programs import PROGRAMS
from kickbench.host.capabilities import Capabilities, supports, supports_machine
from kickbench.host.topology import Topology, resolve
from kickbench.methods import CATALOGUE
from kickbench.scenario.cases import Case

QUICK_SECONDS = 13.0
QUICK_CASE_OVERHEAD_SECONDS = 0.5
QUICK_MIN_CASE_SECONDS = 0.4


@dataclass(frozen=True)
class Seats:
    """The CPUs of a case's threads: ``vcpus[i]`` of vCPU i, ``creator`` None when it may be any."""

    creator: tuple[int, ...] | None
    vcpus: list[list[int]]
    kicker: list[int]

    @classmethod
    def of(cls, case: Case, topology: Topology) -> Seats:
        """Resolve a placement. Raises HostError when the host has no such node or CPU.

        Each vCPU has one CPU of its own, in turn; with ``any`` the scheduler moves it freely.
        """
        cpus = resolve(case.placement.vcpus, topology)
        floating = case.placement.vcpus == "any"
        creator = resolve(case.placement.creator, topology)
        return cls(
            creator=None if case.placement.creator == "any" else creator,
            vcpus=[
                sorted(cpus) if floating else [cpus[index % len(cpus)]]
                for index in range(case.vcpus)
            ],
            kicker=sorted(resolve(case.placement.kicker, topology)),
        )


@dataclass(frozen=True)
class Planned:
    """A case as it will be run, or the reason why it is skipped.

    ``notes`` say what had to be left out of a case that is run.
    """

    case: Case
    skip: str | None
    notes: tuple[str, ...] = ()


def plan(cases: Sequence[Case], topology: Topology, capabilities: Capabilities) -> list[Planned]:
    """Every case, fitted to this host or with the reason why it cannot be."""
    return [_fit(case, topology, capabilities) for case in cases]


def _fit(case: Case, topology: Topology, capabilities: Capabilities) -> Planned:
    missing = {
        method: reason
        for method in case.methods
        if (reason := supports(CATALOGUE[method], capabilities))
    }
    methods = tuple(method for method in case.methods if method not in missing)
    if not methods:
        return Planned(case, "; ".join(dict.fromkeys(missing.values())))
    if reason := _why_not(case, topology, capabilities):
        return Planned(case, reason)
    notes = [f"{method} is left out: {reason}" for method, reason in missing.items()]
    baseline = case.baseline
    if baseline in missing:
        baseline = methods[0]
        notes.append(f"{baseline} is the baseline instead of {case.baseline}")
    return Planned(replace(case, methods=methods, baseline=baseline), None, tuple(notes))


def _why_not(case: Case, topology: Topology, capabilities: Capabilities) -> str | None:
    if reason := supports_machine(case.vcpus, case.irqchip, capabilities):
        return reason
    if case.program == "hlt" and case.irqchip != "none":
        return 'HLT leaves to user space only without an in-kernel irqchip (irqchip = "none")'
    if case.exit_rate_hz is not None and not PROGRAMS[case.program].paced:
        return f"{case.program} never exits by itself, so it has no exit rate"
    try:
        Seats.of(case, topology)
    except HostError as error:
        return str(error)
    return None


def quicken(planned: Sequence[Planned]) -> list[Planned]:
    """The same cases in one process each, sharing out some twelve seconds."""
    runnable = sum(item.skip is None for item in planned)
    share = QUICK_SECONDS / max(1, runnable) - QUICK_CASE_OVERHEAD_SECONDS
    seconds = max(QUICK_MIN_CASE_SECONDS, share)
    return [
        replace(
            item,
            case=replace(item.case, processes=1, max_seconds=min(seconds, item.case.max_seconds)),
        )
        for item in planned
    ]
