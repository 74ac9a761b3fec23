# SPDX-License-Identifier: Apache-2.0
"""summary.json: what a run found, as the contract that scripts, ``show`` and the report rely on.

Exits are computed from the blocks and the histograms, which cover every one; their raw samples are
not read, so a run's summary costs the same however many of them are stored. The kinds that kick are
in :mod:`kickbench.summary.kicks`, the kind nested in :mod:`kickbench.summary.nested`. A number that
does not exist (no exit happened, one round only) is null. The estimates themselves are those of
:mod:`kickbench.stats.contrasts`; nothing here decides what is worth showing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kickbench.methods import control_pairs
from kickbench.results.files import replace_file
from kickbench.results.reader import SUMMARY, CaseRecord, RunReader
from kickbench.results.schema import SCHEMA, dump_json
from kickbench.results.tables import QUANTILES, ROLES
from kickbench.scenario.kinds import precise_metrics
from kickbench.stats.contrasts import Interval, family_confidence
from kickbench.stats.quiet import QUIET_LEVELS, quiet
from kickbench.summary.counts import read_counts
from kickbench.summary.events import claims_of, merge_control
from kickbench.summary.kicks import count_kicks, describe_kicks, summarise_kicks
from kickbench.summary.nested import describe_nested, summarise_nested
from kickbench.summary.pauses import summarise_pauses
from kickbench.summary.per_kick import Times, contrasts_per_kick, pair_with_quiet
from kickbench.summary.races import summarise_races
from kickbench.summary.shared import (
    CONFIDENCE,
    WHO,
    Control,
    Controls,
    Floats,
    Ints,
    bounds,
    by_process,
    contrast,
    contrast_interval,
    control_entries,
    control_interval,
    count_entries,
    count_values,
    entry_index,
    index_rounds,
    level_estimate,
    location_of,
    ns_per_cycle,
    number,
    precision,
    ratio,
)
from kickbench.summary.shift import shift_functions

# Of all A/A controls and placebos of a run together: a sound run has a false alarm in 1 of 100. At
# 95 % it is 5 of 100 in the long run, and so more than that in many a hundred.
CONTROL_CONFIDENCE = 0.99

# A control whose interval reaches further than this share of the baseline's level is no judge of
# whether small differences are real: what is measured is of that size (an exit with sigmask takes
# some 2 % longer).
CONTROL_RESOLVES = 0.02

# A guest that made no exit for more than this share of the time stood still: its times per exit are
# no protocol's price.
STOOD_STILL = 0.05

# The columns of blocks that the quiet exit is made of.
_QUIET = tuple(name for name, level in QUANTILES.items() if level in QUIET_LEVELS)

# The columns of blocks that say what disturbed a measurement, summed per method.
DISTURBANCES = ("involuntary_switches", "migrations", "steal_ns", "run_delay_ns", "rescues")


@dataclass(frozen=True)
class Rounds:
    """Per-round values of one case of the kind exits, one row per round in time order.

    Columns are the case's methods in order, then the A/A control and the placebo. ``process`` has
    the process of each row; values are NaN where no exit happened. ``exits`` counts timed exits,
    ``exits_per_second`` is of the whole VM. ``quiet_ns_per_exit`` is NaN throughout for a run that
    stored no quantiles of its blocks.
    """

    process: Ints
    ns_per_exit: Floats
    quiet_ns_per_exit: Floats
    cpu_ns_per_exit: Floats
    exits_per_second: Floats
    exits: Floats


@dataclass(frozen=True)
class _Blocks:
    """The blocks table as arrays; ``entry`` as :func:`~kickbench.summary.shared.entry_index`."""

    entry: Ints
    ns_per_cycle: Floats
    columns: dict[str, Ints]
    quantiles: dict[str, Floats]  # those that were read
    paced: bool

    @property
    def times(self) -> tuple[str, str]:
        """The columns whose ratio is a time per exit, in cycles.

        A guest at full speed does nothing but exit, so that all time of its window counts, also
        what passed after its last exit. A paced one times its round trips itself.
        """
        return ("timed_cycles", "timed_exits") if self.paced else ("elapsed_cycles", "exits")


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


def read_rounds(reader: RunReader, case_id: str) -> Rounds:
    """The per-round times of a finished case of the kind exits, for plots and exports."""
    record = reader.case(case_id)
    columns = ["process", "round", "position", *WHO]
    columns += ["exits", "elapsed_cycles", "timed_exits", "timed_cycles", "cpu_ns", *_QUIET]
    return _rounds(_read_blocks(reader, record, columns), record.parameters["methods"])


def read_differences(
    reader: RunReader, case_id: str, metric: str = "ns_per_exit"
) -> dict[str, list[Floats]]:
    """By method, what its contrast in a metric of exits is made of, for a finished case of the kind
    exits: per process, method - baseline round by round, in time order. The baseline's are those
    of the A/A control.
    """
    parameters = reader.case(case_id).parameters
    rounds = read_rounds(reader, case_id)
    methods: list[str] = parameters["methods"]
    baseline = methods.index(parameters["baseline"])
    control = len(methods)
    return {
        method: _differences(
            rounds.process,
            getattr(rounds, metric),
            control if index == baseline else index,
            baseline,
        )
        for index, method in enumerate(methods)
    }


def read_disturbances(reader: RunReader, case_id: str) -> dict[str, Ints]:
    """By column of DISTURBANCES, its sum over all blocks of each round, which are those of
    :func:`read_rounds`. What is not known counts as 0.
    """
    columns = ["process", "round", *WHO, *DISTURBANCES]
    found = _read_blocks(reader, reader.case(case_id), columns).columns
    process, row = index_rounds(found["process"], found["round"])
    return {
        name: np.bincount(row, np.maximum(found[name], 0), len(process)).astype(np.int64)
        for name in DISTURBANCES
    }


# --- one case ----------------------------------------------------------------------------------


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
        "transport": parameters.get("transport", "tgkill"),
        "state": parameters.get("state"),
        "kickers": parameters.get("kickers", 1),
        "kick_rate_hz": parameters.get("kick_rate_hz"),
        "window_ns": parameters.get("window_ns"),
        "kicks_wanted": parameters.get("kicks"),
        "iterations": parameters.get("iterations"),
        "timeout_ns": None,
        "first_timeout_ns": None,
        "nested": None,
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
        **{role: {**_NO_CONTROL} for role in ROLES},
        "findings": [],
    }
    controls: Controls = ()
    if record.document is not None:
        fill, controls = _SUMMARISERS[parameters["kind"]](reader, record)
        summary |= fill
        for method, counts in read_counts(reader, record).items():
            summary["methods"][method]["counts"] = {
                what: vars(count) for what, count in counts.items()
            }
    return summary, controls


_NO_CONTROL = {
    "metric": None,
    "diff": None,
    "ci95": None,
    "ci_family": None,
    "ok": None,
    "rounds": 0,
}


def describe(parameters: dict[str, Any]) -> str:
    """A case in a few words, e.g. "pm_timer, 2 vCPUs, local, full speed"."""
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
    return ", ".join(word for word in words if word)


def _load(processes: Sequence[Mapping[str, Any]]) -> dict[str, float | None] | None:
    """How busy others kept the host, over all processes; None of runs that did not look."""
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


def _share(part: float | None, whole: float | None) -> float | None:
    """At most 1: the two are read one after the other."""
    return None if part is None or not whole else min(1.0, part / whole)


def _placed(processes: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether threads and memory were where they were to be, in all processes; None: not known."""
    each = [(process.get("placement") or {}).get("as_asked") for process in processes]
    return False if False in each else True if each and all(each) else None


