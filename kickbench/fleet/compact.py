# SPDX-License-Identifier: Apache-2.0
"""Packs the small files of a store, so that a question opens few files.

A run is written to a pack before its own files are removed. So this may be killed at any moment,
and several may run at once, beside hosts that write and people who ask. Some runs may then be in
two packs, of which one counts: see :mod:`kickbench.fleet.snapshot`.
"""

from __future__ import annotations

import datetime
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from kickbench.fleet.files import Files
from kickbench.fleet.snapshot import DAYS, MONTHS, Loose, Pack, Snapshot, take
from kickbench.fleet.tables import COLUMNS, METRICS_TABLE, RUNS
from kickbench.fleet.views import with_snapshot

if TYPE_CHECKING:
    import duckdb

ORDER = {
    METRICS_TABLE: 'scenario, metric, "case", method, baseline, cpu_model, host, time, run_id',
    RUNS: "host, time, run_id",
}
"""What a pack is sorted by. A question about one figure then reads a few row groups."""

ROW_GROUP = 40_960
"""Rows that are read together, or not at all."""

MEMORY = "1GB"
"""What DuckDB may use while it sorts. It uses the disk for the rest."""


@dataclass(frozen=True)
class Packed:
    """What was done for a month: how many runs went into a pack, and how many files it replaced."""

    month: str
    runs: int
    replaced: int


def compact(
    files: Files,
    say: Callable[[str], None],
    done: Callable[[Packed], None] = lambda _: None,
    now: datetime.datetime | None = None,
) -> None:
    """Pack all runs: those of a month that is over, by ``now``, for good, and others until then.

    ``say`` gets a line for each damaged file, which stays where it is, and so do the other files of
    its run. ``done`` hears of each month. Raises MeasurementError if the store cannot be read or
    written.
    """
    present = f"{now or datetime.datetime.now(datetime.UTC):%Y-%m}"
    said: set[str] = set()

    def say_once(line: str) -> None:
        if line not in said:
            say(line)
        said.add(line)

    everything = take(files, say=say_once)
    for month in sorted({source.month for source in _everything(everything)}):
        level = MONTHS if month < present else DAYS
        part = _part(everything, month=month, level=level)
        if _everything(part):
            done(_pack_month(files, say_once, month, level))


def _pack_month(files: Files, say: Callable[[str], None], month: str, level: str) -> Packed:
    pack = Pack(level, month, secrets.token_hex(8))
    with tempfile.TemporaryDirectory(prefix="kickbench-") as folder:
        runs, read = with_snapshot(
            files, say, partial(_part, month=month, level=level), partial(_write, Path(folder))
        )
        if runs:
            # A pack is there when its runs are.
            for table in (METRICS_TABLE, RUNS):
                files.write(pack.file(table), (Path(folder) / table).read_bytes())
    old = (*read.loose, *read.packs, *read.covered)
    # The rows of runs last: as long as one is there, it is known that the run is in a pack.
    for table in (METRICS_TABLE, RUNS):
        files.remove(read.files(table, old))
    return Packed(month, runs, len(old))


def _everything(snapshot: Snapshot) -> list[Loose | Pack]:
    return [*snapshot.sources, *snapshot.covered, *snapshot.unread]


def _part(snapshot: Snapshot, *, month: str, level: str) -> Snapshot:
    """What a new pack at this level replaces: whole runs of this month that are below."""

    def is_part(source: Loose | Pack) -> bool:
        below = isinstance(source, Loose) or (source.level == DAYS and level == MONTHS)
        whole = len(snapshot.files(RUNS, [source]) + snapshot.files(METRICS_TABLE, [source])) == 2
        return below and whole and source.month == month

    return replace(
        snapshot,
        loose=tuple(filter(is_part, snapshot.loose)),
        packs=tuple(filter(is_part, snapshot.packs)),
        covered=tuple(filter(is_part, snapshot.covered)),
        unread=tuple(filter(is_part, snapshot.unread)),
    )


def _write(
    folder: Path, connection: duckdb.DuckDBPyConnection, snapshot: Snapshot
) -> tuple[int, Snapshot]:
    """Write both tables to a folder; how many runs these are, and what was read."""
    connection.execute(f"SET memory_limit = '{MEMORY}'")
    connection.execute(f"SET temp_directory = '{folder}'")
    for table, order in ORDER.items():
        columns = ", ".join(f'"{name}"' for name in ("host", *(c for c, _, _ in COLUMNS[table])))
        connection.execute(
            f"COPY (SELECT {columns} FROM {table} ORDER BY {order}) TO '{folder / table}' "  # noqa: S608
            f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP})"
        )
    runs: int = pq.read_metadata(folder / RUNS).num_rows
    return runs, snapshot
