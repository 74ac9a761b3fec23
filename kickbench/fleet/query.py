# SPDX-License-Identifier: Apache-2.0
"""Asks a store questions in SQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kickbench.errors import UsageError
from kickbench.fleet.files import Files
from kickbench.fleet.views import with_views

if TYPE_CHECKING:
    import duckdb
    import pandas as pd


@dataclass(frozen=True)
class Answer:
    """The columns and rows that a query gave."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]


def ask(files: Files, sql: str, say: Callable[[str], None]) -> Answer:
    """The answer to a query of the views ``runs``, ``metrics`` and ``hosts``.

    A damaged or foreign file is left out, and ``say`` gets a line for it. Raises UsageError for a
    query that is empty or that DuckDB refuses, and MeasurementError if the store cannot be read.
    """

    def answer(connection: duckdb.DuckDBPyConnection) -> Answer:
        found = _executed(connection, sql)
        if found.description is None:
            return Answer((), ())
        return Answer(tuple(column[0] for column in found.description), found.fetchall())

    return with_views(files, say, answer)


def frame(url: str, sql: str, say: Callable[[str], None] = print) -> pd.DataFrame:
    """As :func:`ask`, but of the store at ``url``, and as a frame of pandas.

    For example: ``frame("s3://bucket/kickbench", "SELECT * FROM hosts")``. Texts have pandas' own
    type of texts, times are in UTC, and what is not known is NaN, NaT or None. ``say`` gets a line
    for each file that was left out. Raises UsageError for a local folder that does not exist, too.
    """
    return with_views(Files.existing(url), say, lambda connection: _executed(connection, sql).df())


def _executed(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.DuckDBPyConnection:
    # DuckDB's stubs do not know that nothing comes of nothing, or of a comment.
    found: duckdb.DuckDBPyConnection | None = connection.execute(sql)
    if found is None:
        raise UsageError("the query is empty")
    return found
