# SPDX-License-Identifier: Apache-2.0
"""Runs of one case from rows that a test writes by hand, and what their summaries have.

Runs whose numbers imitate a host's are in synthetic_run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import synthetic_run
from numpy.typing import NDArray

from kickbench.results.reader import RunReader
from kickbench.results.writer import RunWriter
from kickbench.summary.summarise import summarise

Json = Mapping[str, Any]


def store(path: Path, parameters: Json, document: Json, tables: Mapping[str, Any]) -> RunReader:
    """A run of one case with these tables."""
    with RunWriter.create(path, "unit", scenario={}, cases=[parameters], environment={}) as writer:
        writer.write_case(parameters["id"], document, tables)
    return RunReader(writer.path)


def write_run(
    path: Path,
    parameters: Json,
    workers: Sequence[Mapping[str, NDArray[Any]]],
    *,
    hz: Sequence[float] = (1e9,),
    **document: Any,
) -> RunReader:
    """A run of one case from arrays by table name, a dict per process; 1 cycle is 1 ns at 1e9."""
    parameters = {**parameters, "processes": len(workers)}
    made = synthetic_run.case_document(parameters, **document)
    for process in made["processes"]:
        process["clock"]["hz"] = hz[process["index"] % len(hz)]
    return store(path, parameters, made, synthetic_run.worker_tables(parameters, workers))


def case_of(reader: RunReader) -> Any:
    """The first case of the run's summary, which is sound JSON."""
    summary = summarise(reader)
    json.dumps(summary, allow_nan=False)
    return summary["cases"][0]


def contrast(case: Any, metric: str = "ns_per_exit", method: str = "sigmask") -> Any:
    """The difference of a method in a metric."""
    (found,) = [c for c in case["contrasts"] if (c["metric"], c["method"]) == (metric, method)]
    return found


def set_column(name: str, values: Callable[[pa.Table], Any]) -> Callable[[pa.Table], pa.Table]:
    """What gives a table other values in a column."""

    def change(table: pa.Table) -> pa.Table:
        return table.set_column(table.column_names.index(name), name, values(table))

    return change
