# SPDX-License-Identifier: Apache-2.0
"""A night: what a run found, as the history keeps it.

A night has the metadata of the run, and a table with a row for each of its figures. Nothing here
reads or writes a file: see :mod:`kickbench.nightly.night_file`.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import kickbench
from kickbench.compare.identity import fingerprint, fingerprint_facts
from kickbench.compare.metrics import METRICS, control_ok, points
from kickbench.compare.runs import is_observed
from kickbench.errors import ResultsError
from kickbench.nightly.trends import Key
from kickbench.results.schema import one_line

SCHEMA = 1
"""Version of what the history keeps."""

MAX_ROWS = 100_000
"""Of one night."""

_LONGEST_REASON = 500

COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("night_utc", pa.timestamp("ms", "UTC"), "when the run began"),
    ("run_id", pa.string(), "the run that measured it"),
    ("case", pa.string(), "id of the case"),
    ("kind", pa.string(), "kind of the case"),
    ("method", pa.string(), "kick protocol"),
    (
        "baseline",
        pa.string(),
        "null: a level of the method; else the run's own paired difference, method - baseline",
    ),
    ("metric", pa.string(), "which figure, e.g. ns_per_exit"),
    (
        "unit",
        pa.string(),
        "ns, 1/s, share or instructions; of an emulated night, of the emulator's clock",
    ),
    ("better", pa.string(), "lower or higher: the direction of an improvement"),
    ("value", pa.float64(), "the estimate"),
    ("ci95_low", pa.float64(), "lower end of the night's own 95 % interval; null: it has none"),
    ("ci95_high", pa.float64(), "upper end"),
    ("processes", pa.int32(), "worker processes that the interval rests on; 0: not known"),
    (
        "reference",
        pa.float64(),
        "the baseline's level, of which a paired difference is a share; null when there is none",
    ),
    ("floor", pa.float64(), "the floor of a quiet exit; null when there is none"),
)
"""One row per figure of a night: name, type, meaning."""

LATER_COLUMNS = ("floor",)
"""Those that older nights lack. Their rows have null instead."""

KEY_COLUMNS = ("case", "method", "baseline", "metric")
"""The columns of a :class:`~kickbench.nightly.trends.Key`."""

TEXT_COLUMNS = (*KEY_COLUMNS, "kind", "unit", "better")
"""The columns that a table in memory has as dictionaries."""

# The same in every row of a night, and in its metadata. They are in the file for other readers.
_REDUNDANT = ("night_utc", "run_id")

FIGURE_COLUMNS = [name for name, _, _ in COLUMNS if name not in _REDUNDANT]
"""The columns of a table in memory, in order."""

_FIGURES = pa.schema(
    [
        pa.field(name, pa.dictionary(pa.int32(), pa.string()) if name in TEXT_COLUMNS else kind)
        for name, kind, _ in COLUMNS
        if name in FIGURE_COLUMNS
    ]
)


@dataclass(frozen=True)
class Night:
    """What a run found, as the history keeps it.

    ``document`` is the metadata. ``table`` has the figures: those of :data:`COLUMNS` that do not
    only repeat the metadata, with texts as dictionaries. Both are checked when the night is added
    to a history, and when it is read.
    """

    document: Mapping[str, Any]
    table: pa.Table

    @classmethod
    def of(cls, manifest: Mapping[str, Any], summary: Mapping[str, Any]) -> Night:
        """The night that a run's manifest and summary describe.

        Raises ResultsError, in one line, for an observation of a VM.
        """
        if is_observed(summary):
            raise ResultsError(
                one_line(
                    f"{manifest['run_id']}: is an observation of a VM, and a history keeps nights "
                    "of a scenario; use kickbench compare for two observations"
                )
            )
        environment = manifest["environment"]
        document = {
            "schema": SCHEMA,
            "run_id": manifest["run_id"],
            "created_utc": manifest["created_utc"],
            "scenario": manifest["scenario_name"],
            "scenario_digest": scenario_digest(manifest["scenario"]),
            "run_schema": manifest["schema"],
            "fingerprint": fingerprint(environment),
            "facts": fingerprint_facts(environment),
            "environment": environment,
            "emulated": manifest["emulated"],
            "emulated_by": manifest["emulated_by"],
            "complete": manifest["complete"],
            "cases": [
                {
                    "id": case["id"],
                    "status": case["status"],
                    "reason": None if (r := case.get("reason")) is None else short_reason(r),
                    "load": case.get("load"),
                    "control_ok": control_ok(case),
                }
                for case in summary["cases"]
            ],
            "lost": list(_lost(summary)),
            "kickbench": kickbench.__version__,
        }
        rows = [
            {
                "case": point.case,
                "kind": point.kind,
                "method": point.method,
                "baseline": point.baseline,
                "metric": point.metric,
                "unit": METRICS[point.metric].unit,
                "better": METRICS[point.metric].better,
                "value": point.estimate.value,
                "ci95_low": point.estimate.low,
                "ci95_high": point.estimate.high,
                "processes": point.estimate.processes,
                "reference": point.reference,
                "floor": point.floor,
            }
            for point in points(summary)
            if not METRICS[point.metric].must_not  # one is an alarm, and no trend: see _lost
        ]
        return cls(document, figures(rows))

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return str(self.document["run_id"])

    @property
    def created_utc(self) -> str:
        """When the run began, for example "2026-03-01T12:00:00Z"."""
        return str(self.document["created_utc"])

    @cached_property
    def when(self) -> datetime.datetime:
        """When the run began, as an aware datetime."""
        return datetime.datetime.fromisoformat(self.created_utc)

    @property
    def order(self) -> tuple[str, str]:
        """The key to sort nights by: the time, then the run's id."""
        return self.created_utc, self.run_id

    @property
    def scenario(self) -> str:
        """Name of the scenario."""
        return str(self.document["scenario"])

    @property
    def fingerprint(self) -> str:
        """The host's fingerprint: see :func:`kickbench.compare.identity.fingerprint`."""
        return str(self.document["fingerprint"])

    @property
    def run_schema(self) -> int:
        """The schema that the run's figures are of: see :data:`kickbench.results.schema.SCHEMA`."""
        return int(self.document.get("run_schema", 1))

    @property
    def environment(self) -> Mapping[str, Any]:
        """The host, as the run's manifest has it."""
        environment: Mapping[str, Any] = self.document["environment"]
        return environment

    @property
    def lost(self) -> list[dict[str, Any]]:
        """What must not happen, always an alarm: kicks that were lost by protocols that claim to be
        free of races, and accesses of the guest that were not done once."""
        return list(self.document["lost"])

    def load(self, case: str) -> float:
        """The share of CPU time that others and the outer host took from a case.

        NaN if it is not known. It is NaN under emulation, because the emulator's clock stands still
        while others run.
        """
        load = self._cases.get(case, {}).get("load")
        if load is None or load["others_share"] is None or self.document["emulated"]:
            return math.nan
        return min(1.0, float(load["others_share"]) + float(load["stolen_share"] or 0.0))

    def is_biased(self, case: str) -> bool:
        """Whether a case's A/A control found a protocol to differ from itself."""
        return self._cases.get(case, {}).get("control_ok") is False

    @cached_property
    def _cases(self) -> dict[str, Mapping[str, Any]]:
        return {case["id"]: case for case in self.document["cases"]}

    def keys(self) -> list[Key]:
        """The keys of the night's figures, in the order of the table."""
        columns = [self.table.column(name).to_pylist() for name in KEY_COLUMNS]
        return [Key(*parts) for parts in zip(*columns, strict=True)]

    def changed_meaning(self, metric: str, other: Night) -> bool:
        """Whether a metric means something else in this night than in another."""
        known = METRICS.get(metric)
        return known is not None and known.changed_between(self.run_schema, other.run_schema)


