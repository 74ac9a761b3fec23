# SPDX-License-Identifier: Apache-2.0
"""When the TSC is trusted, and which CPUs are tried against each other before it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fake_host import write
from hypothesis import given
from hypothesis import strategies as st

from kickbench.host import clock
from kickbench.host.topology import Topology, place

STEADY = "rdtscp constant_tsc nonstop_tsc"
FOLDER = "sys/devices/system/clocksource/clocksource0"
CPUS = Topology.read().affinity


def host(root: Path, flags: str, current: str, available: str | None) -> Path:
    files = {
        "proc/cpuinfo": f"processor : 0\nflags : {flags}",
        f"{FOLDER}/current_clocksource": current,
    }
    if available is not None:
        files[f"{FOLDER}/available_clocksource"] = available
    return write(root, files)


@pytest.mark.parametrize(
    ("flags", "current", "available", "objection"),
    [
        (STEADY, "tsc", "tsc hpet acpi_pm", None),
        (STEADY, "hpet", "tsc hpet acpi_pm", None),  # somebody's choice
        (STEADY, "tsc-early", "tsc-early hpet", None),  # the first second after boot
        (STEADY, "hpet", "hpet acpi_pm", "the kernel found the TSC unstable, and took hpet"),
        (STEADY, "acpi_pm", "acpi_pm", "the kernel found the TSC unstable, and took acpi_pm"),
        (STEADY, "kvm-clock", "kvm-clock tsc acpi_pm", None),
        (STEADY, "kvm-clock", "kvm-clock acpi_pm", None),  # a watchdog's false alarm, most likely
        (STEADY, "hpet", "kvm-clock hpet", None),
        (STEADY, "hyperv_clocksource_tsc_page", "hyperv_clocksource_tsc_page acpi_pm", None),
        (STEADY, "hyperv_clocksource_msr", "hyperv_clocksource_msr", "found the TSC unstable"),
        (STEADY, "hpet", None, None),  # the kernel does not tell: the flags do
        ("rdtscp", "tsc", "tsc hpet", None),  # the kernel watches it
        ("rdtscp constant_tsc", "hpet", "tsc hpet", "the CPU lacks nonstop_tsc"),
        ("rdtscp", "kvm-clock", "kvm-clock", "the CPU lacks constant_tsc and nonstop_tsc"),
        ("constant_tsc nonstop_tsc", "tsc", "tsc", "no RDTSCP"),
        ("", "tsc", "tsc", "no RDTSCP"),
    ],
)
def test_what_the_kernel_and_the_cpu_say(
    tmp_path: Path, flags: str, current: str, available: str | None, objection: str | None
) -> None:
    root = host(tmp_path, flags, current, available)
    found = clock.objection(root)
    assert (found is None) == (objection is None)
    assert (objection or "") in (found or "")
    # Whoever agrees on an unsteady TSC agrees on no clock.
    assert clock.distrust([0], [1], root, lambda *_cpus: 0) == found


def test_a_host_that_tells_nothing_is_not_trusted(tmp_path: Path) -> None:
    assert clock.objection(tmp_path) is not None


@pytest.mark.parametrize(
    ("warp", "reason"),
    [
        (0, None),
        (40, "the TSCs of CPU 3 and CPU 2 differ by 40 cycles"),
        (None, "the TSCs of CPU 3 and CPU 2 could not be compared"),
    ],
)
def test_what_could_not_be_tried_is_no_agreement(
    tmp_path: Path, warp: int | None, reason: str | None
) -> None:
    root = host(tmp_path, STEADY, "tsc", "tsc")
    warps = {frozenset({3, 2}): warp}
    found = clock.distrust([1, 2], [3], root, lambda *pair: warps.get(frozenset(pair), 0))
    assert found == reason


def test_a_cpu_whose_number_rdtscp_cuts_off_has_another_clock(tmp_path: Path) -> None:
    root = host(tmp_path, STEADY, "tsc", "tsc")
    assert clock.distrust([4095], [0], root, lambda *_cpus: 0) is None
    assert "CPU 4096" in (clock.distrust([0, 4096], [0], root, lambda *_cpus: 0) or "")
    assert "CPU 5000" in (clock.distrust([0], [5000], root, lambda *_cpus: 0) or "")


@pytest.mark.parametrize(
    ("hz", "kvm_khz", "objection"),
    [
        (2.5e9, 2_500_000, None),
        (2.4999e9, 2_500_000, None),
        (2.5e9, 0, None),  # KVM does not know
        (2.375e9, 2_500_000, "measured as 2375.000 MHz, and KVM says 2500.000 MHz.* by 5.26%"),
        (2.5e9, 2_490_000, "by 0.40%"),
    ],
)
def test_a_rate_that_kvm_contradicts(hz: float, kvm_khz: int, objection: str | None) -> None:
    found = clock.rate_objection(hz, kvm_khz)
    assert (found is None) == (objection is None)
    assert re.search(objection or "", found or "")


# --- which CPUs are tried ----------------------------------------------------------------------

PLACES = {(0, 0): range(32), (1, 0): range(32, 64), (2, 1): range(64, 256)}
"""Node and package: two nodes in the first package, and a third node of many CPUs."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("server")
    for (node, package), cpus in PLACES.items():
        for cpu in cpus:
            folder = root / f"sys/devices/system/cpu/cpu{cpu}"
            (folder / f"node{node}").mkdir(parents=True)
            (folder / "topology").mkdir()
            (folder / "topology/physical_package_id").write_text(f"{package}\n")
    return root


