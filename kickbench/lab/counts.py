# SPDX-License-Identifier: Apache-2.0
"""Exact counts: what an exit and a kick cost in instructions, in a machine that counts them.

There a cost is no distribution but a few values, one for each path through the kernel: nearly all
exits take the same path, and a timer that expires meanwhile lengthens one. So the count is the
value that most of the raw samples have, and its share says how far it can be relied upon. A
summary's quantiles are of histograms, whose bins are wider than an instruction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kickbench.errors import UsageError
from kickbench.lab.machines import MACHINES
from kickbench.results.store import RunReader

# Per kind: the table, and the columns that have a count, with what they are.
_COUNTED = {
    "exits": ("exit_samples", {"cycles": "exit"}),
    "kick": (
        "kicks",
        {"latency_cycles": "kick", "send_cycles": "send", "delivery_cycles": "delivery"},
    ),
}


@dataclass(frozen=True)
class Count:
    """``instructions`` is what most of ``samples`` took, ``share`` of them exactly."""

    case: str
    method: str
    what: str
    instructions: int
    share: float
    samples: int


def counts(run: Path) -> Iterator[Count]:
    """The counts of a run's finished cases, in the order of the scenario.

    Raises UsageError for a run of another machine, whose cycles are no instructions.
    """
    reader = RunReader(run)
    machine = MACHINES.get(str(reader.environment.get("hostname")))
    if not reader.manifest["emulated"] or machine is None or not machine.counts:
        counting = ", ".join(machine.id for machine in MACHINES.values() if machine.counts)
        raise UsageError(f"{run}: not of a machine that counts instructions ({counting})")
    for case in reader.cases:
        if case.status != "ok" or case.parameters["kind"] not in _COUNTED:
            continue
        name, columns = _COUNTED[case.parameters["kind"]]
        table = reader.table(case.id, name).to_pandas()
        if name == "kicks":
            table = table[table["met"] & ~table["lost"]]
        for method in case.parameters["methods"]:
            of_method = table[table["method"] == method]
            for column, what in columns.items():
                if of_method.empty:
                    continue
                values, times = np.unique(of_method[column].to_numpy(), return_counts=True)
                most = int(times.argmax())
                if column == "delivery_cycles" and values[most] == 0:
                    continue  # there is no signal to deliver
                yield Count(
                    case.id,
                    method,
                    what,
                    int(values[most]),
                    float(times[most] / times.sum()),
                    int(times.sum()),
                )
