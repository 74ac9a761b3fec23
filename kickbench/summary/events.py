# SPDX-License-Identifier: Apache-2.0
"""Events that are timed one by one, in rounds: kicks, pauses, and iterations of a guest hypervisor.

This module has the rows of their tables, quantiles with intervals, and the paired differences of a
quantile. The module of each kind knows its events, and which of them count.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kickbench.methods import method_label
from kickbench.results.reader import CaseRecord, RunReader
from kickbench.stats.chunks import group_quantiles, paired_quantiles
from kickbench.stats.quantiles import bin_samples, quantile_intervals, sample_quantiles
from kickbench.summary.shared import (
    CONFIDENCE,
    WHO,
    Control,
    Controls,
    Floats,
    Ints,
    bounds,
    contrast,
    contrast_interval,
    control_entries,
    control_interval,
    count_values,
    entry_index,
    index_rounds,
    ns_per_cycle,
    number,
)

EVENT_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

CHUNK_KICKS = {"latency_p50_ns": 10, "latency_p99_ns": 200, "send_p50_ns": 10}
"""By metric, the kicks that a method and the baseline each need for one paired difference. A round
with fewer is pooled with those that follow."""

MIN_BEYOND = 10
"""Values that must lie beyond a quantile for it to have an interval."""

MAX_GROUPS = 1000
"""The number of groups of consecutive rounds for the interval of a quantile. It bounds memory."""

# Levels of the edges of bins for intervals: even below p75, then ever closer up to the largest
# value.
_LEVELS = np.concatenate([np.linspace(0, 0.75, 256), 1 - np.geomspace(0.25, 1e-7, 768)])


class Events(Protocol):
    """The events of a case. :func:`~kickbench.summary.shared.entry_index` explains ``entry``.

    ``row`` is the place of an event's round in ``round_process``, which has the process of each
    round of the case in time order. ``timed`` are the events whose times count.
    """

    @property
    def round_process(self) -> Ints: ...
    @property
    def row(self) -> NDArray[np.intp]: ...
    @property
    def entry(self) -> Ints: ...
    @property
    def timed(self) -> NDArray[np.bool_]: ...


@dataclass(frozen=True)
class RoundMedians:
    """Per round (rows, time order) the median of each entry (columns: methods, control, placebo).

    A round without an event that counts has NaN, and 0 in ``count``.
    """

    process: Ints
    median_ns: Floats
    count: Ints


def read_rows(
    reader: RunReader, record: CaseRecord, name: str, columns: Sequence[str]
) -> tuple[Ints, NDArray[np.intp], Ints, Floats, dict[str, NDArray[Any]]]:
    """A table as arrays: process per round, and per row: round, entry, ns per cycle, columns."""
    parameters = record.parameters
    table = reader.table(record.id, name, ["process", "round", *WHO, *columns])
    process = table.column("process").to_numpy().astype(np.int64)
    round_process, row = index_rounds(process, table.column("round").to_numpy().astype(np.int64))
    entry = entry_index(table, parameters["methods"], parameters["baseline"])
    scale = ns_per_cycle(record.document or {}, process)
    arrays = {column: table.column(column).to_numpy() for column in columns}
    return round_process, row, entry, scale, arrays


def claims_of(record: CaseRecord) -> dict[str, bool | None]:
    """By method, the catalogue's claim at the time of the run: whether it is race-free."""
    claims: dict[str, bool | None] = (record.document or {}).get("claims", {})
    return {method_label(method): claim for method, claim in claims.items()}


def merge_control(entry: Ints, record: CaseRecord) -> Ints:
    """Counts the rows of control and placebo as the baseline's, which they are.

    For example, a kick that the control lost is a lost kick of the baseline.
    """
    methods: list[str] = record.parameters["methods"]
    return np.where(entry >= len(methods), methods.index(record.parameters["baseline"]), entry)


def totals_of(entry: Ints, values: NDArray[Any], n_methods: int) -> list[int]:
    known = (entry >= 0) & (entry < n_methods)
    sums = np.bincount(entry[known], values[known].astype(np.float64), minlength=n_methods)
    return [int(value) for value in sums]


def named_quantiles(
    values: Floats, levels: Mapping[str, float], *, maximum: bool = False
) -> dict[str, float | None]:
    """The quantiles by name, each a value that occurred; None without values."""
    names = [*levels, "max"] if maximum else list(levels)
    if not len(values):
        return dict.fromkeys(names)
    found = sample_quantiles(values, [*levels.values(), 1.0])
    return {name: number(value) for name, value in zip(names, found, strict=False)}


def named_intervals(
    values: Floats, row: NDArray[np.intp], round_process: Ints, levels: Mapping[str, float]
) -> dict[str, list[float] | None]:
    """The 95 % intervals of quantiles; None with fewer than MIN_BEYOND values on its rarer side.

    The interval is computed on bins. Its two ends are then moved by the difference between the
    exact quantile and that of the bins.
    """
    wanted = {
        name: p for name, p in levels.items() if len(values) * min(p, 1 - p) >= MIN_BEYOND - 1e-9
    }
    result: dict[str, list[float] | None] = dict.fromkeys(levels)
    groups, group = np.unique(_groups(round_process)[row], return_inverse=True)
    if not wanted or len(groups) < 2:
        return result
    low, high, counts = bin_samples(values, group, len(groups), levels=_LEVELS)
    probabilities = list(wanted.values())
    intervals = quantile_intervals(
        low, high, counts, groups >> 32, probabilities, confidence=CONFIDENCE, seed=1
    )
    exact = sample_quantiles(values, probabilities)
    for name, interval, value in zip(wanted, intervals, exact, strict=True):
        found = bounds(interval)
        if found is not None:
            shift = float(value) - interval.estimate
            result[name] = [max(0.0, found[0] + shift), found[1] + shift]
    return result


