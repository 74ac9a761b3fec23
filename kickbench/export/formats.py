# SPDX-License-Identifier: Apache-2.0
"""The table of all formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kickbench.export import bencher, github_benchmark, junit, kcidb, lava, openmetrics, table, tap
from kickbench.export.results import Results


@dataclass(frozen=True)
class Format:
    """A format: what reads it, and the function that writes it as a text."""

    title: str
    write: Callable[[Results], str]


FORMATS: dict[str, Format] = {
    "bencher": Format("Bencher Metric Format, for bencher run", bencher.write),
    "csv": Format("a row for each figure, for spreadsheets and pandas", table.write),
    "github-benchmark": Format(
        "customSmallerIsBetter of github-action-benchmark", github_benchmark.write
    ),
    "junit": Format("JUnit XML, for Jenkins and GitLab", junit.write),
    "kcidb": Format("KCIDB, the database of kernel test results", kcidb.write),
    "lava": Format("signals for a test definition of LAVA", lava.write),
    "openmetrics": Format("OpenMetrics text, for Prometheus", openmetrics.write),
    "tap": Format("TAP version 14, as kselftest writes it", tap.write),
}
