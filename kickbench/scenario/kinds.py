# SPDX-License-Identifier: Apache-2.0
"""The tables of what a scenario can measure: kinds of measurement, vCPU states, signal transports,
and what a guest hypervisor does.

A kind's entry says which axes of the sweep multiply it, what its guest runs, and how its cases are
named. How a kind is scheduled and run is the runner's business. Standard library only, because the
worker process reads cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kickbench.guest.programs import PROGRAMS

if TYPE_CHECKING:
    from kickbench.scenario.model import Scenario

MAX_KICKERS = 31
"""Kicking threads of one case at most."""

MAX_KICKS_HZ = 200_000
"""Kicks per second of one kicking thread at most: what it has room for, and can hardly send."""

FIGURES = {"quiet": "quiet_ns_per_exit", "mean": "ns_per_exit"}
"""The two figures of an exit by the words of a scenario, each with its metric in results."""

PRECISION_OF: dict[str, tuple[str, ...]] = {
    "both": tuple(FIGURES.values()),
    **{word: (metric,) for word, metric in FIGURES.items()},
}
"""The metrics that must be as precise as asked before a case of exits ends, by name."""

DEFAULT_TRANSPORT = "tgkill"

TRANSPORTS: dict[str, str] = {
    "tgkill": "tgkill(2) from the kicking thread",
    "pidfd": "pidfd_send_signal(2) on a pidfd of the vCPU's thread (Linux 6.9)",
    "timer": "a POSIX timer of the kicking thread's that expires at once (SIGEV_THREAD_ID)",
}
"""How a signal is sent, by name."""


@dataclass(frozen=True)
class State:
    """What a vCPU does when it is kicked; ``program`` None: one of the scenario's that exits."""

    id: str
    doc: str
    program: str | None


STATES: dict[str, State] = {
    state.id: state
    for state in (
        State("guest", "spinning in the guest, without exits", "spin"),
        State("halted", "asleep in HLT, inside the kernel's local APIC", "hlt"),
        State("userspace", "between two KVM_RUNs", None),
        State("storm", "exiting at full speed", None),
    )
}

HYPERVISOR = "hypervisor"
"""The program of the kind nested, which is no program of a scenario's: a hypervisor as the guest
(L1), which runs a guest of its own (L2)."""

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


# --- Axes -----------------------------------------------------------------------------------

Choices = list[dict[str, Any]]
"""The values of one axis, each as the fields of a case that it sets."""

Axis = Callable[["Scenario"], Choices]


def _programs(scenario: Scenario) -> Choices:
    return [{"program": program} for program in scenario.guest.program]


def _spin(_: Scenario) -> Choices:
    return [{"program": "spin"}]


def _states(scenario: Scenario) -> Choices:
    assert scenario.kick is not None
    exiting = exiting_program(scenario.guest.program, scenario.vm.irqchip)
    return [
        {"state": state, "program": STATES[state].program or exiting}
        for state in scenario.kick.states
    ]


def exiting_program(programs: tuple[str, ...], irqchip: str) -> str:
    """The first of ``programs`` that keeps exiting to user space, pm_timer when there is none.

    HLT exits only where no irqchip in the kernel takes it.
    """
    for name in programs:
        exits = PROGRAMS[name].exits
        if exits in ("pio", "mmio") or (exits == "hlt" and irqchip == "none"):
            return name
    return "pm_timer"


def _windows(scenario: Scenario) -> Choices:
    assert scenario.race is not None
    return [
        {"window_ns": float(window), "kicks": scenario.race.kicks}
        for window in scenario.race.window_ns
    ]


def _placements(scenario: Scenario) -> Choices:
    return [{"placement": placement} for placement in scenario.placement]


def _exit_rates(scenario: Scenario) -> Choices:
    return [
        {"exit_rate_hz": None if rate == "max" else float(rate)}
        for rate in scenario.guest.exit_rate_hz
    ]


