# SPDX-License-Identifier: Apache-2.0
"""How long questions to the store of a large fleet take, and how much memory.

The store is that of benchmarks/fleet_world.py: 1,000 hosts, 1,100 nights and 200 figures are 215
million rows and some 6 GB. Each question is a process of its own, as a user starts it. The first
line has what every command costs: loading Python.

    python benchmarks/bench_fleet.py                    # writes the store below TMPDIR
    python benchmarks/bench_fleet.py --store FOLDER     # of fleet_world.py
    python benchmarks/bench_fleet.py --hosts 100 --nights 400
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fleet_world

OF_KIND = f"cpu_model = '{fleet_world.KINDS[0][0]}'"
ONE = f"""
FROM metrics
WHERE metric = 'quiet_ns_per_exit' AND "case" = '{fleet_world.CASES[0]}'
AND method = 'sigmask' AND {OF_KIND}
"""

KICKBENCH = [sys.executable, "-m", "kickbench", "fleet"]

LOAD = """
import sys
from kickbench.fleet.files import Files
from kickbench.fleet.judge.load import load
load(Files(sys.argv[1]))
"""


def query(sql: str) -> list[str]:
    """The command that asks the store."""
    return [*KICKBENCH, "query", "STORE", sql]


QUESTIONS = {
    "nothing": [*KICKBENCH, "--help"],
    "one figure of one CPU model, by kernel": query(
        f"SELECT kernel, count(DISTINCT host), median(value) {ONE} GROUP BY kernel ORDER BY kernel"
    ),
    "the same, of the last two months": query(
        f"SELECT kernel, median(value) {ONE} AND month >= '2026-10' GROUP BY kernel"
    ),
    "one metric of one CPU model, all cases": query(
        "SELECT kernel, median(value) FROM metrics WHERE metric = 'quiet_ns_per_exit' "  # noqa: S608
        f"AND {OF_KIND} GROUP BY kernel"
    ),
    "all hosts": query("SELECT * FROM hosts"),
    "load 120 days": [sys.executable, "-c", LOAD, "STORE"],
    "report of 120 days, with its pages": [*KICKBENCH, "report", "STORE", "-o", "PAGES"],
    "pack the last night": [*KICKBENCH, "compact", "STORE"],
}


def measured(command: list[str], store: Path, pages: Path) -> str:
    """Seconds, seconds of CPU and the largest memory of a process."""
    begin = time.perf_counter()
    places = {"STORE": str(store), "PAGES": str(pages)}
    process = subprocess.Popen(
        [places.get(word, word) for word in command], stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    took = time.perf_counter() - begin
    cpu = used.ru_utime + used.ru_stime
    # A report of a regression, which is there, exits with 1.
    failed = "" if os.waitstatus_to_exitcode(status) in (0, 1) else "  FAILED"
    return f"{took:6.2f} s  {cpu:6.2f} s of CPU  {used.ru_maxrss / 2**20:5.2f} GiB{failed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--nights", type=int, default=1100)
    parser.add_argument("--times", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kickbench-fleet-") as folder:
        store = chosen.store
        if store is None:
            store = Path(folder) / "store"
            fleet_world.write(store, chosen.hosts, chosen.nights)
        for name, command in QUESTIONS.items():
            for _ in range(1 if "compact" in command else chosen.times):
                print(f"{name:42} {measured(command, store, Path(folder) / 'pages')}", flush=True)


if __name__ == "__main__":
    main()
