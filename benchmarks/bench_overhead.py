# SPDX-License-Identifier: Apache-2.0
"""What a user waits for besides the measuring: ``--help``, and the fixed cost of a run.

Targets: --help within 0.3 s, the fixed cost of a run below 3 s. Seconds of a shared machine say
little by themselves, so each is also shown as a multiple of an empty Python's.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 15
MEASURED_SECONDS = 1.0
SCENARIO = f"""
name = "overhead"
[vm]
vcpus = [1]
[guest]
program = "pm_timer"
[measure]
processes = 1
precision = 1e-9
max_seconds = {MEASURED_SECONDS}
"""


def median_seconds(command: list[str], runs: int) -> float:
    times = []
    for _ in range(runs):
        begun = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.monotonic() - begun)
    return statistics.median(times)


def main() -> None:
    kickbench = [sys.executable, "-P", "-m", "kickbench"]
    empty = median_seconds([sys.executable, "-c", "pass"], RUNS)
    helped = median_seconds([*kickbench, "--help"], RUNS)
    with tempfile.TemporaryDirectory() as folder:
        scenario = Path(folder, "overhead.toml")
        scenario.write_text(SCENARIO)
        command = [*kickbench, "run", str(scenario), "--results", folder]
        fixed = median_seconds(command, 3) - MEASURED_SECONDS
    print(
        f"kickbench --help / empty python: {helped / empty:.1f} "
        f"({helped:.3f} s; target at most 0.3 s)"
    )
    print(
        f"fixed cost of a run / empty python: {fixed / empty:.1f} ({fixed:.2f} s; target below 3 s)"
    )


if __name__ == "__main__":
    main()
