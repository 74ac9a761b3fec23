# SPDX-License-Identifier: Apache-2.0
"""Records in memory, as C lays out an array of a structure, and the ``.npy`` file of many of them.

The worker reads the engine's structures by it, and writes its rows. A field of all records is a
column: a view of the memory, which is copied, summed and counted without a loop in Python. It
computes nothing. Standard library only: numpy reads the files, where numbers are evaluated.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_NUMPY_TYPES = {
    "b": "i1",
    "B": "u1",
    "h": "i2",
    "H": "u2",
    "i": "i4",
    "I": "u4",
    "q": "i8",
    "Q": "u8",
    "f": "f4",
    "d": "f8",
}
"""What numpy calls the types, by their codes in the modules struct and array."""
_ORDER = "<" if sys.byteorder == "little" else ">"


@dataclass(frozen=True)
class Field:
    """Where a field lies in its record, in bytes, and the code of its ``count`` numbers."""

    offset: int
    code: str
    count: int = 1

    @property
    def size(self) -> int:
        """The bytes of all its numbers."""
        return struct.calcsize(self.code) * self.count


@dataclass(frozen=True)
class RecordType:
    """The fields of a record by name, in the order of their offsets, and its bytes.

    A field's offset and the record's size are multiples of the size of the field's number.
    """

    fields: Mapping[str, Field]
    size: int

    @classmethod
    def of(cls, codes: Iterable[tuple[str, str]]) -> RecordType:
        """Fields of these names and codes, aligned as a C compiler does."""
        fields: dict[str, Field] = {}
        end, widest = 0, 1
        for name, code in codes:
            size = struct.calcsize(code)
            fields[name] = Field(-(-end // size) * size, code)
            end, widest = fields[name].offset + size, max(widest, size)
        return cls(fields, -(-end // widest) * widest)

    def pack(self, **values: float) -> bytes:
        """One record with these values; the others are 0.

        Raises struct.error for a value that the field has no room for.
        """
        record = bytearray(self.size)
        for name, value in values.items():
            struct.pack_into(self.fields[name].code, record, self.fields[name].offset, value)
        return bytes(record)

    @property
    def descr(self) -> list[tuple[Any, ...]]:
        """The type in numpy's words: ``descr`` of a dtype. A field without a name is a gap."""
        found: list[tuple[Any, ...]] = []
        end = 0
        for name, one in self.fields.items():
            found += _gap(one.offset - end)
            shape = [(one.count,)] if one.count > 1 else []
            found.append((name, f"{_ORDER}{_NUMPY_TYPES[one.code]}", *shape))
            end = one.offset + one.size
        return found + _gap(self.size - end)


def _gap(size: int) -> list[tuple[Any, ...]]:
    return [("", f"|V{size}")] if size else []


class Records:
    """Records of one type, one after another in ``data``."""

    def __init__(self, type_: RecordType, data: bytes | bytearray) -> None:
        if len(data) % type_.size:
            raise ValueError(f"{len(data)} bytes are no records of {type_.size} bytes")
        self.type, self.data = type_, data

    @classmethod
    def of(cls, type_: RecordType, count: int, **values: float) -> Records:
        """``count`` equal records with these values. The other fields are 0."""
        return cls(type_, bytearray(type_.pack(**values) * count))

    @classmethod
    def joined(cls, parts: Sequence[Records]) -> Records:
        """The records of one part or more, one after another."""
        return cls(parts[0].type, b"".join(part.data for part in parts))

    def __len__(self) -> int:
        return len(self.data) // self.type.size

    def __getitem__(self, name: str) -> memoryview[Any]:
        return self.column(name)

    def __setitem__(self, name: str, values: Iterable[float]) -> None:
        """Set a field of all records. Raises ValueError if there are more or fewer values.

        A column of the same code is copied without a Python object for each number.
        """
        code = self.type.fields[name].code
        column = self.column(name)
        if isinstance(values, memoryview) and values.format == code:
            column[:] = values
        else:
            column[:] = array(code, values)

    def column(self, name: str, index: int = 0) -> memoryview[Any]:
        """A view of a field of all records. ``index`` is that of a number in an array."""
        one = self.type.fields[name]
        if not self.data:  # which cannot be cast
            return memoryview(array(one.code))
        unit = struct.calcsize(one.code)
        numbers: memoryview[Any] = memoryview(self.data).cast(one.code)  # type: ignore[call-overload]
        return numbers[one.offset // unit + index :: self.type.size // unit]

    def part(self, begin: int, end: int) -> Records:
        """A copy of the records from ``begin`` until before ``end``."""
        return Records(self.type, self.data[begin * self.type.size : end * self.type.size])


@dataclass
class Collected:
    """Records that come in parts, and make one array."""

    type: RecordType
    parts: list[Records] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def sum(self, name: str) -> int:
        """The sum of a field over all records."""
        return sum(sum(part[name]) for part in self.parts)

    def save(self, path: Path) -> None:
        """Write the array as a ``.npy`` file. Raises OSError, with the errno of a full disk.

        The format is version 1.0 of NEP 1, "A Simple File Format for NumPy Arrays", as numpy
        documents it in numpy.lib.format.
        """
        header = repr(
            {"descr": self.type.descr, "fortran_order": False, "shape": (len(self),)}
        ).encode("ascii")
        # The array begins at a multiple of 64 bytes, after a newline.
        size = len(header) + 1 + -(10 + len(header) + 1) % 64
        with path.open("wb") as file:
            file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", size))
            file.write(header.ljust(size - 1) + b"\n")
            for part in self.parts:
                file.write(part.data)
