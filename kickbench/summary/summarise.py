# SPDX-License-Identifier: Apache-2.0
"""Writes summary.json: what a run found. Scripts, ``show`` and the report rely on its format.

Each kind adds its part to a case: :mod:`kickbench.summary.exits`, :mod:`kickbench.summary.kicks`,
:mod:`kickbench.summary.pauses`, :mod:`kickbench.summary.races`, :mod:`kickbench.summary.nested`,
:mod:`kickbench.summary.handover`, :mod:`kickbench.summary.lifecycle` and
:mod:`kickbench.summary.observed`.
This module has the rest of a case, and what is judged over all cases. A number that does not exist
(no exit happened, one round only) is null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kickbench.guest.programs import stays_in_kernel
from kickbench.methods import method_label
from kickbench.numbers import plural
from kickbench.results.files import replace_file
from kickbench.results.reader import SUMMARY, CaseRecord, RunReader
from kickbench.results.schema import SCHEMA, dump_json
from kickbench.results.tables import ROLES
from kickbench.stats.contrasts import family_confidence
from kickbench.summary.counts import read_counts
from kickbench.summary.exits import read_rounds, summarise_exits
from kickbench.summary.handover import summarise_handovers
from kickbench.summary.kicks import describe_kicks, summarise_kicks
from kickbench.summary.lifecycle import summarise_lifecycle
from kickbench.summary.nested import describe_nested, summarise_nested
from kickbench.summary.noise import describe_noise, read_noise
from kickbench.summary.observed import summarise_observed
from kickbench.summary.pauses import describe_pauses, pause_gap_us, summarise_pauses
from kickbench.summary.per_kick import Times, contrasts_per_kick, pair_with_quiet
from kickbench.summary.races import summarise_races
from kickbench.summary.shared import (
    NO_CONTROL,
    Controls,
    bounds,
)

# The confidence for all A/A controls and placebos of a run together: 1 of 100 sound runs has a
# false alarm. 95 % would mean 5 of 100 in the long run, and more in many series of 100 runs.
CONTROL_CONFIDENCE = 0.99

# A control whose interval reaches further than this share of the baseline's level cannot confirm
# small differences: those measured are of that size (an exit with sigmask takes some 2 % longer).
CONTROL_RESOLVES = 0.02


def summarise(reader: RunReader) -> dict[str, Any]:
    """The summary of a run, in the shape of ``summary.json`` (see docs/results.md)."""
    cases = [_summarise_case(reader, record) for record in reader.cases]
    _judge_controls([case for case, _ in cases], [controls for _, controls in cases])
    _add_kicks_costs(reader, [case for case, _ in cases])
    return {
        "schema": SCHEMA,
        "run_schema": reader.schema,
        "run_id": reader.run_id,
        "scenario": reader.scenario_name,
        "created_utc": reader.manifest["created_utc"],
        "complete": reader.complete,
        "emulated": reader.manifest["emulated"],
        "emulated_by": reader.manifest["emulated_by"],
        "counts_instructions": reader.count_step > 0,
        "count_step": reader.count_step,
        "environment": reader.environment,
        "cases": [case for case, _ in cases],
    }


def write_summary(run: Path | str) -> dict[str, Any]:
    """Write ``summary.json`` of a run folder, atomically, and return it."""
    reader = RunReader(run)
    summary = summarise(reader)
    replace_file(reader.path / SUMMARY, dump_json(summary))
    return summary


def _summarise_case(reader: RunReader, record: CaseRecord) -> tuple[dict[str, Any], Controls]:
    parameters = record.parameters
    document = record.document or {}
    summary: dict[str, Any] = {
        "id": record.id,
        "title": describe(parameters),
        "kind": parameters["kind"],
        "status": record.status,
        "reason": record.reason,
        "vcpus": parameters["vcpus"],
        "placement": parameters["placement"]["name"],
        "placement_spec": parameters["placement"],
        "exit_rate_hz": parameters["exit_rate_hz"],
        "program": parameters.get("program"),
        "irqchip": parameters.get("irqchip"),
        "arrival": parameters.get("arrival"),
        "mix": parameters.get("mix", []),
        "gaps_us": parameters.get("gaps_us", []),
        "vcpu_rates": parameters.get("vcpu_rates", []),
        "transport": parameters.get("transport", "tgkill"),
        "state": parameters.get("state"),
        "kickers": parameters.get("kickers", 1),
        "kick_rate_hz": parameters.get("kick_rate_hz"),
        "window_ns": parameters.get("window_ns"),
        "kicks_wanted": parameters.get("kicks"),
        "moment": parameters.get("moment"),
        "vms_wanted": parameters.get("vms"),
        "iterations": parameters.get("iterations"),
        "pause_gap_us": pause_gap_us(parameters),
        "order": parameters.get("order", "parallel"),
        "after": parameters.get("after", []),
        "foreign_signals_hz": parameters.get("foreign_signals_hz"),
        "siglock_threads": parameters.get("siglock_threads", 0),
        "siglock_hz": parameters.get("siglock_hz"),
        "timed_by": _timed_by(parameters),
        "timeout_ns": None,
        "first_timeout_ns": None,
        "nested": None,
        "handover": None,
        "baseline": parameters["baseline"],
        "processes": len(document.get("processes", ())),
        "oversubscribed": any(p["oversubscribed"] for p in document.get("processes", ())),
        "placed": _placed(document.get("processes", ())),
        "clocks": [process["clock"] for process in document.get("processes", ())],
        "load": _load(document.get("processes", ())),
        "seconds": document.get("seconds"),
        "stopped_by": document.get("stopped_by"),
        "warnings": _collect_warnings(document),
        "precision": parameters.get("precision"),
        "precision_of": [],
        "precision_missed": [],
        "relative_half_width": None,
        "precision_reached": None,
        "start_skew": None,
        "shift": [],
        "methods": {},
        "contrasts": [],
        **{role: {**NO_CONTROL} for role in ROLES},
        "findings": [],
    }
    controls: Controls = ()
    if record.document is not None:
        fill, controls = _SUMMARISERS[parameters["kind"]](reader, record)
        summary |= fill
        for method, noise in read_noise(reader, record).items():
            summary["methods"][method]["noise"] = noise
        for method, accesses in _accesses(document.get("processes", ())).items():
            if method in summary["methods"]:
                summary["methods"][method]["accesses"] = accesses
        for method, counts in read_counts(reader, record).items():
            summary["methods"][method]["counts"] = {
                what: vars(count) for what, count in counts.items()
            }
    return summary, controls


def _timed_by(parameters: Mapping[str, Any]) -> str | None:
    """Who takes the stamps of an exit: "host", or "guest"; None if none are measured."""
    if parameters["kind"] != "exits":
        return None
    paced = parameters["exit_rate_hz"] is not None
    return "guest" if paced or stays_in_kernel(parameters.get("program")) else "host"


def describe(parameters: dict[str, Any]) -> str:
    """A case in a few words, e.g. "pm_timer, 2 vCPUs, local, full speed"."""
    if parameters["kind"] == "handover":
        return f"{parameters['placement']['name']}, pairs of CPUs"
    if parameters["kind"] == "observed":
        return plural(parameters["vcpus"], "vCPU")
    vcpus, rate = parameters["vcpus"], parameters["exit_rate_hz"]
    words = [
        parameters.get("program"),
        f"{vcpus} vCPU" + ("" if vcpus == 1 else "s"),
        parameters["placement"]["name"],
    ]
    if parameters["kind"] == "exits":
        words.append("full speed" if rate is None else f"{rate:,.10g} exits/s per vCPU")
        words.append(None if rate is None else parameters.get("arrival"))
    words += describe_kicks(parameters)
    words += describe_nested(parameters)
    words += describe_pauses(parameters)
    words += describe_noise(parameters)
    return ", ".join(word for word in words if word)


def _load(processes: Sequence[Mapping[str, Any]]) -> dict[str, float | None] | None:
    """How busy other work kept the host, over all processes; None if the run did not measure it."""
    loads = [load for process in processes if (load := process.get("load")) is not None]
    if not loads:
        return None

    def total(name: str) -> float | None:
        known = [load[name] for load in loads if load[name] is not None]
        return sum(known) if len(known) == len(loads) else None

    seconds = sum(load["seconds"] for load in loads)
    of_cpus = sum(load["seconds"] * load["cpus"] for load in loads)
    waited, own = total("waited_seconds"), total("own_cpu_seconds")
    runnable = None if waited is None or own is None else waited + own
    return {
        "seconds": seconds,
        "others_share": _share(total("others_cpu_seconds"), of_cpus),
        "stolen_share": _share(total("stolen_cpu_seconds"), of_cpus),
        "waited_share": _share(waited, runnable),
        "stalled_share": _share(total("stalled_some_seconds"), seconds),
    }


def _accesses(processes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """By method, the accesses of the guest in all processes, and those not done once."""
    found: dict[str, dict[str, int]] = {}
    for process in processes:
        for method, counts in process.get("accesses", {}).items():
            total = found.setdefault(method_label(method), dict.fromkeys(counts, 0))
            for name in total:
                total[name] += counts[name]
    return found


def _share(part: float | None, whole: float | None) -> float | None:
    """The share, at most 1: the two are read one after the other, and can exceed it."""
    return None if part is None or not whole else min(1.0, part / whole)


def _placed(processes: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether threads and memory were as placed in all processes; None if it is not known."""
    each = [(process.get("placement") or {}).get("as_asked") for process in processes]
    return False if False in each else True if each and all(each) else None


