# SPDX-License-Identifier: Apache-2.0
"""The summary of the kind handover: the hand-over time of each pair of CPUs, and their medians.

A round's figure of a pair is the mean of its two blocks' quiet hand-overs: the line's memory was on
the node of either CPU once. What a simulation of a spinlock needs is in one place: each pair with
the distance of its nodes, and the medians of the pairs within a node and between nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kickbench.results.reader import CaseRecord, RunReader
from kickbench.stats.location import huber
from kickbench.summary.events import read_rows
from kickbench.summary.shared import (
    CONFIDENCE,
    Control,
    Controls,
    Floats,
    Ints,
    by_process,
    contrast,
    contrast_interval,
    control_entries,
    control_interval,
    count_entries,
    count_values,
    level_estimate,
    precision,
    ratio,
)

METRIC = "handover_ns"

GROUPS = ("siblings", "same_node", "other_node")
"""The groups of pairs that have a median: threads of one core, cores of one node, two nodes."""


@dataclass(frozen=True)
class Seats:
    """The pairs of one entry, or its CPUs alone, each once, with a column for each in ``ns``.

    ``ns`` has the rounds as rows, in time order: the mean of a seat's quiet hand-overs in the
    round, NaN without any. ``cpus`` and ``nodes`` have two columns, the lower CPU first.
    """

    cpus: Ints
    nodes: Ints
    distance: Ints
    siblings: NDArray[np.bool_]
    ns: Floats


@dataclass(frozen=True)
class Handovers:
    """A case: the process of each round in time order, and the seats of each entry.

    ``total_ns`` and ``count`` are of all blocks of an entry: their length and their hand-overs.
    """

    process: Ints
    seats: list[Seats]
    total_ns: Floats
    count: Floats

    def medians(self, entry: int) -> Floats:
        """Per round the median of the entry's seats; NaN without any."""
        return _medians(self.seats[entry].ns)


@dataclass(frozen=True)
class HandoverRounds:
    """Per round (rows, time order) the median of each entry (columns), and its hand-overs."""

    process: Ints
    median_ns: Floats
    count: Ints


def read_handovers(reader: RunReader, case_id: str) -> Handovers:
    """The blocks of a finished case of the kind handover, in ns."""
    record = reader.case(case_id)
    columns = (
        *("first_cpu", "second_cpu", "first_node", "second_node", "distance", "siblings"),
        *("handovers", "elapsed_cycles", "quiet_cycles"),
    )
    process, row, entry, scale, found = read_rows(reader, record, "handovers", columns)
    n_entries = count_entries(record.parameters["methods"])
    elapsed, count = found["elapsed_cycles"] * scale, found["handovers"].astype(np.float64)
    seats = []
    for index in range(n_entries):
        mine = entry == index
        table = {name: values[mine] for name, values in found.items()}
        seats.append(_seats(table, row[mine], scale[mine], len(process)))
    known = entry >= 0
    return Handovers(
        process,
        seats,
        np.bincount(entry[known], elapsed[known], n_entries).astype(np.float64),
        np.bincount(entry[known], count[known], n_entries).astype(np.float64),
    )


def read_handover_rounds(reader: RunReader, case_id: str) -> HandoverRounds:
    """The medians of the rounds of a finished case, for exports."""
    data = read_handovers(reader, case_id)
    median = np.stack([data.medians(entry) for entry in range(len(data.seats))], axis=1)
    each = data.count / np.maximum(1, np.isfinite(median).sum(axis=0))
    return HandoverRounds(data.process, median, np.where(np.isfinite(median), each, 0).astype(int))


def summarise_handovers(reader: RunReader, record: CaseRecord) -> tuple[dict[str, Any], Controls]:
    """What a case of the kind handover adds to its summary."""
    methods: list[str] = record.parameters["methods"]
    baseline = methods.index(record.parameters["baseline"])
    data = read_handovers(reader, record.id)
    statistics = {method: _statistics(data, index) for index, method in enumerate(methods)}
    level_ns = statistics[methods[baseline]]["ns_per_handover"]["quiet"]
    contrasts = []
    for index, method in enumerate(methods):
        if index != baseline:
            differences = _differences(data, index, baseline)
            contrasts.append(
                {
                    "method": method,
                    "baseline": methods[baseline],
                    "metric": METRIC,
                    **contrast(
                        contrast_interval(differences),
                        count_values(differences),
                        len(data.process),
                    ),
                }
            )
    (control, *_) = control_entries(methods)
    differences = _differences(data, control, baseline)
    judged = {
        "metric": METRIC,
        **contrast(
            control_interval(differences, CONFIDENCE),
            count_values(differences),
            len(data.process),
        ),
        "ci_family": None,
        "ok": None,
    }
    pairs = data.seats[baseline]
    return {
        "methods": statistics,
        "contrasts": contrasts,
        "control": judged,
        **precision(record.parameters, contrasts, {METRIC: level_ns}),
        "handover": {
            "pairs": _pairs(data.process, pairs),
            "alone": _alone(data.process, data.seats[methods.index("alone")])
            if "alone" in methods
            else [],
            "medians": _group_medians(data.process, pairs),
        },
    }, [Control(judged, partial(control_interval, differences), level_ns)]


