# SPDX-License-Identifier: Apache-2.0
"""CPU lists, fake hosts made of sysfs files, and the CPUs that a placement means on them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_host import write
from hypothesis import given
from hypothesis import strategies as st

from kickbench.cpu_list import MAX_CPU, format_cpu_list, parse_cpu_list
from kickbench.errors import HostError
from kickbench.host import cgroups
from kickbench.host.topology import Topology, resolve

CPU = "sys/devices/system/cpu"
NODE = "sys/devices/system/node"
CPU_NUMBERS = st.integers(0, MAX_CPU)


@pytest.fixture
def two_nodes(tmp_path: Path) -> Path:
    """Two sockets of two cores of two threads (CPU 7 is offline), and a node that is memory only.

    Siblings are (0, 4), (1, 5) on node 0 and (2, 6), (3, 7) on node 1.
    """
    files = {
        f"{CPU}/online": "0-6",
        f"{CPU}/isolated": "",
        f"{NODE}/node0/cpulist": "0-1,4-5",
        f"{NODE}/node1/cpulist": "2-3,6",
        f"{NODE}/node2/cpulist": "",
        f"{NODE}/possible": "0-2",
    }
    for cpu in range(7):
        files[f"{CPU}/cpu{cpu}/topology/core_cpus_list"] = f"{cpu % 4},{cpu % 4 + 4}"
    return write(tmp_path, files)


# --- CPU lists --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0-3,8", (0, 1, 2, 3, 8)),
        ("5", (5,)),
        ("", ()),
        ("\n", ()),
        ("3,1,2-2\n", (1, 2, 3)),
        (" 0 , 2 ", (0, 2)),
        ("0-1,1-2", (0, 1, 2)),
    ],
)
def test_parse_cpu_list(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a", "neither a CPU number nor a range"),
        ("1,,2", "neither"),
        (",", "neither"),
        ("-1", "neither"),
        ("1-", "neither"),
        ("1-2-3", "neither"),
        ("0-7:2/4", "neither"),
        ("+1", "neither"),
        ("1_0", "neither"),
        ("\u0663", "neither"),
        ("0x1", "neither"),
        ("3-1", "runs backwards"),
        ("65536", "larger than 65535"),
        ("0-4294967295", "neither"),
        ("1" * 100_000, "neither"),
    ],
)
def test_a_wrong_cpu_list_names_the_wrong_part(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_cpu_list(text)


@given(st.sets(CPU_NUMBERS))
def test_a_formatted_list_reads_back(cpus: set[int]) -> None:
    assert parse_cpu_list(format_cpu_list(cpus)) == tuple(sorted(cpus))


@given(st.sets(CPU_NUMBERS))
def test_a_formatted_list_is_the_shortest(cpus: set[int]) -> None:
    text = format_cpu_list(cpus)
    parts = text.split(",") if text else []
    starts = sum(1 for cpu in cpus if cpu - 1 not in cpus)
    assert len(parts) == starts


@given(st.lists(st.tuples(CPU_NUMBERS, st.integers(0, 20)), max_size=10))
def test_any_order_and_overlap_of_ranges_is_the_union(ranges: list[tuple[int, int]]) -> None:
    ranges = [(first, min(first + more, MAX_CPU)) for first, more in ranges]
    text = ",".join(f"{first}-{last}" for first, last in ranges)
    union = {cpu for first, last in ranges for cpu in range(first, last + 1)}
    assert parse_cpu_list(text) == tuple(sorted(union))


@given(st.text(max_size=20))
def test_any_text_is_a_list_or_a_value_error(text: str) -> None:
    try:
        cpus = parse_cpu_list(text)
    except ValueError:
        return
    assert parse_cpu_list(format_cpu_list(cpus)) == cpus


# --- reading a host ---------------------------------------------------------------------------


def test_nodes_have_their_online_cpus_and_may_be_memory_only(two_nodes: Path) -> None:
    topology = Topology.read(two_nodes, affinity=range(8))
    assert topology.online == (0, 1, 2, 3, 4, 5, 6)
    assert topology.nodes == {0: (0, 1, 4, 5), 1: (2, 3, 6), 2: ()}


def test_siblings_are_the_online_threads_of_the_core(two_nodes: Path) -> None:
    topology = Topology.read(two_nodes, affinity=range(8))
    assert topology.siblings[0] == topology.siblings[4] == (0, 4)
    assert topology.siblings[3] == (3,)  # its sibling 7 is offline


def test_an_empty_sysfs_is_one_node_of_the_cpus_that_we_may_use(tmp_path: Path) -> None:
    topology = Topology.read(tmp_path, affinity=[0, 1])
    assert (topology.online, topology.nodes) == ((0, 1), {0: (0, 1)})
    assert resolve("any", topology) == (0, 1)


def test_this_host_can_be_read() -> None:
    topology = Topology.read()
    assert set(topology.affinity) == os.sched_getaffinity(0)
    assert set(topology.affinity) <= set(topology.allowed) <= set(topology.online)


# --- placements -------------------------------------------------------------------------------


def test_one_thread_of_each_core_comes_first(two_nodes: Path) -> None:
    topology = Topology.read(two_nodes, affinity=range(8))
    assert resolve("node:0", topology) == (0, 1, 4, 5)
    assert resolve("node:1", topology) == (2, 3, 6)
    assert resolve("any", topology) == (0, 1, 2, 3, 4, 5, 6)


def test_adjacent_numbering_of_threads_is_seen_too(tmp_path: Path) -> None:
    files = {f"{CPU}/online": "0-3"}
    for cpu in range(4):
        siblings = f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}"
        files[f"{CPU}/cpu{cpu}/topology/thread_siblings_list"] = siblings
    topology = Topology.read(write(tmp_path, files), affinity=range(4))
    assert resolve("any", topology) == (0, 2, 1, 3)


def test_a_placement_stays_within_our_affinity(two_nodes: Path) -> None:
    topology = Topology.read(two_nodes, affinity=[1, 4, 5, 6])
    assert resolve("node:0", topology) == (1, 4, 5)
    assert resolve("node:1", topology) == (6,)
    assert set(resolve("any", topology)) == {1, 4, 5, 6}
    with pytest.raises(HostError, match=r"may not run on CPU 0, only on 1,4-6; see taskset"):
        resolve("cpu:0-1", topology)


@given(st.sets(st.integers(0, 15), min_size=1), st.sets(st.integers(0, 15), min_size=1))
def test_no_placement_leaves_what_is_allowed(affinity: set[int], online: set[int]) -> None:
    topology = Topology(
        online=tuple(sorted(online)),
        nodes={0: tuple(sorted(cpu for cpu in online if cpu < 8)), 1: ()},
        siblings={cpu: (cpu,) for cpu in online},
        isolated=(),
        affinity=tuple(sorted(affinity & online)),
        allowed=tuple(sorted(affinity & online)),
    )
    for spec in ("any", "node:0", "node:1", "cpu:0-3", "cpu:9"):
        try:
            cpus = resolve(spec, topology)
        except HostError:
            continue
        assert cpus
        assert set(cpus) <= affinity & online


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("node:3", "no node 3; it has nodes 0, 1, 2"),
        ("node:2", "node 2 has memory but no online CPU"),
        ("cpu:7", "this host has no CPU 7; its online CPUs are 0-6"),
        ("cpu:5-9", "this host has no CPU 7-9"),
        ("cpu:", "expected node:N"),
        ("cpu:x", "neither a CPU number nor a range"),
        ("node:-1", "expected node:N"),
        ("node:", "expected node:N"),
        ("socket:0", "expected node:N, cpu:LIST .* or any"),
        ("", "expected node:N"),
        ("any:1", "expected node:N"),
    ],
)
def test_an_impossible_placement_says_what_there_is(
    spec: str, complaint: str, two_nodes: Path
) -> None:
    with pytest.raises(HostError, match=complaint):
        resolve(spec, Topology.read(two_nodes, affinity=range(8)))


def test_a_node_that_our_affinity_excludes_is_a_host_error(two_nodes: Path) -> None:
    with pytest.raises(HostError, match=r"may not run on node 1 \(CPUs 2-3,6\), only on CPUs 0-1"):
        resolve("node:1", Topology.read(two_nodes, affinity=[0, 1]))


def test_isolated_cpus_are_used_when_named_and_only_then(two_nodes: Path) -> None:
    write(two_nodes, {f"{CPU}/isolated": "2-3,5-6"})
    topology = Topology.read(two_nodes, affinity=[0, 1, 4])  # what isolcpus= leaves to a process
    assert topology.isolated == (2, 3, 5, 6)
    assert resolve("cpu:2,5", topology) == (2, 5)
    assert resolve("node:0", topology) == (0, 1, 4)
    with pytest.raises(HostError, match=r"all CPUs of node 1 are isolated; name them: cpu:2-3,6"):
        resolve("node:1", topology)


def test_isolated_cpus_outside_of_our_cpuset_are_not_ours(two_nodes: Path) -> None:
    write(
        two_nodes,
        {
            f"{CPU}/isolated": "2-3,5-6",
            "proc/self/cgroup": "0::/box/inner",
            "proc/self/mountinfo": "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
            "sys/fs/cgroup/box/cpuset.cpus.effective": "0-3",
        },
    )
    topology = Topology.read(two_nodes, affinity=[0, 1])
    assert topology.allowed == (0, 1, 2, 3)
    with pytest.raises(HostError, match="may not run on CPU 5"):
        resolve("cpu:5", topology)


# --- cgroups ----------------------------------------------------------------------------------

V2 = {
    "proc/self/cgroup": "0::/a/b",
    "proc/self/mountinfo": (
        "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
    ),
}
V1 = {
    "proc/self/cgroup": "4:cpu,cpuacct:/docker/1\n3:cpuset:/docker/1\n0::/x",
    "proc/self/mountinfo": (
        "40 24 0:30 /docker/1 /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "41 24 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset"
    ),
}


def test_the_tightest_quota_of_all_ancestors_counts(tmp_path: Path) -> None:
    write(
        tmp_path,
        V2
        | {
            "sys/fs/cgroup/a/cpu.max": "150000 100000",
            "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
        },
    )
    assert cgroups.cpu_quota(tmp_path) == 1.5


def test_no_quota_is_no_limit(tmp_path: Path) -> None:
    assert cgroups.cpu_quota(tmp_path) is None
    write(tmp_path, V2 | {"sys/fs/cgroup/a/b/cpu.max": "max 100000"})
    assert cgroups.cpu_quota(tmp_path) is None


def test_version_1_in_a_container_that_sees_its_group_as_the_root(tmp_path: Path) -> None:
    write(
        tmp_path,
        V1
        | {
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpuset/docker/1/cpuset.cpus": "2-3",
        },
    )
    assert cgroups.cpu_quota(tmp_path) == 0.5
    assert cgroups.cpuset(tmp_path) == "2-3"


def test_version_1_without_a_quota(tmp_path: Path) -> None:
    write(
        tmp_path,
        V1
        | {
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
    )
    assert cgroups.cpu_quota(tmp_path) is None