def figures(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The table of a night, from the rows of its figures."""
    return pa.Table.from_pylist(list(rows), schema=_FIGURES)


def scenario_digest(scenario: Mapping[str, Any]) -> str:
    """12 hexadecimal digits of the resolved scenario. Its description does not change them."""
    measured = {key: value for key, value in scenario.items() if key != "description"}
    text = json.dumps(measured, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def key_codes(rows: pa.Table) -> tuple[NDArray[np.int64], list[Callable[[int], Any]]]:
    """A number for each row, and a function for each column of the key.

    Rows of the same metric have the same number. A function takes the index of a row, and returns
    the row's text in its column.
    """
    codes = np.zeros(len(rows), dtype=np.int64)
    largest = 1
    texts = []
    for name in KEY_COLUMNS:
        column = rows.column(name).combine_chunks()
        known = [*column.dictionary.to_pylist(), None]
        indices = column.indices.fill_null(len(known) - 1).to_numpy()
        if largest * len(known) >= 2**62:
            codes = np.unique(codes, return_inverse=True)[1]
            largest = len(rows)
        codes = codes * len(known) + indices
        largest *= len(known)
        texts.append(_text_of(known, indices))
    return codes, texts


def _text_of(known: Sequence[str | None], indices: NDArray[Any]) -> Callable[[int], Any]:
    return lambda row: known[indices[row]]


def _lost(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for case in summary["cases"]:
        for finding in case.get("findings") or ():
            if finding.get("race_free_claim") is True and finding["what"] in ("lost", "rescued"):
                yield {
                    "case": case["id"],
                    **{name: finding[name] for name in ("method", "what", "count", "of")},
                }
    for point in points(summary):
        if METRICS[point.metric].must_not and point.count:
            named = {"case": point.case, "method": point.method, "what": point.metric}
            yield {**named, "count": point.count, "of": point.of}


def short_reason(text: str) -> str:
    """A reason as it is kept: one line, and no longer than a few hundred characters."""
    return one_line(text)[:_LONGEST_REASON]