def _collect_warnings(document: dict[str, Any]) -> list[str]:
    found: dict[str, None] = {}
    for process in document.get("processes", ()):
        found.update(dict.fromkeys(process["warnings"]))
    return list(found)


def _summarise_exits(reader: RunReader, record: CaseRecord) -> tuple[dict[str, Any], Controls]:
    parameters = record.parameters
    methods: list[str] = parameters["methods"]
    baseline = methods.index(parameters["baseline"])
    blocks = _read_blocks(reader, record)
    rounds = _rounds(blocks, methods)
    metrics = _metrics(rounds)
    quantiles = _read_quantiles(reader, record)
    statistics = {
        method: {
            **_method_statistics(blocks, index, quantiles[index]),
            "estimates": _estimates(rounds, index),
        }
        for index, method in enumerate(methods)
    }
    for figures in statistics.values():
        level = figures["estimates"].get("quiet_ns_per_exit")
        figures["ns_per_exit"]["quiet"] = None if level is None else level["value"]
    pairs = [(method, methods[baseline]) for method in methods if method != methods[baseline]]
    contrasts = _contrasts(rounds, methods, pairs, metrics)
    levels = statistics[methods[baseline]]["ns_per_exit"]
    crowded = any(process["oversubscribed"] for process in (record.document or {})["processes"])
    judged = [metric for metric in precise_metrics(parameters, crowded) if metric in metrics]
    findings = _stood_still(blocks, record)
    if parameters.get("kick_rate_hz") is not None:
        counts, faults = count_kicks(reader, record)
        # A guest that exits comes by the flag again: its loop does not look for lost kicks.
        findings += [finding for finding in faults if finding["what"] != "lost"]
        for method, figures in counts.items():
            statistics[method]["kicks"] = {**figures, "lost": None}
    fill: dict[str, Any] = {}
    controls: list[Control] = []
    for index, role in control_entries(methods).items():
        for metric in metrics[:-1]:
            values = getattr(rounds, metric)
            differences = _differences(rounds.process, values, index, baseline)
            if not differences and role != "control":
                continue
            interval = control_interval(differences, CONFIDENCE, location_of(metric))
            of_role = _contrast(differences, interval, len(rounds.process))
            found = {**_NO_CONTROL, "metric": metric, **of_role}
            level = levels[_LEVELS[metric]]
            if role in fill:
                fill[role]["mean"] = found
            else:
                fill[role] = found
            controls.append(Control(found, differences, level))
    return {
        "methods": statistics,
        "contrasts": contrasts
        + _contrasts(rounds, methods, control_pairs(methods, methods[baseline]), metrics),
        "findings": findings,
        **fill,
        **precision(
            parameters,
            contrasts,
            {metric: levels[_LEVELS[metric]] for metric in judged or ["ns_per_exit"]},
        ),
        "start_skew": _start_skew(blocks),
        "shift": _shift(blocks, methods, [*pairs, *control_pairs(methods, methods[baseline])]),
    }, controls


