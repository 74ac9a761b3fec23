# SPDX-License-Identifier: Apache-2.0
"""Bencher Metric Format: https://bencher.dev/docs/reference/bencher-metric-format/.

A benchmark has a measure of each unit: latency for times, which Bencher knows to be nanoseconds.
"""

from __future__ import annotations

import json
from collections import defaultdict

from kickbench.export.results import Results

_MEASURE = {"ns": "latency", "1/s": "throughput"}


def write(results: Results) -> str:
    """All figures as benchmarks, each with its interval."""
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for figure in results.figures:
        measure = _MEASURE.get(figure.unit, figure.unit)
        found[f"{figure.case}/{figure.name}"][measure] = {
            "value": figure.value,
            "lower_value": figure.low,
            "upper_value": figure.high,
        }
    return json.dumps(found, indent=2) + "\n"
