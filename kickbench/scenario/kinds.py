# SPDX-License-Identifier: Apache-2.0
"""The tables of what a scenario can measure.

They list the kinds of measurement, the vCPU states, the signal transports, and what a guest
hypervisor does. :mod:`kickbench.scenario.sweep` has the axes of each kind, and
:mod:`kickbench.run.kinds` how a kind is run. Standard library only, because the worker process
reads cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_KICKERS = 31
"""The largest number of kicking threads of one case."""

MAX_KICKS_HZ = 200_000
"""The highest rate of one kicking thread, in kicks per second.

It has room for so many, and can hardly send them."""

FIGURES = {"quiet": "quiet_ns_per_exit", "mean": "ns_per_exit"}
"""The two figures of an exit by the words of a scenario, each with its metric in results."""

PRECISION_OF: dict[str, tuple[str, ...]] = {
    "both": tuple(FIGURES.values()),
    **{word: (metric,) for word, metric in FIGURES.items()},
}
"""The metrics that must be as precise as asked before a case of exits ends, by name."""

ARRIVALS: dict[str, str] = {
    "periodic": "all gaps are equal",
    "poisson": "gaps have an exponential distribution",
    "recorded": "gaps have the distribution of gaps_us",
}
"""The gaps between the exits of a paced guest, by name."""

MIN_GAPS, MAX_GAPS = 2, 1024
"""How many gaps may be recorded."""

MIN_GAP_US, MAX_GAP_US = 0.001, 1e6
"""The shortest and the longest of them, in microseconds."""

MIN_VCPU_RATE, MAX_VCPU_RATE = 0.001, 1000
"""The lowest and the highest rate of a vCPU against the others."""

DEFAULT_TRANSPORT = "tgkill"

TRANSPORTS: dict[str, str] = {
    "tgkill": "tgkill(2) from the kicking thread",
    "tgkill_rt": "tgkill(2) of a real-time signal, which queues",
    "pidfd": "pidfd_send_signal(2) on a pidfd of the vCPU's thread (Linux 6.9)",
    "timer": "a POSIX timer of the kicking thread, which expires at once (SIGEV_THREAD_ID)",
}
"""How a signal is sent, by name."""


@dataclass(frozen=True)
class State:
    """What a vCPU does when it is kicked; ``program`` None: one of the scenario's that exits.

    ``name`` follows "kicked" in a sentence. ``usual``: measured if a scenario names no states.
    ``irqchip``: it needs an interrupt chip in the kernel. ``aimed``: kicks are sent while the
    protocol's window between the flag and KVM_RUN is held open. ``leaves_io``: the program's exit
    is of PIO or MMIO.
    """

    id: str
    name: str
    doc: str
    program: str | None
    usual: bool = True
    irqchip: bool = False
    aimed: bool = False
    leaves_io: bool = False


STATES: dict[str, State] = {
    state.id: state
    for state in (
        State("guest", "in the guest", "spinning in the guest, without exits", "spin"),
        State(
            "halted",
            "while halted",
            "asleep in HLT, inside the kernel's local APIC",
            "hlt",
            irqchip=True,
        ),
        State("userspace", "in userspace", "between two KVM_RUNs", None),
        State("storm", "while exiting at full speed", "exiting at full speed", None),
        State(
            "wait_for_sipi",
            "while waiting for its SIPI",
            "asleep in KVM_RUN, because nobody has started it",
            "hlt",
            usual=False,
            irqchip=True,
        ),
        State(
            "polling",
            "while KVM polled for it",
            "halted, and KVM polls for what wakes it up before the thread sleeps",
            "hlt",
            usual=False,
            irqchip=True,
        ),
        State(
            "halted_in_guest",
            "while halted in the guest",
            "halted without an exit of the guest",
            "hlt",
            usual=False,
            irqchip=True,
        ),
        State(
            "window",
            "just before KVM_RUN",
            "between the look at the flag and KVM_RUN, with nothing to complete",
            "spin",
            usual=False,
            aimed=True,
        ),
        State(
            "pending_io",
            "just before a KVM_RUN that completes I/O",
            "the same, and KVM_RUN has the guest's PIO or MMIO to complete first",
            None,
            usual=False,
            aimed=True,
            leaves_io=True,
        ),
    )
}

USUAL_STATES = tuple(state.id for state in STATES.values() if state.usual)
"""The states that are measured if a scenario names none."""


@dataclass(frozen=True)
class Moment:
    """When a fresh vCPU is kicked, in the life of its thread.

    ``name`` follows "kicked" in a sentence. ``kept``: a race-free protocol must answer a kick then.
    At the other moments the fault is the VMM's, which must not kick then.
    """

    id: str
    name: str
    doc: str
    kept: bool


MOMENTS: dict[str, Moment] = {
    moment.id: moment
    for moment in (
        Moment(
            "no_handler",
            "before the signal has a handler",
            "the thread runs, and the process has no handler of the signal yet",
            False,
        ),
        Moment(
            "thread_start",
            "when its thread starts",
            "the thread runs, and has neither its signal mask nor its protocol yet",
            True,
        ),
        Moment(
            "entry",
            "at protocol entry",
            "the thread sets its signal mask and enters the protocol (kb_enter)",
            True,
        ),
        Moment("first_run", "in its first KVM_RUN", "the first KVM_RUN of the VM", True),
        Moment(
            "thread_end",
            "when its thread ends",
            "the thread has left its loop, leaves the protocol (kb_leave) and ends",
            False,
        ),
        Moment(
            "takeover",
            "when another thread takes it over",
            "its thread has ended, and another one takes the vCPU over",
            True,
        ),
        Moment(
            "stale",
            "by the id of a thread that ended",
            "another thread runs the vCPU, and the kicker still has the first one's id, which a "
            "third thread has got; needs root",
            False,
        ),
    )
}
"""The moments of the kind lifecycle, by name."""

DEFAULT_VMS = 1000
"""Fresh VMs of each method in a case of the kind lifecycle."""

HYPERVISOR = "hypervisor"
"""The program of the kind nested: a hypervisor as the guest (L1), which runs a guest of its own
(L2). A scenario cannot name it."""

DEFAULT_ITERATIONS = 200
"""Iterations of a block of the kind nested."""


@dataclass(frozen=True)
class Iteration:
    """What L1 does once and again, in one of the ways that take turns as methods do elsewhere.

    ``compared``: whether its round trips can be compared with those of the baseline. ``at_once``:
    an event for L1 is pending when L2 is entered, so that L2 should get nothing done. A block has
    one in ``share`` of the iterations that are asked for: of those that take longer, fewer do.
    """

    id: str
    doc: str
    compared: bool = True
    at_once: bool = False
    share: int = 1

    def count(self, iterations: int) -> int:
        """How many a block has, of so many that are asked for."""
        return max(1, iterations // self.share)


ITERATIONS: dict[str, Iteration] = {
    iteration.id: iteration
    for iteration in (
        Iteration("plain", "L2 exits at once, by VMCALL or VMMCALL: the floor of a round trip"),
        Iteration(
            "pending",
            "L1 sends itself an IPI with interrupts disabled, then enters L2 with an event to "
            "inject",
            at_once=True,
        ),
        Iteration("pending_no_injection", "the same without an event to inject", at_once=True),
        Iteration(
            "asynchronous",
            "another thread interrupts at a random moment, while L2 works",
            compared=False,
            share=10,
        ),
    )
}
"""The ways of the kind nested, by name."""

NESTED_BASELINE = "plain"

INJECTION = ("pending", "pending_no_injection")
"""The ways whose difference is what an injection costs."""

NO_GUEST = "no_guest"
"""The program of the kind handover, which has no machine. A scenario cannot name it."""

OWN_PROGRAMS = {"nested": HYPERVISOR, "handover": NO_GUEST}
"""By kind, the program of its cases, if no other kind can have it."""

DEFAULT_PAUSE_GAP_US = 500.0
"""Mean time between two pauses, from the end of one to the begin of the next."""

ORDERS: dict[str, str] = {
    "parallel": "all vCPUs are kicked, then each is waited for",
    "serial": "each vCPU is waited for before the next is kicked",
}
"""The orders in which a pause kicks the vCPUs, by name."""

DEFAULT_ORDER = "parallel"

AFTER: dict[str, str] = {
    "kvmclock_ctrl": "KVM_KVMCLOCK_CTRL, which tells the guest's clock of the pause",
    "read_state": "the ioctls that read a vCPU's state to save it",
}
"""What each vCPU's thread may do once it is paused, by name, in this order."""

