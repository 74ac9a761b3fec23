# SPDX-License-Identifier: Apache-2.0
"""The tables of a store as views of DuckDB, which reads the Parquet files where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from kickbench.errors import MeasurementError, UsageError
from kickbench.fleet.files import INSTALL, Files
from kickbench.fleet.names import keep_apart
from kickbench.fleet.snapshot import Snapshot, take
from kickbench.fleet.tables import COLUMNS, LATER_COLUMNS
from kickbench.results.reader import DAMAGE
from kickbench.results.schema import one_line

if TYPE_CHECKING:
    import duckdb

_T = TypeVar("_T")

_AGAIN_SECONDS = 0.05

_HOSTS = """
CREATE VIEW hosts AS
SELECT host, last(cpu_model ORDER BY time) AS cpu_model, last(kernel ORDER BY time) AS kernel,
    last(microcode ORDER BY time) AS microcode, last(fingerprint ORDER BY time) AS fingerprint,
    count(DISTINCT fingerprint) AS fingerprints, count(*) AS runs,
    min(time) AS first_time, max(time) AS last_time
FROM runs GROUP BY host ORDER BY host
"""


def with_views(
    files: Files, say: Callable[[str], None], work: Callable[[duckdb.DuckDBPyConnection], _T]
) -> _T:
    """What ``work`` makes of a connection with the views ``runs``, ``metrics`` and ``hosts``.

    Several machines of one name are told apart, and ``say`` gets a line for that. A damaged or
    foreign file is left out, and ``say`` gets a line for it. Then ``work`` is called
    again, and so it is when files were packed meanwhile. Raises UsageError for what DuckDB refuses
    though no file is damaged, and MeasurementError if the store cannot be read.
    """

    def with_all(connection: duckdb.DuckDBPyConnection, snapshot: Snapshot) -> _T:
        several = keep_apart(connection, _HOSTS)
        done = work(connection)  # first: what is refused is tried again
        if several is not None:
            say(several)
        if not snapshot.sources:
            say(f"{files.url}: no runs yet; kickbench fleet add puts one there")
        return done

    return with_snapshot(files, say, lambda snapshot: snapshot, with_all)


def with_snapshot(
    files: Files,
    say: Callable[[str], None],
    choose: Callable[[Snapshot], Snapshot],
    work: Callable[[duckdb.DuckDBPyConnection, Snapshot], _T],
) -> _T:
    """As :func:`with_views`, of the part of the store that ``choose`` chooses."""
    try:
        import duckdb
    except ImportError:
        raise UsageError(f"a query needs DuckDB; {INSTALL}") from None
    left_out: set[str] = set()
    uneven = False
    snapshot = choose(take(files, say=say))
    while True:
        error: Exception | None = None
        if not snapshot.unread:
            try:
                return _interruptible(partial(_worked, files, snapshot, work, uneven))
            except (duckdb.Error, pa.ArrowException, OSError) as wrong:
                error = wrong
        before, snapshot = snapshot, choose(take(files, left_out))
        if _is_packed(before, snapshot):
            continue
        # A file is damaged, or the work is wrong. Most stores have no such file, and many files.
        of_columns = isinstance(error, duckdb.InvalidInputException) and not uneven
        footers = of_columns or isinstance(error, (duckdb.BinderException, duckdb.ParserException))
        damaged = dict(_damage(files, before, footers=footers))
        snapshot = choose(take(files, left_out))
        if _is_packed(before, snapshot):
            continue
        if not damaged:
            if uneven:
                raise UsageError(f"the query cannot be answered: {one_line(str(error))}") from None
            uneven = True
        for name, what in damaged.items():
            say(f"{name}: {what}; left out")
        left_out |= damaged.keys()
        snapshot = choose(take(files, left_out))


def _is_packed(before: Snapshot, after: Snapshot) -> bool:
    """Whether something was moved to another file."""
    return not before.sources <= after.sources or before.unread != after.unread


def _interruptible(work: Callable[[duckdb.DuckDBPyConnection], _T]) -> _T:
    """What ``work`` makes of a connection, in a thread of its own, so that Ctrl-C ends it.

    In the main thread, DuckDB heeds Ctrl-C late or not at all, or makes a RuntimeError of it.
    """
    import duckdb

    connection = duckdb.connect()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work, connection)
        try:
            return future.result()
        finally:
            while not future.done():  # work may be between two queries
                connection.interrupt()
                wait([future], _AGAIN_SECONDS)


def _worked(
    files: Files,
    snapshot: Snapshot,
    work: Callable[[duckdb.DuckDBPyConnection, Snapshot], _T],
    uneven: bool,
    connection: duckdb.DuckDBPyConnection,
) -> _T:
    _create_views(connection, files, snapshot, uneven=uneven)
    return work(connection, snapshot)


def _create_views(
    connection: duckdb.DuckDBPyConnection, files: Files, snapshot: Snapshot, *, uneven: bool
) -> None:
    """Make the views. With ``uneven``, files may lack later columns, and DuckDB looks at each."""
    if files.system is not None:
        connection.register_filesystem(files.system)
    # DuckDB would ask for extensions on the network, which nobody asked for.
    connection.execute("SET autoinstall_known_extensions = false")
    connection.execute("SET TimeZone = 'UTC'")
    # The footers are read when the views are made, and again for each query.
    connection.execute("SET parquet_metadata_cache = true")
    for number, hidden in enumerate(snapshot.hidden.values()):
        host, run_id = zip(*hidden, strict=True)
        connection.register(f"hidden_{number}", pa.table({"host": host, "run_id": run_id}))
    for table in COLUMNS:
        columns = ", ".join(f'"{name}"' for name in ("host", *(c for c, _, _ in COLUMNS[table])))
        parts = list(_parts(files, snapshot, table, uneven=uneven))
        connection.register(f"no_{table}", _empty(table))
        if not parts:
            parts = [f"no_{table}"]
        selected = (f"SELECT {columns}, month FROM {part}" for part in parts)  # noqa: S608 (ours)
        connection.execute(f"CREATE VIEW {table} AS {' UNION ALL '.join(selected)}")
    connection.execute(_HOSTS)


def _parts(files: Files, snapshot: Snapshot, table: str, *, uneven: bool) -> Iterator[str]:
    """What follows FROM for each part of a table."""

    def read(names: Sequence[str], in_path: str) -> str:
        addresses = ", ".join(_quoted(files.address(name)) for name in names)
        options = f"hive_partitioning = true, hive_types = {{{in_path}}}, union_by_name = {uneven}"
        found = f"read_parquet([{addresses}], {options})"
        # Files may all lack a column.
        return f"(FROM no_{table} UNION ALL BY NAME FROM {found})" if uneven else found

    if names := snapshot.files(table, snapshot.loose):
        yield read(names, "'host': VARCHAR, 'month': VARCHAR")
    whole = [pack for pack in snapshot.packs if pack not in snapshot.hidden]
    if names := snapshot.files(table, whole):
        yield read(names, "'month': VARCHAR")
    for number, pack in enumerate(snapshot.hidden):
        if pack in snapshot.packs and (names := snapshot.files(table, [pack])):
            part = read(names, "'month': VARCHAR")
            yield f"{part} ANTI JOIN hidden_{number} USING (host, run_id)"


def _damage(files: Files, snapshot: Snapshot, *, footers: bool) -> Iterator[tuple[str, str]]:
    """What is wrong with each file that has something wrong. With ``footers``, only these count."""
    for sources, packed in ((snapshot.loose, False), ((*snapshot.packs, *snapshot.unread), True)):
        for table in COLUMNS:
            for name in snapshot.files(table, sources):
                if (what := _fault(files, name, table, packed, footers=footers)) is not None:
                    yield name, what


def _fault(files: Files, name: str, table: str, packed: bool, *, footers: bool) -> str | None:
    wanted = {column: kind for column, kind, _ in COLUMNS[table]}
    if packed:
        wanted["host"] = pa.string()
    try:
        with files.open(name) as file:
            found = pq.ParquetFile(file)
            there = {field.name: field.type for field in found.schema_arrow}
            if not footers:
                for _ in found.iter_batches():
                    pass
    except (*DAMAGE, MeasurementError) as error:
        return f"is damaged ({one_line(str(error))[:200]})"
    for column in LATER_COLUMNS[table]:
        if column not in there:
            del wanted[column]
    if any(not _is_like(there.get(column), kind) for column, kind in wanted.items()):
        return "has not the columns of this table"
    return None


def _is_like(found: pa.DataType | None, wanted: pa.DataType) -> bool:
    """DuckDB writes times in microseconds."""
    return found == wanted or (
        found is not None
        and str(found) == "timestamp[us, tz=UTC]"
        and pa.types.is_timestamp(wanted)
    )


def _empty(table: str) -> pa.Table:
    fields = [pa.field(name, kind) for name, kind, _ in COLUMNS[table]]
    place = [pa.field(name, pa.string()) for name in ("host", "month")]
    return pa.schema([*fields, *place]).empty_table()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
