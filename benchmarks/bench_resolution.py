# SPDX-License-Identifier: Apache-2.0
"""How well sigmask - immediate_exit is known at 1 vCPU: of a quiet exit in 2 s, of the mean in 20.

Targets: a 95 % interval of at most +-0.05 % of a quiet exit, and of +-0.1 % of a mean one. Whoever
has a full run of smp_windows_like gives its folder, of which the quiet exit at 1 vCPU and full
speed should be known to +-1.5 ns:

    python benchmarks/bench_resolution.py [RUN]
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _runs import run_once

RUNS = 5


def half_width_ns(case: Mapping[str, Any], metric: str) -> float:
    """Of the 95 % interval of sigmask - immediate_exit."""
    low, high = next(
        contrast["ci95"]
        for contrast in case["contrasts"]
        if contrast["metric"] == metric
        and (contrast["method"], contrast["baseline"]) == ("sigmask", "immediate_exit")
    )
    return float(high - low) / 2


def relative(seconds: float, metric: str, level: str, **measure: Any) -> list[float]:
    """Half-widths as shares of an exit's cost, of RUNS runs that measure for so long."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(RUNS):
            summary, _ = run_once(Path(folder), max_seconds=seconds, seed=seed, **measure)
            (case,) = summary["cases"]
            cost_ns = case["methods"]["immediate_exit"]["ns_per_exit"][level]
            found.append(half_width_ns(case, metric) / cost_ns)
    return sorted(found)


def main() -> None:
    for what, found, target in (
        (
            "quiet exit, 2 s, one process",
            relative(2, "quiet_ns_per_exit", "quiet", processes=1, block_ms=1.0),
            0.0005,
        ),
        ("mean, 20 s, 10 processes", relative(20, "ns_per_exit", "mean"), 0.001),
    ):
        print(
            f"half-width / cost of an exit, {what}: median {found[len(found) // 2]:.5f}, "
            f"{found[0]:.5f} to {found[-1]:.5f} in {RUNS} runs (target at most {target})"
        )
    for run in sys.argv[1:]:
        summary = json.loads((Path(run) / "summary.json").read_text())
        case = next(
            case
            for case in summary["cases"]
            if (case["kind"], case["vcpus"], case["exit_rate_hz"], case["kick_rate_hz"])
            == ("exits", 1, None, None)
        )
        print(
            f"half-width of the quiet exit, 1 vCPU, full speed, in {Path(run).name}: "
            f"{half_width_ns(case, 'quiet_ns_per_exit'):.1f} ns (target at most 1.5)"
        )


if __name__ == "__main__":
    main()
