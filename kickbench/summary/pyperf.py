# SPDX-License-Identifier: Apache-2.0
"""pyperf.json: the run as a pyperf suite, for ``python -m pyperf show|stats|hist|compare_to``.

One benchmark per case and method; one pyperf run per worker process; one value per round, in
seconds. By kind:

- exits: "<case id>/<method>", the method's mean time per exit in the round;
- kick: "<case id>/<method>/latency", the median latency of its kicks in the round;
- pause_all: "<case id>/<method>/pause", the median time until the last vCPU acknowledged;
- race: none, because lost kicks have no time;
- nested: "<case id>/<iteration>/round_trip", the median of its round trips in the round, if they
  are compared;
- observed: none, because nothing was measured in rounds.

pyperf compares such values unpaired, so it resolves far less than the contrasts in summary.json.
The file is for pyperf's tools and for archives. Format: pyperf's documentation, "pyperf JSON" and
"Metadata".
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyperf

from kickbench.results.files import replace_file
from kickbench.results.reader import PYPERF, CaseRecord, RunReader
from kickbench.results.schema import one_line
from kickbench.summary.events import RoundMedians, round_medians
from kickbench.summary.exits import read_rounds
from kickbench.summary.handover import read_handover_rounds
from kickbench.summary.kicks import read_kicks
from kickbench.summary.nested import read_nested_rounds
from kickbench.summary.pauses import read_pauses
from kickbench.summary.shared import Floats, Ints, count_entries
from kickbench.summary.summarise import describe

# pyperf's names for what kickbench.host.environment knows.
_ENVIRONMENT = {
    "hostname": "hostname",
    "cpu_model_name": "cpu.model",
    "cpu_affinity": "cpu.affinity",
    "cpu_governor": "frequency.governors",
    "platform": "kernel.release",
    "kernel_version": "kernel.version",
    "clocksource": "clocksource.current",
    "hypervisor": "virtualization.hypervisor",
    "kickbench_version": "software.kickbench",
}


@dataclass(frozen=True)
class _Values:
    """By round (rows) and method (columns) a value in ns, and the number of events behind it."""

    suffix: str
    process: Ints
    ns: Floats
    count: Floats | Ints


def _exits(reader: RunReader, case_id: str) -> _Values:
    rounds = read_rounds(reader, case_id)
    return _Values("", rounds.process, rounds.ns_per_exit, rounds.exits)


def _kicks(reader: RunReader, case_id: str) -> _Values:
    rounds = read_round_medians(reader, case_id)
    return _Values("/latency", rounds.process, rounds.median_ns, rounds.count)


def _pauses(reader: RunReader, case_id: str) -> _Values:
    rounds = read_round_medians(reader, case_id)
    return _Values("/pause", rounds.process, rounds.median_ns, rounds.count)


def _nested(reader: RunReader, case_id: str) -> _Values:
    rounds = read_nested_rounds(reader, case_id)
    return _Values("/round_trip", rounds.process, rounds.median_ns, rounds.count)


def _handovers(reader: RunReader, case_id: str) -> _Values:
    rounds = read_handover_rounds(reader, case_id)
    return _Values("", rounds.process, rounds.median_ns, rounds.count)


# The kinds that have a time to export.
_KINDS: dict[str, Callable[[RunReader, str], _Values]] = {
    "exits": _exits,
    "kick": _kicks,
    "pause_all": _pauses,
    "nested": _nested,
    "handover": _handovers,
}


def export(reader: RunReader) -> pyperf.BenchmarkSuite | None:
    """The suite of a run; None if nothing was timed, because pyperf has no empty suites."""
    common = _run_metadata(reader)
    benchmarks = [
        benchmark
        for record in reader.cases
        if record.document is not None and record.parameters["kind"] in _KINDS
        for benchmark in _benchmarks(reader, record, common)
    ]
    return pyperf.BenchmarkSuite(benchmarks) if benchmarks else None


def write_pyperf(run: Path | str) -> Path | None:
    """Write ``pyperf.json`` of a run folder, atomically; None if there is nothing to write."""
    reader = RunReader(run)
    suite = export(reader)
    if suite is None:
        return None
    text = io.StringIO()
    suite.dump(text)
    path = reader.path / PYPERF
    replace_file(path, text.getvalue().encode("utf-8", "replace"))
    return path


def _benchmarks(
    reader: RunReader, record: CaseRecord, common: dict[str, Any]
) -> list[pyperf.Benchmark]:
    rounds = _KINDS[record.parameters["kind"]](reader, record.id)
    case = _case_metadata(record)
    benchmarks = []
    for index, method in enumerate(record.parameters["methods"]):
        seconds = rounds.ns[:, index] / 1e9
        usable = seconds > 0  # false for NaN: pyperf takes positive values only
        if not usable.any():
            continue
        metadata = {
            **common,
            **case,
            "name": f"{record.id}/{method}{rounds.suffix}",
            "unit": "second",
            "kickbench_method": method,
            # The number of exits, kicks, pauses or iterations behind a value, in the median round.
            "loops": max(1, int(np.median(rounds.count[usable, index]))),
        }
        runs = []
        for process in np.unique(rounds.process[usable]):
            chosen = usable & (rounds.process == process)
            raw = seconds[chosen] * rounds.count[chosen, index]
            runs.append(
                pyperf.Run(
                    seconds[chosen].tolist(),
                    metadata={**metadata, "duration": float(raw.sum())},
                    collect_metadata=False,
                )
            )
        benchmarks.append(pyperf.Benchmark(runs))
    return benchmarks


def _run_metadata(reader: RunReader) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kickbench_run_id": reader.run_id,
        "kickbench_scenario": reader.scenario_name,
        # pyperf's dates have no zone; this one is UTC.
        "date": reader.manifest["created_utc"].removesuffix("Z").replace("T", " "),
    }
    if reader.manifest["emulated"]:
        found["kickbench_emulated_by"] = reader.manifest["emulated_by"] or "unknown"
    for name, place in _ENVIRONMENT.items():
        found[name] = _look_up(reader.environment, place)
    return _plain(found)


def _case_metadata(record: CaseRecord) -> dict[str, Any]:
    parameters = record.parameters
    rate = parameters["exit_rate_hz"]
    if rate is None and parameters["kind"] == "exits":
        rate = "max"
    return _plain(
        {
            "description": describe(parameters),
            "kickbench_vcpus": parameters["vcpus"],
            "kickbench_placement": parameters["placement"]["name"],
            "kickbench_program": parameters.get("program"),
            "kickbench_kind": parameters["kind"],
            "kickbench_transport": parameters.get("transport"),
            "kickbench_state": parameters.get("state"),
            "kickbench_exit_rate_hz": rate,
            "kickbench_kick_rate_hz": parameters.get("kick_rate_hz"),
        }
    )


def _look_up(environment: dict[str, Any], place: str) -> Any:
    value: Any = environment
    for key in place.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Only the values that pyperf accepts: numbers, and strings of one line that are not empty."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list):
            value = ", ".join(str(item) for item in value)
        clean = one_line(value) if isinstance(value, str) else value
        if clean is not None and clean != "" and isinstance(clean, int | float | str):
            plain[name] = clean
    return plain


def read_round_medians(reader: RunReader, case_id: str) -> RoundMedians:
    """The medians per round of a finished case: of latencies, or of pauses (the last vCPU)."""
    record = reader.case(case_id)
    n_entries = count_entries(record.parameters["methods"])
    if record.parameters["kind"] == "kick":
        kicks = read_kicks(reader, case_id)
        return round_medians(kicks, kicks.latency_ns, n_entries)
    pauses = read_pauses(reader, case_id)
    return round_medians(pauses, pauses.last_ns, n_entries)
