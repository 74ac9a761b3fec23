# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks of whole runs share: a one-vCPU scenario, run in this process, silently."""

from __future__ import annotations

import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

from kickbench.run import runner
from kickbench.run.progress import PlainProgress
from kickbench.scenario.model import Scenario


def run_once(folder: Path, **measure: Any) -> tuple[dict[str, Any], float]:
    """The summary of one run of one case (1 vCPU, pm_timer), and how long all of it took, in s."""
    scenario = Scenario.from_dict(
        {
            "name": "benchmark",
            "vm": {"vcpus": [1]},
            "guest": {"program": "pm_timer"},
            "placement": [{"name": "node0", "creator": "node:0", "vcpus": "node:0"}],
            "measure": {"precision": 1e-9, **measure},
        }
    )
    begun = time.monotonic()
    with contextlib.redirect_stderr(io.StringIO()):
        outcome = runner.run(scenario, folder, PlainProgress())
    seconds = time.monotonic() - begun
    if outcome.failed:
        raise SystemExit(f"a run failed: {outcome.failed}")
    summary: dict[str, Any] = json.loads((outcome.folder / "summary.json").read_text())
    return summary, seconds
