# SPDX-License-Identifier: Apache-2.0
"""Exact counts: what an exit and a kick cost in instructions, where the clock counts them.

There a cost is no distribution but a few values, one for each path through the kernel: nearly all
exits take the same path, and a timer that expires meanwhile lengthens one. So the count is the
value that most of the raw samples have, and its share says how far it can be relied upon. A
summary's quantiles of exits are of histograms, whose bins are wider than an instruction.

Nothing here knows a machine: the manifest says that the clock of a run counts instructions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kickbench.results.reader import CaseRecord, RunReader
from kickbench.summary.kicks import read_kicks
from kickbench.summary.shared import WHO, entry_index

# Per kind: the table, and the columns that have a count, with what they are.
_COUNTED: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "exits": ("exit_samples", {"cycles": "exit"}),
    "kick": (
        "kicks",
        {"latency_cycles": "kick", "send_cycles": "send", "delivery_cycles": "delivery"},
    ),
}


@dataclass(frozen=True)
class Count:
    """``instructions`` is what most of ``samples`` took, ``share`` of them exactly; ``least`` the
    fewest, where no interrupt or other thread came between; ``mean`` is over all of them. The clock
    counts ``step`` instructions at a time: a count is exact only where it is 1."""

    instructions: int
    share: float
    least: int
    mean: float
    samples: int
    step: int


def count(values: NDArray[Any], step: int = 1) -> Count:
    """The count of some samples, at least one; the least of several that are as frequent."""
    found, times = np.unique(values, return_counts=True)
    most = int(times.argmax())
    return Count(
        int(found[most]),
        float(times[most] / times.sum()),
        int(found[0]),
        float(values.mean()),
        len(values),
        step,
    )


def read_counts(reader: RunReader, record: CaseRecord) -> dict[str, dict[str, Count]]:
    """By method, without the controls, what was counted in a finished case: "exit", or "kick",
    "send" and "delivery".

    Empty for a run whose clock does not count instructions, and for kinds that have no count.
    Kicks are those of a latency, but for their calls: of these also the ones that another kicker
    was faster than.
    """
    parameters = record.parameters
    kind, methods = parameters["kind"], parameters["methods"]
    if not reader.count_step or kind not in _COUNTED:
        return {}
    name, columns = _COUNTED[kind]
    table = reader.table(record.id, name, [*WHO, *columns])
    entry = entry_index(table, methods, parameters["baseline"])
    kicks = read_kicks(reader, record.id) if name == "kicks" else None
    found: dict[str, dict[str, Count]] = {method: {} for method in methods}
    for column, what in columns.items():
        values = table.column(column).to_numpy()
        chosen = np.ones(len(values), np.bool_)
        if kicks is not None:
            chosen = kicks.sent if what == "send" else kicks.timed
        for index, method in enumerate(methods):
            of_method = values[chosen & (entry == index)]
            if len(of_method):
                counted = count(of_method, reader.count_step)
                # Without a signal there is nothing to deliver.
                if what != "delivery" or counted.instructions:
                    found[method][what] = counted
    return found
