# SPDX-License-Identifier: Apache-2.0
"""Decides what this host can run of a scenario, and where each thread of a case goes.

:mod:`kickbench.run.runner` runs it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kickbench.arch import ARCHS, Arch
from kickbench.errors import HostError
from kickbench.guest.mix import is_port
from kickbench.guest.programs import PROGRAMS, stays_in_kernel
from kickbench.host.capabilities import (
    Capabilities,
    supports,
    supports_machine,
    supports_program,
    supports_state,
    supports_transport,
)
from kickbench.host.topology import Topology, resolve
from kickbench.methods import CATALOGUE, is_protocol_file, method_label
from kickbench.run.schedule import threads_per_cpu
from kickbench.scenario.cases import Case
from kickbench.scenario.kinds import (
    DEFAULT_TRANSPORT,
    ITERATIONS,
    MAX_KICKERS,
    MAX_KICKS_HZ,
    STATES,
    WAYS,
    WITHOUT_KVM,
)

QUICK_SECONDS = 13.0
QUICK_CASE_OVERHEAD_SECONDS = 0.5
QUICK_MIN_CASE_SECONDS = 0.45
QUICK_KICKS = 4000
QUICK_BLOCK_MS = 1.0
"""A case has four times as many rounds as with the usual blocks. A block of so few exits is enough
for its low quantiles, and half a second has too few rounds otherwise."""


# By kind whose methods are none: what they are called, and which there are.
_WAYS_OF: dict[str, tuple[str, Collection[str]]] = {
    "nested": ("iteration", ITERATIONS),
    "handover": ("way", WAYS),
}

Shared = Literal["nothing", "core", "CPU"]
_SHARES: dict[Shared, str] = {
    "CPU": "the kicker has no CPU of its own, and kicks when a vCPU's thread does not run: "
    "give it one (placement.kicker)",
    "core": "the kicker shares a core with a vCPU, and slows it while it waits to kick: "
    "give it a core of its own (placement.kicker)",
}


@dataclass(frozen=True)
class Seats:
    """The CPUs of a case's threads: ``vcpus[i]`` of vCPU i, ``creator`` None if it may be any.

    ``kicker_shares`` is what a kicker must share with a vCPU.
    """

    creator: tuple[int, ...] | None
    vcpus: list[list[int]]
    kicker: list[int]
    kicker_shares: Shared = "nothing"

    @classmethod
    def of(cls, case: Case, topology: Topology) -> Seats:
        """Resolve a placement. Raises HostError when the host has no such node or CPU.

        Each vCPU has one CPU, in turn; with ``any`` the scheduler moves it freely. The kickers get
        those CPUs of their part that the vCPUs leave, because a kicker spins before each kick.
        The threads of the kind handover go from CPU to CPU of the placement.
        """
        cpus = resolve(case.placement.vcpus, topology)
        floating = case.placement.vcpus == "any" or case.kind == "handover"
        creator = resolve(case.placement.creator, topology)
        vcpus = [
            sorted(cpus) if floating else [cpus[index % len(cpus)]] for index in range(case.vcpus)
        ]
        kicker = _left_for_kickers(resolve(case.placement.kicker, topology), vcpus, topology)
        return cls(
            creator=None if case.placement.creator == "any" else creator,
            vcpus=vcpus,
            kicker=sorted(kicker),
            kicker_shares=_kicker_shares(kicker, vcpus, topology),
        )

    def notes(self, n_kickers: int) -> list[str]:
        """What this placement means for so many kicking threads, one sentence each."""
        if not n_kickers:
            return []
        notes = [_SHARES[self.kicker_shares]] if self.kicker_shares != "nothing" else []
        if n_kickers > len(self.kicker):
            cpus = f"{len(self.kicker)} CPU{'s' * (len(self.kicker) > 1)}"
            notes.append(f"{n_kickers} kickers share {cpus}: they kick in turn, not at once")
        return notes


def _left_for_kickers(
    wanted: Sequence[int], vcpus: Sequence[Sequence[int]], topology: Topology
) -> set[int]:
    """The wanted CPUs that share no core with a vCPU; if there are none, those that no vCPU runs
    on; if there are none, all."""
    taken = {cpu for some in vcpus for cpu in some}
    cores = {thread for cpu in taken for thread in topology.siblings.get(cpu, (cpu,))}
    return set(wanted) - cores - taken or set(wanted) - taken or set(wanted)


def _kicker_shares(kicker: set[int], vcpus: Sequence[Sequence[int]], topology: Topology) -> Shared:
    """What kickers must share. Threads that float find a free CPU or core if there is one."""
    taken = {cpu for some in vcpus for cpu in some}
    cores = {frozenset((cpu, *topology.siblings.get(cpu, ()))) for cpu in taken}
    if kicker <= taken and len(vcpus) >= len(taken):
        return "CPU"
    if kicker <= {cpu for core in cores for cpu in core} and len(vcpus) >= len(cores):
        return "core"
    return "nothing"


@dataclass(frozen=True)
class Planned:
    """A case as it will be run, or the reason why it is skipped.

    ``notes`` say what is left out of a case that is run.
    """

    case: Case
    skip: str | None
    notes: tuple[str, ...] = ()


def plan(cases: Sequence[Case], topology: Topology, capabilities: Capabilities) -> list[Planned]:
    """Every case, fitted to this host, or with the reason why it is skipped."""
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
    """Why a method cannot take part in a case here, or None. A C file always can: its compiler or
    its run shows what is wrong with it."""
    if not capabilities.usable and case.kind not in WITHOUT_KVM:
        return capabilities.reason or "KVM is not usable"
    if is_protocol_file(method):
        return None
    # Another version's name: its run is resumed here.
    other_version = "resume the run with the version that began it"
    if case.kind in _WAYS_OF:
        what, known = _WAYS_OF[case.kind]
        if method in known:
            return None
        return f"this version of kickbench has no {what} {method}; {other_version}"
    if method not in CATALOGUE:
        return f"this version of kickbench has no method {method}; {other_version}"
    if reason := supports(CATALOGUE[method], capabilities):
        return reason
    if case.transport != DEFAULT_TRANSPORT and not CATALOGUE[method].kicks_by_signal:
        return f"kicks without a signal are measured with the transport {DEFAULT_TRANSPORT} only"
    return None


def _why_not(case: Case, topology: Topology, capabilities: Capabilities) -> str | None:
    if case.kind in WITHOUT_KVM:
        return _why_no_pair(case, topology)
    if case.kind == "nested" and capabilities.nested is not None:
        return capabilities.nested
    machine = ARCHS.get(capabilities.machine)
    if machine is None:  # what a stranger's machine says of itself
        return f"kickbench does not measure on {capabilities.machine}"
    if reason := why_no_exit(case, machine):
        return reason
    if reason := supports_machine(case.vcpus, case.irqchip, capabilities):
        return reason
    if reason := supports_program(case.program, capabilities):
        return reason
    if case.state is not None and (reason := _why_no_state(case, machine, capabilities)):
        return reason
    if case.exit_rate_hz is not None and not PROGRAMS[case.program].paced:
        return f"{case.program} never exits by itself, so it has no exit rate: remove exit_rate_hz"
    if "kvmclock_ctrl" in case.after and not machine.HAS_KVMCLOCK:
        return f"{machine.NAME} has no KVM_KVMCLOCK_CTRL: leave it out of pause_all.after"
    if case.kind == "race" and case.vcpus > MAX_KICKERS:
        return f"a race has a kicking thread for each vCPU, at most {MAX_KICKERS}: use fewer vCPUs"
    if (case.kick_rate_hz or 0) * case.vcpus > MAX_KICKS_HZ:
        return (
            f"one thread sends all kicks of a case, at most {MAX_KICKS_HZ:,} a second: lower "
            "kick_rate_hz"
        )
    if (case.foreign_signals_hz or 0) * case.vcpus > MAX_KICKS_HZ:
        return (
            f"one thread sends all foreign signals of a case, at most {MAX_KICKS_HZ:,} a second: "
            "lower foreign_signals_hz"
        )
    if case.moment == "stale" and not capabilities.last_id_settable:
        return (
            "no thread can be given the id of one that ended (kernel.ns_last_pid): it needs root, "
            "and a kernel with CONFIG_CHECKPOINT_RESTORE"
        )
    if case.kickers > MAX_KICKERS:
        return (
            f"a case has at most {MAX_KICKERS} kicking threads, not {case.kickers}: lower kickers"
        )
    if reason := supports_transport(case.transport, capabilities):
        return reason
    try:
        Seats.of(case, topology)
    except HostError as error:
        return str(error)
    return None


def _why_no_state(case: Case, machine: Arch, capabilities: Capabilities) -> str | None:
    state = STATES[str(case.state)]
    if state.irqchip and case.irqchip == "none" and machine.HALT_LEAVES:
        return (
            f"a vCPU is {state.name.removeprefix('while ')} in the kernel only with the local APIC "
            'there (irqchip = "kernel")'
        )
    return supports_state(state.id, capabilities)


def why_no_exit(case: Case, machine: Arch) -> str | None:
    """Why the case's program does not take its exits on this architecture, or None."""
    uses_ports = case.program == "pio_out" or any(is_port(one.exit) for one in case.mix)
    if not machine.HAS_PORTS and uses_ports:
        return f"the exits of {case.program} are of a port, and {machine.NAME} has no ports"
    if case.program in PROGRAMS and case.program not in machine.PROGRAMS:
        return f"{machine.NAME} has no {case.program}"
    if stays_in_kernel(case.program) and case.kind != "exits":
        return f"the exits of {case.program} stay in the kernel: only the kind exits measures them"
    if case.program == "bounce" and (case.kind != "exits" or case.kick_rate_hz is not None):
        return "KVM_RUN that bounces takes no kicks: only the kind exits without kicks measures it"
    if case.kind != "exits" or case.program != "hlt":
        return None
    if not machine.HALT_LEAVES:
        return f"a vCPU that halts never leaves to user space on {machine.NAME}"
    if case.irqchip != "none":
        return 'HLT leaves to user space only without an in-kernel irqchip (irqchip = "none")'
    return None


def _why_no_pair(case: Case, topology: Topology) -> str | None:
    try:
        cpus = resolve(case.placement.vcpus, topology)
        Seats.of(case, topology)
    except HostError as error:
        return str(error)
    if len(cpus) < 2:
        return (
            f"a hand-over needs two CPUs that run at once, and the placement {case.placement.name} "
            f"has only CPU {cpus[0]}"
        )
    return None


def quicken(planned: Sequence[Planned], topology: Topology) -> list[Planned]:
    """The same cases for a quick look: one process each, about twelve seconds in all, exits in
    short blocks, races for few kicks."""
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
                block_ms=QUICK_BLOCK_MS if _may_be_short(item, topology) else item.case.block_ms,
            ),
        )
        for item in planned
    ]


def _may_be_short(item: Planned, topology: Topology) -> bool:
    """Whether short blocks are enough: exits at full speed, no kicks, and no threads that take
    turns on a CPU. A length that the scenario sets stays."""
    case = item.case
    waits = case.exit_rate_hz is not None or case.kick_rate_hz is not None
    if item.skip is not None or case.kind != "exits" or waits or case.block_ms is not None:
        return False
    return threads_per_cpu(Seats.of(case, topology).vcpus) <= 1
