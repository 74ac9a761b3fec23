# SPDX-License-Identifier: Apache-2.0
"""Runs of a fleet's store without their results folders, small and of any content."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kickbench.fleet.files import Files
from kickbench.fleet.tables import COLUMNS, METRICS_TABLE, RUNS

BEGIN = datetime.datetime(2026, 3, 1, 2, 0, tzinfo=datetime.UTC)

RUN: dict[str, Any] = {
    "cpu_model": "A CPU",
    "kernel": "6.12.3",
    "microcode": "0x1",
    "fingerprint": "0123",
    "scenario": "nightly",
    "scenario_digest": "4567",
    "fleet": None,
    "cmdline": "BOOT_IMAGE=/vmlinuz-6.12.3 quiet",
    "mitigations": "meltdown: Not affected",
    "emulated": False,
    "ok": 1,
    "skipped": 0,
    "failed": 0,
    "lost": 0,
    "machine_id": None,
    "kickbench": "0.1.0",
}

METRIC: dict[str, Any] = {
    "case": "exits-hlt-1vcpu-max-any",
    "kind": "exits",
    "method": "sigmask",
    "baseline": None,
    "metric": "quiet_ns_per_exit",
    "unit": "ns",
    "better": "lower",
    "processes": 5,
}


def time_of(day: float) -> datetime.datetime:
    """The time of a run on this day, counted from BEGIN."""
    return BEGIN + datetime.timedelta(days=day)


def write(
    files: Files, host: str, day: float, values: Mapping[str, float | None], **changes: Any
) -> str:
    """Write a run with a figure for each method of ``values``, and return the run's id.

    Half the interval is 1 % of the value. ``changes`` are of the run's row.
    """
    when = changes.pop("time", time_of(day))
    run_id = changes.pop("run_id", f"{when:%Y%m%dT%H%M%SZ}-{host}-00000000")
    run = {**RUN, "run_id": run_id, "time": when, "stored": when, **changes}
    metrics = [
        {
            **run,
            **METRIC,
            "method": method,
            "value": value,
            "low": None if value is None else value * 0.99,
            "high": None if value is None else value * 1.01,
        }
        for method, value in values.items()
    ]
    for table, rows in ((METRICS_TABLE, metrics), (RUNS, [run])):
        schema = pa.schema([pa.field(name, kind) for name, kind, _ in COLUMNS[table]])
        sink = pa.BufferOutputStream()
        found = [{name: row.get(name) for name in schema.names} for row in rows]
        pq.write_table(pa.Table.from_pylist(found, schema=schema), sink)
        place = f"host={host}/month={when:%Y-%m}/{run_id}.parquet"
        files.write(f"{table}/{place}", sink.getvalue().to_pybytes())
    return str(run_id)
