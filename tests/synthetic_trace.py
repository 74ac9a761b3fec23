# SPDX-License-Identifier: Apache-2.0
"""Traces as the plugin writes them, of few instructions."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kickbench.lab.explain.trace import (
    BEGIN,
    CODE,
    END,
    EXECUTED,
    PAUSE,
    PAUSED,
    SECTION,
    SENT,
    Trace,
)

RDTSCP, RDTSC, NOP = bytes([0x0F, 0x01, 0xF9]), bytes([0x0F, 0x31]), b"\x90"
STAMP, PLAIN, KERNEL_STAMP, OTHER_MARK, HAS_SENT, VDSO_STAMP = 3, 4, 5, 6, 7, 8
BEGIN_PAUSE, END_PAUSE, L1_STAMP, WAITING = 9, 10, 11, 12
SLOTS = 4
"""Fewer than the plugin has, so that pages share one."""
LOOPS = [(0x1000, 0x2000)]


def mark(number: int) -> bytes:
    return bytes([0x0F, 0x1F, 0x84, 0x00]) + struct.pack("<I", 0x4B420000 + number)


# The number of each instruction is its place.
INSTRUCTIONS = [
    (0x1000, mark(SECTION)),
    (0x1010, mark(BEGIN)),
    (0x1020, mark(END)),
    (0x1030, RDTSCP),
    (0x1040, NOP),
    (0xFFFF_FFFF_8100_0000, RDTSCP),
    (0x1060, mark(0x77)),
    (0x1070, mark(SENT)),
    (0x7FFD_0000_0A00, RDTSCP),
    (0x1080, mark(PAUSE)),
    (0x1090, mark(PAUSED)),
    (0x10A0, RDTSC),
    (0x10B0, NOP),
]


@dataclass
class Writer:
    """Writes what the plugin writes."""

    entries: list[int] = field(default_factory=list)
    cpu: int | None = None
    pages: dict[int, tuple[int, int]] = field(default_factory=dict)

    def execute(self, number: int, cpu: int = 0) -> None:
        if number == SECTION:
            self.cpu = None
            self.pages.clear()
        else:
            self._on(cpu)
        self.entries.append(EXECUTED << 28 | number)

    def touch(self, what: int, place: int, vaddr: int, cpu: int = 0) -> None:
        virtual = (vaddr >> 63) << 36 | (vaddr & (1 << 48) - 1) >> 12
        slot, page = virtual % SLOTS, (virtual, place >> 12)
        if self.pages.get(slot) != page:
            self.pages[slot] = page
            bits = page[0] << 35 | page[1]
            more = [5 << 28 | bits >> shift & 0xFFFFFF for shift in (48, 24, 0)]
            self.entries += [4 << 28 | slot, *more]
        self._on(cpu)
        self.entries.append(what << 28 | slot << 12 | vaddr & 0xFFF)

    def _on(self, cpu: int) -> None:
        if self.cpu != cpu:
            self.entries.append(3 << 28 | cpu)
            self.cpu = cpu

    def write(self, path: Path) -> Trace:
        code = np.zeros(len(INSTRUCTIONS), CODE)
        for record, (vaddr, raw) in zip(code, INSTRUCTIONS, strict=True):
            record["vaddr"], record["size"] = vaddr, len(raw)
            record["bytes"][: len(raw)] = np.frombuffer(raw, np.uint8)
        code.tofile(f"{path}.code")
        np.array(self.entries, "<u4").tofile(f"{path}.trace")
        return Trace.read(path, LOOPS)
