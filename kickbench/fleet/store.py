# SPDX-License-Identifier: Apache-2.0
"""A store: the runs of many hosts, and tables of what they found.

- ``results/host=H/RUN/`` is the results folder of a run, as it was on its host.
- ``metrics/host=H/month=M/RUN.parquet`` has a row for each figure of a run.
- ``runs/host=H/month=M/RUN.parquet`` has one row: the run, and the host that it ran on.
- ``store.json`` has the store's schema.

The row of a run is written last. So a run is in the store when its row is, and a host that dies
before has only left files that it writes again.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import kickbench
from kickbench.compare.metrics import METRICS
from kickbench.errors import UsageError
from kickbench.fleet.files import Files
from kickbench.fleet.tables import COLUMNS, METRICS_TABLE, RUNS, note_schema
from kickbench.nightly.night import Night
from kickbench.results.schema import dig, fail, is_safe_name, one_line, safe_name
from kickbench.summary.data import RunData

RESULTS = "results"


def host_name(environment: Mapping[str, Any]) -> str:
    """What a store calls a host: the host's own name, fit for a path."""
    return safe_name(str(dig(environment, "hostname") or ""), default="unnamed")


def add_run(files: Files, data: RunData, host: str | None = None, fleet: str | None = None) -> str:
    """Put a run into a store, and return its host's name. A run that is there is written anew.

    Raises UsageError for a host's name that no path can have, ResultsError for a run that was
    interrupted or that no history can keep and for a store of a newer schema, and MeasurementError
    if the store cannot be written.
    """
    manifest = data.reader.manifest
    if not manifest["complete"]:
        fail(data.reader.path, "was interrupted; finish it first with kickbench run --resume")
    night = Night.of(manifest, data.summary)
    host = host_name(night.environment) if host is None else host
    if not is_safe_name(host) or len(host) > 60:
        raise UsageError(f"--host: {one_line(host)[:60]!r} is no name; write letters, digits, - .")
    note_schema(files)
    place = f"host={host}/month={night.when:%Y-%m}/{night.run_id}.parquet"
    files.copy_folder(data.reader.path, f"{RESULTS}/host={host}/{night.run_id}")
    files.write(f"{METRICS_TABLE}/{place}", _parquet(METRICS_TABLE, _metrics(night)))
    files.write(f"{RUNS}/{place}", _parquet(RUNS, [_run(night, fleet)]))
    return host


def _parquet(table: str, rows: list[dict[str, Any]]) -> bytes:
    schema = pa.schema([pa.field(name, kind) for name, kind, _ in COLUMNS[table]])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _of_run(night: Night) -> dict[str, Any]:
    environment = night.environment
    return {
        "run_id": night.run_id,
        "time": night.when,
        "cpu_model": _line(environment, "cpu", "model"),
        "kernel": _line(environment, "kernel", "release"),
        "microcode": _line(environment, "cpu", "microcode"),
        "fingerprint": night.fingerprint,
        "scenario": night.scenario,
        "scenario_digest": night.document["scenario_digest"],
    }


def _run(night: Night, fleet: str | None) -> dict[str, Any]:
    status = [case["status"] for case in night.document["cases"]]
    mitigations = dig(night.environment, "mitigations")
    return {
        **_of_run(night),
        "stored": datetime.datetime.now(datetime.UTC),
        "fleet": fleet,
        "cmdline": _line(night.environment, "kernel", "cmdline"),
        "mitigations": "; ".join(f"{name}: {what}" for name, what in sorted(mitigations.items()))
        if isinstance(mitigations, Mapping)
        else None,
        "emulated": night.document["emulated"],
        **{name: status.count(name) for name in ("ok", "skipped", "failed")},
        "lost": len(night.lost),
        "kickbench": kickbench.__version__,
        "machine_id": _line(night.environment, "machine_id"),
    }


def _metrics(night: Night) -> list[dict[str, Any]]:
    shared = _of_run(night)
    return [
        {
            **shared,
            **{name: row[name] for name in ("case", "kind", "method", "baseline", "value")},
            "metric": row["metric"] + (" difference" if row["baseline"] is not None else ""),
            "unit": METRICS[row["metric"]].unit,
            "better": row["better"],
            "low": row["ci95_low"],
            "high": row["ci95_high"],
            "processes": row["processes"],
        }
        for row in night.table.to_pylist()
    ]


def _line(environment: Mapping[str, Any], *path: str) -> str | None:
    value = dig(environment, *path)
    return None if value is None else one_line(str(value))
