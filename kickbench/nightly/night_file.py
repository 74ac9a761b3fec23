# SPDX-License-Identifier: Apache-2.0
"""A night as a Parquet file: its bytes, and a night from bytes, checked.

The file may have been damaged, or written by somebody else, so everything about it is checked.
``docs/history.md`` describes the format.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from kickbench.compare.metrics import LARGEST
from kickbench.nightly.night import (
    COLUMNS,
    FIGURE_COLUMNS,
    LATER_COLUMNS,
    MAX_ROWS,
    SCHEMA,
    TEXT_COLUMNS,
    Night,
    key_codes,
)
from kickbench.results.reader import DAMAGE
from kickbench.results.schema import (
    Count,
    Line,
    Model,
    SafeName,
    Time,
    check_model,
    check_version,
    fail,
    parse_json,
)
from kickbench.summary.found import Share

METADATA_KEY = b"kickbench.night"

MAX_BYTES = 16 * 1024 * 1024
"""The limit of a file, and of its contents when it is read."""

_YEARS = range(2000, 2200)
"""The years that a run can be of. A clock that shows another year is wrong."""

_ARROW = pa.schema([pa.field(name, kind) for name, kind, _ in COLUMNS])


class _Load(Model):
    others_share: Share | None
    stolen_share: Share | None


class _Case(Model):
    id: SafeName
    status: Line
    reason: str | None
    # Older nights lack them.
    load: _Load | None = None
    control_ok: bool | None = None


class _Lost(Model):
    case: SafeName
    method: Line
    what: Line
    count: Count
    of: Count | None


class _Document(Model):
    """The metadata of a night's file."""

    run_id: SafeName
    created_utc: Time
    scenario: SafeName
    scenario_digest: SafeName
    # Older nights lack it.
    run_schema: Annotated[int, Field(ge=1, le=2**15)] = 1
    fingerprint: SafeName
    facts: dict[str, Any]
    environment: dict[str, Any]
    emulated: bool
    emulated_by: Line | None
    complete: bool
    cases: Annotated[list[_Case], Field(max_length=MAX_ROWS)]
    lost: Annotated[list[_Lost], Field(max_length=MAX_ROWS)]
    kickbench: Line


def night_bytes(night: Night) -> bytes:
    """A night as a Parquet file."""
    check_model(_Document, night.document, f"run {night.document.get('run_id')}")
    rows = night.table.num_rows
    constant = {"night_utc": night.when, "run_id": night.run_id}
    columns = [
        pa.array([constant[name]] * rows, kind)
        if name in constant
        else pc.cast(night.table.column(name), kind)
        for name, kind, _ in COLUMNS
    ]
    out = pa.BufferOutputStream()
    # Arrow's own copy of the schema would be half of the file.
    with pq.ParquetWriter(
        out, _ARROW, compression="zstd", store_schema=False, write_page_checksum=True
    ) as writer:
        text = json.dumps(night.document, ensure_ascii=True, allow_nan=False)
        writer.add_key_value_metadata({METADATA_KEY.decode(): text})
        writer.write_table(pa.Table.from_arrays(columns, schema=_ARROW))
    data: bytes = out.getvalue().to_pybytes()
    if len(data) > MAX_BYTES:
        fail(f"run {night.run_id}", f"is larger than {MAX_BYTES >> 20} MiB; refused")
    return data


def parse_night(data: bytes, where: object) -> Night:
    """A night from its file's contents. Raises ResultsError if anything in them is wrong."""
    try:
        file = pq.ParquetFile(
            pa.BufferReader(data),
            read_dictionary=list(TEXT_COLUMNS),
            thrift_string_size_limit=MAX_BYTES,
            thrift_container_size_limit=1 << 16,
            page_checksum_verification=True,
        )
        metadata = file.metadata
        text = (metadata.metadata or {}).get(METADATA_KEY)
        if text is None:
            fail(where, "is not a night of kickbench")
        document = parse_json(text, where)
        check_version(document, where, "night", SCHEMA)
        when = check_model(_Document, document, where).created_utc
        if int(when[:4]) not in _YEARS:
            fail(where, f"is dated {when}, outside 2000 to 2199, so the clock was wrong")
        _check_columns(file, where)
        groups = range(metadata.num_row_groups)
        size = sum(metadata.row_group(number).total_byte_size for number in groups)
        if not (0 <= metadata.num_rows <= MAX_ROWS and 0 <= size <= MAX_BYTES):
            fail(where, f"is too large ({metadata.num_rows} rows, {size} bytes); refused")
        there = [name for name in FIGURE_COLUMNS if name in file.schema_arrow.names]
        table = file.read(columns=there, use_threads=False)
        for name, kind, _ in COLUMNS:
            if name in LATER_COLUMNS and name not in there:
                table = table.append_column(name, pa.nulls(table.num_rows, kind))
        table = table.select(FIGURE_COLUMNS)
        table.validate(full=True)
        if fault := _find_fault(table):
            fail(where, f"is damaged: {fault}")
    except KeyError:  # a column is missing
        fail(where, "is not a night of kickbench")
    except DAMAGE as error:
        fail(where, f"is damaged or truncated: {error}")
    return Night(document, table)


def _check_columns(file: pq.ParquetFile, where: object) -> None:
    found = file.schema_arrow
    for name, kind, _ in COLUMNS:
        if name in LATER_COLUMNS and name not in found.names:
            continue
        if found.names.count(name) != 1:
            fail(where, f"is damaged: it has no column {name}")
        has = found.field(name).type
        if (has.value_type if pa.types.is_dictionary(has) else has) != kind:
            fail(where, f"is damaged: column {name} is {has}, not {kind}")


def _find_fault(table: pa.Table) -> str | None:
    """What is wrong with the figures: empty or odd cells, or the same figure twice."""
    for name in TEXT_COLUMNS:
        column = table.column(name).combine_chunks()
        texts = column.dictionary.to_pylist()
        if column.indices.null_count and name != "baseline":
            return f"column {name} has empty cells"
        if len({*texts}) != len(texts) or not all(map(_is_line, texts)):
            return f"column {name} has a text twice, or a text that is not a printable line"
        if name == "better" and not {*texts} <= {"lower", "higher"}:
            return "column better is neither lower nor higher"
    numbers = {}
    for name in ("value", "ci95_low", "ci95_high", "reference", "floor"):
        column = table.column(name)
        numbers[name] = column.to_numpy()
        if name == "value" and column.null_count:
            return "column value has empty cells"
        # NaN, which is not below, is also what an empty cell becomes.
        if np.count_nonzero(abs(numbers[name]) < LARGEST) != len(column) - column.null_count:
            return f"column {name} has a value that is not a number, or is too large"
    low, high = numbers["ci95_low"], numbers["ci95_high"]
    if (np.isnan(low) != np.isnan(high)).any() or (low > high).any():
        return "an interval lacks an end, or its ends are the wrong way round"
    processes = table.column("processes")
    if processes.null_count or (processes.to_numpy() < 0).any():
        return "column processes has empty or negative cells"
    if len(np.unique(key_codes(table)[0])) != len(table):
        return "the same figure is there twice"
    return None


@lru_cache(maxsize=4096)  # nights repeat each other's words
def _is_line(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= 1000 and text.isprintable()
