# SPDX-License-Identifier: Apache-2.0
"""A scenario file says what it may say, and anything else is one clear line."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mixed_guests import GUESTS

from kickbench.errors import EXIT_USAGE, ScenarioError
from kickbench.guest.programs import PROGRAMS
from kickbench.methods import CATALOGUE
from kickbench.scenario.files import MAX_BYTES, load
from kickbench.scenario.kinds import KINDS, MAX_KICKS_HZ, NOISY_KINDS, STATES, TRANSPORTS
from kickbench.scenario.model import (
    Guest,
    Kick,
    Measure,
    Noise,
    PauseAll,
    Placement,
    Race,
    Scenario,
    Vm,
)

# A busy machine is no failure: nothing here depends on how long an example takes.
RELAXED = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

MINIMAL = """\
name = "tiny"
[vm]
vcpus = 1
[guest]
program = "pm_timer"
"""


def scenario(**tables: Any) -> dict[str, Any]:
    """A valid scenario as parsed, with ``tables`` replacing or adding top-level keys."""
    return {"name": "tiny", "vm": {"vcpus": 1}, "guest": {"program": "pm_timer"}, **tables}


def error_of(data: object) -> str:
    with pytest.raises(ScenarioError) as caught:
        Scenario.from_dict(data, "bad.toml")
    return one_message(caught.value)


def error_of_file(path: Path | str) -> str:
    with pytest.raises(ScenarioError) as caught:
        load(path)
    return one_message(caught.value)


def one_message(error: ScenarioError) -> str:
    message = str(error)
    assert error.exit_code == EXIT_USAGE
    assert 1 <= len(message.split("\n")) <= 2
    assert all(line.isprintable() for line in message.split("\n"))
    return message


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def to_file(text: str | bytes) -> Path:
        path = tmp_path / "bad.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return to_file


# --- What a file may leave out, and how it may say things ------------------------------------


def test_a_minimal_file_gets_the_documented_defaults(write: Any) -> None:
    assert load(write(MINIMAL)).to_dict() == {
        "name": "tiny",
        "description": "",
        "vm": {"vcpus": [1], "irqchip": "kernel"},
        "guest": {
            "program": ["pm_timer"],
            "mix": [],
            "gaps_us": None,
            "exit_rate_hz": ["max"],
            "arrival": "periodic",
            "vcpu_rates": None,
            "kick_rate_hz": [0.0],
            "kicked_vcpus": None,
        },
        "placement": [{"name": "any", "creator": "any", "vcpus": "any", "kicker": "any"}],
        "measure": {
            "kinds": ["exits"],
            "methods": ["sigmask", "immediate_exit"],
            "baseline": "immediate_exit",
            "transports": ["tgkill"],
            "processes": 10,
            "precision": 0.001,
            "precision_of": "both",
            "max_seconds": 60.0,
            "seed": 1,
            "block_ms": None,
            "sample_budget": 2_000_000,
        },
        "kick": None,
        "race": None,
        "nested": None,
        "pause_all": None,
        "noise": None,
        "lifecycle": None,
    }


def test_the_tables_of_the_kinds_that_are_measured_get_their_defaults() -> None:
    kinds = ["kick", "pause_all", "race", "nested"]
    resolved = Scenario.from_dict(scenario(measure={"kinds": kinds})).to_dict()
    assert resolved["kick"] == {
        "states": ["guest", "halted", "userspace", "storm"],
        "kickers": [1],
        "vcpus": None,
    }
    assert resolved["race"] == {"window_ns": [0.0, 50_000.0], "kicks": 1_000_000, "vcpus": None}
    assert resolved["pause_all"] == {"gap_us": [500.0], "order": ["parallel"], "after": []}
    assert resolved["nested"] == {"iterations": 200, "kick_rate_hz": [0.0]}


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        (
            {"foreign_signals_hz": 100},
            {"foreign_signals_hz": [100.0], "siglock_threads": [0], "siglock_hz": None},
        ),
        (
            {"siglock_threads": [0, 2]},
            {"foreign_signals_hz": [0.0], "siglock_threads": [0, 2], "siglock_hz": 10_000.0},
        ),
    ],
)
def test_noise_is_as_asked_for(given: dict[str, Any], resolved: dict[str, Any]) -> None:
    once = Scenario.from_dict(scenario(noise=given)).to_dict()
    assert once["noise"] == resolved
    assert Scenario.from_dict(once).to_dict() == once


def test_a_single_value_stands_for_a_list_of_one() -> None:
    one = scenario(vm={"vcpus": 2}, guest={"program": "mmio", "exit_rate_hz": 500})
    many = scenario(vm={"vcpus": [2]}, guest={"program": ["mmio"], "exit_rate_hz": [500.0]})
    assert Scenario.from_dict(one) == Scenario.from_dict(many)


def test_the_baseline_is_the_first_method_when_immediate_exit_is_not_measured() -> None:
    measure = {"methods": ["flag_signal", "sigmask"]}
    assert Scenario.from_dict(scenario(measure=measure)).measure.baseline == "flag_signal"


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(write: Any) -> None:
    text = b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode()
    assert load(write(text)) == Scenario.from_dict(scenario())


@pytest.mark.parametrize("where", ["any", "node:0", "node:12", "cpu:0", "cpu:0-3,8", "cpu:4-4"])
def test_these_say_where_a_thread_runs(where: str) -> None:
    placement = [{"name": "p", "creator": where, "vcpus": where, "kicker": where}]
    assert Scenario.from_dict(scenario(placement=placement)).placement[0].vcpus == where


@pytest.mark.parametrize("vcpus", [1, 1024])
def test_1_and_1024_vcpus_are_allowed(vcpus: int) -> None:
    assert Scenario.from_dict(scenario(vm={"vcpus": vcpus})).vm.vcpus == (vcpus,)


def test_a_description_is_free_text_of_several_lines() -> None:
    text = "Größe <b>&amp;</b>\n\tsecond line, 100 %"
    assert Scenario.from_dict(scenario(description=text)).description == text


def test_every_name_in_the_tables_can_be_used() -> None:
    every = Scenario.from_dict(
        scenario(
            guest={"program": list(PROGRAMS), "mix": [EXIT]},
            measure={
                "kinds": list(KINDS),
                "methods": list(CATALOGUE),
                "transports": list(TRANSPORTS),
            },
            kick={"states": list(STATES)},
        )
    )
    assert every.guest.program == tuple(PROGRAMS)
    assert every.measure.methods == tuple(CATALOGUE)


# --- Bad input: the file, the key, what was expected, what was found -------------------------

EXIT = {"exit": "port_read", "address": 0x608, "size": 4, "share": 1}
COUNT = "expected a whole number from 1 to 1024"
RATE = 'expected "max" or a number of exits per second from 0.001 to 1e9'
NAME = "expected 1 to 64 letters, digits, '_', '-' or '.' that begin with a letter or digit"
WHERE = "expected any, node:N (as in node:0) or cpu:LIST (as in cpu:0-3,8)"
FRACTION = "expected a number above 0 and at most 1 (0.001 is 0.1 %)"
SECONDS = "expected a number of seconds above 0 and at most 86400"
PROCESSES = "expected a whole number from 1 to 100"
PROGRAM = f"expected one of {', '.join(PROGRAMS)}"
METHOD = f"expected one of {', '.join(CATALOGUE)}, or a C file (as in ./my_protocol.c) or a library"
KIND = "expected one of exits, kick, pause_all, race, nested, handover, lifecycle"
STATE = f"expected one of {', '.join(STATES)}"
TRANSPORT = "expected one of tgkill, tgkill_rt, pidfd, timer"
KICK_RATE = "expected 0 (no kicks) or a number of kicks per second from 0.001 to 1e6"
KICKERS = "expected a whole number from 1 to 31"
WINDOW = "expected 0 (the natural window) or a number of nanoseconds from 1 to 1e9"
KICKS = "expected a whole number from 1 to 10^12"
FOREIGN = "expected 0 (none) or a number of signals per second from 0.001 to 1e6"
FILE = "expected the path of a C file whose name is a small letter"


def vm(**keys: Any) -> dict[str, Any]:
    return scenario(vm={"vcpus": 1, **keys})


def guest(**keys: Any) -> dict[str, Any]:
    return scenario(guest={"program": "pm_timer", **keys})


def mix(*exits: object) -> dict[str, Any]:
    return guest(program="mix", mix=list(exits))


def measure(**keys: Any) -> dict[str, Any]:
    return scenario(measure=keys)


def pause_all(**keys: Any) -> dict[str, Any]:
    return scenario(measure={"kinds": ["pause_all"]}, pause_all=keys)


def noise(**keys: Any) -> dict[str, Any]:
    return scenario(noise=keys)


def kick(**keys: Any) -> dict[str, Any]:
    return scenario(measure={"kinds": ["kick"]}, kick=keys)


def race(**keys: Any) -> dict[str, Any]:
    return scenario(measure={"kinds": ["race"]}, race=keys)


def placed(*placements: Any) -> dict[str, Any]:
    return scenario(placement=list(placements))


BAD = {
    # wrong type or out of range
    "no vCPU": (vm(vcpus=0), f"vm.vcpus: {COUNT}, found 0"),
    "5000 vCPUs": (vm(vcpus=[1, 2, 5000]), f"vm.vcpus[2]: {COUNT}, found 5000"),
    "vCPUs as bool": (vm(vcpus=[True]), f"vm.vcpus[0]: {COUNT}, found true"),
    "vCPUs as text": (vm(vcpus="2"), f'vm.vcpus: {COUNT}, found "2"'),
    "vCPUs as float": (vm(vcpus=2.0), f"vm.vcpus: {COUNT}, found 2.0"),
    "vCPUs as table": (vm(vcpus={"n": 1}), f"vm.vcpus: {COUNT}, found a table"),
    "vCPUs nested": (vm(vcpus=[[1]]), f"vm.vcpus[0]: {COUNT}, found a list of 1"),
    "vCPUs huge": (vm(vcpus=16**9000), f"vm.vcpus: {COUNT}, found a number of more than 38 d"),
    "vm no table": (scenario(vm=3), "vm: expected a table, found 3"),
    "two vm": (scenario(vm=[{"vcpus": 1}]), "vm: expected a table, found a list of 1"),
    "top is a list": ([], "bad.toml: expected a table, found an empty list"),
    "rate negative": (guest(exit_rate_hz=-1), f"guest.exit_rate_hz: {RATE}, found -1"),
    "rate zero": (guest(exit_rate_hz=["max", 0]), f"guest.exit_rate_hz[1]: {RATE}, found 0"),
    "rate NaN": (guest(exit_rate_hz=math.nan), f"guest.exit_rate_hz: {RATE}, found nan"),
    "rate inf": (guest(exit_rate_hz=math.inf), f"guest.exit_rate_hz: {RATE}, found inf"),
    "rate bool": (guest(exit_rate_hz=True), f"guest.exit_rate_hz: {RATE}, found true"),
    "rate huge": (guest(exit_rate_hz=10**400), f"guest.exit_rate_hz: {RATE}, found a number of"),
    "rate word": (guest(exit_rate_hz="full"), f'guest.exit_rate_hz: {RATE}, found "full"'),
    "rate date": (guest(exit_rate_hz=datetime.date(2020, 1, 2)), "found 2020-01-02"),
    "spin paced": (
        guest(program=["hlt", "spin"], exit_rate_hz=["max", 9]),
        'guest.exit_rate_hz: expected "max", because the program spin cannot be paced, found a',
    ),
    "precision of what": (
        measure(precision_of="quite"),
        'measure.precision_of: expected one of both, quiet, mean, found "quite"',
    ),
    "precision 0": (measure(precision=0), f"measure.precision: {FRACTION}, found 0"),
    "precision < 0": (measure(precision=-0.1), f"measure.precision: {FRACTION}, found -0.1"),
    "precision NaN": (measure(precision=math.nan), f"measure.precision: {FRACTION}, found nan"),
    "max_seconds 0": (measure(max_seconds=0), f"measure.max_seconds: {SECONDS}, found 0"),
    "max_seconds inf": (measure(max_seconds=math.inf), f"{SECONDS}, found inf"),
    "max_seconds bool": (measure(max_seconds=True), f"{SECONDS}, found true"),
    "processes 0": (measure(processes=0), f"measure.processes: {PROCESSES}, found 0"),
    "processes 101": (measure(processes=101), f"measure.processes: {PROCESSES}, found 101"),
    "seed negative": (measure(seed=-1), "measure.seed: expected a whole number from 0 to 2^63"),
    "block_ms 0": (measure(block_ms=0), "measure.block_ms: expected a number of milliseconds"),
    "budget negative": (measure(sample_budget=-1), "measure.sample_budget: expected a whole num"),
    # names from the tables
    "program typo": (
        guest(program="pm_timr"),
        f'guest.program: {PROGRAM}, found "pm_timr"; did you mean "pm_timer"?',
    ),
    "program unknown": (guest(program="doom"), f'guest.program: {PROGRAM}, found "doom"'),
    "method typo": (
        measure(methods=["sigmask", "imediate_exit"]),
        f'measure.methods[1]: {METHOD}, found "imediate_exit"; did you mean "immediate_exit"?',
    ),
    "kind typo": (
        measure(kinds=["exit"]),
        f'measure.kinds[0]: {KIND}, found "exit"; did you mean "exits"?',
    ),
    "kind unknown": (measure(kinds="resume"), f'measure.kinds: {KIND}, found "resume"'),
    "state typo": (
        kick(states=["guest", "halt"]),
        f'kick.states[1]: {STATE}, found "halt"; did you mean "halted"?',
    ),
    "state unknown": (kick(states="asleep"), f'kick.states: {STATE}, found "asleep"'),
    "transport typo": (
        measure(kinds="kick", transports="tkill"),
        f'measure.transports: {TRANSPORT}, found "tkill"; did you mean "tgkill"?',
    ),
    "transport unknown": (measure(transports=[1]), f"measure.transports[0]: {TRANSPORT}, found 1"),
    "irqchip": (
        vm(irqchip="kernal"),
        'vm.irqchip: expected one of none, split, kernel, found "kernal"; did you mean "kernel"?',
    ),
    "arrival": (
        guest(arrival=1),
        "guest.arrival: expected one of periodic, poisson, recorded, found 1",
    ),
    # mixes
    "mix of another program": (
        guest(mix=[EXIT]),
        'guest.mix: these tables are for the program "mix"; add it to guest.program, or leave',
    ),
    "no mix": (
        guest(program=["pm_timer", "mix"]),
        'guest.mix: the program "mix" takes its exits from [[guest.mix]] tables; add at least one',
    ),
    "mix as table": (
        guest(program="mix", mix=EXIT),
        "guest.mix: expected at most 256 [[guest.mix]] tables (two brackets on each side), found",
    ),
    "large mix": (mix(*[EXIT] * 257), "guest.mix: expected at most 256 [[guest.mix]] tables"),
    "exit typo": (
        mix(EXIT, {**EXIT, "exit": "port_rad"}),
        'mmio_read, mmio_write, found "port_rad"; did you mean "port_read"?',
    ),
    "exit without a share": (
        mix({key: value for key, value in EXIT.items() if key != "share"}),
        "guest.mix[0].share: missing, and required: How many of the exits are this one",
    ),
    "exit key": (
        mix({**EXIT, "width": 4}),
        "guest.mix[0].width: unknown key; the keys here are exit, size, address, share",
    ),
    "share outside a table": (
        guest(share=1),
        'guest.share: unknown key; did you mean "guest.mix.share"?',
    ),
    "share 0": (
        mix({**EXIT, "share": 0}),
        "guest.mix[0].share: expected a number above 0 and at most 1e12, found 0",
    ),
    "size 8": (mix({**EXIT, "size": 8}), "guest.mix[0].size: expected 1, 2 or 4 (bytes), found 8"),
    "size true": (mix({**EXIT, "size": True}), "guest.mix[0].size: expected 1, 2 or 4 (bytes)"),
    "address as text": (
        mix({**EXIT, "address": "0x608"}),
        'guest.mix[0].address: expected a whole number from 0 to 0xffffffff, found "0x608"',
    ),
    "last port": (
        mix({**EXIT, "address": 0xFFFD}),
        "guest.mix[0].address: expected a port from 0 to 0xfffc, found 65533",
    ),
    "address in memory": (
        mix({**EXIT, "exit": "mmio_read"}),
        "guest.mix[0].address: expected an address without memory, 0x80000000 to 0xffffffff, found",
    ),
    "address across pages": (
        mix({**EXIT, "exit": "mmio_read", "address": 0xFE00_0FFE}),
        "guest.mix[0].address: expected an address whose 4 bytes are in one page, found",
    ),
    "port of the PIC": (
        mix(EXIT, {**EXIT, "address": 0x1E}),
        'outside 0x20 to 0x21, which KVM keeps to itself with vm.irqchip = "kernel", found 0x1e',
    ),
    "address of the local APIC": (
        {
            **mix({**EXIT, "exit": "mmio_write", "address": 0xFEE0_00B0}),
            "vm": {"vcpus": 1, "irqchip": "split"},
        },
        "guest.mix[0].address: expected an address outside 0xfee00000 to 0xfee00fff, which KVM",
    ),
    # recordings
    "recorded without gaps": (
        guest(arrival="recorded"),
        'guest.arrival: "recorded" needs guest.gaps_us; add the gaps that were recorded',
    ),
    "gaps of another arrival": (
        guest(arrival="poisson", gaps_us=[1, 2]),
        'guest.arrival: expected "recorded", because guest.gaps_us is set, found "poisson"',
    ),
    "gaps at full speed": (
        guest(exit_rate_hz="max", gaps_us=[1, 2]),
        'guest.exit_rate_hz: a guest at "max" has no gaps, and guest.gaps_us is set; add a rate',
    ),
    "gaps without exits": (
        {**guest(gaps_us=[1, 2]), "measure": {"kinds": "pause_all"}},
        'guest.gaps_us is for the kind "exits"; add it to measure.kinds, or leave the key out',
    ),
    "gaps of spin": (
        guest(program="spin", gaps_us=[1, 2]),
        'guest.exit_rate_hz: expected "max", because the program spin cannot be paced',
    ),
    "gap alone": (
        guest(gaps_us=5),
        "guest.gaps_us: expected a list of 2 to 1024 numbers, found 5",
    ),
    "too many gaps": (
        guest(gaps_us=[1.0] * 1025),
        "guest.gaps_us: expected a list of 2 to 1024 numbers, found a list of 1025",
    ),
    "gap 0": (
        guest(gaps_us=[0, 1]),
        "guest.gaps_us[0]: expected a number of microseconds from 0.001 to 1e6, found 0",
    ),
    "gap NaN": (
        guest(gaps_us=[1, math.nan]),
        "guest.gaps_us[1]: expected a number of microseconds from 0.001 to 1e6, found nan",
    ),
    "gaps descend": (
        guest(gaps_us=[1, 3, 2]),
        "guest.gaps_us: gaps ascend, and number 3 is less than the one before it",
    ),
    "rates at full speed": (
        guest(vcpu_rates=[1]),
        'guest.vcpu_rates: the rates are of a paced guest, and guest.exit_rate_hz is "max"',
    ),
    "rate of a vCPU 0": (
        guest(exit_rate_hz=5, vcpu_rates=[0]),
        "guest.vcpu_rates[0]: expected a number from 0.001 to 1000, found 0",
    ),
    "no rates": (
        guest(exit_rate_hz=5, vcpu_rates=[]),
        "guest.vcpu_rates: expected a list with a number for each vCPU, found an empty list",
    ),
    "rates of two vCPUs": (
        guest(exit_rate_hz=5, vcpu_rates=[1, 2]),
        "guest.vcpu_rates: expected a rate for each vCPU, found 2 rates and a case with 1 vCPUs",
    ),
    "rates without exits": (
        {**guest(exit_rate_hz=5, vcpu_rates=[1]), "measure": {"kinds": "pause_all"}},
        'guest.vcpu_rates is for the kind "exits"; add it to measure.kinds, or leave the key out',
    ),
    "baseline not measured": (
        measure(methods=["sigmask"], baseline="immediate_exit"),
        'measure.baseline: expected one of measure.methods (sigmask), found "immediate_exit"',
    ),
    "baseline unknown": (measure(baseline="sigmsk"), 'did you mean "sigmask"?'),
    # kicks
    "halted without a local APIC": (
        {**kick(states=["guest", "halted"]), "vm": {"vcpus": 1, "irqchip": "none"}},
        'bad.toml: kick.states: "halted" needs the local APIC in the kernel: expected vm.irqchip',
    ),
    "polling without one": (
        {**kick(states=["polling"]), "vm": {"vcpus": 1, "irqchip": "none"}},
        'bad.toml: kick.states: "polling" needs the local APIC in the kernel: expected vm.irqchip',
    ),
    "halted by default without one": (
        {**vm(irqchip="none"), "measure": {"kinds": "kick"}},
        'kick.states: "halted" needs the local APIC in the kernel',
    ),
    "no kicker": (kick(kickers=0), f"kick.kickers: {KICKERS}, found 0"),
    "32 kickers": (kick(kickers=[1, 32]), f"kick.kickers[1]: {KICKERS}, found 32"),
    "kickers as float": (kick(kickers=1.0), f"kick.kickers: {KICKERS}, found 1.0"),
    "kickers twice": (kick(kickers=[2, 2]), "kick.kickers: 2 is listed twice"),
    "states twice": (kick(states=["guest"] * 2), 'kick.states: "guest" is listed twice'),
    "no state": (kick(states=[]), "kick.states: expected a value or a list of values"),
    "vCPUs of kick": (kick(vcpus=[1, 0]), f"kick.vcpus[1]: {COUNT}, found 0"),
    "no vCPUs of kick": (kick(vcpus=[]), "kick.vcpus: expected a value or a list of values"),
    "window negative": (race(window_ns=-1), f"race.window_ns: {WINDOW}, found -1"),
    "window NaN": (race(window_ns=[0, math.nan]), f"race.window_ns[1]: {WINDOW}, found nan"),
    "window inf": (race(window_ns=math.inf), f"race.window_ns: {WINDOW}, found inf"),
    "window bool": (race(window_ns=False), f"race.window_ns: {WINDOW}, found false"),
    "window below 1 ns": (race(window_ns=5e-324), f"race.window_ns: {WINDOW}, found 5e-324"),
    "window twice": (race(window_ns=[0, 0.0]), "race.window_ns: 0.0 is listed twice"),
    "no kicks": (race(kicks=0), f"race.kicks: {KICKS}, found 0"),
    "kicks negative": (race(kicks=-5), f"race.kicks: {KICKS}, found -5"),
    "kicks as float": (race(kicks=1e6), f"race.kicks: {KICKS}, found 1000000.0"),
    "kick rate negative": (
        guest(kick_rate_hz=[0, -1]),
        f"guest.kick_rate_hz[1]: {KICK_RATE}, found -1",
    ),
    "kick rate NaN": (guest(kick_rate_hz=math.nan), f"guest.kick_rate_hz: {KICK_RATE}, found nan"),
    "kicks for one thread": (
        {**guest(kick_rate_hz=[1, 1000]), "vm": {"vcpus": [1, 201]}},
        "1,000 kicks/s for each of 201 vCPUs are 201,000 kicks/s, and the one thread",
    ),
    "kicked vCPUs in vain": (
        guest(kicked_vcpus=[1]),
        "guest.kicked_vcpus is set, but guest.kick_rate_hz is 0; leave the key out",
    ),
    "kick rate false": (guest(kick_rate_hz=False), f"{KICK_RATE}, found false"),
    "kick table in vain": (
        scenario(kick={"states": "guest"}),
        'bad.toml: kick: this table is for the kind "kick"; add it to measure.kinds, or leave the',
    ),
    "race table in vain": (
        scenario(measure={"kinds": ["exits", "kick"]}, race={}),
        'bad.toml: race: this table is for the kind "race"; add it to measure.kinds, or leave the',
    ),
    "kick rate in vain": (
        {**guest(kick_rate_hz=[0, 9]), "measure": {"kinds": ["kick", "race"]}},
        'bad.toml: guest.kick_rate_hz is for the kind "exits"; add it to measure.kinds, or leave',
    ),
    "transports in vain": (
        measure(transports=["tgkill", "pidfd"]),
        "bad.toml: measure.transports is set, but nothing kicks",
    ),
    "transports in vain beside nested": (
        measure(kinds=["nested"], transports="pidfd"),
        "bad.toml: measure.transports is set, but nothing kicks: measure.kinds is nested",
    ),
    "lifecycle table in vain": (
        scenario(lifecycle={}),
        'bad.toml: lifecycle: this table is for the kind "lifecycle"; add it to measure.kinds, or',
    ),
    "a moment that there is not": (
        scenario(measure={"kinds": "lifecycle"}, lifecycle={"moments": ["frist_run"]}),
        "lifecycle.moments[0]: expected one of no_handler, thread_start, entry, first_run, thread",
    ),
    "no fresh VM": (
        scenario(measure={"kinds": "lifecycle"}, lifecycle={"vms": 0}),
        "lifecycle.vms: expected a whole number from 1 to 10^9, found 0",
    ),
    "nested table in vain": (
        scenario(nested={}),
        'bad.toml: nested: this table is for the kind "nested"; add it to measure.kinds, or leave',
    ),
    "nested without its irqchip": (
        {**vm(irqchip="split"), "measure": {"kinds": "nested"}},
        'bad.toml: measure.kinds: "nested" needs the interrupt chip in the kernel: expected vm.irq',
    ),
    "no iterations": (
        scenario(measure={"kinds": "nested"}, nested={"iterations": 0}),
        "nested.iterations: expected a whole number from 1 to 100000, found 0",
    ),
    "kicks of L1 backwards": (
        scenario(measure={"kinds": "nested"}, nested={"kick_rate_hz": -1}),
        "nested.kick_rate_hz: expected 0 (no kicks) or a number of kicks per second",
    ),
    "the hypervisor as a program": (guest(program="hypervisor"), f"guest.program: {PROGRAM}"),
    "kick no table": (scenario(kick=3), "kick: expected a table, found 3"),
    "two kick": (scenario(kick=[{}]), "kick: expected a table, found a list of 1"),
    "key of kick elsewhere": (
        measure(kinds="kick", kickers=2),
        'measure.kickers: unknown key; did you mean "kick.kickers"?',
    ),
    "key of kick typo": (kick(state="guest"), 'kick.state: unknown key; did you mean "states"?'),
    # protocols of the user's own
    "file capitals": (measure(methods="./My.c"), f'measure.methods: {FILE}, then at most 63 sma'),
    "file digit": (measure(methods=["/p/1st.c"]), f"measure.methods[0]: {FILE}"),
    "file dash": (measure(methods="./my-protocol.c"), f"measure.methods: {FILE}"),
    "file is only .c": (measure(methods="./.c"), f'measure.methods: {FILE}'),
    "file long": (measure(methods="/" + "a" * 65 + ".c"), f"measure.methods: {FILE}"),
    "file with a NUL": (measure(methods="/a\0b/my.c"), f"measure.methods: {FILE}"),
    "file with a line break": (measure(methods="/tmp/my.c\n"), f"measure.methods: {METHOD}"),
    "file of C++": (measure(methods="./my.cc"), f'measure.methods: {METHOD}, found "./my.cc"'),
    "file relative to nothing": (
        measure(methods="./my.c"),
        'measure.methods: expected an absolute path, because there is no scenario file to begin at',
    ),
    "file named as a method": (
        measure(methods=["sigmask", "/p/sigmask.c"]),
        "measure.methods: sigmask.c would be called sigmask in the results, as a protocol of the",
    ),
    "file named as a method that is not measured": (
        measure(methods=["/p/sigmask.c"]),
        "measure.methods: sigmask.c would be called sigmask in the results, as a protocol of the",
    ),
    "two files of one name": (
        measure(methods=["/p/my.c", "/q/my.c"]),
        "measure.methods: my.c and my.c would both be called my in the results; rename one",
    ),
    "file twice": (measure(methods=["/p/my.c"] * 2), 'measure.methods: "/p/my.c" is listed twice'),
    "baseline file not measured": (
        measure(methods=["sigmask", "/p/my.c"], baseline="/p/mine.c"),
        'measure.baseline: expected one of measure.methods (sigmask, my.c), found "/p/mine.c"',
    ),
    # axes
    "empty sweep": (vm(vcpus=[]), "vm.vcpus: expected a value or a list of values, found an em"),
    "no rate": (guest(exit_rate_hz=[]), "guest.exit_rate_hz: expected a value or a list"),
    "no method": (measure(methods=[]), "measure.methods: expected a value or a list of values"),
    "no kind": (measure(kinds=[]), "measure.kinds: expected a value or a list of values"),
    "vCPUs twice": (vm(vcpus=[1, 2, 1]), "vm.vcpus: 1 is listed twice; list each value once"),
    "rate twice": (guest(exit_rate_hz=[5, 5.0]), "guest.exit_rate_hz: 5.0 is listed twice"),
    "method twice": (measure(methods=["sigmask"] * 2), 'measure.methods: "sigmask" is listed tw'),
    # keys
    "unknown key": (vm(irq_chip="none"), 'vm.irq_chip: unknown key; did you mean "irqchip"?'),
    "unknown table": (scenario(mesure={}), 'mesure: unknown key; did you mean "measure"?'),
    "table named as a key": (scenario(kicks={}), 'kicks: unknown key; did you mean "kick"?'),
    "key of another table": (
        vm(exit_rate_hz=5),
        'vm.exit_rate_hz: unknown key; did you mean "guest.exit_rate_hz"?',
    ),
    "key like no other": (vm(zzz=1), "vm.zzz: unknown key; the keys here are vcpus, irqchip"),
    "no name": (
        {"vm": {"vcpus": 1}, "guest": {"program": "hlt"}},
        "bad.toml: name: missing, and required: Name of the scenario",
    ),
    "no vm": ({"name": "x", "guest": {"program": "hlt"}}, "vm: missing, and required: The virt"),
    "no vcpus": (scenario(vm={}), "vm.vcpus: missing, and required: Number of vCPUs"),
    # placements
    "placement twice": (
        placed({"name": "a"}, {"name": "b"}, {"name": "a"}),
        'placement: the name "a" is used twice, by placement[0] and placement[2]',
    ),
    "placement as table": (
        scenario(placement={"name": "a"}),
        "placement: expected one or more [[placement]] tables (two brackets on each side), found",
    ),
    "no placement": (scenario(placement=[]), "placement: expected one or more [[placement]]"),
    "placement unnamed": (placed({}), "placement[0].name: missing, and required"),
    "placement name": (placed({"name": "a/b"}), f'placement[0].name: {NAME}, found "a/b"'),
    "placement key": (
        placed({"name": "a", "vcpu": "any"}),
        'placement[0].vcpu: unknown key; did you mean "vcpus"?',
    ),
    "node without number": (
        placed({"name": "a"}, {"name": "b", "creator": "node:"}),
        f'placement[1].creator: {WHERE}, found "node:"',
    ),
    # names that would leave the results folder or end up in a page
    "name climbs": (scenario(name="../../etc"), f'name: {NAME}, found "../../etc"'),
    "name is dots": (scenario(name=".."), f'name: {NAME}, found ".."'),
    "name is hidden": (scenario(name=".git"), f'name: {NAME}, found ".git"'),
    "name is markup": (
        scenario(name="<script>alert(1)</script>"),
        f'name: {NAME}, found "<script>alert(1)</script>"',
    ),
    "name is empty": (scenario(name=""), f'name: {NAME}, found ""'),
    "name ends in a line break": (scenario(name="a\n"), f'name: {NAME}, found "a\\n"'),
    "name is long": (scenario(name="a" * 65), f"name: {NAME}, found"),
    "description is long": (scenario(description="a" * 2001), "description: expected at most 20"),
    "description moves the cursor": (
        scenario(description="\x1b[2J"),
        'of text without control characters, found "\\x1b[2J"',
    ),
    "a gap that is no time": (
        pause_all(gap_us=[0, 0.5]),
        "pause_all.gap_us[1]: expected 0 (back to back) or a number of microseconds from 1 to 1e6",
    ),
    "an order that is none": (
        pause_all(order="one"),
        'pause_all.order: expected one of parallel, serial, found "one"',
    ),
    "a step that is none": (
        pause_all(after=["read_stat"]),
        "pause_all.after[0]: expected one of kvmclock_ctrl, read_state, found",
    ),
    "a step twice": (
        pause_all(after=["read_state", "read_state"]),
        "pause_all.after: expected a list of some of kvmclock_ctrl, read_state, each once",
    ),
    "pauses that nobody makes": (
        scenario(pause_all={"gap_us": 0}),
        'pause_all: this table is for the kind "pause_all"; add it to measure.kinds, or leave the',
    ),
    "noise of nothing": (
        noise(),
        "noise: nothing makes noise: set foreign_signals_hz or siglock_threads, or leave",
    ),
    "noise at no rate": (noise(foreign_signals_hz=0), "noise: nothing makes noise"),
    "foreign signals run back": (
        noise(foreign_signals_hz=-1),
        f"noise.foreign_signals_hz: {FOREIGN}, found -1",
    ),
    "one of the rates is high": (
        noise(foreign_signals_hz=[1, 2e6]),
        f"noise.foreign_signals_hz[1]: {FOREIGN}, found",
    ),
    "threads are many": (
        noise(siglock_threads=32),
        "noise.siglock_threads: expected a whole number from 0 to 31, found 32",
    ),
    "siglock at no rate": (
        noise(siglock_threads=1, siglock_hz=0),
        "noise.siglock_hz: expected a number of times per second from 0.001 to 1e6, found 0",
    ),
    "a rate of no thread": (
        noise(foreign_signals_hz=1, siglock_hz=5),
        "noise.siglock_hz: the rate is of the threads that take siglock, and noise.siglock_th",
    ),
    "a key of noise that is none": (
        noise(foreign_signal_hz=1),
        'noise.foreign_signal_hz: unknown key; did you mean "foreign_signals_hz"?',
    ),
    "noise where nothing is disturbed": (
        scenario(measure={"kinds": ["handover"]}, noise={"siglock_threads": 1}),
        "noise: this table is for the kinds exits, kick, pause_all, race; add one to measure",
    ),
    "more foreign signals than a thread sends": (
        scenario(vm={"vcpus": [1, 1000]}, noise={"foreign_signals_hz": 1000}),
        "1,000,000 signals/s, and the one thread that sends them can send at most 200,000; lower",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_clear_line(data: object, expected: str) -> None:
    message = error_of(data)
    assert message.startswith("bad.toml: ")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "where",
    ["", "node", "node:-1", "node:0,1", "cpu:", "cpu:3-1", "cpu:1,", "cpu:a", "Any", "cpu:0-", "0"],
)
def test_these_do_not_say_where_a_thread_runs(where: str) -> None:
    assert f"placement[0].vcpus: {WHERE}" in error_of(placed({"name": "a", "vcpus": where}))


def test_a_second_line_says_where_the_other_mistakes_are() -> None:
    message = error_of(scenario(name=1, vm={"vcpus": [0, 1, 0]}, measure={"seed": "x", "a": 1}))
    assert message.split("\n") == [
        f"bad.toml: name: {NAME}, found 1",
        "4 more in this file: vm.vcpus[0], vm.vcpus[2], measure.seed ...",
    ]


def test_wrong_methods_are_not_blamed_on_the_baseline() -> None:
    assert "baseline" not in error_of(measure(methods=["nope"]))


def test_control_characters_of_the_file_never_reach_the_terminal_raw() -> None:
    hostile = "\x1b]0;owned\x07\u202e\r\n"
    message = error_of(
        scenario(**{hostile: 1}, name=hostile, vm={hostile: hostile, "vcpus": hostile})
    )
    assert "\\x1b]0;owned" in message
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", message)


# --- Bad files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('name = "x"\nvm = = 3\n', ":2:6: TOML syntax error: Invalid value"),
        ('name = "x"\n[vm\n', ":2:4: TOML syntax error: Expected ']' at the end of a table decl"),
        ('name = "x"\nname = "y"\n', ":2:11: TOML syntax error: Cannot overwrite a value"),
        ("a = 1; b = 2\n", ":1:6: TOML syntax error: Expected newline or end of document"),
        ("x = [", ":1:6: TOML syntax error: "),
        ("a = \x1b[2J", ":1:5: TOML syntax error: Invalid value"),
        ("a = " + "[" * 100_000, ": TOML syntax error: nested too deeply"),
        ("a = " + "9" * 5000, ": TOML syntax error: a number is too long"),
        ("\n" + "a." * 500_000 + "b = 1", ":2: expected keys of at most 64 parts"),
        ("[" + "a . " * 100 + "b]", ":1: expected keys of at most 64 parts"),
        ("x = {" + '\'a\'."b\\"".' * 100 + "b = 1}", ":1: expected keys of at most 64 parts"),
    ],
)
def test_a_syntax_error_names_its_line_and_column(write: Any, text: str, expected: str) -> None:
    path = write(text)
    assert error_of_file(path).startswith(f"{path}{expected}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    assert error_of_file(path) == f"{path}: cannot be read: No such file or directory"


def test_an_unreadable_file_is_named(write: Any, monkeypatch: Any) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write(MINIMAL)
    path.chmod(0)
    if os.geteuid() == 0:  # root may read every file
        monkeypatch.setattr(Path, "open", refuse)
    assert error_of_file(path) == f"{path}: cannot be read: Permission denied"


def test_a_directory_is_no_scenario(tmp_path: Path) -> None:
    assert error_of_file(tmp_path).endswith("expected a scenario file (TOML), this is a directory")


def test_devices_and_pipes_are_not_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in ("/dev/zero", fifo):
        assert "this is not a regular file" in error_of_file(path)


def test_100_mb_of_garbage_are_refused_unread(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "garbage.toml"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    monkeypatch.setattr(Path, "open", None)
    assert "of at most 1 MiB, this has 100,000,000 bytes" in error_of_file(path)


def test_the_largest_file_allowed_is_read(write: Any) -> None:
    padding = "#" * (MAX_BYTES - len(MINIMAL))
    assert load(write(MINIMAL + padding)).name == "tiny"
    assert "at most 1 MiB" in error_of_file(write(MINIMAL + padding + "#"))


def test_bytes_that_are_not_utf8_are_named_with_their_line(write: Any) -> None:
    path = write(b'name = "x"\ndescription = "\xff"\n')
    assert error_of_file(path) == f"{path}:2: expected UTF-8 text, found the byte 0xff"


def test_a_name_with_a_nul_or_control_characters_is_printed_escaped(tmp_path: Path) -> None:
    assert error_of_file("a\0b.toml").startswith("a\\x00b.toml: cannot be read: ")
    assert "\\x1b[2J.toml: cannot be read" in error_of_file(tmp_path / "\x1b[2J.toml")


# --- A protocol of the user's own -------------------------------------------------------------

OWN = MINIMAL + '[measure]\nmethods = ["sigmask", "{}"]\n'


@pytest.fixture
def protocol(tmp_path: Path) -> Path:
    path = tmp_path / "protocols" / "my_protocol.c"
    path.parent.mkdir()
    path.write_text("")
    return path


@pytest.mark.parametrize(
    "name", ["protocols/my_protocol.c", "./protocols/my_protocol.c", "{folder}/my_protocol.c"]
)
def test_a_protocol_file_is_found_from_the_scenarios_folder(
    write: Any, protocol: Path, tmp_path: Path, monkeypatch: Any, name: str
) -> None:
    scenario_file = write(OWN.format(name.format(folder=protocol.parent)))
    monkeypatch.chdir("/")
    assert load(scenario_file).measure.methods == ("sigmask", str(protocol))
    monkeypatch.chdir(tmp_path)
    assert load(scenario_file.name).measure.methods == ("sigmask", str(protocol))


def test_a_protocol_file_can_be_the_baseline(write: Any, protocol: Path) -> None:
    text = OWN.format("./protocols/my_protocol.c") + 'baseline = "protocols/my_protocol.c"\n'
    assert load(write(text)).measure.baseline == str(protocol)


def test_a_resolved_scenario_needs_no_protocol_file(write: Any, protocol: Path) -> None:
    resolved = load(write(OWN.format("protocols/my_protocol.c")))
    protocol.unlink()
    assert Scenario.from_dict(resolved.to_dict()) == resolved


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("./none.c", '"./none.c" cannot be read: No such file or directory'),
        ("bad.toml/my.c", '"bad.toml/my.c" cannot be read: Not a directory'),
        ("d/directory.c", '"d/directory.c" is a directory; expected a C file or a library'),
        ("d/fifo.c", '"d/fifo.c" is not a regular file; expected a C file or a library'),
        ("a" * 300 + "/my.c", " cannot be read: File name too long"),
    ],
)
def test_a_protocol_file_that_is_none_is_named(
    write: Any, tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "d" / "directory.c").mkdir(parents=True)
    os.mkfifo(tmp_path / "d" / "fifo.c")
    path = write(OWN.format(name))
    message = error_of_file(path)
    assert message.startswith(f"{path}: measure.methods[1]: ")
    assert message.endswith(reason)


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("line\nbreak", "is in a folder whose name has control characters"),
        (os.fsdecode(b"not-\xff-utf8"), "cannot be read: its folder's name is not UTF-8"),
    ],
)
def test_a_folder_that_results_cannot_name_is_refused(
    tmp_path: Path, folder: str, reason: str
) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "my.c").touch()
    path = tmp_path / folder / "bad.toml"
    path.write_text(OWN.format("my.c"))
    assert error_of_file(path).endswith(f'measure.methods[1]: "my.c" {reason}')


# --- Whatever the file holds ----------------------------------------------------------------

KEYS = st.text(max_size=5) | st.sampled_from(
    [
        key
        for table in (Scenario, Vm, Guest, Placement, Measure, Kick, Race, Noise, PauseAll)
        for key in table.model_fields
    ]
)
SCALARS = (
    st.booleans()
    | st.integers()
    | st.integers(-2, 1100)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["max", "any", "node:0", "exits", "hlt", "sigmask", "poisson", "kernel"])
    | st.sampled_from(["kick", "race", "halted", "storm", "tgkill", "pidfd", "./my.c", "/p/my.c"])
    | st.datetimes()
    | st.dates()
    | st.times()
)
TOML = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=30,
)
WHERES = st.sampled_from(["any", "node:0", "node:17", "cpu:0-3,8"])
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)
METHODS = st.lists(
    st.sampled_from([*sorted(CATALOGUE), "/p/my.c", "/p/q/other_1.c"]), min_size=1, unique=True
)


def some(*values: Any) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), min_size=1, unique=True)


COUNTS = st.lists(st.integers(1, 1024), min_size=1, max_size=4, unique=True)


def with_kicks(scenario: dict[str, Any], kinds: list[str], data: dict[str, Any]) -> dict[str, Any]:
    """``scenario`` with ``kinds`` and those of the tables and keys in ``data`` that suit them."""
    measure = {**scenario.get("measure", {}), "kinds": kinds}
    if "exits" not in kinds:
        guest = {key: value for key, value in scenario["guest"].items() if key != "gaps_us"}
        scenario = {**scenario, "guest": guest}
    if not set(kinds) <= {"exits", "nested", "handover"}:
        measure["transports"] = data["transports"]
    if "exits" in kinds:
        vcpus = scenario["vm"].get("vcpus", 1)
        most = MAX_KICKS_HZ // max(vcpus if isinstance(vcpus, list) else [vcpus])
        rates = list(dict.fromkeys(min(rate, most) for rate in data["rates"]))
        scenario = {**scenario, "guest": {**scenario["guest"], "kick_rate_hz": rates}}
    if scenario["vm"].get("irqchip") == "none":
        data["kick"]["states"] = ["guest", "storm"]
    if "nested" in kinds:
        scenario = {**scenario, "vm": {**scenario["vm"], "irqchip": "kernel"}}
    tables = {kind: data[kind] for kind in ("kick", "pause_all", "race", "nested") if kind in kinds}
    if data["noise"] is not None and set(kinds) & set(NOISY_KINDS):
        tables["noise"] = data["noise"]
    return {**scenario, **tables, "measure": measure}


PLAIN = st.fixed_dictionaries(
    {
        "name": NAMES,
        "vm": st.fixed_dictionaries(
            {"vcpus": st.lists(st.integers(1, 1024), min_size=1, max_size=4, unique=True)},
            optional={"irqchip": st.sampled_from(["none", "split", "kernel"])},
        ),
        "guest": GUESTS,
    },
    optional={
        "description": st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"])),
        "placement": st.lists(
            st.fixed_dictionaries(
                {"name": NAMES}, optional={"creator": WHERES, "vcpus": WHERES, "kicker": WHERES}
            ),
            min_size=1,
            max_size=4,
            unique_by=lambda placement: placement["name"],
        ),
        "measure": st.fixed_dictionaries(
            {},
            optional={
                "methods": METHODS,
                "processes": st.integers(1, 100),
                "precision": st.floats(1e-9, 1),
                "max_seconds": st.floats(0.01, 86_400),
                "seed": st.integers(0, 2**63 - 1),
                "block_ms": st.floats(0.1, 10_000),
                "sample_budget": st.integers(0, 10**9),
            },
        ),
    },
)


VALID = PLAIN | st.builds(
    with_kicks,
    PLAIN,
    some(*KINDS),
    st.fixed_dictionaries(
        {
            "noise": st.none()
            | st.fixed_dictionaries(
                {"siglock_threads": some(0, 1, 31).filter(lambda some: some != [0])},
                optional={"foreign_signals_hz": some(0, 0.5, 100), "siglock_hz": st.floats(1, 1e6)},
            ),
            "transports": some(*TRANSPORTS),
            "rates": st.lists(
                st.just(0) | st.floats(0.001, 1e6), min_size=1, max_size=3, unique=True
            ),
            "kick": st.fixed_dictionaries(
                {},
                optional={"states": some(*STATES), "kickers": some(1, 2, 31), "vcpus": COUNTS},
            ),
            "race": st.fixed_dictionaries(
                {},
                optional={
                    "window_ns": st.lists(
                        st.just(0) | st.floats(1, 1e9), min_size=1, max_size=3, unique=True
                    ),
                    "kicks": st.integers(1, 10**12),
                    "vcpus": COUNTS,
                },
            ),
            "nested": st.fixed_dictionaries({}, optional={"iterations": st.integers(1, 100_000)}),
            "pause_all": st.fixed_dictionaries(
                {}, optional={"gap_us": some(0, 1, 2.5, 1e6), "order": some("parallel", "serial")}
            ),
        }
    ),
)


def valid_or_scenario_error(data: object) -> None:
    with contextlib.suppress(ScenarioError):
        Scenario.from_dict(data, "bad.toml")
        return
    assert error_of(data).startswith("bad.toml: ")


@RELAXED
@given(TOML | st.dictionaries(KEYS, TOML))
def test_anything_but_a_scenario_is_a_scenario_error(data: object) -> None:
    valid_or_scenario_error(data)


@RELAXED
@given(VALID, st.data())
def test_one_wrong_value_is_found_or_harmless(valid: dict[str, Any], data: st.DataObject) -> None:
    table = data.draw(st.sampled_from([valid, *(v for v in valid.values() if type(v) is dict)]))
    table[data.draw(KEYS)] = data.draw(TOML)
    valid_or_scenario_error(valid)


@RELAXED
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_without_a_traceback(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.toml"
    path.write_bytes(content)
    error_of_file(path)


@RELAXED
@given(VALID)
def test_the_resolved_form_loads_back_to_the_same_scenario(valid: dict[str, Any]) -> None:
    resolved = Scenario.from_dict(valid)
    through_json = json.loads(json.dumps(resolved.to_dict(), allow_nan=False))
    assert Scenario.from_dict(through_json) == resolved
    assert Scenario.from_dict(through_json).to_dict() == resolved.to_dict()
