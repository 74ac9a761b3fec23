# SPDX-License-Identifier: Apache-2.0
"""How long ``kickbench report`` takes for a run with 100 million exits, and in what memory.

Aim: under 10 s and 1 GiB, and a page under 3 MB; under 3 s for a run of which only manifest.json
and summary.json are left. Prints figures, asserts nothing. The run is made up, but has the cases,
rounds and samples that smp_windows_like leaves on a host of two nodes with 8 CPUs each.

    python benchmarks/bench_report.py [EXITS]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from _runs import Size, make_up

from kickbench.run.schedule import Timing, entries
from kickbench.scenario.cases import Case
from kickbench.scenario.files import load
from kickbench.scenario.shipped import resolve
from kickbench.scenario.sweep import expand
from kickbench.summary.summarise import write_summary

SCENARIO = "smp_windows_like"
EXITS = 100_000_000


def sizes_of(cases: list[Case], n_exits: int) -> list[Size]:
    """What each case leaves in the time that the scenario gives it, ``n_exits`` in all."""
    rounds, blocks = {}, {}
    for case in cases:
        timing = Timing.of(case, [[cpu] for cpu in range(case.vcpus)])
        positions = 2 * len(entries(case))
        round_seconds = positions * (timing.warmup_ns + timing.block_ns) / 1e9
        rounds[case.id] = int(case.max_seconds / round_seconds)
        if case.kind == "exits":
            blocks[case.id] = rounds[case.id] * positions * case.vcpus
    per_block = n_exits // sum(blocks.values())
    return [
        Size(
            case.to_dict(),
            rounds[case.id],
            per_block,
            min(case.sample_budget, per_block * blocks.get(case.id, 0)),
        )
        for case in cases
    ]


@dataclass(frozen=True)
class Taken:
    """What one report took."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    page_mb: float


def report(run: Path, folder: Path) -> Taken:
    """The whole command in a process of its own."""
    begun = time.perf_counter()
    command = [sys.executable, "-P", "-m", "kickbench", "report", str(run), "-o", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit("the report failed")
    (page,) = folder.glob(f"*{run.name}*.html")
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Taken(seconds, cpu_seconds, usage.ru_maxrss / 1024, page.stat().st_size / 1e6)


def tell(what: str, taken: Taken, aim_s: float) -> None:
    """Print what it took, and how much that is of what is aimed at."""
    parts = (
        (f"{taken.seconds:.2f} s", taken.seconds / aim_s, f"{aim_s:g} s"),
        (f"{taken.peak_mib:.0f} MiB", taken.peak_mib / 1024, "1 GiB"),
        (f"a page of {taken.page_mb:.2f} MB", taken.page_mb / 3, "3 MB"),
    )
    shares = [f"{text} ({share:.2f} of the {aim} aimed at)" for text, share, aim in parts]
    verdict = "all met" if all(share < 1 for _, share, _ in parts) else "NOT MET"
    busy = f"{taken.cpu_seconds:.2f} s of them computing"  # less: this host had other work
    print(f"{what}: {', '.join(shares)}; {busy}: {verdict}", flush=True)


def main() -> None:
    """Make a run, report it whole and without its tables, print what that took."""
    n_exits = int(sys.argv[1]) if len(sys.argv) > 1 else EXITS
    scenario = load(resolve(SCENARIO))
    sizes = sizes_of(expand(scenario), n_exits)
    with tempfile.TemporaryDirectory() as folder:
        run = make_up(Path(folder) / "results", scenario.to_dict(), sizes)
        write_summary(run)
        samples = sum(size.samples for size in sizes)
        disk = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
        print(
            f"{len(sizes)} cases, {n_exits / 1e6:.0f} million exits, {samples / 1e6:.1f} million "
            f"samples, {disk / 2**20:.0f} MiB",
            flush=True,
        )
        tell("the whole run", report(run, Path(folder) / "whole"), 10)
        shutil.rmtree(run / "cases")
        tell("its summary only", report(run, Path(folder) / "stripped"), 3)


if __name__ == "__main__":
    main()