LATENCY_BINS = 16
"""Bins of a race's latencies to each power of two: a bin is 4.4 % wide."""

NOISY_KINDS = ("exits", "kick", "pause_all", "race")
"""The kinds that can be measured with noise."""

NOISE = ("foreign_signals_hz", "siglock_threads", "siglock_hz")
"""The fields of a case that say which noise it has."""

DEFAULT_SIGLOCK_HZ = 10_000.0

MAX_SIGLOCK_THREADS = 31

WITHOUT_KVM = ("handover",)
"""The kinds that a host without KVM can measure."""

WAYS: dict[str, str] = {
    "handover": "two threads, each on a CPU of its own, take the line in turn",
    "alone": "one thread takes both turns, so that the line stays where it is",
}
"""The ways of the kind handover, which take turns as methods do elsewhere."""

HANDOVER_BASELINE = "handover"

KINDS: dict[str, str] = {
    "exits": "exits per second and time per exit, with paired differences",
    "kick": "time from a kick until the protocol knows of it, by the vCPU's state, with its phases",
    "pause_all": (
        "time until the first, the median and the last of all vCPUs has acknowledged a kick"
    ),
    "race": "kicks lost and spurious exits, aimed between the check of the flag and KVM_RUN",
    "nested": (
        "the round trip of a guest hypervisor to its own guest while an event for that hypervisor "
        "is pending, and how much that guest works meanwhile"
    ),
    "handover": "time to hand a cache line from one CPU to another, for each pair of CPUs",
    "lifecycle": (
        "kicks of fresh VMs that were lost, late or refused, killed the VMM, or poisoned the VM, "
        "by the moment in the life of the vCPU's thread"
    ),
}
"""The kinds of measurement, each with what it yields, for people."""


def state_name(state: object) -> str:
    """When a vCPU is kicked in this state, e.g. "in the guest"; a run may name another state."""
    known = STATES.get(str(state))
    return f"in the state {state}" if known is None else known.name


def moment_name(moment: object) -> str:
    """When a fresh vCPU is kicked, e.g. "in its first KVM_RUN"; a run may name another moment."""
    known = MOMENTS.get(str(moment))
    return f"at the moment {moment}" if known is None else known.name


def precise_metrics(parameters: Mapping[str, Any], crowded: bool) -> tuple[str, ...]:
    """The metrics of exits that must be as precise as a case asks for.

    ``parameters`` are a case's; those of an earlier version have no ``precision_of``, and were
    judged by the mean. ``crowded`` are vCPUs that wait for a CPU. Their mean says how long they
    waited, and no rounds make it an exit's.
    """
    name = parameters.get("precision_of", "mean")
    return PRECISION_OF["quiet" if crowded and name == "both" else name]
