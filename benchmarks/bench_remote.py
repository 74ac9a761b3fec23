# SPDX-License-Identifier: Apache-2.0
"""Whether a measurement by ssh is the same as one without, and how soon it begins.

- Pairs of runs in random order, one on this host and one by a real sshd on loopback: the difference
  of their levels and of their contrasts. Target: less than half the A/A control's interval is wide.
- The time from the command to the first block, with the agent on the box and without. Targets:
  below 2 s and below 5 s.

Needs sshd (apt install openssh-server).
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _runs import ROOT, run_once

from kickbench.remote.box import Box
from kickbench.remote.ssh import Ssh
from kickbench.run.machine import Machine
from kickbench.stats.contrasts import running_interval

sys.path.append(str(ROOT / "tests"))
os.environ.setdefault("KICKBENCH_LOCK", str(Path(tempfile.mkdtemp()) / "lock"))

import sshd

PAIRS = 20
STARTS = 5


def measured(folder: Path, machine: Machine | None = None) -> tuple[float, float, float]:
    """The quiet exit of immediate_exit, the contrast, and half the control's interval, in ns."""
    methods = ["sigmask", "immediate_exit"]
    summary, _ = run_once(folder, machine, methods=methods, processes=1, max_seconds=3.0)
    (case,) = summary["cases"]
    (contrast,) = (c for c in case["contrasts"] if c["metric"] == "quiet_ns_per_exit")
    low, high = case["control"]["ci95"]
    level = case["methods"]["immediate_exit"]["ns_per_exit"]["quiet"]
    return level, contrast["diff"], (high - low) / 2


def pairs(server: sshd.Sshd, folder: Path) -> None:
    """Compare runs here and there."""
    found: dict[str, list[tuple[float, float, float]]] = {"here": [], "there": []}
    for _ in range(PAIRS):
        for where in random.sample(sorted(found), 2):
            if where == "here":
                found[where].append(measured(folder))
            else:
                with Box(Ssh(server.host)) as box:
                    found[where].append(measured(folder, box))
    here, there = (np.array(found[where]) for where in ("here", "there"))
    control = float(np.median(np.concatenate([here, there])[:, 2]))
    print(f"{PAIRS} pairs; half of the A/A control's interval: {control:.1f} ns")
    for name, column in (("an exit of immediate_exit", 0), ("sigmask - immediate_exit", 1)):
        more = running_interval([there[:, column] - here[:, column]])
        print(
            f"{name}: {np.median(here[:, column]):,.1f} ns here, by ssh {more.estimate:+.1f} "
            f"({more.low:+.1f} to {more.high:+.1f}) ns"
        )


def first_blocks(server: sshd.Sshd, folder: Path) -> None:
    """Time from the command to the moment in which the worker is ready for its first block."""
    scenario = folder / "pair.toml"
    scenario.write_text(
        'name = "pair"\n[vm]\nvcpus = 1\n[guest]\nprogram = "pm_timer"\n[measure]\n'
        'methods = ["sigmask", "immediate_exit"]\nprocesses = 1\nmax_seconds = 0.5\n'
    )
    command = [sys.executable, "-P", "-m", "kickbench", "run", str(scenario)]
    command += ["--host", server.host, "--results", str(folder)]
    for name, target in (("with the agent there", 2), ("without", 5)):
        times = []
        for _ in range(STARTS):
            if name == "without":
                shutil.rmtree(server.cache)
            begun = time.monotonic()
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            while not any(b'"ready"' in run.read_bytes() for run in journals(server)):
                time.sleep(0.005)
            times.append(time.monotonic() - begun)
            process.wait()
        print(f"command to first block, {name}: median {np.median(times):.2f} s (target {target})")


def journals(server: sshd.Sshd) -> list[Path]:
    """What the runs on the box have said."""
    return [path for run in server.runs if (path := run / "journal").is_file()]


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with sshd.running(folder) as server:
            os.environ["KICKBENCH_SSH"] = server.ssh
            with Box(Ssh(server.host)) as box:
                box.look()
            first_blocks(server, folder)
            pairs(server, folder)


if __name__ == "__main__":
    main()
