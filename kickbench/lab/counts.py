# SPDX-License-Identifier: Apache-2.0
"""The exact counts of a run of the lab, for ``kickbench lab counts``.

:mod:`kickbench.summary.counts` says what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kickbench.errors import UsageError
from kickbench.lab.machines import MACHINES
from kickbench.results.reader import RunReader
from kickbench.summary.counts import Count, read_counts


@dataclass(frozen=True)
class CaseCount:
    """A count of a method in a case. ``what`` names it."""

    case: str
    method: str
    what: str
    count: Count


def counts(run: Path) -> Iterator[CaseCount]:
    """The counts of a run's finished cases, in the order of the scenario.

    Raises UsageError for a run of a machine that does not count instructions.
    """
    reader = RunReader(run)
    if not reader.count_step:
        counting = ", ".join(machine.id for machine in MACHINES.values() if machine.count_step)
        raise UsageError(f"{run}: not of a machine that counts instructions ({counting})")
    for case in reader.cases:
        if case.status == "ok":
            for method, found in read_counts(reader, case).items():
                for what, count in found.items():
                    yield CaseCount(case.id, method, what, count)
