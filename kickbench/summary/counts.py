# SPDX-License-Identifier: Apache-2.0
"""Exact counts: the cost of an exit and of a kick in instructions, if the clock counts them.

With such a clock a cost is not a distribution. It has a few values, one for each path through the
kernel. Nearly all exits take the same path, and a timer that expires meanwhile makes one longer. So
the count is the value that most of the raw samples have, and its share shows how reliable it is.
The quantiles of a summary cannot replace it, because they come from histograms, whose bins are
wider than an instruction.

Nothing here knows a machine. The manifest says whether the clock of a run counts instructions.
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

# By kind: the table, and its columns that have a count, each with the name of the count.
_COUNTED: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "exits": ("exit_samples", {"cycles": "exit"}),
    "kick": (
        "kicks",
        {"latency_cycles": "kick", "send_cycles": "send", "delivery_cycles": "delivery"},
    ),
}


@dataclass(frozen=True)
class Count:
    """A count of some samples.

    ``instructions`` is the value that most of the ``samples`` have, and ``share`` is their share.
    ``least`` is the smallest value, without an interrupt or another thread. ``mean`` is over all
    samples. The clock counts ``step`` instructions at a time: a count is exact only if it is 1.
    """

    instructions: int
    share: float
    least: int
    mean: float
    samples: int
    step: int


def count(values: NDArray[Any], step: int = 1) -> Count:
    """The count of some samples, at least one. If several values are as frequent, the least."""
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
    """By method, the counts of a finished case: "exit", or "kick", "send" and "delivery".

    The controls are left out. The result is empty if the clock of the run does not count
    instructions, or if the kind has no count. Kicks are those that have a latency. "send" also has
    the calls of kicks before which another kicker had got the vCPU out.
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
                # Without a signal there is no delivery.
                if what != "delivery" or counted.instructions:
                    found[method][what] = counted
    return found
