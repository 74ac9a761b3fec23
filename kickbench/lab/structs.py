# SPDX-License-Identifier: Apache-2.0
"""How the kernel's structures are laid out, from debug information (DWARF).

A kernel of the lab has no debug information. Three of its files are compiled once more with it when
the kernel is built, and what they say is kept beside the kernel (:data:`kickbench.lab.build.KEPT`).
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from elftools.dwarf.die import DIE
    from elftools.elf.elffile import ELFFile

SOURCES = ("kernel/fork", "mm/slab_common", "virt/kvm/kvm_main")
"""The kernel's files that know the structures, without suffix."""
WANTED = frozenset(
    {
        *("page", "slab", "kmem_cache"),
        *("task_struct", "sighand_struct", "signal_struct", "file", "files_struct", "mm_struct"),
        *("kvm", "kvm_vcpu", "pid", "cred", "sigqueue", "eventfd_ctx"),
    }
)


@dataclass(frozen=True)
class Struct:
    """A structure: its size in bytes, and its fields by their offset, in rising order."""

    size: int
    fields: tuple[tuple[int, str], ...]

    def offset(self, field: str) -> int:
        """Where a field begins. Raises KeyError if there is none."""
        return {name: offset for offset, name in reversed(self.fields)}[field]

    def field(self, offset: int) -> str:
        """The name of the field that this offset is in."""
        place = bisect.bisect_right(self.fields, (offset, chr(0x10FFFF))) - 1
        return next(name for at, name in self.fields if at == self.fields[max(place, 0)][0])


@dataclass(frozen=True)
class Structs:
    """Structures by name."""

    by_name: Mapping[str, Struct]

    @classmethod
    def of(cls, objects: Iterable[Path]) -> Self:
        """Those of WANTED that object files with debug information have."""
        from elftools.elf.elffile import ELFFile  # not for who only looks at structures

        found: dict[str, Struct] = {}
        for path in objects:
            with path.open("rb") as file:
                for name, struct in _structs(ELFFile(file)):
                    found.setdefault(name, struct)
        return cls(found)

    def to_json(self) -> str:
        """The structures as text."""
        return json.dumps(
            {name: [one.size, one.fields] for name, one in self.by_name.items()}, indent=1
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of :meth:`to_json`."""
        return cls(
            {
                name: Struct(size, tuple((offset, field) for offset, field in fields))
                for name, (size, fields) in json.loads(text).items()
            }
        )


def _structs(elf: ELFFile) -> Iterator[tuple[str, Struct]]:
    for unit in elf.get_dwarf_info().iter_CUs():
        for entry in unit.iter_DIEs():
            name = _name(entry)
            if entry.tag == "DW_TAG_structure_type" and name in WANTED and entry.has_children:
                fields = tuple(sorted(_fields(entry), key=lambda field: field[0]))
                yield name, Struct(entry.attributes["DW_AT_byte_size"].value, fields)


def _fields(entry: DIE, base: int = 0) -> Iterator[tuple[int, str]]:
    """The members, with those of members that have no name."""
    for member in entry.iter_children():
        if member.tag != "DW_TAG_member":
            continue
        offset = base + _offset(member)
        if name := _name(member):
            yield offset, name
        else:
            yield from _fields(member.get_DIE_from_attribute("DW_AT_type"), offset)


def _offset(member: DIE) -> int:
    if bits := member.attributes.get("DW_AT_data_bit_offset"):
        return int(bits.value) // 8
    place = member.attributes.get("DW_AT_data_member_location")
    return int(place.value) if place else 0  # a union's members have none


def _name(entry: DIE) -> str:
    name = entry.attributes.get("DW_AT_name")
    return name.value.decode() if name else ""
