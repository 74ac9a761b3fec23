# SPDX-License-Identifier: Apache-2.0
"""Finds out which CPUs are alike.

A hybrid processor has fast cores and slow ones, and an exit costs more on the slow ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kickbench.cpu_list import format_cpu_list, parse_cpu_list
from kickbench.host import midr
from kickbench.host.files import read_int, read_text

CPU = "/sys/devices/system/cpu"
TYPES = ("cpu_core", "cpu_atom", "cpu_lowpower")
"""The PMUs of a hybrid processor, one for each type of core (arch/x86/events/intel/core.c)."""
ALIKE = 1.1
"""The fastest core to the slowest: preferred cores of one type differ by some per cent."""


@dataclass(frozen=True)
class Kind:
    """CPUs that the kernel describes alike. None: it does not tell.

    ``type`` is one of TYPES, on hybrid processors only, or the name of the core where its CPU tells
    (:mod:`kickbench.host.midr`). ``capacity`` is the scheduler's
    (cpu_capacity, 1024 is the most), ``max_khz`` the highest frequency (cpuinfo_max_freq).
    """

    cpus: tuple[int, ...]
    type: str | None
    capacity: int | None
    max_khz: int | None

    def __str__(self) -> str:
        facts = [
            self.type,
            None if self.max_khz is None else f"{self.max_khz / 1e3:.0f} MHz",
            None if self.capacity is None else f"capacity {self.capacity}",
        ]
        word = "CPU" if len(self.cpus) == 1 else "CPUs"
        return f"{word} {format_cpu_list(self.cpus)}: " + ", ".join(filter(None, facts))


def kinds(cpus: Iterable[int], root: str | Path = "/") -> list[Kind]:
    """The CPUs by kind, in the order of their first CPU."""
    types = {cpu: name for name in TYPES for cpu in _cpus_of_type(name, root)}
    found: dict[tuple[str | None, int | None, int | None], list[int]] = {}
    for cpu in sorted(cpus):
        capacity = read_int(root, f"{CPU}/cpu{cpu}/cpu_capacity")
        max_khz = read_int(root, f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq")
        core = midr.read(cpu, root)
        type_ = types.get(cpu) if core is None else core.name
        found.setdefault((type_, capacity, max_khz), []).append(cpu)
    return [Kind(tuple(some), *facts) for facts, some in found.items()]


def are_alike(some: Sequence[Kind]) -> bool:
    """Whether a figure may be pooled over CPUs of these kinds."""
    return (
        len({kind.type for kind in some}) <= 1
        and _spread([kind.capacity for kind in some]) <= ALIKE
        and _spread([kind.max_khz for kind in some]) <= ALIKE
    )


def mixture(vcpu_cpus: Iterable[int], root: str | Path = "/") -> str | None:
    """A warning if vCPUs on these CPUs are not alike; None if they are."""
    found = kinds(set(vcpu_cpus), root)
    if are_alike(found):
        return None
    return f"vCPUs on fast and on slow cores are in one figure: {'; '.join(map(str, found))}"


def _spread(values: Iterable[int | None]) -> float:
    known = [value for value in values if value is not None and value > 0]
    return max(known) / min(known) if known else 1.0


def _cpus_of_type(name: str, root: str | Path) -> tuple[int, ...]:
    try:
        return parse_cpu_list(read_text(root, f"/sys/devices/{name}/cpus") or "")
    except ValueError:
        return ()
