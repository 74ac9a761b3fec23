# SPDX-License-Identifier: Apache-2.0
"""A scenario expands to cases that are complete, ordered, uniquely named and plain JSON."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mixed_guests import GUESTS, MIXES, with_mix

from kickbench.errors import EXIT_USAGE, ScenarioError
from kickbench.guest.mix import MixedExit
from kickbench.guest.programs import PROGRAMS
from kickbench.methods import method_label
from kickbench.scenario.cases import Case, PlacementSpec
from kickbench.scenario.files import load
from kickbench.scenario.kinds import (
    ITERATIONS,
    KINDS,
    MAX_KICKS_HZ,
    NOISE,
    NOISY_KINDS,
    STATES,
    TRANSPORTS,
    WAYS,
)
from kickbench.scenario.model import Scenario
from kickbench.scenario.sweep import case_count, exiting_program, expand

# A busy machine is no failure: nothing here depends on how long an example takes.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)


def axis(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=1, max_size=4, unique=True)


SCENARIOS = st.builds(
    lambda vcpus, guest, names: Scenario.from_dict(
        {
            "name": "s",
            "vm": {"vcpus": vcpus},
            "guest": guest,
            "placement": [{"name": name} for name in names],
        }
    ),
    axis(st.integers(1, 1024)),
    GUESTS,
    axis(NAMES),
)


def _kicking(
    kinds: list[str],
    vcpus: list[int],
    programs: list[str],
    names: list[str],
    kick_rates: list[float],
    transports: list[str],
    mix: list[dict[str, Any]],
    tables: dict[str, Any],
) -> Scenario:
    disturbed = set(kinds) & set(NOISY_KINDS)
    if "exits" not in kinds:
        kick_rates = [0]
    if set(kinds) <= {"exits", "nested", "handover"} and kick_rates == [0]:
        transports = ["tgkill"]
    return Scenario.from_dict(
        {
            "name": "s",
            "vm": {"vcpus": vcpus},
            "guest": with_mix({"program": programs, "kick_rate_hz": kick_rates}, mix),
            "placement": [{"name": name} for name in names],
            "measure": {"kinds": kinds, "transports": transports},
            **{kind: table for kind, table in tables.items() if kind in kinds},
            **({"noise": tables["noise"]} if disturbed and tables["noise"] else {}),
        }
    )


# Placements that look like a part of an id, or of what follows one.
TRICKY = st.sampled_from(
    ["local", "a-b", "tgkill-local", "1kicker-tgkill-local", "max_kick5hz_tgkill-local", "1vcpu"]
)
WITH_KICKS = st.builds(
    _kicking,
    axis(st.sampled_from(sorted(KINDS))),
    axis(st.integers(1, 1024)),
    axis(st.sampled_from(sorted(PROGRAMS))),
    axis(TRICKY | NAMES),
    axis(st.just(0.0) | st.floats(0.001, MAX_KICKS_HZ / 1024)),
    axis(st.sampled_from(sorted(TRANSPORTS))),
    MIXES,
    st.fixed_dictionaries(
        {
            "kick": st.fixed_dictionaries(
                {"states": axis(st.sampled_from(sorted(STATES)))},
                optional={"kickers": axis(st.integers(1, 31)), "vcpus": axis(st.integers(1, 9))},
            ),
            "race": st.fixed_dictionaries(
                {"window_ns": axis(st.just(0.0) | st.floats(1, 1e9))},
                optional={"vcpus": axis(st.integers(1, 9)), "kicks": st.integers(1, 10**12)},
            ),
            "nested": st.fixed_dictionaries({}, optional={"iterations": st.integers(1, 100_000)}),
            "noise": st.none()
            | st.fixed_dictionaries(
                {"foreign_signals_hz": axis(st.just(0.0) | st.floats(0.001, MAX_KICKS_HZ / 1024))},
                optional={"siglock_threads": axis(st.integers(1, 31))},
            ).filter(lambda noise: "siglock_threads" in noise or any(noise["foreign_signals_hz"])),
        }
    ),
)

SWEEP = Scenario.from_dict(
    {
        "name": "sweep",
        "vm": {"vcpus": [1, 2], "irqchip": "split"},
        "guest": {"program": "pm_timer", "exit_rate_hz": ["max", 0.5], "arrival": "poisson"},
        "placement": [
            {"name": "local", "creator": "node:0", "vcpus": "node:0", "kicker": "cpu:0"},
            {"name": "remote", "creator": "node:0", "vcpus": "node:1", "kicker": "any"},
        ],
        "measure": {
            "methods": ["flag_signal", "sigmask"],
            "baseline": "sigmask",
            "processes": 2,
            "precision": 0.01,
            "precision_of": "quiet",
            "max_seconds": 5,
            "seed": 7,
            "block_ms": 2.5,
            "sample_budget": 10,
        },
    }
)


def test_the_sweep_nests_placement_then_rate_then_vcpus() -> None:
    assert [case.id for case in expand(SWEEP)] == [
        "exits-pm_timer-1vcpu-max-local",
        "exits-pm_timer-2vcpu-max-local",
        "exits-pm_timer-1vcpu-0.5hz-local",
        "exits-pm_timer-2vcpu-0.5hz-local",
        "exits-pm_timer-1vcpu-max-remote",
        "exits-pm_timer-2vcpu-max-remote",
        "exits-pm_timer-1vcpu-0.5hz-remote",
        "exits-pm_timer-2vcpu-0.5hz-remote",
    ]


def test_a_case_carries_everything_that_the_worker_needs() -> None:
    assert expand(SWEEP)[-1] == Case(
        id="exits-pm_timer-2vcpu-0.5hz-remote",
        kind="exits",
        program="pm_timer",
        irqchip="split",
        vcpus=2,
        exit_rate_hz=0.5,
        arrival="poisson",
        placement=PlacementSpec("remote", "node:0", "node:1", "any"),
        methods=("flag_signal", "sigmask"),
        baseline="sigmask",
        processes=2,
        precision=0.01,
        precision_of="quiet",
        max_seconds=5.0,
        block_ms=2.5,
        sample_budget=10,
        seed=7,
    )


KICKS = Scenario.from_dict(
    {
        "name": "kicks",
        "vm": {"vcpus": [1, 2], "irqchip": "split"},
        "guest": {"program": ["spin", "mmio"], "kick_rate_hz": [0, 1000]},
        "placement": [{"name": "local"}],
        "measure": {
            "kinds": ["exits", "kick", "pause_all", "race"],
            "transports": ["tgkill", "timer"],
            "max_seconds": 5,
        },
        "kick": {"states": ["guest", "halted", "userspace", "storm"], "kickers": [1, 2]},
        "race": {"window_ns": [0, 50000], "kicks": 9, "vcpus": 4},
    }
)


def of(kind: str) -> list[Case]:
    return [case for case in expand(KICKS) if case.kind == kind]


def test_only_the_axes_of_a_kind_multiply_it() -> None:
    assert [case.id for case in of("exits")] == [
        f"exits-{program}-{vcpus}vcpu-max{kicks}-local"
        for program in ("spin", "mmio")
        for kicks in ("", "_kick1000hz_tgkill", "_kick1000hz_timer")
        for vcpus in (1, 2)
    ]
    assert [case.id for case in of("kick")] == [
        f"kick-{state}-{vcpus}vcpu-{kickers}kicker-{transport}-local"
        for state in ("guest", "halted", "userspace", "storm")
        for transport in ("tgkill", "timer")
        for kickers in (1, 2)
        for vcpus in (1, 2)
    ]
    assert [case.id for case in of("pause_all")] == [
        f"pause_all-{program}-{vcpus}vcpu-{transport}-local"
        for program in ("spin", "mmio")
        for transport in ("tgkill", "timer")
        for vcpus in (1, 2)
    ]
    assert [case.id for case in of("race")] == [
        f"race-{window}ns-4vcpu-{transport}-local"
        for window in (0, 50000)
        for transport in ("tgkill", "timer")
    ]
    assert [case.kind for case in expand(KICKS)] == sorted(case.kind for case in expand(KICKS))


def test_a_case_has_the_settings_of_its_kind_and_no_others() -> None:
    for case in expand(KICKS):
        assert (case.state is not None) == (case.kind == "kick")
        assert (case.window_ns is not None) == (case.kind == "race")
        assert case.kicks == (9 if case.kind == "race" else None)
        assert case.kind == "kick" or case.kickers == 1
        assert case.exit_rate_hz is None
        assert case.irqchip == "split"
        if case.kind == "exits":
            assert case.kick_rate_hz in (None, 1000.0)
            assert case.kick_rate_hz or case.transport == "tgkill"
        else:
            assert case.kick_rate_hz is None


def test_pauses_have_a_gap_and_an_order() -> None:
    pausing = Scenario.from_dict(
        {
            "name": "pausing",
            "vm": {"vcpus": 2},
            "guest": {"program": "spin"},
            "measure": {"kinds": ["pause_all", "exits"]},
            "pause_all": {"gap_us": [0, 500], "order": ["parallel", "serial"]},
        }
    )
    cases = {case.id: (case.pause_gap_us, case.order) for case in expand(pausing)}
    assert cases == {
        "pause_all-spin-2vcpu-tgkill_0us-any": (0.0, "parallel"),
        "pause_all-spin-2vcpu-tgkill_serial_0us-any": (0.0, "serial"),
        "pause_all-spin-2vcpu-tgkill-any": (500.0, "parallel"),
        "pause_all-spin-2vcpu-tgkill_serial-any": (500.0, "serial"),
        "exits-spin-2vcpu-max-any": (None, "parallel"),
    }


def test_noise_is_an_axis_of_the_kinds_that_it_can_disturb() -> None:
    kinds = ["exits", "kick", "pause_all", "race", "nested", "handover"]
    noisy = Scenario.from_dict(
        {
            "name": "noisy",
            "vm": {"vcpus": 1},
            "guest": {"program": "pm_timer"},
            "placement": [{"name": "local"}],
            "measure": {"kinds": kinds},
            "kick": {"states": "guest"},
            "race": {"window_ns": 0},
            "noise": {"foreign_signals_hz": [0, 100], "siglock_threads": [0, 2]},
        }
    )
    words = ["", "_2siglock10000hz", "_foreign100hz", "_foreign100hz_2siglock10000hz"]
    cases = expand(noisy)
    assert [case.id for case in cases] == [
        *(f"exits-pm_timer-1vcpu-max{noise}-local" for noise in words),
        *(f"kick-guest-1vcpu-1kicker-tgkill{noise}-local" for noise in words),
        *(f"pause_all-pm_timer-1vcpu-tgkill{noise}-local" for noise in words),
        *(f"race-0ns-1vcpu-tgkill{noise}-local" for noise in words),
        "nested-local",
        "handover-local",
    ]
    assert [(c.foreign_signals_hz, c.siglock_threads, c.siglock_hz) for c in cases[:4]] == [
        (None, 0, None),
        (None, 2, 10_000.0),
        (100.0, 0, None),
        (100.0, 2, 10_000.0),
    ]
    assert [case.has_noise for case in cases[:4]] == [False, True, True, True]


def test_a_nested_case_has_the_ways_of_a_hypervisor_in_place_of_protocols() -> None:
    scenario = Scenario.from_dict(
        {
            "name": "n",
            "vm": {"vcpus": [1, 2]},
            "guest": {"program": ["spin", "hlt"]},
            "placement": [{"name": "local"}, {"name": "remote"}],
            "measure": {"kinds": ["nested", "exits"], "methods": ["sigmask"]},
            "nested": {"iterations": 7},
        }
    )
    nested = [case for case in expand(scenario) if case.kind == "nested"]
    assert [case.id for case in nested] == ["nested-local", "nested-remote"]
    for case in nested:
        assert (case.program, case.vcpus, case.iterations) == ("hypervisor", 1, 7)
        assert case.methods == ("plain", "pending", "pending_no_injection", "asynchronous")
        assert case.baseline == "plain"
    (exits, *_) = [case for case in expand(scenario) if case.kind == "exits"]
    assert (exits.methods, exits.iterations) == (("sigmask",), None)


def test_the_state_of_a_kick_decides_what_the_guest_runs() -> None:
    programs = {case.state: case.program for case in of("kick")}
    assert programs == {"guest": "spin", "halted": "hlt", "userspace": "mmio", "storm": "mmio"}
    assert {case.program for case in of("race")} == {"spin"}


def test_kicks_of_l1_are_an_axis_of_nested() -> None:
    scenario = Scenario.from_dict(
        {
            "name": "n",
            "vm": {"vcpus": 1},
            "guest": {"program": "spin"},
            "measure": {"kinds": ["nested"]},
            "nested": {"kick_rate_hz": [0, 500]},
        }
    )
    cases = [(case.id, case.kick_rate_hz) for case in expand(scenario)]
    assert cases == [("nested-any", None), ("nested-kick500hz-any", 500.0)]


@pytest.mark.parametrize("irqchip", ["none", "kernel"])
def test_pending_io_is_of_a_program_that_leaves_some(irqchip: str) -> None:
    scenario = Scenario.from_dict(
        {
            "name": "s",
            "vm": {"vcpus": 1, "irqchip": irqchip},
            "guest": {"program": ["hlt", "mmio_write"]},
            "measure": {"kinds": ["kick"]},
            "kick": {"states": ["storm", "window", "pending_io"]},
        }
    )
    storm = "hlt" if irqchip == "none" else "mmio_write"
    assert {case.state: case.program for case in expand(scenario)} == {
        "storm": storm,
        "window": "spin",
        "pending_io": "mmio_write",
    }


@pytest.mark.parametrize(
    ("programs", "irqchip", "exiting"),
    [
        (("mmio", "pio_out"), "kernel", "mmio"),
        (("spin",), "kernel", "pm_timer"),
        (("hlt",), "kernel", "pm_timer"),
        (("hlt", "pio_out"), "split", "pio_out"),
        (("spin", "hlt"), "none", "hlt"),
        (("hlt", "mix"), "kernel", "mix"),
        (("cpuid", "hypercall"), "kernel", "hypercall"),
    ],
)
def test_a_storm_needs_a_program_that_exits(
    programs: tuple[str, ...], irqchip: str, exiting: str
) -> None:
    assert exiting_program(programs, irqchip) == exiting


def test_a_mix_is_of_the_cases_that_run_it_and_a_recording_of_those_that_are_paced() -> None:
    (exit_, other) = (EXIT, {**EXIT, "exit": "port_write", "share": 3})
    scenario = Scenario.from_dict(
        {
            "name": "s",
            "vm": {"vcpus": 2},
            "guest": {
                "program": ["mix", "pm_timer"],
                "mix": [exit_, other],
                "gaps_us": [40, 60],
                "exit_rate_hz": ["max", 100],
                "vcpu_rates": [3, 1],
            },
            "measure": {"kinds": ["exits", "kick", "pause_all"]},
        }
    )
    cases = expand(scenario)
    both = (MixedExit(**exit_), MixedExit(**other))
    assert all(case.mix == (both if case.program == "mix" else ()) for case in cases)
    played = {(case.program, case.exit_rate_hz) for case in cases if case.gaps_us}
    assert played == {("mix", 100), ("pm_timer", 100)}
    paced = [case for case in cases if case.exit_rate_hz]
    assert all((case.gaps_us, case.vcpu_rates) == ((40, 60), (3, 1)) for case in paced)
    assert not any(case.vcpu_rates for case in cases if case.exit_rate_hz is None)
    assert {case.state for case in cases if case.kind == "kick" and case.program == "mix"} == {
        "userspace",
        "storm",
    }


def test_paced_exits_multiply_no_other_kind() -> None:
    scenario = Scenario.from_dict(
        {
            "name": "s",
            "vm": {"vcpus": 1},
            "guest": {"program": "pm_timer", "exit_rate_hz": ["max", 5], "kick_rate_hz": 0.5},
            "measure": {"kinds": ["race", "exits", "kick", "pause_all"]},
        }
    )
    assert [case.id for case in expand(scenario)] == [
        "race-0ns-1vcpu-tgkill-any",
        "race-50000ns-1vcpu-tgkill-any",
        "exits-pm_timer-1vcpu-max_kick0.5hz_tgkill-any",
        "exits-pm_timer-1vcpu-5hz_kick0.5hz_tgkill-any",
        "kick-guest-1vcpu-1kicker-tgkill-any",
        "kick-halted-1vcpu-1kicker-tgkill-any",
        "kick-userspace-1vcpu-1kicker-tgkill-any",
        "kick-storm-1vcpu-1kicker-tgkill-any",
        "pause_all-pm_timer-1vcpu-tgkill-any",
    ]


@pytest.mark.parametrize(
    ("method", "label"),
    [("sigmask", "sigmask"), ("/elsewhere/my_protocol.c", "my_protocol"), ("/a.b/c_1.c", "c_1")],
)
def test_a_method_is_called_by_its_id_or_its_files_name(method: str, label: str) -> None:
    assert method_label(method) == label


def test_full_speed_is_none() -> None:
    assert [case.exit_rate_hz for case in expand(SWEEP)][:4] == [None, None, 0.5, 0.5]


@RELAXED
@given(SCENARIOS)
def test_there_is_a_case_for_every_point_of_the_sweep(scenario: Scenario) -> None:
    cases = expand(scenario)
    points = {(c.program, c.placement.name, c.exit_rate_hz, c.vcpus) for c in cases}
    assert len(cases) == len(points) == case_count(scenario)
    assert case_count(scenario) == (
        len(scenario.vm.vcpus)
        * len(scenario.guest.program)
        * len(scenario.guest.exit_rate_hz)
        * len(scenario.placement)
        * len(scenario.measure.kinds)
    )


@RELAXED
@given(WITH_KICKS)
def test_the_number_of_cases_is_known_before_they_are_made(scenario: Scenario) -> None:
    cases = expand(scenario)
    assert case_count(scenario) == len(cases)
    assert len({dataclasses.replace(case, id="") for case in cases}) == len(cases)


@RELAXED
@given(SCENARIOS | WITH_KICKS)
def test_ids_are_unique_stable_and_safe_as_file_names(scenario: Scenario) -> None:
    ids = [case.id for case in expand(scenario)]
    assert len(set(ids)) == len(ids)
    assert ids == [case.id for case in expand(scenario)]
    for name in ids:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name)
        assert len(f".{name}.tmp-0123456789abcdef") <= 255


@RELAXED
@given(SCENARIOS | WITH_KICKS)
def test_a_case_survives_json(scenario: Scenario) -> None:
    for case in expand(scenario):
        assert Case.from_json(case.to_json()) == case
        assert Case.from_dict(json.loads(case.to_json())) == case


def test_a_case_of_the_resolved_scenario_is_the_same_case() -> None:
    assert expand(Scenario.from_dict(SWEEP.to_dict())) == expand(SWEEP)


GOOD = expand(SWEEP)[0].to_dict()


EXIT = {"exit": "port_read", "address": 0x608, "size": 4, "share": 1}


def place(**changes: str) -> dict[str, str]:
    return {**GOOD["placement"], **changes}


def mixed(mix: list[Any]) -> dict[str, Any]:
    return {"program": "mix", "mix": mix}


def recorded(gaps_us: list[Any]) -> dict[str, Any]:
    return {"arrival": "recorded", "exit_rate_hz": 5.0, "gaps_us": gaps_us}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": "../../etc"}, "case.id: expected a safe file name"),
        ({"id": ".hidden"}, "case.id: expected a safe file name"),
        ({"id": "a\n"}, "case.id: expected a safe file name"),
        ({"id": 3}, "case.id: expected str"),
        ({"vcpus": True}, "case.vcpus: expected int"),
        ({"vcpus": 1.0}, "case.vcpus: expected int"),
        ({"precision": float("nan")}, "case.precision: expected float"),
        ({"exit_rate_hz": "max"}, "case.exit_rate_hz: expected float | None"),
        ({"methods": "sigmask"}, "case.methods: expected tuple[str, ...]"),
        ({"methods": [1]}, "case.methods: expected tuple[str, ...]"),
        ({"placement": "local"}, "case.placement: expected PlacementSpec"),
        ({"placement": {"name": "local"}}, "case.placement: expected the keys name, creator"),
        ({"extra": 1}, "case: expected the keys id, kind"),
        ({"state": 1}, "case.state: expected str | None"),
        ({"kickers": None}, "case.kickers: expected int"),
        ({"kicks": 1.5}, "case.kicks: expected int | None"),
        ({"window_ns": float("nan")}, "case.window_ns: expected float | None"),
        ({"transport": None}, "case.transport: expected str"),
        ({"kind": "teleport"}, "case.kind: expected one of exits, kick"),
        ({"program": "rm"}, "case.program: expected one of pm_timer"),
        ({"irqchip": "ioapic"}, "case.irqchip: expected one of none, split, kernel"),
        ({"arrival": "late"}, "case.arrival: expected one of periodic, poisson, recorded"),
        ({"transport": "pigeon"}, "case.transport: expected one of tgkill"),
        ({"moment": "noon"}, "case.moment: expected one of no_handler, thread_start, entry"),
        ({"vms": 0}, "case.vms: expected a number from 1 to 10^9"),
        ({"kind": "lifecycle"}, "case.moment: expected one, for the kind is lifecycle"),
        ({"state": "asleep"}, "case.state: expected one of guest"),
        ({"mix": {}}, "case.mix: expected tuple[MixedExit, ...]"),
        ({"mix": [EXIT]}, "case.mix: expected 1 to 256 exits of the program mix, and of no other"),
        ({"program": "mix"}, "case.mix: expected 1 to 256 exits of the program mix"),
        (mixed([EXIT] * 257), "case.mix: expected 1 to 256 exits of the program mix"),
        (mixed([{**EXIT, "more": 1}]), "case.mix[0]: expected the keys exit, address, size"),
        (mixed([EXIT, {**EXIT, "exit": "hlt"}]), "case.mix[1].exit: expected one of port_read"),
        (mixed([{**EXIT, "size": 8}]), "case.mix[0].size: expected 1, 2 or 4"),
        (mixed([{**EXIT, "address": -1}]), "case.mix[0].address: expected a port from 0 to"),
        (mixed([{**EXIT, "exit": "mmio_read"}]), "case.mix[0].address: expected an address with"),
        (mixed([{**EXIT, "share": 0}]), "case.mix[0].share: expected a number above 0"),
        ({"gaps_us": [1, 2]}, "case.gaps_us: expected gaps of a paced guest whose arrival is rec"),
        (recorded([]), "case.gaps_us: expected gaps of a paced guest whose arrival is recorded"),
        (recorded([1]), "case.gaps_us: expected 2 to 1024 ascending numbers"),
        (recorded([1] * 1025), "case.gaps_us: expected 2 to 1024 ascending numbers"),
        (recorded([2, 1]), "case.gaps_us: expected 2 to 1024 ascending numbers"),
        (recorded([0, 1]), "case.gaps_us: expected numbers from 0.001 to 1e6"),
        (recorded([1, 1e7]), "case.gaps_us: expected numbers from 0.001 to 1e6"),
        (recorded([1, float("nan")]), "case.gaps_us: expected tuple[float, ...]"),
        ({"vcpu_rates": [1]}, "case.vcpu_rates: expected a rate for each vCPU of a paced guest"),
        ({"vcpu_rates": [1, 1], "exit_rate_hz": 1.0}, "case.vcpu_rates: expected a rate for each"),
        ({"vcpu_rates": [0], "exit_rate_hz": 1.0}, "case.vcpu_rates: expected numbers from 0.001"),
        ({"vcpus": 0}, "case.vcpus: expected a number from 1 to 1024"),
        ({"vcpus": 1025}, "case.vcpus: expected a number from 1 to 1024"),
        ({"processes": 0}, "case.processes: expected a number from 1 to 100"),
        ({"processes": 10**9}, "case.processes: expected a number from 1 to 100"),
        ({"precision": 0.0}, "case.precision: expected a number above 0 and at most 1"),
        ({"precision": 1.5}, "case.precision: expected a number above 0 and at most 1"),
        ({"max_seconds": 0}, "case.max_seconds: expected a number above 0 and at most 86400"),
        ({"max_seconds": 10**400}, "case.max_seconds: expected a number above 0"),
        ({"exit_rate_hz": -1.0}, "case.exit_rate_hz: expected a number from 0.001 to 1e9"),
        ({"kick_rate_hz": 1e7}, "case.kick_rate_hz: expected a number from 0.001 to 1e6"),
        ({"block_ms": 0.01}, "case.block_ms: expected a number from 0.1 to 10000"),
        ({"sample_budget": -1}, "case.sample_budget: expected a number from 0 to 1000000000"),
        ({"seed": -1}, "case.seed: expected a number from 0 to 2^63 - 1"),
        ({"kickers": 0}, "case.kickers: expected a number from 1 to 31"),
        ({"kickers": 32}, "case.kickers: expected a number from 1 to 31"),
        ({"window_ns": -1.0}, "case.window_ns: expected 0 or a number from 1 to 1e9"),
        ({"window_ns": 0.5}, "case.window_ns: expected 0 or a number from 1 to 1e9"),
        ({"kicks": 0}, "case.kicks: expected a number from 1 to 10^12"),
        ({"methods": []}, "case.methods: expected methods"),
        ({"methods": ["sigmask", "sigmask"]}, "case.methods: expected methods"),
        ({"methods": ["sigmask", "/a/x.c", "/b/x.c"]}, "case.methods: expected methods"),
        ({"methods": ["sigmask", "x.c"]}, "case.methods: expected methods"),
        ({"methods": ["sigmask", "/a\nb/x.c"]}, "case.methods: expected methods"),
        ({"methods": ["sigmask", "/a/.c"]}, "case.methods: expected methods"),
        ({"methods": ["sigmask", "a\x1b[31mb"]}, "case.methods: expected methods"),
        ({"baseline": "immediate_exit"}, "case.baseline: expected one of the methods"),
        ({"kind": "kick"}, "case.state: expected one, for the kind is kick"),
        ({"kind": "race"}, "case.window_ns: expected one, for the kind is race"),
        ({"kind": "race", "window_ns": 0.0}, "case.kicks: expected one, for the kind is race"),
        ({"kind": "nested"}, "case.iterations: expected one, for the kind is nested"),
        ({"kind": "nested", "iterations": 0}, "case.iterations: expected a number from 1 to"),
        ({"kind": "nested", "iterations": 9}, "case.program: expected hypervisor of the kind"),
        ({"kind": "handover"}, "case.program: expected no_guest of the kind handover"),
        ({"program": "hypervisor"}, "case.program: expected hypervisor of the kind nested"),
        ({"order": "sideways"}, "case.order: expected one of parallel, serial"),
        (
            {"order": "serial"},
            "case.pause_gap_us: expected a gap and an order of the kind pause_all",
        ),
        ({"pause_gap_us": 0.0}, "case.pause_gap_us: expected a gap and an order of the kind pause"),
        (
            {"after": ["read_state"]},
            "case.after: expected some of kvmclock_ctrl, read_state, of the",
        ),
        ({"foreign_signals_hz": 0.0}, "case.foreign_signals_hz: expected a number from 0.001"),
        ({"siglock_threads": 32}, "case.siglock_threads: expected a number from 0 to 31"),
        ({"siglock_threads": 1}, "case.siglock_hz: expected a rate if there are threads"),
        ({"siglock_hz": 1.0}, "case.siglock_hz: expected a rate if there are threads"),
        (
            {"kind": "nested", "iterations": 9, "program": "hypervisor", "foreign_signals_hz": 1.0},
            "case.foreign_signals_hz: expected noise of the kinds exits, kick, pause_all, race",
        ),
        ({"placement": place(name="../x")}, "case.placement.name: expected a name"),
        ({"placement": place(creator="node:x")}, "case.placement.creator: expected any, node:N"),
        ({"placement": place(vcpus="cpu:3-1")}, "case.placement.vcpus: expected any, node:N"),
        ({"placement": place(kicker="cpu:")}, "case.placement.kicker: expected any, node:N"),
        ({"placement": place(kicker="any\n")}, "case.placement.kicker: expected any, node:N"),
    ],
)
def test_a_tampered_case_is_refused(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        Case.from_dict({**GOOD, **change})
    assert str(caught.value).startswith(expected)
    assert str(caught.value).endswith("; the file is damaged")
    assert str(caught.value).isprintable()
    assert caught.value.exit_code == EXIT_USAGE


def test_a_method_of_another_version_is_still_a_case() -> None:
    """Which methods there are is for the plan to say, which leaves out the others."""
    change = {"methods": ["sigmask", "telepathy", "/elsewhere/my_protocol.c"]}
    assert Case.from_dict({**GOOD, **change}).methods[1] == "telepathy"


@RELAXED
@given(st.text(max_size=12) | st.from_regex(r"(node:|cpu:|any)[0-9,-]{0,12}", fullmatch=True))
def test_a_case_may_be_placed_where_a_scenario_may(where: str) -> None:
    def accepts(check: Callable[[dict[str, Any]], object], data: dict[str, Any]) -> bool:
        try:
            check(data)
        except ScenarioError:
            return False
        return True

    scenario = {**SWEEP.to_dict(), "placement": [place(vcpus=where)]}
    case = {**GOOD, "placement": place(vcpus=where)}
    assert accepts(Case.from_dict, case) == accepts(Scenario.from_dict, scenario)


def test_a_case_of_an_earlier_version_has_no_kicks_and_was_judged_by_the_mean() -> None:
    later = ("transport", "state", "kickers", "kick_rate_hz", "window_ns", "kicks", "iterations")
    later = (
        *later,
        "precision_of",
        "mix",
        "gaps_us",
        "vcpu_rates",
        *NOISE,
        "pause_gap_us",
        "order",
        "moment",
        "vms",
        "after",
    )
    assert list(GOOD)[-len(later) :] == list(later)
    earlier = {key: value for key, value in GOOD.items() if key not in later}
    assert Case.from_dict(earlier) == Case.from_dict({**GOOD, "precision_of": "mean"})
    del earlier["seed"]
    with pytest.raises(ScenarioError, match="expected the keys"):
        Case.from_dict(earlier)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, b"\xff"])
def test_text_that_is_no_case_is_refused(text: str | bytes) -> None:
    with pytest.raises(ScenarioError, match=r"^case: expected"):
        Case.from_json(text)


@RELAXED
@given(
    st.sampled_from([field.name for field in dataclasses.fields(Case)]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
)
def test_any_change_of_a_case_is_a_case_or_a_scenario_error(key: str, value: object) -> None:
    try:
        case = Case.from_dict({**GOOD, key: value})
    except ScenarioError:
        return
    assert case.to_dict() == {**GOOD, key: value}


def test_the_worker_can_import_cases_without_pydantic() -> None:
    check = "import sys, kickbench.scenario.cases; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


# --- controls ----------------------------------------------------------------------------------


def test_a_control_of_what_an_exit_costs_takes_part_in_exits_only() -> None:
    methods = ["sigmask", "sigmask_same", "immediate_exit"]
    measure = {"kinds": list(KINDS), "methods": methods}
    tables = {"vm": {"vcpus": 1}, "guest": {"program": "pm_timer"}, "measure": measure}
    by_kind = {
        case.kind: case.methods for case in expand(Scenario.from_dict({"name": "s"} | tables))
    }
    assert by_kind.pop("exits") == tuple(methods)
    assert by_kind.pop("nested") == tuple(ITERATIONS)
    assert by_kind.pop("handover") == tuple(WAYS)
    assert set(by_kind) == {"kick", "pause_all", "race", "lifecycle"}
    assert set(by_kind.values()) == {("sigmask", "immediate_exit")}


def test_a_control_that_is_the_baseline_stays() -> None:
    measure = {"kinds": ["race"], "methods": ["sigmask", "sigmask_same"]}
    tables = {"vm": {"vcpus": 1}, "guest": {"program": "pm_timer"}}
    (first, _) = expand(
        Scenario.from_dict(
            {"name": "s", **tables, "measure": {**measure, "baseline": "sigmask_same"}}
        )
    )
    assert first.methods == ("sigmask", "sigmask_same")


def test_a_sweep_that_is_too_large_is_refused_with_its_file(tmp_path: Path) -> None:
    vcpus, rates = list(range(1, 1025)), [float(rate) for rate in range(1, 11)]
    (tmp_path / "large.toml").write_text(
        f'name = "large"\n[vm]\nvcpus = {vcpus}\n[guest]\nprogram = "mmio"\n'
        f"exit_rate_hz = {rates}\n"
    )
    words = "the sweep has 10240 cases, and at most 10000 can be run; shorten one of its lists"
    with pytest.raises(ScenarioError, match=f"large.toml: {words}"):
        load(tmp_path / "large.toml")
    table = {"vm": {"vcpus": vcpus}, "guest": {"program": "mmio", "exit_rate_hz": rates}}
    scenario = Scenario.from_dict({"name": "large", **table})
    assert case_count(scenario) == 10_240
    with pytest.raises(ScenarioError, match=f"large: {words}"):
        expand(scenario)