# --- figures -----------------------------------------------------------------------------------


def _seats(
    table: dict[str, NDArray[Any]], row: NDArray[np.intp], scale: Floats, n_rounds: int
) -> Seats:
    first, second = (table[name].astype(np.int64) for name in ("first_cpu", "second_cpu"))
    turned = first > second
    cpus = np.sort(np.stack([first, second], axis=1), axis=1)
    nodes = np.stack([table["first_node"], table["second_node"]], axis=1).astype(np.int64)
    nodes = np.where(turned[:, None], nodes[:, ::-1], nodes)
    seats, at, seat = np.unique(cpus, axis=0, return_index=True, return_inverse=True)
    shape = (n_rounds, len(seats))
    cell = row * len(seats) + seat.reshape(-1)
    count = np.bincount(cell, minlength=shape[0] * shape[1])
    sums = np.bincount(cell, table["quiet_cycles"] * scale, shape[0] * shape[1])
    with np.errstate(invalid="ignore"):
        ns = np.where(count > 0, sums / count, np.nan)
    return Seats(
        seats,
        nodes[at],
        table["distance"][at].astype(np.int64),
        np.asarray(table["siblings"][at], np.bool_),
        ns.reshape(shape),
    )


def _medians(ns: Floats) -> Floats:
    """The median of each row's finite values; NaN without any."""
    found = np.full(len(ns), np.nan)
    some = np.isfinite(ns).any(axis=1)
    if some.any():
        found[some] = np.nanmedian(ns[some], axis=1)
    return found


def _statistics(data: Handovers, index: int) -> dict[str, Any]:
    estimate = level_estimate(data.process, data.medians(index), huber)
    return {
        "ns_per_handover": {
            "quiet": estimate["value"],
            "mean": ratio(float(data.total_ns[index]), float(data.count[index])),
        },
        "estimates": {METRIC: estimate},
        "n": int(data.count[index]),
    }


def _differences(data: Handovers, entry: int, baseline: int) -> list[Floats]:
    return by_process(data.process, data.medians(entry) - data.medians(baseline))


def _pairs(process: Ints, seats: Seats) -> list[dict[str, Any]]:
    return [
        {
            "cpus": seats.cpus[i].tolist(),
            "nodes": [_known(node) for node in seats.nodes[i]],
            "distance": _known(seats.distance[i]),
            "siblings": bool(seats.siblings[i]),
            **_level(process, seats.ns[:, i]),
        }
        for i in range(len(seats.cpus))
    ]


def _alone(process: Ints, seats: Seats) -> list[dict[str, Any]]:
    return [
        {
            "cpu": int(seats.cpus[i, 0]),
            "node": _known(seats.nodes[i, 0]),
            **_level(process, seats.ns[:, i]),
        }
        for i in range(len(seats.cpus))
    ]


def _level(process: Ints, values: Floats) -> dict[str, Any]:
    """A level with its interval, and its least and its largest process.

    In a virtual machine processes can differ by several times, because the outer host moves CPUs.
    """
    located = [huber(own)[0] for own in by_process(process, values)]
    ends = [float(min(located)), float(max(located))] if located else None
    return {**level_estimate(process, values, huber), "by_process": ends}


def _known(value: Any) -> int | None:
    return int(value) if value >= 0 else None


def _group_medians(process: Ints, seats: Seats) -> dict[str, Any]:
    """By group, the median of its pairs: round by round, and then as any level of rounds."""
    same = seats.nodes[:, 0] == seats.nodes[:, 1]
    members = (seats.siblings, same & ~seats.siblings, ~same & ~seats.siblings)
    return {
        group: {
            "pairs": int(chosen.sum()),
            **_level(process, _medians(seats.ns[:, chosen])),
        }
        for group, chosen in zip(GROUPS, members, strict=True)
    }
