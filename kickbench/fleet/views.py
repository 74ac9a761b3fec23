# SPDX-License-Identifier: Apache-2.0
"""The tables of a store as views of DuckDB, which reads the Parquet files where they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from kickbench.errors import MeasurementError, UsageError
from kickbench.fleet.files import INSTALL, Files
from kickbench.fleet.store import COLUMNS, METRICS_TABLE, RUNS
from kickbench.results.reader import DAMAGE
from kickbench.results.schema import one_line

if TYPE_CHECKING:
    import duckdb

_T = TypeVar("_T")

_PATH = re.compile(r"\w+/host=[A-Za-z0-9._+-]+/month=[0-9]{4}-[0-9]{2}/[^/]+\.parquet")

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

    A damaged or foreign file is left out, and ``say`` gets a line for it. Then ``work`` is called a
    second time. Raises UsageError for what DuckDB refuses though no file is damaged, and
    MeasurementError if the store cannot be read.
    """
    try:
        import duckdb
    except ImportError:
        raise UsageError(f"a query needs DuckDB; {INSTALL}") from None
    names = {table: _names(files, table, say) for table in (RUNS, METRICS_TABLE)}
    # A run is there when its row in RUNS is, which is written last.
    whole = {name.removeprefix(RUNS) for name in names[RUNS]}
    names[METRICS_TABLE] = [
        name for name in names[METRICS_TABLE] if name.removeprefix(METRICS_TABLE) in whole
    ]
    if not names[RUNS]:
        say(f"{files.url}: no runs yet; kickbench fleet add puts one there")
    try:
        return work(_connection(files, names))
    except (duckdb.Error, pa.ArrowException) as error:
        first = error
    # Every file is looked at only now: most stores have no damaged one, and many files.
    sound = {table: [n for n in names[table] if _is_sound(files, table, n, say)] for table in names}
    if sound == names:
        raise UsageError(_told(first))
    try:
        return work(_connection(files, sound))
    except duckdb.Error as error:
        raise UsageError(_told(error)) from None


def _told(error: Exception) -> str:
    return f"the query cannot be answered: {one_line(str(error))}"


def _connection(files: Files, names: dict[str, list[str]]) -> duckdb.DuckDBPyConnection:
    import duckdb

    connection = duckdb.connect()
    if files.system is not None:
        connection.register_filesystem(files.system)
    # DuckDB would ask for extensions on the network, which nobody asked for.
    connection.execute("SET autoinstall_known_extensions = false")
    connection.execute("SET TimeZone = 'UTC'")
    for table, of_table in names.items():
        columns = ", ".join(f'"{name}"' for name in ("host", *(c for c, _, _ in COLUMNS[table])))
        source = f"no_{table}"
        if of_table:
            addresses = ", ".join(_quoted(files.address(name)) for name in of_table)
            source = (
                f"read_parquet([{addresses}], union_by_name = true, hive_partitioning = true, "
                "hive_types = {'host': VARCHAR, 'month': VARCHAR})"
            )
        else:
            connection.register(source, _empty(table))
        view = f"CREATE VIEW {table} AS SELECT {columns}, month FROM {source}"  # noqa: S608 (ours)
        connection.execute(view)
    connection.execute(_HOSTS)
    return connection


def _names(files: Files, table: str, say: Callable[[str], None]) -> list[str]:
    """The table's files; ``say`` hears of those that are in no host's and month's folder."""
    found = files.list(table, ".parquet")
    for name in found:
        if not _PATH.fullmatch(name):
            say(f"{name}: is no file of a store; left out")
    return [name for name in found if _PATH.fullmatch(name)]


def _is_sound(files: Files, table: str, name: str, say: Callable[[str], None]) -> bool:
    wanted = {column: kind for column, kind, _ in COLUMNS[table]}
    try:
        read = pq.read_table(pa.BufferReader(files.read(name)))
    except (*DAMAGE, MeasurementError) as error:
        say(f"{name}: is damaged; left out ({one_line(str(error))[:200]})")
        return False
    there = {field.name: field.type for field in read.schema}
    if any(there.get(column) != kind for column, kind in wanted.items()):
        say(f"{name}: has not the columns of this table; left out")
        return False
    return True


def _empty(table: str) -> pa.Table:
    fields = [pa.field(name, kind) for name, kind, _ in COLUMNS[table]]
    place = [pa.field(name, pa.string()) for name in ("host", "month")]
    return pa.schema([*fields, *place]).empty_table()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
