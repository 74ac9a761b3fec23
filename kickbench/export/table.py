# SPDX-License-Identifier: Apache-2.0
"""CSV (RFC 4180): a row for each figure."""

from __future__ import annotations

import csv
import io

from kickbench.export.results import Results

COLUMNS = (
    *("run_id", "created_utc", "host", "kernel", "scenario", "case", "kind", "method", "baseline"),
    *("metric", "unit", "better", "value", "ci95_low", "ci95_high"),
)


def write(results: Results) -> str:
    """The figures below the names of the columns."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    run = (
        *(results.run_id, results.created_utc, results.fact("hostname")),
        *(results.fact("kernel", "release"), results.scenario),
    )
    for figure in results.figures:
        writer.writerow(
            (
                *run,
                *(figure.case, figure.kind, figure.method, figure.baseline or ""),
                *(figure.metric, figure.unit, figure.better),
                *map(repr, (figure.value, figure.low, figure.high)),
            )
        )
    return out.getvalue()
