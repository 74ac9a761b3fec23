# SPDX-License-Identifier: Apache-2.0
"""A run that was measured, as Python sees it: its summary, its tables, its distributions."""

from __future__ import annotations

from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kickbench.api import frames
from kickbench.compare.metrics import METRICS, points
from kickbench.errors import ResultsError, UsageError
from kickbench.results.discover import find_run
from kickbench.results.reader import RunReader
from kickbench.results.tables import ROLES
from kickbench.summary.data import RunData
from kickbench.text import did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

Observed = Literal["blocks", "kicks", "times", "turns", "ways"]


class Histogram(NamedTuple):
    """How often each time was measured.

    ``counts[i]`` exits took ``edges_ns[i]`` or longer, and less than ``edges_ns[i + 1]``. So
    ``edges_ns`` has one number more than ``counts``, as with ``numpy.histogram``.
    """

    edges_ns: NDArray[np.float64]
    counts: NDArray[np.int64]


def read(path: str | PathLike[str]) -> Run:
    """Read a run.

    ``path`` is the folder of a run, or a folder with runs below it, of which the newest finished
    one is taken. The folder is checked at once, and its tables when they are used. Raises
    ResultsError, in one line, if there is no run, or if it is damaged.
    """
    return Run(RunReader(find_run(Path(path)), stripped=True))


