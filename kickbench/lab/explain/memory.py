# SPDX-License-Identifier: Apache-2.0
"""Whose memory is whose, from the kernel's own books, which the driver in the machine reads.

It reads the kernel's memory as /proc/kcore has it, an ELF file (fs/proc/kcore.c), and what the
kernel says in /proc/zoneinfo and /proc/vmallocinfo. Source: struct slab and struct kmem_cache in
mm/slab.h. Standard library only: an emulated machine is slow to import more.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kickbench.lab.structs import Structs

_READ = ("__per_cpu_offset", "slab_caches")
_IMAGE, _PER_CPU = ("_text", "_end"), ("__per_cpu_start", "__per_cpu_end")
SYMBOLS = (*_READ, *_IMAGE, *_PER_CPU)
"""The kernel's symbols that are needed."""
PAGE_BYTES = 4096
_TIB = 1 << 40
_ZONE = re.compile(r"^Node (\d+), zone .*?(?=^Node|\Z)", re.MULTILINE | re.DOTALL)
_VMALLOCED = re.compile(r"^0x([0-9a-f]+)-0x([0-9a-f]+) +\d+ (\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Space:
    """What a kernel has at which virtual addresses, without KASLR.

    The ``direct_map`` has the physical memory, which begins at ``memory``. ``vmemmap`` is where the
    structure of that memory's first page is.
    """

    direct_map: range
    vmemmap: int
    memory: int = 0

    def physical(self, address: int) -> int:
        """The physical address of one in the direct map."""
        return address - self.direct_map.start + self.memory

    def page(self, address: int) -> int:
        """The number of the page of an address in the direct map: 0 is the memory's first."""
        return (address - self.direct_map.start) // PAGE_BYTES


SPACES = {
    # Documentation/arch/x86/x86_64/mm.rst
    "x86_64": Space(
        range(0xFFFF_8880_0000_0000, 0xFFFF_8880_0000_0000 + 64 * _TIB), 0xFFFF_EA00_0000_0000
    ),
    # Addresses of 48 bits, in arch/arm64/include/asm/memory.h. The memory of QEMU's machine virt
    # begins at 1 GiB, and this is where the direct map begins then (ARM64_MEMSTART_ALIGN).
    "arm64": Space(
        range(0xFFFF_0000_0000_0000, 0xFFFF_0000_0000_0000 + 128 * _TIB),
        0xFFFF_FDFF_C000_0000,
        1 << 30,
    ),
}
"""By architecture, as the lab calls it."""


@dataclass(frozen=True)
class Kernel:
    """What is known of a kernel from outside: addresses of its symbols, and structures."""

    arch: str
    symbols: Mapping[str, int]
    structs: Structs

    @property
    def space(self) -> Space:
        """Its virtual addresses."""
        return SPACES[self.arch]

    @property
    def image(self) -> range:
        """The addresses of its own text and data."""
        return self._between(_IMAGE)

    @property
    def per_cpu(self) -> range:
        """The addresses of the variables that each CPU has, in System.map."""
        return self._between(_PER_CPU)

    def _between(self, names: tuple[str, str]) -> range:
        begin, end = (self.symbols.get(name, 0) for name in names)
        return range(begin, end)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        return {**vars(self), "symbols": dict(self.symbols), "structs": self.structs.to_json()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        return cls(**{**data, "structs": Structs.from_json(data["structs"])})


class Memory:
    """The kernel's memory by virtual address: the segments of an ELF file for 64 bits (elf.h)."""

    def __init__(self, path: Path = Path("/proc/kcore")) -> None:
        self._path = path
        with path.open("rb", buffering=0) as file:
            header = file.read(64)
            (table,) = struct.unpack_from("<Q", header, 32)
            size, count = struct.unpack_from("<HH", header, 54)
            file.seek(table)
            headers = file.read(size * count)
        found = [struct.unpack_from("<IIQQQQ", headers, size * i) for i in range(count)]
        self._parts = [
            (vaddr, length, offset) for kind, _, offset, vaddr, _, length in found if kind == 1
        ]

    def read(self, address: int, size: int) -> bytes:
        """So many bytes. Where the kernel has no memory they are 0."""
        found = bytearray(size)
        with self._path.open("rb", buffering=0) as file:
            for begin, length, offset in self._parts:
                low, high = max(address, begin), min(address + size, begin + length)
                if low < high:
                    file.seek(offset + low - begin)
                    into = memoryview(found)[low - address : high - address]
                    while into and (count := file.readinto(into)):
                        into = into[count:]
        return bytes(found)

    def number(self, address: int) -> int:
        """The 64 bits at an address."""
        return int.from_bytes(self.read(address, 8), "little")

    def text(self, address: int) -> str:
        """A short text that ends with a zero."""
        left = PAGE_BYTES - address % PAGE_BYTES
        return self.read(address, min(64, left)).partition(b"\0")[0].decode()


def nodes(zoneinfo: str) -> list[tuple[int, int, int]]:
    """(node, begin, end) of each zone, in bytes of physical memory, from /proc/zoneinfo."""
    found = []
    for zone in _ZONE.finditer(zoneinfo):
        spanned = re.search(r"spanned +(\d+)", zone[0])
        start = re.search(r"start_pfn: +(\d+)", zone[0])
        if spanned and start and int(spanned[1]):
            begin = int(start[1]) * PAGE_BYTES
            found.append((int(zone[1]), begin, begin + int(spanned[1]) * PAGE_BYTES))
    return found


def vmalloced(vmallocinfo: str) -> list[tuple[int, int, str]]:
    """(begin, end, who asked for it) of each area, from /proc/vmallocinfo."""
    return [(int(a, 16), int(b, 16), name) for a, b, name in _VMALLOCED.findall(vmallocinfo)]


class Books:
    """What the machine's kernel knows about its memory.

    The driver makes them before it is watched, which makes it slow. Then it only copies.
    """

    def __init__(self, kernel: Kernel, btf: Path = Path("/sys/kernel/btf/vmlinux")) -> None:
        self._memory = Memory()
        self._space = kernel.space
        self.structs = kernel.structs
        """Those that are known from outside, or else those of the kernel's BTF, if it has any."""
        if not self.structs.by_name and btf.exists():
            self.structs = Structs.of_btf(btf.read_bytes())
        self._known: dict[str, Any] = {
            "nodes": nodes(Path("/proc/zoneinfo").read_text()),
            "caches": [],
            "per_cpu": [],
        }
        if self.structs.by_name:
            n_cpus = len(list(Path("/sys/devices/system/cpu").glob("cpu[0-9]*")))
            offsets, head = (kernel.symbols[name] for name in _READ)
            self._known["per_cpu"] = [self._memory.number(offsets + 8 * n) for n in range(n_cpus)]
            self._known["caches"] = _caches(self._memory, self.structs, head)

    def now(self, pages: Path) -> dict[str, Any]:
        """The books at this moment, as JSON-able data.

        ``nodes`` has their spans, and ``caches`` the address, name and size of an object of each
        slab cache. The file ``pages`` takes the kernel's structures of all pages: see
        :func:`slabs`.
        """
        if page := self.structs.by_name.get("page"):
            end = max(end for _, _, end in self._known["nodes"])
            n_pages = (end - self._space.memory) // PAGE_BYTES
            pages.write_bytes(self._memory.read(self._space.vmemmap, n_pages * page.size))
        said = Path("/proc/vmallocinfo").read_text()
        return {**self._known, "vmallocinfo": said, "pages": pages.name}


def _caches(memory: Memory, structs: Structs, head: int) -> list[tuple[int, str, int]]:
    """(address, name, size of an object) of each slab cache in the list that begins at ``head``."""
    cache = structs.by_name["kmem_cache"]
    found, at = [], memory.number(head)
    while at != head:
        address = at - cache.offset("list")
        name = memory.text(memory.number(address + cache.offset("name")))
        size = memory.number(address + cache.offset("size")) & 0xFFFF_FFFF
        found.append((address, name, size))
        at = memory.number(at)
    return found
