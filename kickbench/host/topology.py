# SPDX-License-Identifier: Apache-2.0
"""CPUs, nodes and siblings of this host, and which CPUs a placement means.

It reads sysfs and this process's limits; it does not pin anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kickbench.cpu_list import format_cpu_list, parse_cpu_list
from kickbench.errors import HostError
from kickbench.host import cgroups
from kickbench.host.files import numbered, read_int, read_text
from kickbench.text import shorten


@dataclass(frozen=True)
class Topology:
    """The host's CPUs as this process may use them.

    ``nodes`` has the online CPUs of every node, () for a node that has only memory. ``siblings``
    has, for every online CPU, the online threads of its core. ``isolated`` CPUs (isolcpus=, or an
    isolated cpuset partition) are outside the scheduler's balancing and hence outside the usual
    affinity. ``affinity`` is where this process runs if nobody pins it; ``allowed`` adds the
    isolated CPUs of its cpuset, where it runs when pinned there.
    """

    online: tuple[int, ...]
    nodes: Mapping[int, tuple[int, ...]]
    siblings: Mapping[int, tuple[int, ...]]
    isolated: tuple[int, ...]
    affinity: tuple[int, ...]
    allowed: tuple[int, ...]

    @classmethod
    def read(cls, root: str | Path = "/", affinity: Iterable[int] | None = None) -> Topology:
        """Read sysfs below ``root``; ``affinity`` replaces this process's own in tests."""
        mine = tuple(sorted(os.sched_getaffinity(0) if affinity is None else affinity))
        online = _cpus(root, "/sys/devices/system/cpu/online") or mine
        nodes = {
            node: _intersect(_cpus(root, f"/sys/devices/system/node/node{node}/cpulist"), online)
            for node in numbered(root, "/sys/devices/system/node", "node")
        }
        cpuset = _parse_or_nothing(cgroups.cpuset(root)) or online
        isolated = _intersect(_cpus(root, "/sys/devices/system/cpu/isolated"), online)
        return cls(
            online=online,
            nodes=nodes or {0: online},
            siblings={cpu: _siblings(root, cpu, online) for cpu in online},
            isolated=isolated,
            affinity=_intersect(mine, online),
            allowed=tuple(
                cpu for cpu in online if cpu in mine or (cpu in isolated and cpu in cpuset)
            ),
        )

    def cores_first(self, cpus: Iterable[int]) -> tuple[int, ...]:
        """``cpus`` in the order in which to use them: one thread of each core, then the rest."""
        chosen = sorted(set(cpus))

        def rank(cpu: int) -> tuple[int, int]:
            core = [thread for thread in self.siblings.get(cpu, (cpu,)) if thread in chosen]
            return core.index(cpu), cpu

        return tuple(sorted(chosen, key=rank))


def distances(node: int, root: str | Path = "/") -> list[int]:
    """The distances of a node to all nodes in their order, as its firmware says (SLIT).

    10 is the distance to itself; empty if sysfs does not tell.
    """
    text = read_text(root, f"/sys/devices/system/node/node{node}/distance") or ""
    return [int(distance) for distance in text.split() if distance.isdigit()]


def place(cpu: int, root: str | Path = "/") -> tuple[int | None, int | None]:
    """The node and the package (socket) of an online CPU; None for what sysfs does not tell."""
    folder = f"/sys/devices/system/cpu/cpu{cpu}"
    node = next(iter(numbered(root, folder, "node")), None)
    return node, read_int(root, f"{folder}/topology/physical_package_id")


def missing_cpus(cpus: Iterable[int], root: str | Path = "/") -> dict[int, str]:
    """Those of ``cpus`` that this process cannot use at this moment, each with what became of it:
    the predicate of a sentence, such as "went offline"."""
    online = _cpus(root, "/sys/devices/system/cpu/online")
    granted = _parse_or_nothing(cgroups.cpuset(root))
    missing = {}
    for cpu in sorted(set(cpus)):
        if online and cpu not in online:
            missing[cpu] = "went offline"
        elif granted and cpu not in granted:
            missing[cpu] = "was taken from this process's cpuset"
    return missing


