# SPDX-License-Identifier: Apache-2.0
"""Compares the environments of two runs: are they the same hardware, and what changed?

:data:`FACTS` is the table. A fact is "hardware" if times of hosts that differ in it are not
comparable. It is "tested" if you may want to measure its effect (kernel, microcode, settings). It
is "shown" if it says nothing by itself. An environment comes from a manifest, which can be foreign.
A value of an unexpected shape is taken as text, and a missing fact is unknown, not different. Facts
that change by themselves (load, free memory) are not in the table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kickbench.results.schema import dig, one_line

UNKNOWN = "unknown"
NONE = "none"

_LONGEST = 300

_PER_BOOT = ("BOOT_IMAGE", "initrd")
"""Kernel parameters that name the file of the kernel, and so change with its version."""


@dataclass(frozen=True)
class Fact:
    """One fact, or one of each key of a mapping, at ``path`` of an environment.

    ``read`` turns the value into one that can be compared and shown.
    """

    title: str
    path: tuple[str, ...]
    role: Literal["hardware", "tested", "shown"]
    read: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True)
class Change:
    """A fact that differs. If it ``blocks``, the times of the two runs are not comparable."""

    title: str
    before: str
    after: str
    blocks: bool


def _layout(nodes: object) -> object:
    """The NUMA nodes without their memory, because each kernel reports another amount."""
    if not isinstance(nodes, Mapping) or not nodes:
        return None
    words = []
    for name, node in sorted(nodes.items(), key=lambda item: str(item[0])):
        of_node = node if isinstance(node, Mapping) else {}
        distances = of_node.get("distances")
        far = "/".join(map(str, distances)) if isinstance(distances, list) else ""
        words.append(f"node {name}: CPUs {of_node.get('cpus')}" + (f" at {far}" if far else ""))
    return "; ".join(words)


def _gib(kib: object) -> object:
    return f"{kib / 2**20:.0f} GiB" if isinstance(kib, int) and 0 <= kib < 2**53 else None


def _hypervisor(virtualization: object) -> object:
    """The hypervisor of the host; "bare metal" if the environment says that there is none."""
    if not isinstance(virtualization, Mapping):
        return None
    name = virtualization.get("hypervisor")
    return "bare metal" if name is None and virtualization.get("nested") is False else name


FACTS = (
    Fact("CPU", ("cpu", "model"), "hardware"),
    Fact("CPU vendor", ("cpu", "vendor"), "hardware"),
    Fact("CPU family", ("cpu", "family"), "hardware"),
    Fact("CPU model number", ("cpu", "model_number"), "hardware"),
    Fact("CPU stepping", ("cpu", "stepping"), "hardware"),
    Fact("architecture", ("kernel", "machine"), "hardware"),
    Fact("CPUs online", ("cpu", "online"), "hardware"),
    Fact("NUMA nodes", ("nodes",), "hardware", _layout),
    Fact("hypervisor", ("virtualization",), "hardware", _hypervisor),
    Fact("kernel", ("kernel", "release"), "tested"),
    Fact("kernel build", ("kernel", "version"), "tested"),
    Fact("kernel command line", ("kernel", "cmdline"), "tested"),
    Fact("preemption", ("kernel", "preempt"), "tested"),
    Fact("real-time kernel", ("kernel", "realtime"), "tested"),
    Fact("lockdown", ("kernel", "lockdown"), "tested"),
    Fact("microcode", ("cpu", "microcode"), "tested"),
    Fact("mitigation of", ("mitigations",), "tested"),
    Fact("module parameter", ("kvm_modules",), "tested"),
    Fact("CPUs allowed", ("cpu", "affinity"), "tested"),
    Fact("isolated CPUs", ("cpu", "isolated"), "tested"),
    Fact("nohz_full CPUs", ("cpu", "nohz_full"), "tested"),
    Fact("SMT", ("cpu", "smt"), "tested"),
    Fact("CPU quota", ("limits", "cpu_quota_cpus"), "tested"),
    Fact("seccomp filters", ("limits", "seccomp_filters"), "tested"),
    Fact("container", ("virtualization", "container"), "tested"),
    Fact("governor", ("frequency", "governors"), "tested"),
    Fact("frequency driver", ("frequency", "driver"), "tested"),
    Fact("lowest frequency (kHz)", ("frequency", "min_khz"), "tested"),
    Fact("highest frequency (kHz)", ("frequency", "max_khz"), "tested"),
    Fact("turbo", ("frequency", "turbo"), "tested"),
    Fact("energy preference", ("frequency", "energy_performance_preference"), "tested"),
    Fact("idle driver", ("frequency", "idle_driver"), "tested"),
    Fact("idle governor", ("frequency", "idle_governor"), "tested"),
    Fact("clock source", ("clocksource", "current"), "tested"),
    Fact("memory", ("memory", "total_kib"), "tested", _gib),
    Fact("transparent huge pages", ("memory", "transparent_hugepages"), "tested"),
    Fact("huge pages", ("memory", "hugepages"), "tested"),
    Fact("KSM", ("memory", "ksm"), "tested"),
    Fact("NUMA balancing", ("memory", "numa_balancing"), "tested"),
    Fact("kickbench", ("software", "kickbench"), "tested"),
    Fact("Python", ("software", "python"), "tested"),
    Fact("C library", ("software", "libc"), "tested"),
    Fact("library", ("software", "libraries"), "tested"),
    Fact("protocol", ("protocols",), "tested"),
    Fact("host name", ("hostname",), "shown"),
    Fact("installation", ("machine_id",), "shown"),
)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Every fact that differs, in the order of the table, but those that block first.

    A fact that one of the two does not have is "unknown" there, and never blocks. If one side has
    no fact of a group (mitigations, module parameters), the group has a single line.
    """
    found: list[Change] = []
    for fact in FACTS:
        found += _changes_of(fact, before, after)
    return sorted(found, key=lambda change: not change.blocks)


