# SPDX-License-Identifier: Apache-2.0
"""A run folder on disk: written so that nothing finished is lost, read as data from a stranger.

:class:`RunWriter` creates or resumes a folder; a finished case appears in it by one rename, so a
kill at any moment leaves a folder that loads and can be resumed. :class:`RunReader` checks
everything it hands out. What the numbers mean is none of this module's business: see
:mod:`kickbench.results.tables` for the columns and :mod:`kickbench.summary.summarise` for the
evaluation.

Layout and formats are described in ``docs/results.md``.
"""

from __future__ import annotations

import datetime
import errno
import fcntl
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kickbench.closing import Closing
from kickbench.errors import MeasurementError, UsageError
from kickbench.methods import method_label
from kickbench.results import schema as documents
from kickbench.results.schema import MAX_JSON_BYTES, SCHEMA, Status, fail
from kickbench.results.tables import LARGEST, TABLES, Column, Table, tables_of_case

MANIFEST = "manifest.json"
CASES = "cases"
CASE = "case.json"
LOCK = ".lock"
SUMMARY = "summary.json"
PYPERF = "pyperf.json"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ROW_GROUP = 1 << 20
# What pyarrow raises for a damaged file: also UnicodeDecodeError, a ValueError.
DAMAGE = (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError)
# What a Parquet file may ask for when it is read: bytes per row beyond a fixed allowance.
_MAX_BYTES_PER_ROW = 1024
_MAX_FIXED_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class CaseRecord:
    """One case of a run. ``document`` is its case.json, None unless the status is "ok".

    A finished case whose tables are gone has none either (see :class:`RunReader`).

    ``parameters`` are the case's own, but methods have their labels there: a protocol file's path
    has become its name.
    """

    id: str
    status: Status
    reason: str | None
    parameters: dict[str, Any]
    document: dict[str, Any] | None


# --- writing -----------------------------------------------------------------------------------


def sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_new(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Create a file, which must not exist, and force its contents to the disk."""
    with path.open("xb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def cannot_write(folder: Path, error: OSError, advice: str) -> NoReturn:
    """Raise the one-line MeasurementError that says why, and what to do."""
    what = "the disk is full" if error.errno in _FULL else (error.strerror or str(error))
    line = documents.one_line(f"cannot write to {folder}: {what}; {advice}")
    raise MeasurementError(line) from error


def _resume_advice(folder: Path) -> str:
    return (
        "the finished cases are kept: when that is mended, continue with "
        f"kickbench run --resume {folder}"
    )


def _replace_file(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")
    try:
        _write_new(temporary, partial(_write_bytes, data))
        temporary.replace(path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def replace_file(path: Path, data: bytes) -> None:
    """Replace ``path`` atomically: readers see the old contents or the new, never a part.

    Raises MeasurementError when it cannot be written; the old file then stays.
    """
    try:
        _replace_file(path, data)
    except OSError as error:
        cannot_write(path.parent, error, "the old file, if any, is unchanged")


def make_folder(folder: Path, advice: str) -> None:
    """Make a folder that the user named, if it is not there. Raises UsageError when it cannot be
    made, with ``advice`` on what to do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        # Not folder.exists(), which fails as mkdir() did where the name is too long.
        there = isinstance(error, FileExistsError)
        what = "is a file" if there else f"cannot be made: {error.strerror}"
        raise UsageError(f"{documents.place(folder)}: {what}; {advice}") from None


def write_output(path: Path, data: bytes) -> None:
    """Write a file that the user named: as :func:`replace_file`, but what is there and no regular
    file (a device, a pipe: /dev/stdout, /dev/full) is written to and never replaced.
    """
    try:
        if not path.exists() or path.is_file():
            replace_file(path, data)
        else:
            with path.open("wb", buffering=0) as file:
                file.write(data)
    except OSError as error:
        cannot_write(path, error, "choose another file")


def _write_bytes(data: bytes, file: IO[bytes]) -> None:
    file.write(data)


def _write_table(table: pa.Table, file: IO[bytes]) -> None:
    pq.write_table(
        table,
        file,
        row_group_size=_ROW_GROUP,
        compression="zstd",
        # Indices repeat for thousands of rows; a dictionary of cycle counts only costs space.
        use_dictionary=[name for name in table.column_names if not name.endswith("cycles")],
        write_page_checksum=True,
    )


def _take_lock(folder: Path) -> int:
    """Lock the folder for this process; the lock goes with the process, however that ends."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(folder / LOCK, flags, 0o666)
    except OSError as error:
        raise UsageError(
            documents.one_line(f"{folder}: cannot be written to: {error.strerror}")
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            what = "is in use by another kickbench; wait until it ends"
        else:
            what = f"cannot be locked ({error.strerror}); choose another file system"
        raise UsageError(documents.one_line(f"{folder}: {what}")) from None
    return descriptor


class RunWriter(Closing):
    """The one writer of a run folder; a context manager that gives the folder up at the end."""

    def __init__(self, path: Path, manifest: dict[str, Any], lock: int) -> None:
        """Not for callers: use :meth:`create` or :meth:`resume`."""
        self.path = path
        self._manifest = manifest
        self._lock: int | None = lock

    @classmethod
    def create(
        cls,
        results_dir: Path | str,
        scenario_name: str,
        *,
        scenario: Mapping[str, Any],
        cases: Sequence[Mapping[str, Any]],
        environment: Mapping[str, Any],
        command: Sequence[str] = (),
        emulated: bool = False,
        emulated_by: str | None = None,
        count_step: int = 0,
        host: str | None = None,
        now: datetime.datetime | None = None,
    ) -> Self:
        """Make ``results_dir/<scenario>/<UTC time>-<host>-<id>/`` and lock it.

        ``cases`` are the JSON forms of all cases, each with its "id"; they start as "pending".
        ``host`` and ``now`` (aware) default to this machine's. Raises UsageError when the folder
        cannot be made, MeasurementError when the disk is full.
        """
        now = (now or datetime.datetime.now(datetime.UTC)).astimezone(datetime.UTC)
        host = documents.safe_name(
            socket.gethostname() if host is None else host, default="host", length=40
        )
        parent = Path(results_dir) / documents.safe_name(scenario_name, default="scenario")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            path = _make_folder(parent, f"{now:%Y%m%dT%H%M%SZ}-{host}")
        except OSError as error:
            if error.errno in _FULL:
                cannot_write(parent, error, "make room or choose another --results")
            raise UsageError(
                documents.one_line(f"{parent}: cannot make a folder there: {error.strerror}")
            ) from None
        manifest: dict[str, Any] = {
            "schema": SCHEMA,
            "run_id": path.name,
            "scenario": dict(scenario),
            "scenario_name": scenario_name,
            "created_utc": f"{now:%Y-%m-%dT%H:%M:%SZ}",
            "command": [str(word) for word in command],
            "environment": dict(environment),
            "emulated": emulated,
            "emulated_by": emulated_by,
            "counts_instructions": count_step > 0,
            "count_step": count_step,
            "complete": False,
            "cases": [
                {"id": case["id"], "status": "pending", "reason": None, "case": dict(case)}
                for case in cases
            ],
        }
        lock = None
        try:
            lock = _take_lock(path)
            (path / CASES).mkdir()
            writer = cls(path, manifest, lock)
            writer._save()
            sync(parent)
        except BaseException as error:
            if lock is not None:
                os.close(lock)
            shutil.rmtree(path, ignore_errors=True)
            if isinstance(error, OSError):
                cannot_write(parent, error, "make room or choose another --results")
            raise
        return writer

    @classmethod
    def resume(cls, path: Path | str) -> Self:
        """Continue in an existing run folder: lock it, remove what a killed run left half done.

        Raises ResultsError when it is not a sound results folder, UsageError when another process
        writes to it, or an earlier kickbench began it: one run would have figures of two meanings.
        """
        path = Path(path)
        schema = load_manifest(path)["schema"]  # before a lock file is put into just any folder
        if schema < SCHEMA:
            raise UsageError(
                f"{documents.place(path)}: was begun by an earlier kickbench (schema {schema}), "
                "whose figures of kicks mean something else; run the scenario anew, or resume it "
                "with that kickbench"
            )
        lock = _take_lock(path)
        try:
            manifest = load_manifest(path)
            if (path / CASES).is_symlink():
                fail(path / CASES, "is a symlink; refused")
            _remove_leftovers(path)
            _adopt_finished(path, manifest)
            (path / CASES).mkdir(exist_ok=True)
            writer = cls(path, manifest, lock)
            writer._save()
        except BaseException as error:
            os.close(lock)
            if isinstance(error, OSError):
                cannot_write(path, error, _resume_advice(path))
            raise
        return writer

    def close(self) -> None:
        """Give up the lock. The folder stays as it is; closing twice is fine."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def run_id(self) -> str:
        """The name of the folder when it was created."""
        return str(self._manifest["run_id"])

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as it is on the disk; not to be changed by the caller."""
        return self._manifest

    @property
    def pending(self) -> list[str]:
        """Ids of the cases that are still to do, in the order of the scenario."""
        return [entry["id"] for entry in self._manifest["cases"] if entry["status"] == "pending"]

    def write_case(
        self, case_id: str, case_json: Mapping[str, Any], tables: Mapping[str, pa.Table]
    ) -> None:
        """Store a finished case, all or nothing, and mark it "ok".

        ``case_json`` is the whole case.json ("case", "seconds", "stopped_by", "processes"; "status"
        and "reason" are filled in); ``tables`` are all tables of the case's kind. Raises
        MeasurementError when the disk is full: then nothing of this case is left and it stays
        pending, unless all of it but the new manifest did fit, in which case it counts as done.
        """
        entry = self._entry(case_id)
        document = {"status": "ok", "reason": None, **case_json}
        final = self.path / CASES / case_id
        text = documents.dump_json(document)
        documents.check_case(documents.parse_json(text, final / CASE), case_id, final / CASE)
        wanted = tables_of_case(document["case"])
        if {table.name for table in wanted} != set(tables):
            raise ValueError(f"a case of this kind has the tables {[t.name for t in wanted]}")
        for table in wanted:
            if tables[table.name].schema != table.schema:
                raise ValueError(f"the table {table.name} has not its schema; use from_worker()")
            for batch in tables[table.name].to_batches():
                fault = _find_fault(batch.columns, table.columns, document, table.at_most)
                if fault:
                    raise MeasurementError(f"case {case_id}: the table {table.name}: {fault}")
        if final.exists():
            raise ValueError(f"case {case_id} has been written before")
        try:
            self._write_case_folder(final, text, tables)
            entry["status"], entry["reason"] = "ok", document["reason"]
            self._save()
        except OSError as error:
            cannot_write(self.path, error, _resume_advice(self.path))

    def _write_case_folder(self, final: Path, text: bytes, tables: Mapping[str, pa.Table]) -> None:
        temporary = final.with_name(f".{final.name}.tmp-{secrets.token_hex(4)}")
        try:
            temporary.mkdir()
            for name, table in tables.items():
                _write_new(temporary / f"{name}.parquet", partial(_write_table, table))
            _write_new(temporary / CASE, partial(_write_bytes, text))
            sync(temporary)
            temporary.rename(final)
            sync(final.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def mark(self, case_id: str, status: Status, reason: str | None = None) -> None:
        """Note in the manifest that a case was skipped or failed, and why ("pending": do it again).

        "ok" is for :meth:`write_case` to say; a case that has been written cannot be unsaid.
        """
        entry = self._entry(case_id)
        if status == "ok" or entry["status"] == "ok":
            raise ValueError(f"case {case_id}: only write_case() makes a case ok, and for good")
        entry["status"] = status
        entry["reason"] = None if reason is None else documents.one_line(reason)
        self._manifest["complete"] = False
        self._save_or_fail()

    def finish(self) -> None:
        """Mark the run complete, unless cases are still pending; the lock is kept until close."""
        self._manifest["complete"] = not self.pending
        self._save_or_fail()

    def _entry(self, case_id: str) -> dict[str, Any]:
        for entry in self._manifest["cases"]:
            if entry["id"] == case_id:
                found: dict[str, Any] = entry
                return found
        raise ValueError(f"the run has no case {case_id}")

    def _save_or_fail(self) -> None:
        try:
            self._save()
        except OSError as error:
            cannot_write(self.path, error, _resume_advice(self.path))

    def _save(self) -> None:
        if self._lock is None:
            raise ValueError("the run folder has been closed")
        text = documents.dump_json(self._manifest)
        # What we could not read back must not replace what we can.
        documents.check_manifest(documents.parse_json(text, MANIFEST), self.path / MANIFEST)
        _replace_file(self.path / MANIFEST, text)


def _make_folder(parent: Path, stem: str) -> Path:
    while True:
        path = parent / f"{stem}-{secrets.token_hex(4)}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path


def _remove_leftovers(path: Path) -> None:
    for folder in (path, path / CASES):
        for item in folder.glob(".*.tmp-*"):
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink(missing_ok=True)


# --- reading -----------------------------------------------------------------------------------


def _real_file(root: Path, path: Path) -> Path:
    """The path, sure to be a regular file inside ``root``, whatever symlinks there are."""
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except FileNotFoundError:
        fail(path, "is missing")
    except (OSError, RuntimeError) as error:
        fail(path, f"cannot be read: {getattr(error, 'strerror', None) or error}")
    if not real.is_relative_to(root.resolve()):
        fail(path, "leads out of the results folder; refused")
    if not stat.S_ISREG(mode):
        fail(path, "is not a regular file")
    return real


def load_json(root: Path, path: Path) -> dict[str, Any]:
    real = _real_file(root, path)
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

    A run with pending cases is not complete, whatever it says of itself.
    """
    if not root.exists():
        fail(root, "does not exist")
    if not (root / MANIFEST).exists():
        fail(root, f"is not a results folder (no {MANIFEST})")
    manifest = load_json(root, root / MANIFEST)
    documents.check_manifest(manifest, root / MANIFEST)
    manifest["complete"] &= all(entry["status"] != "pending" for entry in manifest["cases"])
    return manifest


def _adopt_finished(
    root: Path, manifest: dict[str, Any], *, stripped: bool = False
) -> dict[str, dict[str, Any]]:
    """Read every finished case; one whose folder is there is finished, whatever the manifest says.

    (A kill between the rename of the folder and the new manifest leaves it "pending".) Of a
    ``stripped`` run those are left out that are finished but have no tables any more.
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

    Raises ResultsError, in one line that names the file, for anything that is not as it should be:
    no results folder, a newer schema, damaged or tampered documents, symlinks that lead out,
    truncated or missing tables.

    ``stripped`` admits finished cases of which no table is left: they have no ``document``, and
    what was found in them is in summary.json alone (:mod:`kickbench.summary.found`).
    """

    def __init__(self, path: Path | str, *, stripped: bool = False) -> None:
        self.path = Path(path)
        self.manifest = load_manifest(self.path)
        loaded = _adopt_finished(self.path, self.manifest, stripped=stripped)
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
        """Where a cycle of the run's clock is an instruction, as an emulator's can be, how many of
        them it counts at a time; else 0. Runs that do not say count each.
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
        batch_rows: int = _ROW_GROUP,
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
                    fault = _find_fault(ordered, selected, document, spec.at_most)
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
        real = _real_file(self.path, path)
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
        if found.names.count(column.name) != 1:
            fail(path, f"is damaged: it has no column {column.name}")
        if found.field(column.name).type != column.type:
            kind = found.field(column.name).type
            fail(path, f"is damaged: column {column.name} is {kind}, not {column.type}")
    metadata = file.metadata
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    rows = metadata.num_rows
    if not 0 <= rows <= table.max_rows or size > rows * _MAX_BYTES_PER_ROW + _MAX_FIXED_BYTES:
        fail(path, f"is too large ({rows} rows, {size} bytes); refused")


def _find_fault(
    arrays: Sequence[pa.Array],
    columns: Sequence[Column],
    document: dict[str, Any],
    at_most: Sequence[tuple[str, str]],
) -> str | None:
    """What is wrong with the values: empty, out of range, of no method or process of the case.

    Of the pairs ``at_most`` those are checked of which both columns are there.
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
                what = f"has the vCPU {low_high['max']} of {document['case']['vcpus']}"
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
