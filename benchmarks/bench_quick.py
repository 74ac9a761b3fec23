# SPDX-License-Identifier: Apache-2.0
"""Whether `kickbench run smp_windows_like --quick` has the answer of the full run.

In every case with enough CPUs the quiet exit's sigmask - immediate_exit should have the full run's
sign and lie within 15 % of it, in 20 of 20 runs; in 18 of 20 with a busy process on each CPU
beside it. A run should still take about 15 s.

    python benchmarks/bench_quick.py RUN [--busy] [--runs 20]    # RUN: the folder of a full run
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _runs import busy_processes

WITHIN = 0.15


def differences_ns(run: Path) -> dict[str, float]:
    """By case with enough CPUs, what sigmask adds to a quiet exit."""
    cases: list[dict[str, Any]] = json.loads((run / "summary.json").read_text())["cases"]
    return {
        case["id"]: contrast["diff"]
        for case in cases
        if case["status"] == "ok" and case["kind"] == "exits" and not case["oversubscribed"]
        for contrast in case["contrasts"]
        if contrast["metric"] == "quiet_ns_per_exit"
        and (contrast["method"], contrast["baseline"]) == ("sigmask", "immediate_exit")
    }


def quick_run() -> tuple[dict[str, float], float]:
    """Its differences, and how long all of it took, in s."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        command = [sys.executable, "-m", "kickbench", "run", "smp_windows_like", "--quick"]
        subprocess.run([*command, "--results", folder], check=True, capture_output=True)
        seconds = time.monotonic() - begun
        (run,) = Path(folder).glob("smp_windows_like/*")
        return differences_ns(run), seconds


def far(found: Mapping[str, float], full: Mapping[str, float]) -> dict[str, float]:
    """The cases that are not within WITHIN of the full run's, each with the share it is off by."""
    off = {case: found.get(case, 0.0) / ns - 1 for case, ns in full.items()}
    return {case: share for case, share in off.items() if abs(share) > WITHIN}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--busy", action="store_true")
    arguments = parser.parse_args()
    full = differences_ns(arguments.run)
    print(f"{len(full)} cases: " + ", ".join(f"{ns:+.0f}" for ns in full.values()) + " ns")
    good, took = 0, []
    with busy_processes(len(os.sched_getaffinity(0)) if arguments.busy else 0):
        for number in range(arguments.runs):
            found, seconds = quick_run()
            took.append(seconds)
            wrong = far(found, full)
            good += not wrong
            words = ", ".join(f"{case} {100 * share:+.0f} %" for case, share in wrong.items())
            print(f"run {number}: {seconds:.1f} s; {words or 'all within'}", flush=True)
    target = round(arguments.runs * (0.9 if arguments.busy else 1))
    print(
        f"right sign and within {100 * WITHIN:.0f} % in all cases: {good} of {arguments.runs} runs "
        f"(target {target}); seconds: median {sorted(took)[len(took) // 2]:.1f} (target about 15)"
    )


if __name__ == "__main__":
    main()
