# SPDX-License-Identifier: Apache-2.0
"""The tables of a run as Arrow tables and pandas frames, with units in the names of columns.

:data:`kickbench.results.tables.TABLES` has every table and column, so a new one of these needs
nothing here. Cycles become nanoseconds by the clock of the process that counted them. If the clock
counts instructions, they stay what they are.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from kickbench.errors import ResultsError, UsageError
from kickbench.results.reader import CaseRecord, RunReader
from kickbench.results.tables import TABLES, Column, Table, tables_of_case
from kickbench.summary.shared import ns_per_cycle
from kickbench.text import did_you_mean

_UNKNOWN = -1
"""What stands for "unknown" in a column whose ``minimum`` it is."""

_NULLABLE = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
}


def arrow(reader: RunReader, name: str, case: str | None = None) -> pa.Table:
    """The table ``name`` of all finished cases that have it, one after another, or of one case.

    There is a column ``case`` in front. What is unknown is null. Raises UsageError for a table or a
    case that is not there, and ResultsError if a file is damaged or its case has lost its tables.
    """
    table = _table(name)
    ids = pa.array([record.id for record in reader.cases], pa.string())
    # The first has no rows: the columns are there even if no case has the table.
    parts = [_converted(reader, table, None, ids)]
    parts += [_converted(reader, table, record, ids) for record in records(reader, name, case)]
    return pa.concat_tables(parts).unify_dictionaries()


def records(reader: RunReader, name: str, case: str | None = None) -> list[CaseRecord]:
    """The finished cases that have the table ``name``, or just ``case``.

    Raises as :func:`arrow`.
    """
    table = _table(name)
    if case is not None:
        known = {record.id: record for record in reader.cases}
        if case not in known:
            raise UsageError(f"the run has no case {case}{did_you_mean(case, known)}")
        if known[case].status != "ok":
            raise UsageError(f"the case {case} has no tables, because it is {known[case].status}")
        if table not in tables_of_case(known[case].parameters):
            kind = known[case].parameters["kind"]
            raise UsageError(f"the case {case} is of the kind {kind}, which has no {table.name}")
    chosen = [
        record
        for record in reader.cases
        if record.status == "ok"
        and case in (None, record.id)
        and table in tables_of_case(record.parameters)
    ]
    for record in chosen:
        if record.document is None:
            raise ResultsError(
                f"{reader.path}: the tables of the case {record.id} are missing; copy the whole "
                "folder of the run"
            )
    return chosen


def frame(table: pa.Table) -> pd.DataFrame:
    """An Arrow table of :func:`arrow` as a frame.

    Methods and cases are categories. Whole numbers that can be unknown have pandas' nullable type,
    and other figures that are unknown are NaN.
    """
    found: pd.DataFrame = table.to_pandas()
    for field in table.schema:
        if field.nullable and field.type in _NULLABLE:
            found[field.name] = table.column(field.name).to_pandas(types_mapper=_NULLABLE.get)
    return found


def _table(name: str) -> Table:
    if name not in TABLES:
        raise UsageError(
            f"there is no table {name}{did_you_mean(name, TABLES)}\ntables: {', '.join(TABLES)}"
        )
    return TABLES[name]


def _converted(
    reader: RunReader, table: Table, record: CaseRecord | None, ids: pa.Array
) -> pa.Table:
    """One case's part of the table; None stands for a case without rows."""
    document: dict[str, Any] = {"processes": []}
    stored, at = table.schema.empty_table(), 0
    if record is not None and record.document is not None:
        document = record.document
        stored, at = reader.table(record.id, table.name), reader.cases.index(record)
    indices = pa.repeat(pa.scalar(at, pa.int32()), stored.num_rows)
    fields = [pa.field("case", pa.dictionary(pa.int32(), pa.string()), nullable=False)]
    arrays: list[Any] = [pa.DictionaryArray.from_arrays(indices, ids)]
    for column in table.columns:
        values = stored.column(column.name)
        if column.unit == "cycles" and not reader.count_step:
            scale = ns_per_cycle(document, stored.column("process").to_numpy())
            values = pc.multiply(_known(column, values).cast(pa.float64()), pa.array(scale))
        else:
            values = _known(column, values)
        arrays.append(values)
        name, unit = _named(column, reader.count_step)
        nullable = column.minimum == _UNKNOWN or pa.types.is_floating(column.type)
        metadata = {"unit": unit, "doc": column.doc}
        fields.append(pa.field(name, values.type, nullable=nullable, metadata=metadata))
    return pa.table(arrays, schema=pa.schema(fields, metadata={"doc": table.doc}))


def _known(column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values, with null for what is unknown."""
    if pa.types.is_floating(column.type):
        unknown = pc.is_nan(values)
    elif column.minimum == _UNKNOWN:
        unknown = pc.equal(values, _UNKNOWN)
    else:
        return values
    return pc.if_else(unknown, pa.scalar(None, column.type), values)


def _named(column: Column, count_step: int) -> tuple[str, str]:
    """The name and the unit of a column, when cycles are nanoseconds or instructions."""
    if column.unit != "cycles":
        return column.name, column.unit
    unit = "instructions" if count_step else "ns"
    return column.name.removesuffix("cycles") + unit, unit