_LEVELS = {"quiet_ns_per_exit": "quiet", "ns_per_exit": "mean"}
"""By metric of a contrast, its level among a method's times per exit."""


def _metrics(rounds: Rounds) -> list[str]:
    """What exits are compared in: the headline first, last the CPU time, which has no control."""
    known = bool(np.isfinite(rounds.quiet_ns_per_exit).any())
    return [*(["quiet_ns_per_exit"] if known else []), "ns_per_exit", "cpu_ns_per_exit"]


# The table of kinds: each fills in "methods", "contrasts", "control", "placebo" and what else it
# knows.
_SUMMARISERS: dict[str, Callable[[RunReader, CaseRecord], tuple[dict[str, Any], Controls]]] = {
    "exits": _summarise_exits,
    "kick": summarise_kicks,
    "pause_all": summarise_pauses,
    "race": summarise_races,
    "nested": summarise_nested,
}


# --- blocks and rounds -------------------------------------------------------------------------


def _read_blocks(
    reader: RunReader, record: CaseRecord, columns: Sequence[str] | None = None
) -> _Blocks:
    methods: list[str] = record.parameters["methods"]
    document = record.document or {}
    table = reader.table(record.id, "blocks", columns).combine_chunks()
    numbers = {
        name: table.column(name).to_numpy() for name in table.column_names if name not in WHO
    }
    arrays = {name: a.astype(np.int64) for name, a in numbers.items() if name not in QUANTILES}
    quantiles = {name: a.astype(np.float64) for name, a in numbers.items() if name in QUANTILES}
    entry = entry_index(table, methods, record.parameters["baseline"])
    paced = record.parameters["exit_rate_hz"] is not None
    return _Blocks(entry, ns_per_cycle(document, arrays["process"]), arrays, quantiles, paced)


