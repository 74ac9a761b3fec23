# SPDX-License-Identifier: Apache-2.0
"""Keeps the runs of several machines of one name apart, when a store is read.

The store has them under their one name, because each host writes without asking about others. In
the views such a machine has a name of its own, such as "localhost@3fa9c1b2".
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

_NAMED = 3

# A host that was installed anew has another id from then on. Machines that share a name come back
# after each other. Once is not enough for that: the clock of a single run may have been wrong.
_APART = """
CREATE TEMP TABLE apart AS
WITH doubtful AS (
    SELECT host, count(machine_id) > 0 AS known FROM runs GROUP BY host
    HAVING min(machine_id) <> max(machine_id)
        OR (count(machine_id) = 0 AND min(cpu_model) <> max(cpu_model))
), told AS (
    SELECT host, run_id, time, CASE WHEN known THEN machine_id ELSE md5(cpu_model) END AS machine
    FROM runs JOIN doubtful USING (host)
), turns AS (
    SELECT host, machine, lag(machine) OVER (PARTITION BY host ORDER BY time, run_id) AS last
    FROM told WHERE machine IS NOT NULL
), several AS (
    SELECT host FROM turns GROUP BY host
    HAVING count(*) FILTER (machine <> last) > count(DISTINCT machine)
)
SELECT host, run_id, host || '@' || left(machine, 8) AS name
FROM told SEMI JOIN several USING (host) WHERE machine IS NOT NULL
"""


def keep_apart(connection: duckdb.DuckDBPyConnection, hosts_view: str) -> str | None:
    """Give each machine its own name in the views, and say so; None: all names are of one machine.

    ``hosts_view`` makes the view ``hosts`` of the view ``runs``.
    """
    connection.execute(_APART)
    found = connection.execute("SELECT DISTINCT host, name FROM apart ORDER BY ALL").fetchall()
    if not found:
        return None
    connection.execute("DROP VIEW hosts")
    for table in ("runs", "metrics"):
        connection.execute(f"ALTER VIEW {table} RENAME TO named_{table}")
        connection.execute(
            f"CREATE VIEW {table} AS SELECT coalesce(name, host) AS host, n.* EXCLUDE (host) "  # noqa: S608
            f"FROM named_{table} n LEFT JOIN apart USING (host, run_id)"
        )
    connection.execute(hosts_view)
    names = defaultdict(list)
    for host, name in found:
        names[host].append(name)
    return _words(names)


def _words(names: dict[str, list[str]]) -> str:
    first, *others = sorted(names)
    more = f", and {len(others)} more names are, too" if others else ""
    apart = [name for host in (first, *others) for name in names[host]]
    shown = ", ".join(apart[:-1]) + f" and {apart[-1]}"
    if len(apart) > _NAMED:
        shown = ", ".join(apart[:_NAMED]) + f" and {len(apart) - _NAMED} more"
    return (
        f"{first} is the name of several machines{more}; they are told apart here, as {shown}; "
        "give each a name of its own with KICKBENCH_HOSTNAME, or with kickbench fleet add --host"
    )
