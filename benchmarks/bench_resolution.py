# SPDX-License-Identifier: Apache-2.0
"""How well sigmask - immediate_exit is known at 1 vCPU after 20 s of measuring.

Target: a 95 % interval of at most +-0.1 % of an exit's cost.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from _runs import run_once


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        summary, _ = run_once(Path(folder), max_seconds=20)
    (case,) = summary["cases"]
    contrast = next(c for c in case["contrasts"] if c["metric"] == "ns_per_exit")
    cost = case["methods"]["immediate_exit"]["ns_per_exit"]["mean"]
    low, high = contrast["ci95"]
    print(
        f"sigmask - immediate_exit, half-width of the 95 % interval / cost of an exit: "
        f"{(high - low) / 2 / cost:.5f} (target at most 0.001); difference / cost: "
        f"{contrast['diff'] / cost:.5f}, {contrast['rounds']} rounds, control ok: "
        f"{case['control']['ok']}"
    )


if __name__ == "__main__":
    main()