def _rounds(blocks: _Blocks, methods: list[str]) -> Rounds:
    columns = blocks.columns
    width = count_entries(methods)
    process, row = index_rounds(columns["process"], columns["round"])
    known = blocks.entry >= 0
    cell = row[known] * width + blocks.entry[known]

    def total(values: Floats | Ints) -> Floats:
        weights = values[known].astype(np.float64)
        sums: Floats = np.bincount(cell, weights, len(process) * width).astype(np.float64)
        return sums.reshape(len(process), width)

    cpu_ns = columns["cpu_ns"]
    cycles_of, exits_of = (total(columns[name]) for name in blocks.times)
    exits = total(columns["timed_exits"])
    with np.errstate(divide="ignore", invalid="ignore"):
        # Sums of integers before the division: exact, in whatever order the rows are.
        scale = _first_of_rows(blocks.ns_per_cycle, row, len(process))[:, np.newaxis]
        ns_per_exit = np.where(exits > 0, cycles_of / exits_of * scale, np.nan)
        all_exits = total(columns["exits"])
        unknown = total((cpu_ns < 0).astype(np.int64)) > 0
        cpu_ns_per_exit = np.where(
            (all_exits > 0) & ~unknown, total(np.maximum(cpu_ns, 0)) / all_exits, np.nan
        )
        first, longest_ns = _longest_windows(
            columns, columns["elapsed_cycles"] * blocks.ns_per_cycle
        )
        seconds = np.zeros_like(exits)
        timed = known[first]
        place = first[timed]
        np.add.at(seconds, (row[place], blocks.entry[place]), longest_ns[timed] / 1e9)
        exits_per_second = np.where((all_exits > 0) & (seconds > 0), all_exits / seconds, np.nan)
    _, quantiles_ns = _quantiles_ns(blocks, width)
    quiet_ns = quiet(np.stack([quantiles_ns[level] for level in QUIET_LEVELS], axis=-1))
    return Rounds(process, ns_per_exit, quiet_ns, cpu_ns_per_exit, exits_per_second, exits)


def _quantiles_ns(blocks: _Blocks, n_entries: int) -> tuple[Ints, dict[float, Floats]]:
    """The process of each round, and by level the quantiles in ns: (rounds, entries).

    Each is the mean over the vCPUs that exited, each of which has a path of its own.
    """
    process, row = index_rounds(blocks.columns["process"], blocks.columns["round"])
    known = blocks.entry >= 0
    cell = row[known] * n_entries + blocks.entry[known]
    shape = (len(process), n_entries)
    scale = _first_of_rows(blocks.ns_per_cycle, row, len(process))[:, np.newaxis]
    found = {}
    for name, of_rows in blocks.quantiles.items():
        cycles = of_rows[known]
        there = np.isfinite(cycles)
        # Sums of what a float32 held are exact in a float64, in whatever order the rows are.
        sums = np.bincount(cell[there], cycles[there], len(process) * n_entries)
        counts = np.bincount(cell[there], minlength=len(process) * n_entries)
        with np.errstate(invalid="ignore"):
            found[QUANTILES[name]] = (sums / counts).reshape(shape) * scale
    return process, found