class Run:
    """A run. Make one by :func:`read` or :func:`kickbench.run`.

    Every method that reads a table raises ResultsError if the table is damaged or missing, and
    UsageError for a case that the run does not have, or that has no such table.

    The methods that return frames take the id of a case, or none for all cases that have the table.
    docs/results.md has the columns. A frame has ``case`` in front, nanoseconds (``_ns``) in place
    of ``_cycles``, and a missing value in place of -1 for "unknown". If the clock of the run counts
    instructions, as an emulator's can, these columns end with ``_instructions`` instead.
    """

    def __init__(self, reader: RunReader) -> None:
        self._reader = reader

    def __repr__(self) -> str:
        cases = self._reader.cases
        finished = sum(record.status == "ok" for record in cases)
        return f"<kickbench.Run {self.id}: {finished} of {len(cases)} cases finished>"

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return self._reader.path

    @property
    def id(self) -> str:
        """The run's unique name."""
        return self._reader.run_id

    @property
    def scenario(self) -> dict[str, Any]:
        """What was to be measured: the keys of the scenario file. A VM that was observed has none
        but its name and its description."""
        scenario: dict[str, Any] = self._reader.manifest["scenario"]
        return scenario

    @property
    def environment(self) -> dict[str, Any]:
        """The host as it was: docs/results.md has the keys."""
        return self._reader.environment

    @property
    def summary(self) -> dict[str, Any]:
        """What the run found: as ``summary.json``, but computed from the tables."""
        return self._data.summary

    @property
    def cases(self) -> dict[str, dict[str, Any]]:
        """By id, each case's part of the summary, in the order of the scenario."""
        return {case["id"]: case for case in self.summary["cases"]}

    @cached_property
    def _data(self) -> RunData:
        """The run as the report has it, for the modules beside this one."""
        return RunData.of(self._reader)

    def frame(self, table: str, case: str | None = None) -> pd.DataFrame:
        """Any table of docs/results.md, such as ``"kick_blocks"``, as a frame."""
        return frames.frame(self.arrow(table, case))

    def arrow(self, table: str, case: str | None = None) -> pa.Table:
        """The same as an Arrow table, for example for Polars: ``polars.from_arrow``.

        What is unknown is null. The fields' metadata has ``unit`` and ``doc``.
        """
        return frames.arrow(self._reader, table, case)

    def exits(self, case: str | None = None) -> pd.DataFrame:
        """The times of single exits: a sample of all (the table ``exit_samples``)."""
        return self.frame("exit_samples", case)

    def blocks(self, case: str | None = None) -> pd.DataFrame:
        """The exits of each vCPU in each block, and what disturbed it."""
        return self.frame("blocks", case)

    def kicks(self, case: str | None = None) -> pd.DataFrame:
        """Every kick with its latency and its phases."""
        return self.frame("kicks", case)

    def races(self, case: str | None = None) -> pd.DataFrame:
        """The aimed kicks of each block, counted: sent, landed, lost."""
        return self.frame("races", case)

    def pauses(self, case: str | None = None) -> pd.DataFrame:
        """Every pause of all vCPUs: until the first, the median and the last of them."""
        return self.frame("pauses", case)

    def nested(self, case: str | None = None) -> pd.DataFrame:
        """Every iteration of a guest hypervisor."""
        return self.frame("nested", case)

    def handovers(self, case: str | None = None) -> pd.DataFrame:
        """The hand-overs of a cache line, by pair of CPUs."""
        return self.frame("handovers", case)

    def lives(self, case: str | None = None) -> pd.DataFrame:
        """Every fresh VM, and what became of its one kick."""
        return self.frame("lives", case)

    def noise(self, case: str | None = None) -> pd.DataFrame:
        """The noise of each block, counted."""
        return self.frame("noise", case)

    def observed(self, what: Observed = "kicks", case: str | None = None) -> pd.DataFrame:
        """What was seen of a VM that ran already: the table ``observed_`` and ``what``."""
        return self.frame(f"observed_{what}", case)

    def figures(self) -> pd.DataFrame:
        """Every figure that has an interval: those by which runs are compared.

        A row is the level of a method, or with a ``baseline`` the paired difference from it.
        ``value`` has the interval from ``low`` to ``high`` (95 %), all three in ``unit``.
        ``reference`` is the baseline's level, of which a difference is a share. A proportion is
        ``count`` of ``of``. docs/compare.md has the metrics.
        """
        rows = [
            {
                "case": point.case,
                "kind": point.kind,
                "method": point.method,
                "baseline": point.baseline,
                "metric": point.metric,
                "unit": METRICS[point.metric].unit,
                "value": point.estimate.value,
                "low": point.estimate.low,
                "high": point.estimate.high,
                "processes": point.estimate.processes,
                "reference": point.reference,
                "floor": point.floor,
                "count": point.count,
                "of": point.of,
            }
            for point in points(self.summary)
        ]
        return pd.DataFrame(rows, columns=list(_FIGURES)).astype(_FIGURES)

    def histogram(self, case: str, method: str) -> Histogram:
        """All timed exits of a method in a case of the kind exits, over all processes.

        Controls are left out. The processes' clocks differ by some millionths, so the edges are by
        the mean of them. An emulator's ns are its own. Raises UsageError, too, for a method that
        the case does not have.
        """
        (record,) = frames.records(self._reader, "exit_histograms", case)
        methods = record.parameters["methods"]
        if method not in methods:
            raise UsageError(
                f"the case {case} has no method {method}{did_you_mean(method, methods)}\n"
                f"methods: {', '.join(methods)}"
            )
        assert record.document is not None
        table = self._reader.table(case, "exit_histograms")
        chosen = np.asarray(table.column("method").to_pylist(), dtype=object) == method
        for role in ROLES:
            chosen &= ~np.asarray(table.column(role).to_numpy(), bool)
        low, high, count = (
            table.column(name).to_numpy()[chosen].astype(np.int64)
            for name in ("low_cycles", "high_cycles", "count")
        )
        # Bins that are empty are not stored, and get their edges here from those beside them.
        edges, at = np.unique(np.concatenate([low, high]), return_inverse=True)
        begin, end = np.split(at, 2)
        if (end != begin + 1).any():
            raise ResultsError(f"{self.path}: the histograms of the case {case} overlap")
        counts = np.zeros(max(0, len(edges) - 1), np.int64)
        np.add.at(counts, begin, count)
        hz = [process["clock"]["hz"] for process in record.document["processes"]]
        return Histogram(edges * float(np.mean(1e9 / np.array(hz))), counts)


_FIGURES: dict[str, Any] = {
    "case": "category",
    "kind": "category",
    "method": "category",
    "baseline": "category",
    "metric": "category",
    "unit": "category",
    "value": "float64",
    "low": "float64",
    "high": "float64",
    "processes": "int64",
    "reference": "float64",
    "floor": "float64",
    "count": "Int64",
    "of": "Int64",
}
"""The columns of :meth:`Run.figures` with their types."""
