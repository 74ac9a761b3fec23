# SPDX-License-Identifier: Apache-2.0
"""Reads what the plugin wrote: which instructions a CPU executed, and which memory it touched.

A trace has *sections*, one for each block of a method. In a section, a CPU's instructions between
two marks (``kickbench/mark.h``) are a *stretch*, for example the block's exits. The stamps of
kickbench's own loop, RDTSCP or a read of arm64's CNTVCT_EL0, cut a stretch into *turns*, for
example one for each round trip of KVM_RUN. A stamp belongs to the turn that it begins. So a turn
has as many instructions as the clock of a machine that counts instructions says. The kernel's vDSO
has such stamps as well: any thread that asks for the time executes it, and it is no stamp. The
guest hypervisor's stamps are RDTSC.

:mod:`kickbench.lab.explain.events` finds what several CPUs do together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXECUTED, READ, WROTE, AT = 0, 1, 2, 3
"""What an entry says. AT has the virtual address of the access before it."""
SECTION, BEGIN, END, SENT, PAUSE, PAUSED = 0, 1, 2, 3, 4, 5
"""The marks, as in kickbench/mark.h."""

NOT_RARE = 0.1
"""The share of the turns that the usual one has at least."""

CODE = np.dtype([("vaddr", "<u8"), ("size", "u1"), ("bytes", "u1", 15)])
"""A record of FILE.code: an instruction, as it was translated."""

_MARK = np.array([0x0F, 0x1F, 0x84, 0x00], np.uint8)
_MARKS = 0x4B420000
_STAMPS = (np.array([0x0F, 0x01, 0xF9], np.uint8), np.array([0x0F, 0x31], np.uint8))
# On arm64, of an instruction's word: movz xzr, #(_ARM64_MARKS + N), and mrs of CNTVCT_EL0.
_ARM64_MARK, _ARM64_MARK_MASK, _ARM64_MARKS = 0xD280001F, 0xFFE0001F, 0x4B00
_ARM64_STAMP, _ARM64_STAMP_MASK = 0xD53BE040, 0xFFFFFFE0
# The entries of FILE.trace, as in plugin.c. AT is none of them.
_CPU, _PAGE, _MORE = 3, 4, 5
_WHAT_SHIFT, _PAGE_SHIFT, _VPAGE_BITS, _MORE_BITS = 28, 12, 37, 24
VADDR_BITS = _VPAGE_BITS + _PAGE_SHIFT
"""How many bits an AT has: the lower 48 of an address, and its highest one."""


@dataclass(frozen=True)
class Stretch:
    """What one CPU executed between two marks: numbers of records in :attr:`Trace.code`, in order.

    ``stamps`` are the positions of the stamps in it.
    """

    executed: NDArray[np.int64]
    stamps: NDArray[np.int64]

    def turns(self) -> list[NDArray[np.int64]]:
        """What was executed from each stamp to the next."""
        return [self.executed[a:b] for a, b in pairwise(self.stamps.tolist())]


@dataclass(frozen=True)
class Section:
    """The entries of a block of a method, in the order in which the CPUs made them.

    ``kinds`` says what each is. ``marks`` has the number of the mark that was executed, or -1, and
    ``stamps`` whether a stamp was.
    """

    cpus: NDArray[np.uint8]
    values: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    marks: NDArray[np.int64]
    stamps: NDArray[np.bool_]

    def stretches(self) -> list[Stretch]:
        """What each CPU executed between two marks of its own, in the order in which they ended."""
        found: list[tuple[int, Stretch]] = []
        for cpu in np.unique(self.cpus).tolist():
            own = np.flatnonzero((self.cpus == cpu) & (self.kinds == EXECUTED))
            for begin, end in self.between_marks(cpu, END):
                part = own[np.searchsorted(own, begin) : np.searchsorted(own, end) + 1]
                executed = self.values[part]
                found.append((end, Stretch(executed, np.flatnonzero(self.stamps[part]))))
        return [stretch for _, stretch in sorted(found, key=lambda one: one[0])]

    def stamp_after(self, cpu: int, place: int) -> int | None:
        """A CPU's first stamp after this place."""
        own = self._stamps_of(cpu)
        index = int(np.searchsorted(own, place, side="right"))
        return int(own[index]) if index < own.size else None

    def stamp_before(self, place: int) -> int:
        """The last stamp before this place, of the same CPU; -1 if there is none."""
        own = self._stamps_of(int(self.cpus[place]))
        index = int(np.searchsorted(own, place)) - 1
        return int(own[index]) if index >= 0 else -1

    def _stamps_of(self, cpu: int) -> NDArray[np.int64]:
        if cpu not in self._stamps_by_cpu:
            self._stamps_by_cpu[cpu] = np.flatnonzero(self.stamps & (self.cpus == cpu))
        return self._stamps_by_cpu[cpu]

    @cached_property
    def _stamps_by_cpu(self) -> dict[int, NDArray[np.int64]]:
        return {}

    def between_marks(self, cpu: int, last: int) -> list[tuple[int, int]]:
        """The positions of a CPU's marks BEGIN, each with that of the mark ``last`` after it.

        What is begun anew did not end: its block was over.
        """
        own = np.flatnonzero((self.cpus == cpu) & np.isin(self.marks, (BEGIN, last)))
        begins = self.marks[own] == BEGIN
        return [(int(a), int(b)) for (a, b), c in zip(pairwise(own), pairwise(begins), strict=True)
                if c[0] and not c[1]]  # fmt: skip


