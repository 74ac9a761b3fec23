# SPDX-License-Identifier: Apache-2.0
"""A run as reports need it: its checked folder, its summary, and the distributions behind it.

The summary is computed from the tables. So a page never shows a figure that its tables do not have,
and an unfinished run reads like a finished one. If the tables of a case are missing, for example in
a run that came by mail, the case is taken from ``summary.json``. Nothing is drawn or put into words
here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kickbench.results.reader import RunReader
from kickbench.results.tables import ROLES
from kickbench.summary.exits import histogram_quantiles
from kickbench.summary.found import load_summary
from kickbench.summary.shared import ns_per_cycle
from kickbench.summary.summarise import summarise

Floats = NDArray[np.float64]
Summary = dict[str, Any]
"""A ``summary.json``, or one of its cases; see docs/results.md."""

MOST = 0.99999
"""The last level that is shown. It needs 100,000 exits."""


@dataclass(frozen=True)
class Distribution:
    """The time of all timed exits of one method in one case: its quantiles.

    ``ns[i]`` is the quantile at the level ``probability[i]``. Both arrays rise. ``exits`` is the
    number of exits. ``probability`` ends where fewer than one exit is slower, at :data:`MOST` at
    the latest.
    """

    probability: Floats
    ns: Floats
    exits: int


@dataclass(frozen=True)
class RunData:
    """One run. ``oversubscribed`` has the ids of cases with more vCPUs than CPUs.

    ``without_tables`` has the ids of finished cases that are known from ``summary.json`` only.
    """

    reader: RunReader
    summary: Summary
    oversubscribed: frozenset[str]
    without_tables: frozenset[str]

    @classmethod
    def load(cls, run: Path | str) -> RunData:
        """Read a run folder. Raises ResultsError, in one line, if it is damaged or is none."""
        return cls.of(RunReader(run, stripped=True))

    @classmethod
    def of(cls, reader: RunReader) -> RunData:
        """Summarise a run whose folder is checked. Raises ResultsError, as :meth:`load`."""
        summary = summarise(reader)
        if reader.stripped:
            found = load_summary(reader)
            summary["cases"] = [case | found.get(case["id"], {}) for case in summary["cases"]]
        return cls(
            reader,
            summary,
            frozenset(case["id"] for case in summary["cases"] if case["oversubscribed"]),
            frozenset(record.id for record in reader.stripped),
        )

    @property
    def finished(self) -> list[Summary]:
        """The cases that have figures, in the order of the scenario."""
        return [case for case in self.summary["cases"] if case["status"] == "ok"]

    def distributions(self, case_id: str) -> dict[str, Distribution]:
        """By method, the distribution of ns per exit over all processes.

        Controls are left out, and so are methods without an exit.
        """
        record = self.reader.case(case_id)
        document = record.document
        if document is None:
            return {}
        table = self.reader.table(case_id, "exit_histograms").combine_chunks()
        scale = ns_per_cycle(document, table.column("process").to_numpy())
        low = table.column("low_cycles").to_numpy() * scale
        high = table.column("high_cycles").to_numpy() * scale
        count = table.column("count").to_numpy()
        usable = (count > 0) & (high > low)
        for role in ROLES:
            usable &= ~np.asarray(table.column(role).to_numpy(), bool)
        method = np.asarray(table.column("method").to_pylist(), dtype=object)
        found = {}
        for name in record.parameters["methods"]:
            chosen = usable & (method == name)
            if chosen.any():
                longest = self._longest(case_id, name)
                found[name] = _distribution(low[chosen], high[chosen], count[chosen], longest)
        return found

    def _longest(self, case_id: str, method: str) -> float:
        for case in self.summary["cases"]:
            if case["id"] == case_id and method in case["methods"]:
                longest = case["methods"][method]["ns_per_exit"]["max"]
                return float("inf") if longest is None else float(longest)
        return float("inf")


def _distribution(low: Floats, high: Floats, count: Floats, longest: float) -> Distribution:
    exits = int(count.sum(dtype=np.float64))
    last = min(MOST, 1 - 1 / max(exits, 2))
    # The levels are even over the bulk, with the same number for each nine of the tail.
    nines = 1 - np.geomspace(0.1, 1 - MOST, 41)
    first = [0.0001, 0.001, 0.003]  # more levels among the fastest exits
    levels = np.concatenate([first, np.linspace(0, 0.9, 91)[:-1], nines, [last]])
    levels = np.unique(levels[levels <= last])
    values = histogram_quantiles(low, high, count.astype(np.float64), levels.tolist())
    # The upper part of a bin can be above the longest exit.
    return Distribution(levels, np.minimum(values, longest), exits)