def _kick_rates_and_vcpus(scenario: Scenario) -> Choices:
    """With every transport where there are kicks, once where there are none."""
    choices: Choices = []
    for rate in scenario.guest.kick_rate_hz:
        if rate == 0:
            choices += _vcpus(scenario)
        else:
            choices += [
                {"kick_rate_hz": float(rate), **sent, "vcpus": vcpus}
                for sent in _transports(scenario)
                for vcpus in scenario.kicked_vcpus
            ]
    return choices


def _transports(scenario: Scenario) -> Choices:
    return [{"transport": transport} for transport in scenario.measure.transports]


def _kickers(scenario: Scenario) -> Choices:
    assert scenario.kick is not None
    return [{"kickers": kickers} for kickers in scenario.kick.kickers]


def _vcpus(scenario: Scenario) -> Choices:
    return [{"vcpus": vcpus} for vcpus in scenario.vm.vcpus]


def _vcpus_of_kick(scenario: Scenario) -> Choices:
    assert scenario.kick is not None
    return [{"vcpus": vcpus} for vcpus in scenario.kick.vcpus or scenario.vm.vcpus]


def _vcpus_of_race(scenario: Scenario) -> Choices:
    assert scenario.race is not None
    return [{"vcpus": vcpus} for vcpus in scenario.race.vcpus or scenario.vm.vcpus]


def _hypervisor(scenario: Scenario) -> Choices:
    assert scenario.nested is not None
    return [
        {
            "program": HYPERVISOR,
            "vcpus": 1,
            "methods": tuple(ITERATIONS),
            "baseline": NESTED_BASELINE,
            "iterations": scenario.nested.iterations,
        }
    ]


# --- Kinds ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One kind of measurement.

    ``doc`` says what it yields, for people. ``axes`` multiply its cases, the slowest first; a field
    of a case that none of them sets has its default, the program is always among them, and the
    irqchip is always the scenario's. ``point`` names a case within the kind; its words are those of
    :func:`kickbench.scenario.cases.expand`, none of them contains a "-", and the placement, which
    may, comes last: so no two cases have one name.
    """

    id: str
    doc: str
    axes: tuple[Axis, ...]
    point: str

    def case_count(self, scenario: Scenario) -> int:
        """Number of cases of this kind."""
        return math.prod(len(axis(scenario)) for axis in self.axes)


KINDS: dict[str, Kind] = {
    kind.id: kind
    for kind in (
        Kind(
            "exits",
            "exits per second and time per exit, with paired differences",
            (_programs, _placements, _exit_rates, _kick_rates_and_vcpus),
            "{program}-{vcpus}-{rate}-{placement}",
        ),
        Kind(
            "kick",
            "time from a kick to KVM_RUN's return, by the vCPU's state, with its phases",
            (_states, _placements, _transports, _kickers, _vcpus_of_kick),
            "{state}-{vcpus}-{kickers}-{transport}-{placement}",
        ),
        Kind(
            "pause_all",
            "time until the first, the median and the last of all vCPUs has acknowledged a kick",
            (_programs, _placements, _transports, _vcpus),
            "{program}-{vcpus}-{transport}-{placement}",
        ),
        Kind(
            "race",
            "kicks lost and spurious exits, aimed between the check of the flag and KVM_RUN",
            (_spin, _windows, _placements, _transports, _vcpus_of_race),
            "{window}-{vcpus}-{transport}-{placement}",
        ),
        Kind(
            "nested",
            "a guest hypervisor's round trip to its own guest while an event is pending for it, "
            "and what that guest gets done meanwhile",
            (_hypervisor, _placements),
            "{placement}",
        ),
    )
}


def precise_metrics(parameters: Mapping[str, Any], crowded: bool) -> tuple[str, ...]:
    """The metrics of exits that must be as precise as a case asks for.

    ``parameters`` are a case's; those of an earlier version have no ``precision_of``, and were
    judged by the mean. ``crowded`` are vCPUs that wait for a CPU. Their mean says how long they
    waited, and no rounds make it an exit's.
    """
    name = parameters.get("precision_of", "mean")
    return PRECISION_OF["quiet" if crowded and name == "both" else name]