def _collect_warnings(document: dict[str, Any]) -> list[str]:
    found: dict[str, None] = {}
    for process in document.get("processes", ()):
        found.update(dict.fromkeys(process["warnings"]))
    return list(found)


# The table of kinds: each function fills in "methods", "contrasts", "control", "placebo" and the
# keys of its kind.
_SUMMARISERS: dict[str, Callable[[RunReader, CaseRecord], tuple[dict[str, Any], Controls]]] = {
    "exits": summarise_exits,
    "kick": summarise_kicks,
    "pause_all": summarise_pauses,
    "race": summarise_races,
    "nested": summarise_nested,
    "handover": summarise_handovers,
    "lifecycle": summarise_lifecycle,
    "observed": summarise_observed,
}


def _add_kicks_costs(reader: RunReader, cases: list[dict[str, Any]]) -> None:
    """Give cases with kicks their contrasts per kick, if there is such a case without kicks."""

    def times(case: Mapping[str, Any]) -> Times:
        rounds = read_rounds(reader, case["id"])
        return rounds.process, rounds.ns_per_exit

    for kicked, unkicked in pair_with_quiet(cases):
        pairs = [(one["method"], one["baseline"]) for one in kicked["contrasts"]]
        kicked["contrasts"].extend(
            contrasts_per_kick(kicked, list(dict.fromkeys(pairs)), times(kicked), times(unkicked))
        )


