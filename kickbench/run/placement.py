# SPDX-License-Identifier: Apache-2.0
"""Compares where the threads and the memory of a case are with the case's placement.

A placement is a request. This module asks the kernel for the result: the nodes of pages, by
move_pages(2), and the CPU of each thread at the end of each block. The worker imports it: standard
library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kickbench.cpu_list import format_cpu_list, parse_cpu_list
from kickbench.engine.engine import PARTS, Engine, nodes_of
from kickbench.guest.loader import PAGE, Guest
from kickbench.host.topology import missing_cpus, nodes_with_memory, place
from kickbench.records import Records

LOOKS = 16
"""How many pages of a buffer are checked, spread over it."""
MEMORY = {
    "memory": "guest memory",
    "kvm_run": "struct kvm_run",
    "flag": "flag",
    "tls": "thread's stack",
    "samples": "sample buffer",
}
"""The parts of a vCPU's memory that are checked, each with its name in a sentence."""


def creator(cpus: Sequence[int] | None, seen: Iterable[int]) -> dict[str, Any]:
    """What case.json has of a process's creator. Its node is that of the process's siglock.

    ``cpus`` are the CPUs that the placement wants, None for any. ``seen`` are the CPUs that the
    creator was seen on.
    """
    ran_on = sorted(seen)
    nodes = {node for cpu in ran_on if (node := place(cpu)[0]) is not None}
    return {
        "cpus": None if cpus is None else format_cpu_list(cpus),
        "ran_on": format_cpu_list(ran_on),
        "nodes": sorted(nodes),
    }


class Whereabouts:
    """Notes where the threads of an engine run, and finds out at the end where their memory is."""

    def __init__(
        self,
        engine: Engine,
        guest: Guest,
        vcpu_cpus: Sequence[Sequence[int]],
        kicker_cpus: Sequence[int],
        samples_bytes: int,
    ) -> None:
        self._engine, self._guest = engine, guest
        self._vcpu_cpus, self._kicker_cpus = vcpu_cpus, kicker_cpus
        self._samples_bytes = samples_bytes
        # Asked while all CPUs are online: an offline CPU has no node.
        self._node = {cpu: place(cpu)[0] for cpus in [*vcpu_cpus, kicker_cpus] for cpu in cpus}
        self._seen: list[set[int]] = [set() for _ in vcpu_cpus]  # -1: not known
        self._kickers_seen: list[set[int]] = [set() for _ in engine.kicker_cpus()]

    def look(self, results: Records) -> None:
        """Note the CPUs of a round, from what :meth:`Engine.blocks` returned."""
        cpus = results["cpu"]
        for vcpu, seen_by in enumerate(self._seen):
            seen_by.update(cpus[vcpu :: len(self._seen)])
        for seen_by, cpu in zip(self._kickers_seen, self._engine.kicker_cpus()):
            seen_by.add(cpu)

    def facts(self) -> dict[str, Any]:
        """What case.json has of a process's vCPUs and kickers: see docs/results.md."""
        facts = {
            "vcpus": [
                self._thread(cpus, seen - {-1}) | memory
                for cpus, seen, memory in zip(self._vcpu_cpus, self._seen, self._memory())
            ],
            "kickers": [self._thread(self._kicker_cpus, ran) for ran in self._kickers_seen],
        }
        return {"as_asked": as_asked(facts), **facts}

    def _thread(self, cpus: Iterable[int], ran_on: Iterable[int]) -> dict[str, Any]:
        return {
            "cpus": format_cpu_list(cpus),
            "ran_on": format_cpu_list(ran_on),
            "nodes": sorted({node for cpu in cpus if (node := self._node[cpu]) is not None}),
        }

    def _memory(self) -> Iterator[dict[str, list[int] | None]]:
        """For each vCPU the nodes of its pages, by the names of MEMORY; None: not known."""
        pages: list[int] = []
        owners: list[dict[str, slice]] = []
        for vcpu in range(self._guest.n_vcpus):
            owners.append({})
            for name, (address, size) in self._parts(vcpu).items():
                some = _spread(address, size)
                owners[-1][name] = slice(len(pages), len(pages) + len(some))
                pages += some
        nodes = nodes_of(pages)
        for parts in owners:
            found = {
                name: sorted({node for node in nodes[part] if node is not None})
                for name, part in parts.items()
            }
            yield {name: some or None for name, some in found.items()}

    def _parts(self, vcpu: int) -> dict[str, tuple[int, int]]:
        """The address and the bytes of each part of MEMORY."""
        return {
            "memory": (self._guest.params_address(vcpu), self._guest.bytes_per_vcpu),
            "kvm_run": (self._guest.vcpus[vcpu].run_address, 1),
            **{name: (self._engine.address(name, vcpu), 1) for name in PARTS},
            "samples": (self._engine.address("samples", vcpu), self._samples_bytes),
        }


