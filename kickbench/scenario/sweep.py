# SPDX-License-Identifier: Apache-2.0
"""The sweep of a scenario: the axes of each kind, and the cases that they multiply to.

A case is one point of the sweep and one kind of measurement. Nothing here reads a file, and nothing
knows this host.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from kickbench.errors import ScenarioError
from kickbench.guest.mix import MixedExit
from kickbench.guest.programs import PROGRAMS
from kickbench.methods import CATALOGUE
from kickbench.scenario.cases import Case, PlacementSpec
from kickbench.scenario.kinds import (
    DEFAULT_ORDER,
    DEFAULT_PAUSE_GAP_US,
    HANDOVER_BASELINE,
    HYPERVISOR,
    ITERATIONS,
    NESTED_BASELINE,
    NO_GUEST,
    STATES,
    WAYS,
    State,
)
from kickbench.scenario.model import Scenario

MAX_CASES = 10_000

Choices = list[dict[str, Any]]
"""The values of one axis, each as the fields of a case that it sets."""

Axis = Callable[[Scenario], Choices]


def _programs(scenario: Scenario) -> Choices:
    return [_run(program, scenario) for program in scenario.guest.program]


def _run(program: str, scenario: Scenario) -> dict[str, Any]:
    """A program, and the exits that it takes from the scenario."""
    exits = scenario.guest.mix if program == "mix" else ()
    mix = tuple(MixedExit(one.exit, one.address, one.size, one.share) for one in exits)
    return {"program": program, "mix": mix}


def _spin(_: Scenario) -> Choices:
    return [{"program": "spin"}]


def _states(scenario: Scenario) -> Choices:
    assert scenario.kick is not None
    return [
        {"state": state, **_run(_program_of(STATES[state], scenario), scenario)}
        for state in scenario.kick.states
    ]


def _program_of(state: State, scenario: Scenario) -> str:
    irqchip = "kernel" if state.leaves_io else scenario.vm.irqchip  # an exit of HLT leaves no I/O
    return state.program or exiting_program(scenario.guest.program, irqchip)


def exiting_program(programs: tuple[str, ...], irqchip: str) -> str:
    """The first of ``programs`` that keeps exiting to user space, pm_timer when there is none.

    HLT exits only where no irqchip in the kernel takes it.
    """
    for name in programs:
        exits = PROGRAMS[name].exits
        if exits in ("pio", "mmio", "mix", "hypercall") or (exits == "hlt" and irqchip == "none"):
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
    guest = scenario.guest
    return [
        {"exit_rate_hz": None}
        if rate == "max"
        else {
            "exit_rate_hz": float(rate),
            "gaps_us": guest.gaps_us or (),
            "vcpu_rates": guest.vcpu_rates or (),
        }
        for rate in guest.exit_rate_hz
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


def _pauses(scenario: Scenario) -> Choices:
    assert scenario.pause_all is not None
    return [
        {"pause_gap_us": float(gap_us), "order": order, "after": scenario.pause_all.after}
        for gap_us in scenario.pause_all.gap_us
        for order in scenario.pause_all.order
    ]


def _noise(scenario: Scenario) -> Choices:
    """The silent case comes first, if there is one, with the noisy ones beside it."""
    if scenario.noise is None:
        return [{}]
    return [
        {
            "foreign_signals_hz": float(rate) or None,
            "siglock_threads": threads,
            "siglock_hz": scenario.noise.siglock_hz if threads else None,
        }
        for rate in scenario.noise.foreign_signals_hz
        for threads in scenario.noise.siglock_threads
    ]


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
            "kick_rate_hz": float(rate) or None,
        }
        for rate in scenario.nested.kick_rate_hz
    ]


def _moments(scenario: Scenario) -> Choices:
    assert scenario.lifecycle is not None
    return [
        {"moment": moment, "vms": scenario.lifecycle.vms, "vcpus": 1}
        for moment in scenario.lifecycle.moments
    ]


def _pairs(_: Scenario) -> Choices:
    """The pairs of CPUs are no axis: which there are is this host's."""
    return [
        {
            "program": NO_GUEST,
            "vcpus": 2,
            "methods": tuple(WAYS),
            "baseline": HANDOVER_BASELINE,
        }
    ]


@dataclass(frozen=True)
class Sweep:
    """How the cases of a kind are made and named.

    ``axes`` multiply the cases, the slowest first. A field of a case that none of them sets has its
    default. The program is always among them, and the irqchip is always the scenario's. ``point``
    names a case within its kind. Its words are those of :func:`_words`. None of them contains a
    "-", and the placement, which may, comes last: so no two cases have one name.
    """

    axes: tuple[Axis, ...]
    point: str


