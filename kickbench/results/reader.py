# SPDX-License-Identifier: Apache-2.0
"""Reads the folder of a run. Its data may come from anybody.

:class:`RunReader` checks everything that it returns. The columns are in
:mod:`kickbench.results.tables`, the JSON in :mod:`kickbench.results.schema`. This module does not
evaluate the numbers.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kickbench.methods import method_label
from kickbench.results import schema as documents
from kickbench.results.schema import MAX_JSON_BYTES, Status, fail
from kickbench.results.tables import LARGEST, TABLES, Column, Table, tables_of_case

MANIFEST = "manifest.json"
CASES = "cases"
CASE = "case.json"
SUMMARY = "summary.json"
PYPERF = "pyperf.json"

ROW_GROUP = 1 << 20

# What pyarrow raises for a damaged file: also UnicodeDecodeError, a ValueError.
DAMAGE = (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError)

# What a Parquet file may ask for when it is read: bytes per row beyond a fixed allowance.
_MAX_BYTES_PER_ROW = 1024
_MAX_FIXED_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class CaseRecord:
    """One case of a run. ``document`` is its case.json, None unless the status is "ok".

    A finished case whose tables are gone has none either (see :class:`RunReader`).

    ``parameters`` are the case's own, but with the labels of its methods: a protocol file has its
    name there in place of its path.
    """

    id: str
    status: Status
    reason: str | None
    parameters: dict[str, Any]
    document: dict[str, Any] | None


def real_file(root: Path, path: Path) -> Path:
    """The path without symlinks. Raises ResultsError unless it is a regular file in ``root``."""
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except FileNotFoundError:
        fail(path, "is missing; copy the whole folder of the run")
    except (OSError, RuntimeError) as error:
        fail(path, f"cannot be read: {getattr(error, 'strerror', None) or error}")
    if not real.is_relative_to(root.resolve()):
        fail(path, "leads out of the results folder; refused")
    if not stat.S_ISREG(mode):
        fail(path, "is not a regular file")
    return real


def load_json(root: Path, path: Path) -> dict[str, Any]:
    real = real_file(root, path)
    try:
        with real.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        fail(path, f"cannot be read: {error.strerror}")
    if len(data) > MAX_JSON_BYTES:
        fail(path, f"is larger than {MAX_JSON_BYTES >> 20} MiB; refused")
    return documents.parse_json(data, path)


def load_manifest(root: Path) -> dict[str, Any]:
    """Read and check a run folder's manifest. Raises ResultsError, in one line.

    A run with pending cases is not complete, whatever its manifest says.
    """
    if not root.exists():
        fail(root, "does not exist")
    if not (root / MANIFEST).exists():
        fail(root, f"is not a results folder (no {MANIFEST})")
    manifest = load_json(root, root / MANIFEST)
    documents.check_manifest(manifest, root / MANIFEST)
    manifest["complete"] &= all(entry["status"] != "pending" for entry in manifest["cases"])
    return manifest


def adopt_finished(
    root: Path, manifest: dict[str, Any], *, stripped: bool = False
) -> dict[str, dict[str, Any]]:
    """Read every finished case. A case whose folder is there is finished, whatever the manifest
    says: a kill between the rename of the folder and the new manifest leaves it "pending" there.

    With ``stripped``, finished cases that have no tables any more are left out.
    """
    loaded = {}
    for entry in manifest["cases"]:
        folder = root / CASES / entry["id"]
        if entry["status"] == "ok" or (entry["status"] == "pending" and folder.exists()):
            if stripped and entry["status"] == "ok" and not any(folder.glob("*.parquet")):
                continue
            document = load_json(root, folder / CASE)
            documents.check_case(document, entry["id"], folder / CASE)
            entry["status"], entry["reason"] = "ok", document["reason"]
            loaded[entry["id"]] = document
    return loaded


class RunReader:
    """A run folder, checked: its documents at once, its tables' contents when they are read.

    Raises ResultsError, in one line that names the file, for whatever is wrong: no results folder,
    a newer schema, damaged or tampered documents, symlinks that lead out, truncated or missing
    tables.

    ``stripped`` accepts finished cases without any table. They have no ``document``, and their
    figures are only in summary.json (:mod:`kickbench.summary.found`).
    """

    def __init__(self, path: Path | str, *, stripped: bool = False) -> None:
        self.path = Path(path)
        self.manifest = load_manifest(self.path)
        loaded = adopt_finished(self.path, self.manifest, stripped=stripped)
        self.cases: tuple[CaseRecord, ...] = tuple(
            CaseRecord(
                id=entry["id"],
                status=entry["status"],
                reason=None if entry["reason"] is None else documents.one_line(entry["reason"]),
                parameters=documents.with_labels(loaded.get(entry["id"], entry)["case"]),
                document=loaded.get(entry["id"]),
            )
            for entry in self.manifest["cases"]
        )
        self._by_id = {record.id: record for record in self.cases}
        for record in self.cases:
            if record.document is not None:
                tables = tables_of_case(record.parameters)
                if not tables:
                    kind = record.parameters["kind"]
                    fail(
                        self.path / CASES / record.id,
                        f"is of the kind {kind!r}, which this kickbench does not know; upgrade",
                    )
                for table in tables:
                    with self._open(record.id, table):
                        pass

    @property
    def run_id(self) -> str:
        """The run's unique name."""
        return str(self.manifest["run_id"])

    @property
    def schema(self) -> int:
        """What the run's figures mean: see :data:`kickbench.results.schema.SCHEMA`."""
        return int(self.manifest["schema"])

    @property
    def scenario_name(self) -> str:
        """The scenario's name as its file has it (not necessarily a safe file name)."""
        return str(self.manifest["scenario_name"])

    @property
    def environment(self) -> dict[str, Any]:
        """The host as it was: see kickbench.host.environment."""
        environment: dict[str, Any] = self.manifest["environment"]
        return environment

    @property
    def count_step(self) -> int:
        """How many instructions the run's clock counts at a time; 0 if its cycles are no
        instructions. Only an emulator's can be. Runs without the key count each instruction.
        """
        if not (self.manifest["emulated"] and self.manifest.get("counts_instructions")):
            return 0
        step = self.manifest.get("count_step")
        return 1 if step is None else int(step)

    @property
    def complete(self) -> bool:
        """Whether the run came to its end (cases may have been skipped or have failed)."""
        return bool(self.manifest["complete"])

    def case(self, case_id: str) -> CaseRecord:
        """The record of a case. Raises KeyError for an unknown id."""
        return self._by_id[case_id]

    @property
    def stripped(self) -> list[CaseRecord]:
        """The finished cases whose tables are gone."""
        return [r for r in self.cases if r.status == "ok" and r.document is None]

    def count_rows(self, case_id: str, table: str) -> int:
        """How many rows a table of a finished case has, without reading them."""
        with self._open(case_id, TABLES[table]) as file:
            return int(file.metadata.num_rows)

    def table(self, case_id: str, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a table of a finished case, or some of its columns, with all values checked."""
        batches = list(self.batches(case_id, table, columns))
        wanted = _selected(TABLES[table], columns)
        result = pa.Table.from_batches(batches, pa.schema([column.field for column in wanted]))
        return result.unify_dictionaries()

    def batches(
        self,
        case_id: str,
        table: str,
        columns: Sequence[str] | None = None,
        batch_rows: int = ROW_GROUP,
    ) -> Iterator[pa.RecordBatch]:
        """Read a table piece by piece, in bounded memory, with all values checked."""
        spec = TABLES[table]
        document = self.case(case_id).document
        if document is None:
            raise KeyError(f"case {case_id} is not finished")
        selected = _selected(spec, columns)
        names = [column.name for column in selected]
        fields = pa.schema([column.field for column in selected])
        path = self._table_path(case_id, spec)
        with self._open(case_id, spec) as file:
            there = set(file.schema_arrow.names)
            try:
                for batch in file.iter_batches(
                    batch_size=batch_rows, columns=[name for name in names if name in there]
                ):
                    ordered = [
                        batch.column(column.name)
                        if column.name in there
                        else pa.repeat(column.absent, batch.num_rows)
                        for column in selected
                    ]
                    fault = find_fault(ordered, selected, document, spec.at_most)
                    if fault:
                        fail(path, f"is damaged: {fault}")
                    yield pa.RecordBatch.from_arrays(ordered, schema=fields)
            except DAMAGE as error:
                fail(path, f"is damaged: {error}")

    def _table_path(self, case_id: str, table: Table) -> Path:
        return self.path / CASES / case_id / f"{table.name}.parquet"

    @contextmanager
    def _open(self, case_id: str, table: Table) -> Iterator[pq.ParquetFile]:
        path = self._table_path(case_id, table)
        real = real_file(self.path, path)
        try:
            source = real.open("rb")
        except OSError as error:
            fail(path, f"cannot be read: {error.strerror}")
        # Opened here: pyarrow takes no path that is not UTF-8.
        with source:
            try:
                file = pq.ParquetFile(
                    source,
                    thrift_string_size_limit=MAX_JSON_BYTES,
                    thrift_container_size_limit=1 << 22,
                    page_checksum_verification=True,
                )
            except DAMAGE as error:
                fail(path, f"is damaged or truncated: {error}")
            with file:
                _check_file(file, table, path)
                yield file


def _selected(table: Table, columns: Sequence[str] | None) -> list[Column]:
    if columns is None:
        return list(table.columns)
    by_name = {column.name: column for column in table.columns}
    return [by_name[name] for name in columns]


def _check_file(file: pq.ParquetFile, table: Table, path: Path) -> None:
    """Columns, types and sizes, from the file's footer alone."""
    try:
        found = file.schema_arrow
    except DAMAGE as error:
        fail(path, f"is damaged: {error}")
    for column in table.columns:
        if column.later and column.name not in found.names:
            continue
        count = found.names.count(column.name)
        if count != 1:
            columns = f"{count} columns" if count else "no column"
            fail(path, f"is damaged: it has {columns} {column.name}")
        if found.field(column.name).type != column.type:
            kind = found.field(column.name).type
            fail(path, f"is damaged: column {column.name} is {kind}, not {column.type}")
    metadata = file.metadata
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    rows = metadata.num_rows
    if not 0 <= rows <= table.max_rows or size > rows * _MAX_BYTES_PER_ROW + _MAX_FIXED_BYTES:
        fail(path, f"is too large ({rows} rows, {size} bytes); refused")


def find_fault(
    arrays: Sequence[pa.Array],
    columns: Sequence[Column],
    document: dict[str, Any],
    at_most: Sequence[tuple[str, str]],
) -> str | None:
    """What is wrong with the values: empty, out of range, of no method or process of the case.

    A pair of ``at_most`` is checked if both its columns are there.
    """
    for array, column in zip(arrays, columns, strict=True):
        what = None
        if array.null_count:
            what = "has empty cells"
        elif column.name == "method":
            labels = [method_label(name) for name in document["case"]["methods"]]
            what = _find_method_fault(array, labels)
        elif pa.types.is_floating(column.type):
            what = "is infinite" if pc.any(pc.is_inf(array)).as_py() else None
        elif pa.types.is_integer(column.type) and len(array):
            low_high = pc.min_max(array).as_py()
            if low_high["min"] < column.minimum or low_high["max"] > LARGEST:
                what = f"goes from {low_high['min']} to {low_high['max']}"
            elif column.name == "process":
                known = {process["index"] for process in document["processes"]}
                unknown = set(pc.unique(array).to_pylist()) - known
                what = f"has the unknown process {min(unknown)}" if unknown else None
            elif column.name == "vcpu" and low_high["max"] >= document["case"]["vcpus"]:
                last = document["case"]["vcpus"] - 1
                what = f"has the vCPU {low_high['max']}, and the case's last vCPU is {last}"
        if what:
            return f"column {column.name} {what}"
    by_name = {column.name: array for column, array in zip(columns, arrays, strict=True)}
    for small, large in at_most:
        both = {small, large} <= by_name.keys()
        if both and pc.any(pc.greater(by_name[small], by_name[large])).as_py():
            return f"column {small} exceeds {large}"
    return None


def _find_method_fault(array: pa.DictionaryArray, methods: Sequence[str]) -> str | None:
    unknown = set(array.dictionary.to_pylist()) - set(methods)
    if unknown:
        return f"has the unknown method {min(map(str, unknown))!r}"
    indices = pc.min_max(array.indices).as_py()
    if len(array) and not 0 <= indices["min"] <= indices["max"] < len(array.dictionary):
        return "has bad indices"
    return None
