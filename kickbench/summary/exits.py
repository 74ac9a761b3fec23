# SPDX-License-Identifier: Apache-2.0
"""The summary of the kind exits: times per exit, in rounds, with their contrasts.

The figures come from the blocks and the histograms, which cover every exit. The raw samples are not
read, so the cost of a summary does not depend on their number. The estimates are those of
:mod:`kickbench.stats.contrasts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kickbench.guest.programs import stays_in_kernel
from kickbench.methods import control_pairs
from kickbench.results.reader import CaseRecord, RunReader
from kickbench.results.tables import QUANTILES
from kickbench.scenario.kinds import FIGURES, precise_metrics
from kickbench.stats.contrasts import Interval
from kickbench.stats.floor import floor
from kickbench.stats.quiet import QUIET_LEVELS, quiet
from kickbench.summary.events import claims_of, merge_control
from kickbench.summary.kicks import count_kicks
from kickbench.summary.shared import (
    CONFIDENCE,
    NO_CONTROL,
    WHO,
    Control,
    Controls,
    Floats,
    Ints,
    Paired,
    contrast,
    control_entries,
    count_entries,
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

# A guest that made no exit for more than this share of the time stood still. Its times per exit are
# not the protocol's cost.
STOOD_STILL = 0.05

# The columns of blocks from which the quiet exit is computed.
_QUIET = tuple(name for name, level in QUANTILES.items() if level in QUIET_LEVELS)

# The columns of blocks that count what disturbed a measurement, summed per method.
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

        A guest at full speed does nothing but exit. So all time of its window counts, including the
        time after its last exit. A paced guest times its round trips itself.
        """
        return ("timed_cycles", "timed_exits") if self.paced else ("elapsed_cycles", "exits")


def read_rounds(reader: RunReader, case_id: str) -> Rounds:
    """The per-round times of a finished case of the kind exits, for plots and exports."""
    record = reader.case(case_id)
    columns = ["process", "round", "position", *WHO]
    columns += ["exits", "elapsed_cycles", "timed_exits", "timed_cycles", "cpu_ns", *_QUIET]
    return _rounds(_read_blocks(reader, record, columns), record.parameters["methods"])


def read_pairs(reader: RunReader, case_id: str, metric: str = "ns_per_exit") -> dict[str, Paired]:
    """By method, the rounds behind its contrast, for a finished case of the kind exits.

    The differences are method - baseline. Those of the baseline are the A/A control's.
    """
    parameters = reader.case(case_id).parameters
    rounds = read_rounds(reader, case_id)
    methods: list[str] = parameters["methods"]
    baseline = methods.index(parameters["baseline"])
    control = len(methods)
    return {
        method: _pair(rounds, metric, control if index == baseline else index, baseline)
        for index, method in enumerate(methods)
    }


def read_disturbances(reader: RunReader, case_id: str) -> dict[str, Ints]:
    """By column of DISTURBANCES, its sum over all blocks of each round.

    The rounds are those of :func:`read_rounds`. A value that is not known counts as 0.
    """
    columns = ["process", "round", *WHO, *DISTURBANCES]
    found = _read_blocks(reader, reader.case(case_id), columns).columns
    process, row = index_rounds(found["process"], found["round"])
    return {
        name: np.bincount(row, np.maximum(found[name], 0), len(process)).astype(np.int64)
        for name in DISTURBANCES
    }


def summarise_exits(reader: RunReader, record: CaseRecord) -> tuple[dict[str, Any], Controls]:
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
    for index, method in enumerate(methods):
        figures = statistics[method]
        level = figures["estimates"].get("quiet_ns_per_exit")
        figures["ns_per_exit"]["quiet"] = None if level is None else level["value"]
        lowest = floor(rounds.quiet_ns_per_exit[:, index], rounds.process)
        figures["ns_per_exit"]["floor"] = number(lowest)
    pairs = [(method, methods[baseline]) for method in methods if method != methods[baseline]]
    contrasts = _contrasts(rounds, methods, pairs, metrics)
    levels = statistics[methods[baseline]]["ns_per_exit"]
    crowded = any(process["oversubscribed"] for process in (record.document or {})["processes"])
    judged = [metric for metric in precise_metrics(parameters, crowded) if metric in metrics]
    findings = _stood_still(blocks, record)
    if parameters.get("kick_rate_hz") is not None:
        counts, faults = count_kicks(reader, record)
        # A guest that exits checks the flag again, so its loop does not look for lost kicks.
        findings += [finding for finding in faults if finding["what"] != "lost"]
        for method, figures in counts.items():
            statistics[method]["kicks"] = {**figures, "lost": None}
    fill: dict[str, Any] = {}
    controls: list[Control] = []
    for index, role in control_entries(methods).items():
        for metric in metrics[:-1]:
            paired = _pair(rounds, metric, index, baseline)
            if not paired.count and role != "control":
                continue
            of_role = _contrast(paired, paired.control(CONFIDENCE), len(rounds.process))
            found = {**NO_CONTROL, "metric": metric, **of_role}
            level = levels[_LEVELS[metric]]
            if role in fill:
                fill[role]["mean"] = found
            else:
                fill[role] = found
            controls.append(Control(found, paired.control, level))
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
"""By metric of a contrast, the name of its level among a method's times per exit."""