SWEEPS: dict[str, Sweep] = {
    "exits": Sweep(
        (_programs, _placements, _exit_rates, _kick_rates_and_vcpus, _noise),
        "{program}-{vcpus}-{rate}{noise}-{placement}",
    ),
    "kick": Sweep(
        (_states, _placements, _transports, _kickers, _vcpus_of_kick, _noise),
        "{state}-{vcpus}-{kickers}-{transport}{noise}-{placement}",
    ),
    "pause_all": Sweep(
        (_programs, _placements, _transports, _pauses, _vcpus, _noise),
        "{program}-{vcpus}-{transport}{pause}{noise}-{placement}",
    ),
    "race": Sweep(
        (_spin, _windows, _placements, _transports, _vcpus_of_race, _noise),
        "{window}-{vcpus}-{transport}{noise}-{placement}",
    ),
    "nested": Sweep((_hypervisor, _placements), "{kicked}{placement}"),
    "handover": Sweep((_pairs, _placements), "{placement}"),
    "lifecycle": Sweep(
        (_spin, _moments, _placements, _transports), "{moment}-{transport}-{placement}"
    ),
}
"""Each kind of :data:`~kickbench.scenario.kinds.KINDS`."""


def case_count(scenario: Scenario) -> int:
    """Number of cases that the sweep expands to."""
    axes = (SWEEPS[kind].axes for kind in scenario.measure.kinds)
    return sum(math.prod(len(axis(scenario)) for axis in each) for each in axes)


def check_size(scenario: Scenario, source: str) -> None:
    """Raises ScenarioError, naming ``source``, if the sweep has more than MAX_CASES cases."""
    if (count := case_count(scenario)) > MAX_CASES:
        raise ScenarioError(
            f"{source}: the sweep has {count} cases, and at most {MAX_CASES} can be run; "
            "shorten one of its lists"
        )


def expand(scenario: Scenario) -> list[Case]:
    """All cases, in the order in which they are run: kind by kind, each as its axes are nested.

    Raises ScenarioError if there are more than MAX_CASES.
    """
    check_size(scenario, scenario.name)
    measure = scenario.measure
    common: dict[str, Any] = {
        "irqchip": scenario.vm.irqchip,
        "exit_rate_hz": None,
        "arrival": scenario.guest.arrival,
        "baseline": measure.baseline,
        "processes": measure.processes,
        "precision": measure.precision,
        "precision_of": measure.precision_of,
        "max_seconds": measure.max_seconds,
        "block_ms": measure.block_ms,
        "sample_budget": measure.sample_budget,
        "seed": measure.seed,
    }
    kickers = _without_controls(measure.methods, measure.baseline)
    cases = []
    for kind in measure.kinds:
        sweep = SWEEPS[kind]
        for choices in product(*(axis(scenario) for axis in sweep.axes)):
            methods = measure.methods if kind == "exits" else kickers
            values = {"id": "", "kind": kind, **common, "methods": methods}
            for choice in choices:
                values |= choice
            place = values["placement"]
            values["placement"] = PlacementSpec(
                place.name, place.creator, place.vcpus, place.kicker
            )
            case = Case(**values)
            cases.append(replace(case, id=f"{kind}-{sweep.point.format(**_words(case))}"))
    return cases


def _without_controls(methods: tuple[str, ...], baseline: str) -> tuple[str, ...]:
    """The methods that somebody kicks with: a control of what an exit costs is none of them."""
    return tuple(
        method
        for method in methods
        if method == baseline or method not in CATALOGUE or CATALOGUE[method].control_of is None
    )


def _words(case: Case) -> dict[str, str]:
    """The words of which ids are made; a kind uses those of its axes."""
    rate = "max" if case.exit_rate_hz is None else f"{_number(case.exit_rate_hz)}hz"
    if case.kick_rate_hz is not None:
        rate += f"_kick{_number(case.kick_rate_hz)}hz_{case.transport}"
    return {
        "program": case.program,
        "kicked": f"kick{_number(case.kick_rate_hz)}hz-" if case.kick_rate_hz is not None else "",
        "state": case.state or "",
        "moment": case.moment or "",
        "window": f"{_number(case.window_ns or 0.0)}ns",
        "vcpus": f"{case.vcpus}vcpu",
        "kickers": f"{case.kickers}kicker",
        "rate": rate,
        "transport": case.transport,
        "pause": _pause_words(case),
        "noise": _noise_words(case),
        "placement": case.placement.name,
    }


def _pause_words(case: Case) -> str:
    """Nothing for the defaults: a case keeps the id that it had before there were others."""
    words = "" if case.order == DEFAULT_ORDER else f"_{case.order}"
    if case.pause_gap_us not in (None, DEFAULT_PAUSE_GAP_US):
        words += f"_{_number(case.pause_gap_us)}us"
    return words


def _noise_words(case: Case) -> str:
    words = ""
    if case.foreign_signals_hz is not None:
        words += f"_foreign{_number(case.foreign_signals_hz)}hz"
    if case.siglock_hz is not None:
        words += f"_{case.siglock_threads}siglock{_number(case.siglock_hz)}hz"
    return words


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
