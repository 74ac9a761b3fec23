# SPDX-License-Identifier: Apache-2.0
"""Which CPUs are alike, on a hybrid processor and on others."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_host import write
from hypothesis import given
from hypothesis import strategies as st

from kickbench.host.cores import ALIKE, Kind, are_alike, kinds, mixture

CPU = "sys/devices/system/cpu"


def host(root: Path, capacities: list[int], frequencies: list[int]) -> Path:
    files: dict[str, object] = {}
    for cpu, capacity in enumerate(capacities):
        files[f"{CPU}/cpu{cpu}/cpu_capacity"] = capacity
    for cpu, khz in enumerate(frequencies):
        files[f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq"] = khz
    return write(root, files)


def test_a_hybrid_processor_has_two_kinds(tmp_path: Path) -> None:
    root = host(tmp_path, [1024, 1024, 600, 600], [5_100_000] * 2 + [3_900_000] * 2)
    write(root, {"sys/devices/cpu_core/cpus": "0-1", "sys/devices/cpu_atom/cpus": "2-3"})
    fast, slow = kinds(range(4), root)
    assert fast == Kind((0, 1), "cpu_core", 1024, 5_100_000)
    assert slow == Kind((2, 3), "cpu_atom", 600, 3_900_000)
    assert str(slow) == "CPUs 2-3: cpu_atom, 3900 MHz, capacity 600"
    assert not are_alike([fast, slow])
    assert mixture([3, 1, 3], root) == (
        "vCPUs on fast and on slow cores are in one figure: CPU 1: cpu_core, 5100 MHz, "
        "capacity 1024; CPU 3: cpu_atom, 3900 MHz, capacity 600"
    )
    assert mixture([2, 3], root) is None
    assert are_alike([slow])
    assert kinds([2], root) == [Kind((2,), "cpu_atom", 600, 3_900_000)]


@pytest.mark.parametrize(
    ("capacities", "frequencies", "alike"),
    [
        ([], [], True),  # the kernel does not tell
        ([1024] * 4, [], True),
        ([], [3_000_000] * 4, True),
        ([], [4_800_000, 4_600_000, 4_600_000, 4_600_000], True),  # a preferred core
        ([1024, 1009, 1009, 1009], [], True),
        ([1024, 1024, 446, 446], [], False),
        ([], [4_800_000, 4_800_000, 3_600_000, 3_600_000], False),
        ([1024, 0], [0, 0], True),
    ],
)
def test_small_differences_are_of_one_kind_of_core(
    tmp_path: Path, capacities: list[int], frequencies: list[int], alike: bool
) -> None:
    assert are_alike(kinds(range(4), host(tmp_path, capacities, frequencies))) == alike


def test_types_alone_make_a_difference(tmp_path: Path) -> None:
    root = write(
        tmp_path, {"sys/devices/cpu_core/cpus": "0", "sys/devices/cpu_atom/cpus": "garbage"}
    )
    assert are_alike(kinds([0], root))
    assert not are_alike(kinds([0, 1], root))


def test_big_and_little_cores_are_of_two_kinds(tmp_path: Path) -> None:
    little, big, other = 0x410FD034, 0x410FD083, 0x990F1230
    files = {
        f"{CPU}/cpu{cpu}/regs/identification/midr_el1": f"{midr:#018x}"
        for cpu, midr in enumerate([little, little, big, big, other])
    }
    found = kinds(range(5), write(tmp_path, files))
    assert [(kind.cpus, kind.type) for kind in found] == [
        ((0, 1), "Arm Cortex-A53"),
        ((2, 3), "Arm Cortex-A72"),
        ((4,), "implementer 0x99 part 0x123"),
    ]
    assert not are_alike(found)
    assert "fast and on slow cores" in str(mixture([1, 2], tmp_path))


@given(st.lists(st.integers(1, 1024), min_size=1, max_size=8))
def test_every_cpu_is_of_one_kind(capacities: list[int]) -> None:
    some = [Kind((cpu,), None, capacity, None) for cpu, capacity in enumerate(capacities)]
    assert are_alike(some) == (max(capacities) <= ALIKE * min(capacities))


def test_this_host_s_cpus_are_each_of_one_kind() -> None:
    assert sorted(cpu for kind in kinds([0, 1]) for cpu in kind.cpus) == [0, 1]
