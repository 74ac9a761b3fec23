# SPDX-License-Identifier: Apache-2.0
"""The tables of a store: their names and columns, and the schema of a store."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from kickbench.fleet.files import Files
from kickbench.results.schema import check_version, dump_json, parse_json

METRICS_TABLE, RUNS = "metrics", "runs"

SCHEMA = 1
"""Of a store. It grows when earlier versions of kickbench could not read the store, or misread it.
A new column is no such change: they do not read it."""
SCHEMA_FILE = "store.json"
"""Has the store's schema. A store without it is of schema 1."""

_TEXT = pa.string()
_TIME = pa.timestamp("ms", "UTC")

_OF_RUN = (
    ("run_id", _TEXT, "the run's id"),
    ("time", _TIME, "when the run began, by the host's own clock"),
    ("cpu_model", _TEXT, "the host's CPU"),
    ("kernel", _TEXT, "the host's kernel release"),
    ("microcode", _TEXT, "its microcode's revision"),
    ("fingerprint", _TEXT, "that of its hardware and command line: see history.md"),
    ("scenario", _TEXT, "name of the scenario"),
    ("scenario_digest", _TEXT, "changes with the scenario, but not with its description"),
)

COLUMNS: Mapping[str, tuple[tuple[str, pa.DataType, str], ...]] = {
    RUNS: (
        *_OF_RUN,
        ("stored", _TIME, "when the run was written to the store"),
        ("fleet", _TEXT, "the fleet's measurement that it is a part of; null: it was added alone"),
        ("cmdline", _TEXT, "the kernel's command line"),
        ("mitigations", _TEXT, "the CPU's vulnerabilities and what is done about each"),
        ("emulated", pa.bool_(), "whether an emulator of the lab measured"),
        ("ok", pa.int32(), "cases that were measured"),
        ("skipped", pa.int32(), "cases that the host could not do"),
        ("failed", pa.int32(), "cases that failed"),
        ("lost", pa.int32(), "findings that a race-free protocol lost a kick"),
        ("kickbench", _TEXT, "the version that measured"),
        ("machine_id", _TEXT, "tells the machine from others: see results.md; null: not known"),
    ),
    METRICS_TABLE: (
        *_OF_RUN,
        ("case", _TEXT, "id of the case"),
        ("kind", _TEXT, "kind of the case"),
        ("method", _TEXT, "kick protocol"),
        ("baseline", _TEXT, "null: a level; else the run's own paired difference to this one"),
        ("metric", _TEXT, "e.g. quiet_ns_per_exit; of a pair, quiet_ns_per_exit difference"),
        ("unit", _TEXT, "of value, low and high"),
        ("better", _TEXT, "lower or higher"),
        ("value", pa.float64(), "the estimate"),
        ("low", pa.float64(), "lower end of the run's own 95 % interval; null: it has none"),
        ("high", pa.float64(), "upper end"),
        ("processes", pa.int32(), "worker processes that the interval rests on"),
    ),
}
"""The tables: name, type and meaning of each column. ``host`` and ``month`` are in the path."""

LATER_COLUMNS: Mapping[str, tuple[str, ...]] = {RUNS: ("fleet", "machine_id"), METRICS_TABLE: ()}
"""Those that older files lack. Their rows have null instead."""


def check_schema(files: Files) -> bool:
    """Whether the store says which schema it has.

    Raises ResultsError, in one line, for a newer one, and MeasurementError if it cannot be read.
    """
    if not files.list(SCHEMA_FILE, ""):
        return False
    where = f"{files.url}/{SCHEMA_FILE}"
    check_version(parse_json(files.read(SCHEMA_FILE), where), where, "store", SCHEMA)
    return True


def note_schema(files: Files) -> None:
    """Have the store say its schema, before something is written to it. Raises as above."""
    if not check_schema(files):
        files.write(SCHEMA_FILE, dump_json({"schema": SCHEMA}))