@dataclass(frozen=True)
class Trace:
    """All that was written down.

    ``loops`` are the (begin, end) of the code whose RDTSCP and RDTSC are stamps: that of
    kickbench's loops, and of the guest hypervisor.
    """

    code: NDArray[Any]
    entries: NDArray[np.uint32]
    loops: Sequence[tuple[int, int]]

    @classmethod
    def read(cls, path: Path, loops: Sequence[tuple[int, int]]) -> Trace:
        """Read ``path``.code and ``path``.trace. Half a record at the end is left out."""
        code, trace = Path(f"{path}.code"), Path(f"{path}.trace")
        return cls(_read(code, CODE), _read(trace, np.dtype("<u4")), loops)

    def sections(self) -> Iterator[Section]:
        """The sections, in their order."""
        marks, stamps = self._marks(), self._stamps()
        # An entry EXECUTED is the number of the record.
        parting = np.flatnonzero(marks == SECTION).astype(np.uint32)
        begins = np.flatnonzero(np.isin(self.entries, parting)).tolist()
        # An entry of memory is no code: it stands for none.
        marks, stamps = np.append(marks, -1), np.append(stamps, False)
        for begin, end in zip(begins, [*begins[1:], self.entries.size], strict=True):
            cpus, values, kinds = _unpacked(self.entries[begin + 1 : end])
            code = np.where(kinds == EXECUTED, values, self.code.size)
            yield Section(cpus, values, kinds, marks[code], stamps[code])

    def _marks(self) -> NDArray[np.int64]:
        """The number of the mark that each record of the code is, or -1."""
        raw = self.code["bytes"]
        number = raw[:, 4:8].copy().view("<u4")[:, 0].astype(np.int64) - _MARKS
        found = (self.code["size"] == 8) & (raw[:, :4] == _MARK).all(axis=1)
        is_arm64 = (self.code["size"] == 4) & (self._words & _ARM64_MARK_MASK == _ARM64_MARK)
        number = np.where(is_arm64, (self._words >> 5 & 0xFFFF) - _ARM64_MARKS, number)
        found |= is_arm64
        return np.where(found & (number >= SECTION) & (number <= PAUSED), number, -1)

    @cached_property
    def _words(self) -> NDArray[np.int64]:
        """The first four bytes of each record of the code."""
        return self.code["bytes"][:, :4].copy().view("<u4")[:, 0].astype(np.int64)

    def _stamps(self) -> NDArray[np.bool_]:
        """Whether each record of the code is a stamp of a loop."""
        raw, size = self.code["bytes"], self.code["size"]
        is_stamp = np.zeros(size.size, np.bool_)
        for code in _STAMPS:
            is_stamp |= (size == code.size) & (raw[:, : code.size] == code).all(axis=1)
        is_stamp |= (size == 4) & (self._words & _ARM64_STAMP_MASK == _ARM64_STAMP)
        vaddr = self.code["vaddr"]
        in_loop = np.zeros(vaddr.size, np.bool_)
        for begin, end in self.loops:
            in_loop |= (vaddr >= begin) & (vaddr < end)
        return np.asarray(is_stamp & in_loop)