def _judge_controls(cases: list[dict[str, Any]], controls: list[Controls]) -> None:
    """Fill in "ok" and "ci_family" of every A/A control and placebo.

    With many cases some control's 95 % interval excludes 0 by chance. Each interval is therefore
    widened (Šidák), so that all controls and placebos together hold with CONTROL_CONFIDENCE. "ok"
    stays null if the widened interval contains 0 only because it is wide.
    """
    family = [
        (case, control)
        for case, of_case in zip(cases, controls, strict=True)
        for control in of_case
        if control.found["ci95"] is not None
    ]
    confidence = family_confidence(CONTROL_CONFIDENCE, len(family)) if family else 0.0
    for case, control in family:
        found = control.found
        widened = bounds(control.interval(confidence))
        found["ci_family"] = widened
        if widened is not None and not widened[0] <= 0 <= widened[1]:
            found["ok"] = False
        elif widened is not None and _resolves(case, found["metric"], widened, control.level_ns):
            found["ok"] = True


def _resolves(
    case: dict[str, Any], metric: str, widened: list[float], level_ns: float | None
) -> bool:
    """Whether ``widened`` is narrow enough to show a bias that matters.

    Such a bias is as large as the smallest difference seen in the case. It is CONTROL_RESOLVES of
    the level if that is larger, or if no difference was seen.
    """
    seen = [
        abs(contrast["diff"])
        for contrast in case["contrasts"]
        if contrast["metric"] == metric
        and contrast["ci95"] is not None
        and not contrast["ci95"][0] <= 0 <= contrast["ci95"][1]
    ]
    least = max(min(seen, default=0.0), CONTROL_RESOLVES * (level_ns or 0.0))
    return (widened[1] - widened[0]) / 2 <= least
