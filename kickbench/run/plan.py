# SPDX-License-Identifier: Apache-2.0
"""What this host can run of a scenario, and where each thread of a case goes.

It decides and does not run: see :mod:`kickbench.run.runner`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kickbench.errors import HostError
from kickbench.guest.programs import PROGRAMS
from kickbench.host.capabilities import Capabilities, supports, supports_machine, supports_transport
from kickbench.host.topology import Topology, resolve
from kickbench.methods import CATALOGUE
from kickbench.scenario.cases import Case, is_protocol_file, method_label
from kickbench.scenario.kinds import DEFAULT_TRANSPORT, ITERATIONS, MAX_KICKERS

QUICK_SECONDS = 13.0
QUICK_CASE_OVERHEAD_SECONDS = 0.5
QUICK_MIN_CASE_SECONDS = 0.45
QUICK_KICKS = 4000


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
        if (reason := _why_without(method, case, capabilities))
    }
    methods = tuple(method for method in case.methods if method not in missing)
    if not methods:
        return Planned(case, "; ".join(dict.fromkeys(missing.values())))
    if reason := _why_not(case, topology, capabilities):
        return Planned(case, reason)
    notes = [f"{method_label(method)} is left out: {reason}" for method, reason in missing.items()]
    baseline = case.baseline
    if baseline in missing:
        baseline = methods[0]
        notes.append(
            f"{method_label(baseline)} is the baseline instead of {method_label(case.baseline)}"
        )
    return Planned(replace(case, methods=methods, baseline=baseline), None, tuple(notes))


def _why_without(method: str, case: Case, capabilities: Capabilities) -> str | None:
    """Why a method cannot take part in a case here, or None. A C file always can: it says itself
    how it kicks, and its compiler and its run say what is wrong with it."""
    if not capabilities.usable:
        return capabilities.reason or "KVM is not usable"
    if is_protocol_file(method):
        return None
    if case.kind == "nested":
        known = method in ITERATIONS
        return None if known else f"this version of kickbench has no iteration {method}"
    if method not in CATALOGUE:  # results of another version, begun there and resumed here
        return f"this version of kickbench has no method {method}"
    if reason := supports(CATALOGUE[method], capabilities):
        return reason
    if case.transport != DEFAULT_TRANSPORT and not CATALOGUE[method].kicks_by_signal:
        return f"kicks without a signal are measured with the transport {DEFAULT_TRANSPORT} only"
    return None


def _why_not(case: Case, topology: Topology, capabilities: Capabilities) -> str | None:
    if reason := supports_machine(case.vcpus, case.irqchip, capabilities):
        return reason
    if case.kind == "nested" and capabilities.nested is not None:
        return capabilities.nested
    if case.kind == "exits" and case.program == "hlt" and case.irqchip != "none":
        return 'HLT leaves to user space only without an in-kernel irqchip (irqchip = "none")'
    if case.state == "halted" and case.irqchip == "none":
        return 'a vCPU halts in the kernel only with the local APIC there (irqchip = "kernel")'
    if case.exit_rate_hz is not None and not PROGRAMS[case.program].paced:
        return f"{case.program} never exits by itself, so it has no exit rate"
    if case.kind == "race" and case.vcpus > MAX_KICKERS:
        return f"a race has a kicking thread for each vCPU, at most {MAX_KICKERS}"
    if case.kickers > MAX_KICKERS:
        return f"a case has at most {MAX_KICKERS} kicking threads, not {case.kickers}"
    if reason := supports_transport(case.transport, capabilities):
        return reason
    try:
        Seats.of(case, topology)
    except HostError as error:
        return str(error)
    return None


def quicken(planned: Sequence[Planned]) -> list[Planned]:
    """The same cases in one process each, sharing out some twelve seconds; races for few kicks."""
    runnable = sum(item.skip is None for item in planned)
    share = QUICK_SECONDS / max(1, runnable) - QUICK_CASE_OVERHEAD_SECONDS
    seconds = max(QUICK_MIN_CASE_SECONDS, share)
    return [
        replace(
            item,
            case=replace(
                item.case,
                processes=1,
                max_seconds=min(seconds, item.case.max_seconds),
                kicks=None if item.case.kicks is None else min(QUICK_KICKS, item.case.kicks),
            ),
        )
        for item in planned
    ]
