# SPDX-License-Identifier: Apache-2.0
"""Records in memory, and the files that numpy reads them from."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import as_array, dtype_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kickbench.records import Collected, Field, Records, RecordType
from kickbench.results.tables import load_worker_array

CTYPES = {
    "b": ctypes.c_int8,
    "B": ctypes.c_uint8,
    "h": ctypes.c_int16,
    "H": ctypes.c_uint16,
    "i": ctypes.c_int32,
    "I": ctypes.c_uint32,
    "q": ctypes.c_int64,
    "Q": ctypes.c_uint64,
    "f": ctypes.c_float,
    "d": ctypes.c_double,
}
CODES = st.lists(st.sampled_from(sorted(CTYPES)), min_size=1, max_size=9)
KICK = RecordType.of([("flag", "B"), ("at", "q"), ("vcpu", "h"), ("cycles", "I")])


def type_of(codes: list[str]) -> RecordType:
    return RecordType.of((f"field{index}", code) for index, code in enumerate(codes))


@given(CODES)
def test_fields_lie_where_a_c_compiler_puts_them(codes: list[str]) -> None:
    type_ = type_of(codes)
    fields = [(f"field{index}", CTYPES[code]) for index, code in enumerate(codes)]
    theirs = type("Theirs", (ctypes.Structure,), {"_fields_": fields})
    assert type_.size == ctypes.sizeof(theirs)
    for name, field in type_.fields.items():
        place = getattr(theirs, name)
        assert (field.offset, field.size) == (place.offset, place.size)


@given(CODES)
def test_numpy_knows_the_same_fields(codes: list[str]) -> None:
    type_ = type_of(codes)
    dtype = dtype_of(type_)
    assert dtype.itemsize == type_.size
    assert list(dtype.names or ()) == list(type_.fields)
    for name, field in type_.fields.items():
        assert dtype.fields is not None
        assert dtype.fields[name] == (np.dtype(field.code), field.offset)


@given(CODES, st.lists(st.integers(0, 5), max_size=3), st.data())
def test_what_numpy_reads_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    codes: list[str],
    sizes: list[int],
    data: st.DataObject,
) -> None:
    type_ = type_of(codes)
    wanted: dict[str, list[Any]] = {name: [] for name in type_.fields}
    rows = Collected(type_)
    for size in sizes:
        part = Records.of(type_, size)
        for name, field in type_.fields.items():
            values = data.draw(hnp.arrays(np.dtype(field.code), size)).tolist()
            part[name] = values
            wanted[name] += values
        rows.parts.append(part)
    path = tmp_path_factory.mktemp("records") / "some.npy"
    rows.save(path)
    read = load_worker_array(path)
    assert read.dtype == dtype_of(type_)
    assert len(read) == len(rows) == sum(sizes)
    for name, values in wanted.items():
        np.testing.assert_array_equal(read[name], np.array(values, type_.fields[name].code))
    # The array is aligned, as numpy's own files are.
    assert (path.stat().st_size - len(rows) * type_.size) % 64 == 0


def test_a_new_record_has_its_values_and_else_zeros() -> None:
    records = Records.of(KICK, 2, at=-5, vcpu=3)
    assert as_array(records).tolist() == [(0, -5, 3, 0)] * 2
    with pytest.raises(struct.error):
        Records.of(KICK, 1, vcpu=2**15)


def test_a_column_is_a_view_that_can_be_set_and_counted_on() -> None:
    records = Records.of(KICK, 3)
    records["vcpu"] = range(3)
    records["cycles"] = memoryview(bytes(range(12))).cast("I")  # of the same code
    records["at"] = records["vcpu"]  # of another
    records["at"][1] += 10
    assert records["vcpu"].tolist() == [0, 1, 2]
    assert records["at"].tolist() == [0, 11, 2]
    assert records["cycles"].tolist() == [0x03020100, 0x07060504, 0x0B0A0908]
    for wrong in ([1], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match="different structures"):
            records["vcpu"] = wrong


def test_an_array_of_numbers_has_a_column_for_each() -> None:
    quantiles = RecordType({"exits": Field(0, "q"), "quantiles": Field(8, "f", 2)}, 16)
    records = Records(quantiles, struct.pack("qffqff", 1, 0.5, 1.5, 2, 2.5, 3.5))
    assert records.column("quantiles").tolist() == [0.5, 2.5]
    assert records.column("quantiles", 1).tolist() == [1.5, 3.5]
    assert as_array(records)["quantiles"].tolist() == [[0.5, 1.5], [2.5, 3.5]]


def test_no_records_have_empty_columns() -> None:
    none = Records.of(KICK, 0)
    none["vcpu"] = []
    assert (len(none), none["vcpu"].tolist()) == (0, [])
    assert Collected(KICK).sum("cycles") == 0


def test_parts_and_joined_records_are_copies() -> None:
    records = Records.of(KICK, 4)
    records["vcpu"] = range(4)
    part = records.part(1, 3)
    part["vcpu"][0] = 7
    assert part["vcpu"].tolist() == [7, 2]
    assert records["vcpu"].tolist() == [0, 1, 2, 3]
    assert Records.joined([part, records])["vcpu"].tolist() == [7, 2, 0, 1, 2, 3]
    assert Collected(KICK, [part, records]).sum("vcpu") == 15


def test_bytes_that_are_no_records_are_refused() -> None:
    with pytest.raises(ValueError, match="no records of 24 bytes"):
        Records(KICK, bytes(25))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("count", [1, 100_000])
def test_a_full_disk_has_its_errno(count: int) -> None:
    with pytest.raises(OSError, match="No space left") as error:
        Collected(KICK, [Records.of(KICK, count)]).save(Path("/dev/full"))
    assert error.value.errno == errno.ENOSPC
