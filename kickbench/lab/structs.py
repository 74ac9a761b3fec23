# SPDX-License-Identifier: Apache-2.0
"""How the kernel's structures are laid out, from debug information: DWARF, or BTF.

A kernel of the lab has no debug information. Three of its files are compiled once more with it when
the kernel is built, and what they say is kept beside the kernel (:data:`kickbench.lab.build.Arch`).
Another kernel may have BTF in it (Documentation/bpf/btf.rst), as those of distributions do.
"""

from __future__ import annotations

import bisect
import json
import struct
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

    @classmethod
    def of_btf(cls, data: bytes) -> Self:
        """Those of WANTED that BTF has. Raises ValueError if this is no BTF."""
        return cls(_Btf(data).wanted())

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


# --- BTF -----------------------------------------------------------------------------------------

_MAGIC = 0xEB9F
_COMMON = struct.Struct("<III")
"""A type's name, its kind and number of members, and its size."""
_MEMBER = struct.Struct("<III")
"""A member's name, type and place in bits."""
_STRUCT, _UNION = 4, 5
_MORE = {1: 4, 3: 12, 14: 4, 17: 4}
"""The bytes that follow what all types have, by kind (linux/btf.h)."""
_MORE_EACH = {_STRUCT: 12, _UNION: 12, 6: 8, 13: 8, 15: 12, 19: 12}
"""And those of each member."""
_MODIFIERS = range(8, 12)
"""typedef, volatile, const and restrict: a member's type may be one of these."""


class _Btf:
    def __init__(self, data: bytes) -> None:
        if len(data) < 24 or struct.unpack_from("<H", data)[0] != _MAGIC:
            raise ValueError("this is no BTF")
        header, types, types_size, strings, strings_size = struct.unpack_from("<IIIII", data, 4)
        self._types = data[header + types : header + types + types_size]
        self._strings = data[header + strings : header + strings + strings_size]
        self._places = [-1]  # Type 0 is void.
        at = 0
        while at < len(self._types):
            self._places.append(at)
            _, kind, n_members, _ = self._type(len(self._places) - 1)
            at += _COMMON.size + _MORE.get(kind, 0) + _MORE_EACH.get(kind, 0) * n_members

    def wanted(self) -> dict[str, Struct]:
        found: dict[str, Struct] = {}
        for number in range(1, len(self._places)):
            place, kind, _, size = self._type(number)
            if kind == _STRUCT and (name := self._text(place)) in WANTED:
                fields = sorted(self._fields(number), key=lambda field: field[0])
                found.setdefault(name, Struct(size, tuple(fields)))
        return found

    def _type(self, number: int) -> tuple[int, int, int, int]:
        """Its name's place, kind, number of members, and size or what it modifies."""
        name, info, size = _COMMON.unpack_from(self._types, self._places[number])
        return name, info >> 24 & 0x1F, info & 0xFFFF, size

    def _text(self, at: int) -> str:
        return self._strings[at : self._strings.index(b"\0", at)].decode()

    def _fields(self, number: int, base: int = 0) -> Iterator[tuple[int, str]]:
        """The members, with those of members that have no name."""
        _, kind, n_members, size = self._type(number)
        if kind in _MODIFIERS:
            yield from self._fields(size, base)
        if kind not in (_STRUCT, _UNION):
            return
        begin = self._places[number] + _COMMON.size
        for place in range(begin, begin + n_members * _MEMBER.size, _MEMBER.size):
            name, type_, bits = _MEMBER.unpack_from(self._types, place)
            # In the highest byte is the size of a bit-field, in structures that have any.
            offset = base + (bits & 0xFF_FFFF) // 8
            if name:
                yield offset, self._text(name)
            else:
                yield from self._fields(type_, offset)