def _shift(
    blocks: _Blocks, methods: list[str], pairs: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    process, quantiles_ns = _quantiles_ns(blocks, count_entries(methods))
    timed = blocks.columns["timed_exits"]
    exits_per_block = float(np.median(timed[timed > 0])) if (timed > 0).any() else 0.0
    return shift_functions(process, quantiles_ns, exits_per_block, methods, pairs)


def _first_of_rows(values: Floats, row: NDArray[np.intp], n_rows: int) -> Floats:
    result = np.full(n_rows, np.nan)
    result[row] = values
    return result


def _differences(process: Ints, values: Floats, entry: int, baseline: int) -> list[Floats]:
    """Per process, the differences of the rounds in which both had exits.

    A process with only one such round is left out: a single value has no spread.
    """
    return by_process(process, values[:, entry] - values[:, baseline])


def _add_kicks_costs(reader: RunReader, cases: list[dict[str, Any]]) -> None:
    """Give the cases that have kicks their contrasts per kick, where there is one without."""

    def times(case: Mapping[str, Any]) -> Times:
        rounds = read_rounds(reader, case["id"])
        return rounds.process, rounds.ns_per_exit

    for kicked, unkicked in pair_with_quiet(cases):
        pairs = [(one["method"], one["baseline"]) for one in kicked["contrasts"]]
        kicked["contrasts"].extend(
            contrasts_per_kick(kicked, list(dict.fromkeys(pairs)), times(kicked), times(unkicked))
        )


# --- numbers -----------------------------------------------------------------------------------


def _estimates(rounds: Rounds, entry: int) -> dict[str, dict[str, Any]]:
    """The level of a method, metric by metric, with an interval: what separate runs compare."""
    return {
        metric: level_estimate(
            rounds.process, getattr(rounds, metric)[:, entry], location_of(metric)
        )
        for metric in (*_metrics(rounds), "exits_per_second")
    }


def _contrast(
    differences: list[Floats], interval: Interval | None, n_rounds: int
) -> dict[str, Any]:
    used = count_values(differences)
    return contrast(interval, used, n_rounds, left_out="rounds_without_exits")


def _contrasts(
    rounds: Rounds, methods: list[str], pairs: Sequence[tuple[str, str]], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """The contrasts of pairs of methods, each in all metrics."""
    found = []
    for method, baseline in pairs:
        for metric in metrics:
            differences = _differences(
                rounds.process,
                getattr(rounds, metric),
                methods.index(method),
                methods.index(baseline),
            )
            interval = contrast_interval(differences, location_of(metric))
            between = {"method": method, "baseline": baseline, "metric": metric}
            found.append({**between, **_contrast(differences, interval, len(rounds.process))})
    return found


def _judge_controls(cases: list[dict[str, Any]], controls: list[Controls]) -> None:
    """Fill in "ok" and "ci_family" of every A/A control and placebo.

    With many cases some control's 95 % interval excludes 0 by chance. Each is therefore widened
    (Šidák) so that all controls and placebos together hold with CONTROL_CONFIDENCE. "ok" stays null
    where that contains 0 for no better reason than its width.
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
        location = location_of(found["metric"])
        widened = bounds(control_interval(control.differences, confidence, location))
        found["ci_family"] = widened
        if widened is not None and not widened[0] <= 0 <= widened[1]:
            found["ok"] = False
        elif widened is not None and _resolves(case, found["metric"], widened, control.level_ns):
            found["ok"] = True


def _resolves(
    case: dict[str, Any], metric: str, widened: list[float], level_ns: float | None
) -> bool:
    """Whether a bias as large as what the control is to vouch for would lie outside ``widened``.

    That is the smallest difference seen in the case, or CONTROL_RESOLVES of the level if that is
    more, or if none was seen.
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


def _method_statistics(
    blocks: _Blocks, entry: int, quantiles: dict[str, float | None]
) -> dict[str, Any]:
    """The figures of one method over all its blocks; the control's blocks are not among them."""
    chosen = blocks.entry == entry
    columns = {name: values[chosen] for name, values in blocks.columns.items()}
    scale = blocks.ns_per_cycle[chosen]
    exits = float(columns["exits"].sum(dtype=np.float64))
    timed = float(columns["timed_exits"].sum(dtype=np.float64))
    cycles_of, exits_of = (columns[name] for name in blocks.times)
    elapsed_s = _block_seconds(columns, columns["elapsed_cycles"] * scale)
    longest = (columns["max_cycles"] * scale)[columns["timed_exits"] > 0]
    maximum = number(longest.max()) if len(longest) else None
    cpu_ns = columns["cpu_ns"]
    return {
        "exits_per_second": ratio(exits, elapsed_s),
        "ns_per_exit": {
            # A bin's upper part can lie above the largest value there was.
            **{
                name: value if value is None or maximum is None else min(value, maximum)
                for name, value in quantiles.items()
            },
            "max": maximum,
            "mean": ratio(float((cycles_of * scale).sum()), float(exits_of.sum(dtype=np.float64)))
            if timed
            else None,
        },
        "cpu_ns_per_exit": None
        if (cpu_ns < 0).any()
        else ratio(float(cpu_ns.sum(dtype=np.float64)), exits),
        "n": int(timed),
        "stalled": _stalled(columns, scale),
        "disturbances": {name: _total(columns[name]) for name in DISTURBANCES},
    }


def _stalled(columns: dict[str, Ints], scale: Floats) -> float | None:
    """The share of the windows in which the guest made no exit and KVM_RUN returned all the same.

    None when there was no window, and when the run is too old to say.
    """
    stalled = columns["stalled_cycles"]
    if (stalled < 0).any():
        return None
    return ratio(float((stalled * scale).sum()), float((columns["elapsed_cycles"] * scale).sum()))


def _stood_still(blocks: _Blocks, record: CaseRecord) -> list[dict[str, Any]]:
    """The methods whose guest stood still for too much of the time; times in ns."""
    methods: list[str] = record.parameters["methods"]
    entry = merge_control(blocks.entry, record)
    found = []
    for index, method in enumerate(methods):
        mine = entry == index
        stalled = np.maximum(blocks.columns["stalled_cycles"], 0)[mine]
        count = int((stalled * blocks.ns_per_cycle[mine]).sum())
        of = int((blocks.columns["elapsed_cycles"] * blocks.ns_per_cycle)[mine].sum())
        if count > STOOD_STILL * of:
            claim = claims_of(record).get(method)
            found.append(
                {
                    "method": method,
                    "what": "stood_still",
                    "count": count,
                    "of": of,
                    "race_free_claim": claim,
                }
            )
    return found


def _start_skew(blocks: _Blocks) -> float | None:
    """How long after a block's window that of its last vCPU began: a share of the block, mean.

    None for a paced guest, whose windows open at exits that come in their own time, and for a run
    that is too old to say.
    """
    skew, elapsed = blocks.columns["skew_cycles"], blocks.columns["elapsed_cycles"]
    if blocks.paced or not len(skew) or (skew < 0).any():
        return None
    _, latest = _longest_windows(blocks.columns, skew.astype(np.float64))
    _, length = _longest_windows(blocks.columns, (skew + elapsed).astype(np.float64))
    return number(float(np.mean(latest[length > 0] / length[length > 0])))


def _block_seconds(columns: dict[str, Ints], elapsed_ns: Floats) -> float:
    """How long the blocks were, in all: each as long as its longest vCPU's window."""
    return float(_longest_windows(columns, elapsed_ns)[1].sum()) / 1e9


def _longest_windows(
    columns: dict[str, Ints], elapsed_ns: Floats
) -> tuple[NDArray[np.intp], Floats]:
    """Per block a row of it, and its length in ns: that of its longest vCPU's window.

    vCPUs that share a CPU come to their turn late, and have shorter windows than the block.
    """
    # One number a block: 15 bits of process, 31 of round, 15 of position.
    key = (columns["process"] << 46) | (columns["round"] << 15) | columns["position"]
    _, first, block = np.unique(key, return_index=True, return_inverse=True)
    longest = np.zeros(len(first))
    np.maximum.at(longest, block, elapsed_ns)
    return first, longest


def _total(values: Ints) -> int | None:
    """The sum, null when -1 says that a value is not known."""
    return None if (values < 0).any() else int(values.sum(dtype=np.float64))


# --- histograms --------------------------------------------------------------------------------

_OVER_ALL = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def _read_quantiles(reader: RunReader, record: CaseRecord) -> list[dict[str, float | None]]:
    """Per method (not the control) the quantiles of ns per exit over all processes."""
    methods: list[str] = record.parameters["methods"]
    table = reader.table(record.id, "exit_histograms").combine_chunks()
    process = table.column("process").to_numpy().astype(np.int64)
    scale = ns_per_cycle(record.document or {}, process)
    entry = entry_index(table, methods, record.parameters["baseline"])
    low = table.column("low_cycles").to_numpy() * scale
    high = table.column("high_cycles").to_numpy() * scale
    count = table.column("count").to_numpy().astype(np.float64)
    result = []
    for index in range(len(methods)):
        chosen = (entry == index) & (count > 0) & (high > low)
        values = histogram_quantiles(
            low[chosen], high[chosen], count[chosen], list(_OVER_ALL.values())
        )
        result.append({name: number(value) for name, value in zip(_OVER_ALL, values, strict=True)})
    return result


def histogram_quantiles(
    low: Floats, high: Floats, count: Floats, levels: Sequence[float]
) -> Floats:
    """Quantiles of a histogram, its values spread evenly within each bin.

    Bins [low, high) may overlap (those of processes with different clocks do). NaN for all when
    there are no counts.
    """
    if not len(low):
        return np.full(len(levels), np.nan)
    # The distribution function is piecewise linear: its slope rises at each lower edge and falls
    # at each upper one.
    slope = count / (high - low)
    edges, place = np.unique(np.concatenate([low, high]), return_inverse=True)
    slopes = np.cumsum(
        np.bincount(place, weights=np.concatenate([slope, -slope]), minlength=len(edges))
    )
    rising = np.maximum(slopes[:-1], 0) * np.diff(edges)
    cumulative = np.concatenate([[0.0], np.cumsum(rising)])
    wanted = np.asarray(levels) * cumulative[-1]
    return np.asarray(np.interp(wanted, cumulative, edges), np.float64)
