# SPDX-License-Identifier: Apache-2.0
"""Lists of CPUs as people and the kernel write them: "0-3,8". Nothing here asks this host."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kickbench.text import shorten

MAX_CPU = 65535
"""Largest CPU number accepted in a list; Linux on x86 stops at 8191 (NR_CPUS)."""


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """The CPUs of a list such as ``"0-3,8"``, ascending, each once; ``""`` is no CPU.

    Format: "cpu lists" in the kernel's Documentation/admin-guide/kernel-parameters.rst, without
    the ``N-M:used/group`` form. Raises ValueError that names the wrong part.
    """
    cpus: set[int] = set()
    if not text.strip():
        return ()
    for part in text.strip().split(","):
        match = re.fullmatch(r"\s*([0-9]{1,5})(?:-([0-9]{1,5}))?\s*", part)
        if match is None:
            raise ValueError(
                f"{part.strip()!r} in the CPU list {shorten(text, 40)!r} is neither a CPU number "
                "nor a range such as 0-3"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(
                f"the range {part.strip()!r} in a CPU list runs backwards: write {last}-{first}"
            )
        if last > MAX_CPU:
            raise ValueError(f"CPU {last} in a CPU list is larger than {MAX_CPU}")
        cpus.update(range(first, last + 1))
    return tuple(sorted(cpus))


def format_cpu_list(cpus: Iterable[int]) -> str:
    """The shortest list that :func:`parse_cpu_list` reads back: ``(0, 1, 2, 8)`` -> ``"0-2,8"``."""
    ranges: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