def _groups(round_process: Ints) -> Ints:
    """Per round its group, process * 2^32 + number: consecutive rounds of one process."""
    _, start, place, size = np.unique(
        round_process, return_index=True, return_inverse=True, return_counts=True
    )
    local = np.arange(len(round_process)) - start[place]
    groups = np.minimum(size, max(1, MAX_GROUPS // max(1, len(size))))
    return round_process * 2**32 + local * groups[place] // size[place]


def latency_differences(
    data: Events,
    values: Floats,
    entry: int,
    baseline: int,
    probability: float,
    at_least: int,
    of: NDArray[np.bool_] | None = None,
) -> tuple[list[Floats], int]:
    """Per process the paired differences of a quantile, entry - baseline, in time order.

    A difference is of a round, or of as many consecutive rounds as give both sides ``at_least``
    values (:mod:`kickbench.stats.chunks`). A process with fewer than two is left out, because a
    single value has no spread. The second result is the number of rounds that were used. ``of``
    says which values count; by default those that are timed.
    """
    counted = data.timed if of is None else of
    edges = np.append(np.unique(data.round_process, return_index=True)[1], len(data.round_process))
    sides = []
    for wanted in (entry, baseline):
        chosen = np.flatnonzero(counted & (data.entry == wanted))
        chosen = chosen[np.argsort(data.row[chosen], kind="stable")]
        row = data.row[chosen]
        sides.append((values[chosen], row, np.searchsorted(row, edges)))
    (value_a, row_a, cut_a), (value_b, row_b, cut_b) = sides
    differences, used = [], 0
    for i, (first, end) in enumerate(itertools.pairwise(edges)):
        a, b = slice(cut_a[i], cut_a[i + 1]), slice(cut_b[i], cut_b[i + 1])
        found = paired_quantiles(
            value_a[a],
            row_a[a] - first,
            value_b[b],
            row_b[b] - first,
            int(end - first),
            probability,
            at_least=at_least,
        )
        if len(found) > 1:
            differences.append(found)
            used += int(end - first)
    return differences, used


def compare_events(
    record: CaseRecord,
    data: Events,
    values: Floats,
    metrics: Mapping[str, float],
    level_ns: float | None,
) -> tuple[dict[str, Any], Controls]:
    """The contrasts of every method with the baseline, which takes ``level_ns``.

    Control and placebo are compared in the first metric only.
    """
    methods: list[str] = record.parameters["methods"]
    baseline = methods.index(record.parameters["baseline"])
    n_rounds = len(data.round_process)

    def differences(entry: int, metric: str) -> tuple[list[Floats], int]:
        return latency_differences(
            data, values, entry, baseline, metrics[metric], CHUNK_KICKS.get(metric, 1)
        )

    contrasts = []
    for index, method in enumerate(methods):
        if index == baseline:
            continue
        for metric in metrics:
            found, used = differences(index, metric)
            interval, chunks = contrast_interval(found), count_values(found)
            contrasts.append(
                {
                    "method": method,
                    "baseline": methods[baseline],
                    "metric": metric,
                    **contrast(interval, used, n_rounds, chunks=chunks),
                }
            )
    metric = next(iter(metrics))
    fill: dict[str, Any] = {"contrasts": contrasts}
    controls: list[Control] = []
    for index, role in control_entries(methods).items():
        found, used = differences(index, metric)
        if not found and role != "control":
            continue
        interval = control_interval(found, CONFIDENCE)
        fill[role] = {
            "metric": metric,
            **contrast(interval, used, n_rounds, chunks=count_values(found)),
            "ci_family": None,
            "ok": None,
        }
        controls.append(Control(fill[role], partial(control_interval, found), level_ns))
    return fill, controls


def longest_ns(values: Floats) -> float | None:
    return number(values.max()) if len(values) else None


def count_findings(
    methods: Sequence[str],
    claims: Mapping[str, bool | None],
    totals: Mapping[str, list[int]],
    faults: Sequence[str],
) -> list[dict[str, Any]]:
    """Every fault that occurred, by method: what, how often, of how many, and the claim."""
    return [
        {
            "method": method,
            "what": what,
            "count": totals[what][index],
            "of": totals["sent"][index],
            "race_free_claim": claims.get(method),
        }
        for index, method in enumerate(methods)
        for what in faults
        if totals[what][index] > 0
    ]


def round_medians(data: Events, values: Floats, n_entries: int) -> RoundMedians:
    chosen = data.timed & (data.entry >= 0)
    cell = data.row[chosen] * n_entries + data.entry[chosen]
    shape = (len(data.round_process), n_entries)
    return RoundMedians(
        data.round_process,
        group_quantiles(values[chosen], cell, shape[0] * n_entries, 0.5).reshape(shape),
        np.bincount(cell, minlength=shape[0] * n_entries).reshape(shape),
    )