def fingerprint_facts(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that identify a host's history: CPU model, node layout, kernel command line.

    The kernel's version and the microcode are not among them, because a history tests these.
    Parameters of the command line that only name the kernel's file are not among them either.
    """
    return {
        "cpu": _text(dig(environment, "cpu", "model")),
        "nodes": _text(_layout(dig(environment, "nodes"))),
        "kernel_command_line": _command_line(environment),
    }


def fingerprint(environment: Mapping[str, Any]) -> str:
    """12 hexadecimal digits that are the same for hosts alike in :func:`fingerprint_facts`."""
    facts = json.dumps(fingerprint_facts(environment), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:12]


# --- one fact ----------------------------------------------------------------------------------


def _changes_of(
    fact: Fact, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[Change]:
    if fact.path == ("kernel", "cmdline"):
        yield from _command_line_changes(fact, before, after)
        return
    old, new = (fact.read(dig(side, *fact.path)) for side in (before, after))
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old and new:
        for name in dict.fromkeys([*_flat(old), *_flat(new)]):
            texts = [_text(_flat(side).get(name)) for side in (old, new)]
            yield from _change(fact, f"{fact.title} {name}", *texts)
        return
    yield from _change(fact, fact.title, _text(old), _text(new))


def _change(fact: Fact, title: str, before: str | None, after: str | None) -> Iterator[Change]:
    if before == after:
        return
    blocks = fact.role == "hardware" and before is not None and after is not None
    yield Change(one_line(title)[:_LONGEST], before or UNKNOWN, after or UNKNOWN, blocks)


def _flat(value: Mapping[str, Any]) -> dict[str, Any]:
    """One level of nesting undone: {"kvm": {"tdp_mmu": "N"}} is {"kvm.tdp_mmu": "N"}."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= {f"{key}.{name}": inner for name, inner in item.items()}
        else:
            flat[str(key)] = item
    return flat


def _text(value: object) -> str | None:
    """A fact as a line; None if it is not known, "none" if it is known to be empty."""
    match value:
        case None:
            return None
        case bool():
            return "yes" if value else "no"
        case Mapping():
            text = f"{len(value)} known" if value else UNKNOWN
        case list() | tuple():
            text = ", ".join(_text(item) or UNKNOWN for item in value) or UNKNOWN
        case _:
            text = one_line(str(value)[: 4 * _LONGEST]) or NONE
    return None if text == UNKNOWN else text[:_LONGEST]


# --- the kernel's command line -----------------------------------------------------------------


def _command_line(environment: Mapping[str, Any]) -> str | None:
    """The kernel's parameters, without those that change with its version alone."""
    text = dig(environment, "kernel", "cmdline")
    if not isinstance(text, str):
        return None
    release = dig(environment, "kernel", "release")
    words = [word for word in text.split() if word.partition("=")[0] not in _PER_BOOT]
    if isinstance(release, str) and release:
        words = [word.replace(release, "*") for word in words]
    return " ".join(words)


def _command_line_changes(
    fact: Fact, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[Change]:
    """Only the parameters that differ, because a command line is long to read."""
    old, new = _command_line(before), _command_line(after)
    if old is None or new is None:
        # One side is not known, so the differing parameters are not known either.
        texts = (None if side is None else _text(side) for side in (old, new))
        yield from _change(fact, fact.title, *texts)
    elif old != new:
        left, right = old.split(), new.split()
        only_left = " ".join(word for word in left if word not in right)
        only_right = " ".join(word for word in right if word not in left)
        if only_left or only_right:
            yield from _change(fact, fact.title, _text(only_left), _text(only_right))
        else:  # the same parameters in another order, of which the last counts
            yield from _change(fact, f"{fact.title} (order)", _text(old), _text(new))
