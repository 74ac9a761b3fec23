# SPDX-License-Identifier: Apache-2.0
"""Runs beside each other, and the runs of many hosts."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING

from kickbench.api.reading import Run, read
from kickbench.compare import runs

if TYPE_CHECKING:
    import pandas as pd

    from kickbench.compare.runs import Comparison


def compare(
    base: Run | str | PathLike[str],
    other: Run | str | PathLike[str],
    *,
    min_effect: float | None = None,
) -> Comparison:
    """Judge every figure that two runs of one scenario have: what got slower or faster.

    A path is read as by :func:`kickbench.read`. ``min_effect`` is the part by which a level must
    differ, e.g. 0.05 for 5 %; by default each metric has its own. ``Comparison.frame`` has all
    figures, and ``Comparison.regressions`` what got worse. Raises ResultsError for runs that have
    nothing in common, or that cannot be read.
    """
    summaries = [(run if isinstance(run, Run) else read(run)).summary for run in (base, other)]
    return runs.compare(*summaries, min_effect=min_effect)


def query(store: str, sql: str, *, say: Callable[[str], None] = print) -> pd.DataFrame:
    """Ask the store of a fleet, a folder or a URL, in SQL.

    For example: ``query("s3://bucket/kickbench", "SELECT * FROM hosts")``. docs/fleet.md has the
    views and their columns. ``say`` gets a line for each file of the store that is damaged. Raises
    UsageError for a query that makes no sense, for a local folder that does not exist or if
    ``kickbench[fleet]`` is not installed, and MeasurementError if the store cannot be read.
    """
    from kickbench.fleet.query import frame  # DuckDB is not needed for anything else here

    return frame(store, sql, say)
