# SPDX-License-Identifier: Apache-2.0
"""Whether a measurement by a Dask worker is the same as one without, and what Dask costs a host.

- Pairs of runs in random order, one by a worker that talks to its scheduler, and one while both are
  stopped: the difference of their levels and of their contrasts. Target: less than half the A/A
  control's interval is wide.
- Hosts that measure nothing: how long each waits for its order, and the command for its outcome.
  Target: below 1 s together.

Needs root, for hosts that have names of their own. All are on this machine, and share its CPUs.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from unittest import mock

import distributed
import numpy as np
from _runs import ROOT

from kickbench.fleet import host as on_host
from kickbench.fleet import run as fleet_run
from kickbench.fleet.files import Files
from kickbench.fleet.host import Order
from kickbench.stats.contrasts import running_interval

sys.path.append(str(ROOT / "tests"))
os.environ.setdefault("KICKBENCH_LOCK", str(Path(tempfile.mkdtemp()) / "lock"))

from dask_hosts import Cluster

PAIRS = 20
HOSTS = 20
SCENARIO = """
name = "pair"
[vm]
vcpus = 1
[guest]
program = "pm_timer"
[measure]
methods = ["sigmask", "immediate_exit"]
processes = 1
max_seconds = 3
"""


class Watching:
    """When each host's outcome was heard of."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}

    def note(self, _line: str) -> None:
        """Nothing is shown."""

    def planned(self, _hosts: Collection[str]) -> None:
        """Nothing is shown."""

    def said(self, _host: str, _line: str) -> None:
        """Nothing is shown."""

    def ended(self, host: str, _why: str | None) -> None:
        """Note the time."""
        self.at[host] = time.time()


def measured(files: Files, client: distributed.Client | None) -> tuple[float, float, float]:
    """The quiet exit of immediate_exit, the contrast, and half the control's interval, in ns."""
    order = Order(f"f{time.time_ns()}", {"pair": SCENARIO}, (), files.url)
    files.write(on_host.order_name(order.fleet), b"{}")
    if client is None:
        code, last = on_host.measure(order, lambda _: None, lambda: False)
        assert code == 0, last
    else:
        (worker,) = client.scheduler_info(n_workers=-1)["workers"]
        outcome = fleet_run.measure(client, {"one": order}, {"one": worker}, Watching())
        assert outcome.exit_code == 0, outcome
        last = outcome.ok["one"]
    (summary,) = (name for name in files.list("results", "summary.json") if f"/{last}/" in name)
    (case,) = json.loads(files.read(summary))["cases"]
    (contrast,) = (c for c in case["contrasts"] if c["metric"] == "quiet_ns_per_exit")
    low, high = case["control"]["ci95"]
    level = case["methods"]["immediate_exit"]["ns_per_exit"]["quiet"]
    return level, contrast["diff"], (high - low) / 2


def pairs(folder: Path) -> None:
    """Compare runs with a worker and without."""
    cluster = started(folder, 1)
    processes = [process for _, process in cluster.processes]
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    files = Files(str(folder / "store"))
    found: dict[str, list[tuple[float, float, float]]] = {"with": [], "without": []}
    for _ in range(PAIRS):
        for how in random.sample(sorted(found), 2):
            if how == "with":
                with fleet_run.connected(cluster.address) as client:
                    found[how].append(measured(files, client))
            else:
                for process in processes:
                    process.send_signal(signal.SIGSTOP)
                found[how].append(measured(files, None))
                for process in processes:
                    process.send_signal(signal.SIGCONT)
    cluster.end()
    without, with_ = (np.array(found[how]) for how in ("without", "with"))
    control = float(np.median(np.concatenate([without, with_])[:, 2]))
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    print(f"{PAIRS} pairs; half of the A/A control's interval: {control:.1f} ns; load {load}")
    for name, column in (("an exit of immediate_exit", 0), ("sigmask - immediate_exit", 1)):
        more = running_interval([with_[:, column] - without[:, column]])
        print(
            f"{name}: {np.median(without[:, column]):,.1f} ns, by a worker {more.estimate:+.1f} "
            f"({more.low:+.1f} to {more.high:+.1f}) ns"
        )


def started(folder: Path, hosts: int) -> Cluster:
    """A cluster of so many hosts."""
    folder.mkdir()
    cluster = Cluster(folder)
    for number in range(hosts):
        cluster.add(f"host{number}")
    with fleet_run.connected(cluster.address) as client:
        client.wait_for_workers(hosts)
    return cluster


def stub(_order: Order, _host: str) -> tuple[int, str]:
    """Measure nothing, and say when. Dask sends it by value, as workers cannot load this script."""
    return 0, str(time.time())


def overhead(folder: Path) -> None:
    """Time that Dask takes a host."""
    cluster = started(folder, HOSTS)
    with (
        mock.patch.object(fleet_run, "_measure", stub),
        fleet_run.connected(cluster.address) as client,
    ):
        workers = client.scheduler_info(n_workers=-1)["workers"]
        order = Order("stub", {"stub": ""}, (), "")
        orders = dict.fromkeys(workers, order)
        for _ in ("each host loads kickbench", "it has"):
            watching = Watching()
            begun = time.time()
            each = {worker: worker for worker in workers}
            outcome = fleet_run.measure(client, orders, each, watching)
    cluster.end()
    ran = {host: float(last) for host, last in outcome.ok.items()}
    there = np.array([at - begun for at in ran.values()])
    back = np.array([watching.at[host] - at for host, at in ran.items()])
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    print(
        f"{len(ran)} of {HOSTS} hosts: the order takes {np.median(there):.2f} s (at most "
        f"{there.max():.2f}), the outcome {np.median(back):.2f} s (at most {back.max():.2f}); "
        f"together at most {(there + back).max():.2f} s (target 1); load {load}"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        overhead(Path(temporary) / "many")
        pairs(Path(temporary) / "one")


if __name__ == "__main__":
    main()