def nodes_with_memory(root: str | Path = "/") -> tuple[int, ...]:
    """The NUMA nodes that have memory; () on a kernel without NUMA."""
    return _cpus(root, "/sys/devices/system/node/has_memory")


def resolve(spec: str, topology: Topology) -> tuple[int, ...]:
    """The CPUs that a placement means on this host, in the order in which to use them.

    ``node:N``: the node's CPUs of this process's affinity, one thread of each core first;
    ``any``: the same for all nodes; ``cpu:LIST``: exactly those, ascending, and isolated ones may
    be among them. Never empty. Raises HostError that says what the host has instead.
    """
    kind, _, value = spec.partition(":")
    if spec == "any" and topology.affinity:
        return topology.cores_first(topology.affinity)
    if kind == "node" and re.fullmatch("[0-9]+", value):
        return _resolve_node(int(value), topology)
    if kind == "cpu":
        try:
            cpus = parse_cpu_list(value)
        except ValueError as error:
            raise HostError(f"placement {spec!r}: {error}") from error
        if cpus:
            return _resolve_cpus(spec, cpus, topology)
    raise HostError(
        f"placement {shorten(spec, 40)!r}: expected node:N, cpu:LIST (such as cpu:0-3,8) or any"
    )


def _resolve_node(node: int, topology: Topology) -> tuple[int, ...]:
    if node not in topology.nodes:
        nodes = ", ".join(map(str, topology.nodes))
        raise HostError(
            f"this host has no node {node}; it has {_plural('node', topology.nodes)} {nodes}"
        )
    online = topology.nodes[node]
    if not online:
        raise HostError(f"node {node} has memory but no online CPU")
    cpus = _intersect(online, topology.affinity)
    if not cpus and _intersect(online, topology.allowed):
        raise HostError(
            f"all CPUs of node {node} are isolated; name them: cpu:{format_cpu_list(online)}"
        )
    if not cpus:
        raise HostError(
            f"this process may not run on node {node} (CPUs {format_cpu_list(online)}), only on "
            f"CPUs {format_cpu_list(topology.allowed)}; see taskset and the cgroup's cpuset"
        )
    return topology.cores_first(cpus)


def _resolve_cpus(spec: str, cpus: tuple[int, ...], topology: Topology) -> tuple[int, ...]:
    offline = [cpu for cpu in cpus if cpu not in topology.online]
    if offline:
        raise HostError(
            f"placement {spec!r}: this host has no CPU {format_cpu_list(offline)}; its online CPUs "
            f"are {format_cpu_list(topology.online)}"
        )
    forbidden = [cpu for cpu in cpus if cpu not in topology.allowed]
    if forbidden:
        raise HostError(
            f"placement {spec!r}: this process may not run on CPU {format_cpu_list(forbidden)}, "
            f"only on {format_cpu_list(topology.allowed)}; see taskset and the cgroup's cpuset"
        )
    return cpus


def _cpus(root: str | Path, path: str) -> tuple[int, ...]:
    return _parse_or_nothing(read_text(root, path))


def _parse_or_nothing(text: str | None) -> tuple[int, ...]:
    try:
        return parse_cpu_list(text or "")
    except ValueError:
        return ()


def _siblings(root: str | Path, cpu: int, online: tuple[int, ...]) -> tuple[int, ...]:
    folder = f"/sys/devices/system/cpu/cpu{cpu}/topology"
    threads = _cpus(root, f"{folder}/core_cpus_list") or _cpus(
        root, f"{folder}/thread_siblings_list"
    )
    return _intersect(threads, online) or (cpu,)


def _intersect(some: Iterable[int], others: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(some) & set(others)))


def _plural(word: str, things: Mapping[int, object]) -> str:
    return word if len(things) == 1 else word + "s"