def _unpacked(
    entries: NDArray[np.uint32],
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8]]:
    """The CPUs, values and kinds of a section's entries, in which an access has an AT of its own.

    PAGE and MORE at the end that are not whole are left out.
    """
    what = (entries >> np.uint32(_WHAT_SHIFT)).astype(np.uint8)
    said = (entries & np.uint32((1 << _WHAT_SHIFT) - 1)).astype(np.int64)
    kept = np.flatnonzero(what <= WROTE)
    told = np.flatnonzero(what == _CPU)
    cpu = said[told].astype(np.uint8)[np.searchsorted(told, kept) - 1] if kept.size else kept
    kinds, values = what[kept], said[kept]
    # Where each kept entry comes when an AT is behind each access.
    accesses = kinds != EXECUTED
    place = np.arange(kept.size) + np.cumsum(accesses) - accesses
    at = place[accesses] + 1
    virtual, in_memory = _pages(what, said, kept[accesses])
    offset = values[accesses] & (1 << _PAGE_SHIFT) - 1
    values[accesses] = in_memory << _PAGE_SHIFT | offset
    size = kept.size + at.size
    all_cpus, all_kinds = np.empty(size, np.uint8), np.full(size, AT, np.uint8)
    all_values = np.empty(size, np.int64)
    all_cpus[place], all_values[place], all_kinds[place] = cpu, values, kinds
    all_cpus[at], all_values[at] = cpu[accesses], virtual << _PAGE_SHIFT | offset
    return all_cpus, all_values, all_kinds


def _pages(
    what: NDArray[np.uint8], said: NDArray[np.int64], accesses: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers of the pages of these accesses, virtual and in QEMU's memory."""
    pages = np.flatnonzero(what[:-3] == _PAGE)
    high, middle, low = (said[pages + n] for n in (1, 2, 3))
    split = _VPAGE_BITS - _MORE_BITS
    left = _MORE_BITS - split
    virtual = high << split | middle >> left
    in_memory = (middle & (1 << left) - 1) << _MORE_BITS | low
    # The last PAGE of the slot before the access: both are in order within a slot.
    order = np.argsort(said[pages], kind="stable")
    keys = said[pages][order] << 40 | pages[order]
    slots = said[accesses] >> _PAGE_SHIFT
    found = order[np.searchsorted(keys, slots << 40 | accesses) - 1]
    return virtual[found], in_memory[found]


def usual(sizes: Sequence[int]) -> tuple[int, float]:
    """The place of the smallest size that is not rare, and the share of those that are alike.

    Others are longer by a timer's interrupt, or by what the scheduler does now and then. To take
    the shortest ones makes two methods comparable. If all are rare, it is the smallest of the most
    frequent ones. Raises ValueError if there is none.
    """
    if not len(sizes):
        raise ValueError("nothing is whole")
    values, counts = np.unique(np.asarray(sizes), return_counts=True)
    shares = counts / len(sizes)
    place = int(np.argmax(shares >= min(NOT_RARE, shares.max())))
    # The last one of them: what is done once was done before.
    chosen = int(np.flatnonzero(np.asarray(sizes) == values[place])[-1])
    return chosen, float(shares[place])


def _read(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.fromfile(path, dtype, count=path.stat().st_size // dtype.itemsize)
