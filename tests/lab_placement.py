# SPDX-License-Identifier: Apache-2.0
"""Runs inside amd-numa: where the threads, the memory and the creator of a run's worker are.

python lab_placement.py SCENARIO prints one JSON object: the nodes, by the kernel's own account (the
trace of the fork, /proc/PID/task/TID/stat, /proc/PID/numa_maps). The scenario's vCPU spins on
node 1 while threads on node 0 kick it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

from kickbench.guest.loader import PAGE, VCPU_BLOCKS

TRACING = Path("/sys/kernel/tracing")
LOOKS = 40


def node_of_cpu(cpu: int) -> int:
    (node,) = Path(f"/sys/devices/system/cpu/cpu{cpu}").glob("node[0-9]*")
    return int(node.name.removeprefix("node"))


def cpu_of_fork(pid: int) -> int:
    """The CPU on which ``pid`` was forked."""
    for line in (TRACING / "trace").read_text().splitlines():
        found = re.search(rf"\[(\d+)\].*sched_process_fork:.* child_pid={pid}\b", line)
        if found:
            return int(found[1])
    raise SystemExit(f"the trace has no fork of {pid}")


def worker_of(runner: int) -> int:
    while True:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                stat = (process / "stat").read_text().rpartition(")")[2].split()
                command = (process / "cmdline").read_bytes()
                guest = "kvm-vcpu" in str([fd.readlink() for fd in (process / "fd").iterdir()])
            except OSError:
                continue
            if int(stat[1]) == runner and b"kickbench.run.worker" in command and guest:
                return int(process.name)
        time.sleep(0.05)


def nodes_of_threads(worker: int) -> dict[str, list[int]]:
    """By what a thread may use: the nodes that its thread was seen on.

    Without the main thread. It stands on a new thread's CPUs while it makes that thread
    (kickbench/engine/src/cpus.c), so it may move between a look at its CPU and one at its mask.
    """
    seen: dict[str, set[int]] = {}
    for _ in range(LOOKS):
        for task in Path(f"/proc/{worker}/task").iterdir():
            if int(task.name) == worker:
                continue
            stat = (task / "stat").read_text().rpartition(")")[2].split()
            status = (task / "status").read_text()
            allowed = re.search(r"Cpus_allowed_list:\s*(\S+)", status)
            assert allowed is not None
            seen.setdefault(allowed[1], set()).add(node_of_cpu(int(stat[36])))
        time.sleep(0.05)
    return {allowed: sorted(nodes) for allowed, nodes in seen.items()}


def nodes_of_guest_memory(worker: int) -> list[int]:
    """The nodes of the guest's memory: the mapping of its size that must not have huge pages."""
    starts, start, size = set(), 0, 0
    for line in Path(f"/proc/{worker}/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            start, size = int(found[1], 16), int(found[2], 16) - int(found[1], 16)
        elif line.startswith("VmFlags:") and "nh" in line.split() and size == VCPU_BLOCKS + PAGE:
            starts.add(start)
    pages: dict[int, int] = {}
    for line in Path(f"/proc/{worker}/numa_maps").read_text().splitlines():
        if int(line.split()[0], 16) in starts:
            for node, count in re.findall(r"\bN(\d+)=(\d+)", line):
                pages[int(node)] = pages.get(int(node), 0) + int(count)
    return sorted(pages)


def main() -> None:
    (TRACING / "events/sched/sched_process_fork/enable").write_text("1")
    runner = subprocess.Popen(
        [sys.executable, "-P", "-m", "kickbench", "run", sys.argv[1], "--results", "/tmp/results"],
        stdout=subprocess.DEVNULL,
    )
    worker = worker_of(runner.pid)
    threads = nodes_of_threads(worker)
    print(
        json.dumps(
            {
                "creator_node": node_of_cpu(cpu_of_fork(worker)),
                # A vCPU's thread has one CPU, the kickers have all of their node.
                "vcpu_nodes": [n for a, nodes in threads.items() if a.isdigit() for n in nodes],
                "kicker_nodes": [n for a, nodes in threads.items() if "-" in a for n in nodes],
                "guest_memory_nodes": nodes_of_guest_memory(worker),
                "threads": threads,
            }
        )
    )
    runner.terminate()
    runner.wait()


if __name__ == "__main__":
    main()
