# SPDX-License-Identifier: Apache-2.0
"""How often a short run raises a false alarm. Target: at most 5 of 100, of each that can.

Four can: the A/A control and the placebo, each of the quiet exit and of the mean. The four together
are wrong in 1 run of 100 by construction, so the counts are shown with their exact intervals.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from _runs import run_once

from kickbench.stats.proportions import clopper_pearson

RUNS = 100
TARGET = 5


def main() -> None:
    alarms = dict.fromkeys(
        (f"{role}, {figure}" for role in ("control", "placebo") for figure in ("quiet", "mean")), 0
    )
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(RUNS):
            summary, _ = run_once(
                Path(folder), methods=["immediate_exit"], processes=1, max_seconds=1, seed=seed
            )
            (case,) = summary["cases"]
            for role in ("control", "placebo"):
                alarms[f"{role}, quiet"] += case[role]["ok"] is False
                alarms[f"{role}, mean"] += case[role]["mean"]["ok"] is False
    for what, count in alarms.items():
        share = clopper_pearson(count, RUNS)
        print(
            f"false alarms of the {what}: {count} of {RUNS} short runs (exact 95 % interval "
            f"{share.low:.3f} to {share.high:.3f}); target at most {TARGET}"
        )


if __name__ == "__main__":
    main()