def as_asked(facts: Mapping[str, Any]) -> bool | None:
    """Whether threads and memory were where the placement wants them; None if it is not known."""
    if any(_moved(facts, "/")) or any(_elsewhere(facts["vcpus"])):
        return False
    return None if _no_node_is_known(facts["vcpus"]) else True


def remarks(facts: Mapping[str, Any], root: str | Path = "/") -> list[str]:
    """A sentence for each deviation from the placement, from the facts of a process."""
    return [*_moved(facts, root), *_elsewhere(facts["vcpus"]), *_unverified(facts["vcpus"], root)]


def _moved(facts: Mapping[str, Any], root: str | Path) -> Iterator[str]:
    """The kernel moves a thread when it loses the last of its CPUs."""
    vcpus = [(f"vCPU {index}", one) for index, one in enumerate(facts["vcpus"])]
    for who, thread in [*vcpus, *(("a kicker", one) for one in facts["kickers"])]:
        cpus, ran_on = parse_cpu_list(thread["cpus"]), parse_cpu_list(thread["ran_on"])
        others = set(ran_on) - set(cpus)
        if not others:
            continue
        why = missing_cpus(cpus, root)
        reasons = [f"CPU {cpu} {reason} during the case" for cpu, reason in why.items()]
        if not reasons:
            reasons = [f"CPU {thread['cpus']} was taken away for a while during the case"]
        yield f"{', '.join(reasons)}: {who}'s thread ran elsewhere (CPU {format_cpu_list(others)})"


def _elsewhere(vcpus: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    found: dict[tuple[str, str, str], list[int]] = {}
    for index, one in enumerate(vcpus):
        for name, words in MEMORY.items():
            nodes = one[name]
            if nodes is not None and one["nodes"] and not set(nodes) <= set(one["nodes"]):
                key = (words, format_cpu_list(nodes), format_cpu_list(one["nodes"]))
                found.setdefault(key, []).append(index)
    for (words, nodes, wanted), indices in found.items():
        yield (
            f"the {words} of {_vcpus(indices)} is on node {nodes}, and not on node {wanted} as the "
            "placement asks"
        )


def _unverified(vcpus: Sequence[Mapping[str, Any]], root: str | Path) -> Iterator[str]:
    """With one node all memory is where it should be."""
    if _no_node_is_known(vcpus) and len(nodes_with_memory(root)) > 1:
        yield (
            "the placement of memory is not verified: the kernel does not show the nodes of pages "
            "(move_pages(2) is not permitted or not built in); in a container, allow it in the "
            "seccomp profile"
        )


def _no_node_is_known(vcpus: Sequence[Mapping[str, Any]]) -> bool:
    """Whether no node is known. kvm_run is the driver's page, whose node older kernels hide."""
    known = [one[name] for one in vcpus for name in MEMORY if name != "kvm_run"]
    return bool(known) and all(nodes is None for nodes in known)


def _spread(address: int, size: int) -> list[int]:
    """Addresses in up to LOOKS pages of a buffer, its first and its last among them."""
    first, last = address // PAGE, (address + max(size, 1) - 1) // PAGE
    pages = {first + (last - first) * look // (LOOKS - 1) for look in range(LOOKS)}
    return [page * PAGE for page in sorted(pages)]


def _vcpus(indices: Sequence[int]) -> str:
    return f"vCPU{'s' * (len(indices) > 1)} {format_cpu_list(indices)}"