def _metrics(rounds: Rounds) -> list[str]:
    """The metrics of exits: first the headline, last the CPU time, which has no control."""
    known = bool(np.isfinite(rounds.quiet_ns_per_exit).any())
    return [*(["quiet_ns_per_exit"] if known else []), "ns_per_exit", "cpu_ns_per_exit"]


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
    paced = paced or stays_in_kernel(record.parameters.get("program"))
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
        # Integers are summed before the division: exact in any order of the rows.
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
    quiet_ns = quiet([quantiles_ns[level] for level in QUIET_LEVELS])
    return Rounds(process, ns_per_exit, quiet_ns, cpu_ns_per_exit, exits_per_second, exits)


def _quantiles_ns(blocks: _Blocks, n_entries: int) -> tuple[Ints, dict[float, Floats]]:
    """The process of each round, and by level the quantiles in ns: (rounds, entries).

    Each is the mean over the vCPUs that exited, because each vCPU has a path of its own.
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
        # Sums of float32 values are exact in a float64, in any order of the rows.
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


def _pair(rounds: Rounds, metric: str, entry: int, baseline: int) -> Paired:
    """The rounds in which both had exits."""
    values, steady = getattr(rounds, metric), metric == FIGURES["quiet"]
    return Paired.of(rounds.process, values[:, entry], values[:, baseline], steady=steady)


def _estimates(rounds: Rounds, entry: int) -> dict[str, dict[str, Any]]:
    """The level of a method, metric by metric, with an interval, for comparisons of runs."""
    return {
        metric: level_estimate(
            rounds.process, getattr(rounds, metric)[:, entry], location_of(metric)
        )
        for metric in (*_metrics(rounds), "exits_per_second")
    }


def _contrast(paired: Paired, interval: Interval | None, n_rounds: int) -> dict[str, Any]:
    return contrast(interval, paired.count, n_rounds, left_out="rounds_without_exits")


def _contrasts(
    rounds: Rounds, methods: list[str], pairs: Sequence[tuple[str, str]], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """The contrasts of pairs of methods, each in all metrics."""
    found = []
    for method, baseline in pairs:
        for metric in metrics:
            paired = _pair(rounds, metric, methods.index(method), methods.index(baseline))
            between = {"method": method, "baseline": baseline, "metric": metric}
            found.append({**between, **_contrast(paired, paired.contrast(), len(rounds.process))})
    return found


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
            # The upper part of a bin can be above the largest value.
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
    """The share of the windows' time in which KVM_RUN returned, but without an exit of the guest.

    None if there was no window, or if the run is too old to have the column.
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
    """How late the window of a block's last vCPU began: the mean share of the block.

    None for a paced guest, whose windows open at its exits, and for a run that is too old to have
    the column.
    """
    skew, elapsed = blocks.columns["skew_cycles"], blocks.columns["elapsed_cycles"]
    if blocks.paced or not len(skew) or (skew < 0).any():
        return None
    _, latest = _longest_windows(blocks.columns, skew.astype(np.float64))
    _, length = _longest_windows(blocks.columns, (skew + elapsed).astype(np.float64))
    return number(float(np.mean(latest[length > 0] / length[length > 0])))


def _block_seconds(columns: dict[str, Ints], elapsed_ns: Floats) -> float:
    """The length of all blocks together, each as long as its longest vCPU's window."""
    return float(_longest_windows(columns, elapsed_ns)[1].sum()) / 1e9


def _longest_windows(
    columns: dict[str, Ints], elapsed_ns: Floats
) -> tuple[NDArray[np.intp], Floats]:
    """Per block one of its rows, and its length in ns: that of its longest vCPU's window.

    vCPUs that share a CPU begin late, and have shorter windows than the block.
    """
    # One number a block: 15 bits of process, 31 of round, 15 of position.
    key = (columns["process"] << 46) | (columns["round"] << 15) | columns["position"]
    _, first, block = np.unique(key, return_index=True, return_inverse=True)
    longest = np.zeros(len(first))
    np.maximum.at(longest, block, elapsed_ns)
    return first, longest


def _total(values: Ints) -> int | None:
    """The sum; None if a value is -1, which means that it is not known."""
    return None if (values < 0).any() else int(values.sum(dtype=np.float64))


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

    Bins [low, high) may overlap (those of processes with different clocks do). All are NaN without
    counts.
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