def test_the_place_of_a_cpu(server: Path) -> None:
    assert [place(cpu, server) for cpu in (0, 32, 255)] == [(0, 0), (1, 0), (2, 1)]
    assert place(9999, server) == (None, None)


def test_a_remote_kicker_is_tried_against_the_vcpus_first(server: Path) -> None:
    """What a race or a kick's latency compares: a stamp of one node with that of the other."""
    tried = clock.pairs(range(32, 64), range(32), server)
    assert tried[0][0] < 32 <= tried[0][1]
    assert {cpu for pair in tried for cpu in pair} >= set(range(32, 64))


def test_many_cpus_of_one_node_do_not_hide_another(server: Path) -> None:
    tried = clock.pairs([*range(64, 256), 5], range(64, 256), server)
    assert len(tried) == clock.MAX_PAIRS
    assert any(5 in pair for pair in tried)


def test_one_cpu_agrees_with_itself(server: Path) -> None:
    assert clock.pairs([7], [7], server) == []


SOME_CPUS = st.sets(st.integers(0, 255), min_size=1, max_size=80)


@given(vcpus=SOME_CPUS, kickers=SOME_CPUS)
def test_every_two_places_are_tried_and_no_pair_twice(
    server: Path, vcpus: set[int], kickers: set[int]
) -> None:
    tried = clock.pairs(vcpus, kickers, server)
    assert len({frozenset(pair) for pair in tried}) == len(tried)
    assert all(a != b and {a, b} <= vcpus | kickers for a, b in tried)
    places = {frozenset({place(a, server), place(b, server)}) for a, b in tried}
    for a in {place(cpu, server) for cpu in kickers}:
        for b in {place(cpu, server) for cpu in vcpus} - {a}:
            assert frozenset({a, b}) in places
    if 1 < len(vcpus | kickers) <= clock.MAX_PAIRS // 2:
        assert {cpu for pair in tried for cpu in pair} == vcpus | kickers


def test_this_host_agrees_with_its_kernel() -> None:
    if clock.sources()[0] == "tsc":
        assert clock.distrust(CPUS, CPUS) is None
    assert "could not be compared" in (clock.disagreement([(CPUS[0], 1023)]) or "")
