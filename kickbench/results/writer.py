# SPDX-License-Identifier: Apache-2.0
"""Writes the folder of a run so that no finished case is lost.

:class:`RunWriter` creates or resumes a folder. A finished case appears in it by one rename, so a
kill at any moment leaves a folder that loads and can be resumed. Layout and formats are described
in ``docs/results.md``.
"""

from __future__ import annotations

import datetime
import errno
import fcntl
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from kickbench.closing import Closing
from kickbench.errors import MeasurementError, UsageError
from kickbench.results import schema as documents
from kickbench.results.files import FULL, cannot_write, replace_bytes, sync, write_bytes, write_new
from kickbench.results.reader import (
    CASE,
    CASES,
    MANIFEST,
    ROW_GROUP,
    adopt_finished,
    find_fault,
    load_manifest,
)
from kickbench.results.schema import SCHEMA, Status, fail
from kickbench.results.tables import tables_of_case

LOCK = ".lock"


def _resume_advice(folder: Path) -> str:
    return (
        "the finished cases are kept: make room or repair the disk, then continue with "
        f"kickbench run --resume {folder}"
    )


def _write_table(table: pa.Table, file: IO[bytes]) -> None:
    pq.write_table(
        table,
        file,
        row_group_size=ROW_GROUP,
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
            documents.one_line(
                f"{folder}: cannot be written to: {error.strerror}; copy the run to a folder that "
                "you may write to"
            )
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


def check_place(results_dir: Path) -> None:
    """Make the folder for results, before a machine is started for them.

    Raises as :meth:`RunWriter.create` does, if no run's folder could be made in it.
    """
    with _told(results_dir):
        results_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(results_dir, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Say why a folder cannot be made."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            cannot_write(folder, error, "make room or choose another --results")
        raise UsageError(
            documents.one_line(
                f"{folder}: cannot make a folder there: {error.strerror}; choose another --results"
            )
        ) from None


class RunWriter(Closing):
    """The only writer of a run folder. A context manager that unlocks the folder at the end."""

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
        with _told(parent):
            parent.mkdir(parents=True, exist_ok=True)
            path = _make_folder(parent, f"{now:%Y%m%dT%H%M%SZ}-{host}")
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
        """Continue in an existing run folder: lock it, remove what a killed run left unfinished.

        Raises ResultsError when it is not a sound results folder. Raises UsageError when another
        process writes to it, or when an earlier kickbench began it: the run would have figures of
        two meanings.
        """
        path = Path(path)
        schema = load_manifest(path)["schema"]  # before a lock file is put into just any folder
        if schema < SCHEMA:
            raise UsageError(
                f"{documents.place(path)}: was begun by an earlier kickbench (schema {schema}), "
                "whose figures of kicks have another meaning; start a new run, or resume this one "
                "with that kickbench"
            )
        lock = _take_lock(path)
        try:
            manifest = load_manifest(path)
            if (path / CASES).is_symlink():
                fail(path / CASES, "is a symlink; refused")
            _remove_leftovers(path)
            adopt_finished(path, manifest)
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
        """Unlock the folder, which stays as it is. A second call does nothing."""
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
        MeasurementError when the disk is full. Then nothing of this case is left, and it stays
        pending. But if only the new manifest did not fit, the case counts as done.
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
                fault = find_fault(batch.columns, table.columns, document, table.at_most)
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
                write_new(temporary / f"{name}.parquet", partial(_write_table, table))
            write_new(temporary / CASE, partial(write_bytes, text))
            sync(temporary)
            temporary.rename(final)
            sync(final.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def mark(self, case_id: str, status: Status, reason: str | None = None) -> None:
        """Note in the manifest that a case was skipped or failed, and why ("pending": do it again).

        Only :meth:`write_case` sets "ok", and a case that is "ok" stays so.
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
        # A manifest that cannot be read back must not replace one that can.
        documents.check_manifest(documents.parse_json(text, MANIFEST), self.path / MANIFEST)
        replace_bytes(self.path / MANIFEST, text)


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
