# SPDX-License-Identifier: Apache-2.0
"""How often the A/A control of a short run raises a false alarm. Target: at most 5 % of 100 runs.

A control with 95 % confidence is wrong in 5 % of runs by construction, so the count is shown with
its exact interval.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from _runs import run_once

from kickbench.stats.proportions import clopper_pearson

RUNS = 100


def main() -> None:
    alarms = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(RUNS):
            summary, _ = run_once(
                Path(folder), methods=["immediate_exit"], processes=1, max_seconds=1, seed=seed
            )
            alarms += not summary["cases"][0]["control"]["ok"]
    share = clopper_pearson(alarms, RUNS)
    print(
        f"false alarms of the A/A control: {alarms} of {RUNS} short runs "
        f"(exact 95 % interval {share.low:.3f} to {share.high:.3f}); target at most 0.05"
    )


if __name__ == "__main__":
    main()
