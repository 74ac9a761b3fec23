# SPDX-License-Identifier: Apache-2.0
"""The custom benchmarks of https://github.com/benchmark-action/github-action-benchmark.

One file has only figures of which less is better, because the action has a direction for each file.
"""

from __future__ import annotations

import json

from kickbench.export.results import Results


def write(results: Results) -> str:
    """The figures of which less is better, for customSmallerIsBetter."""
    found = [
        {
            "name": f"{figure.case}/{figure.name}",
            "unit": figure.unit,
            "value": figure.value,
            "range": f"± {(figure.high - figure.low) / 2:.6g}",
            "extra": f"{figure.title}\n95 %: {figure.low:.6g} to {figure.high:.6g} {figure.unit}",
        }
        for figure in results.figures
        if figure.better == "lower"
    ]
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"
