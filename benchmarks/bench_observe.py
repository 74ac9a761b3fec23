# SPDX-License-Identifier: Apache-2.0
"""What kickbench observe costs a guest that exits at full speed, and how soon it is there.

- The guest's rate while it is observed as ``kickbench observe`` does it, against its rate without:
  blocks of a second in pairs, in random order. Target: at most 3 % slower.
- The parts: all exits counted, and all exits looked at closely.
- The time to load and attach. Target: below 1 s.
- The memory of the observer with 256 vCPUs, while it observes. Target: below 100 MiB.

Needs root, or the capabilities of docs/observe.md.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from kickbench.engine.engine import Clock, Engine
from kickbench.guest.loader import Guest
from kickbench.host.topology import Topology
from kickbench.kvm import Kvm
from kickbench.observe import process
from kickbench.observe.observer import WINDOW_SECONDS
from kickbench.observe.watch import Watch
from kickbench.stats.contrasts import running_interval
from kickbench.stats.location import huber

ROUNDS = 20
TURN_SECONDS = 1.0
PART_SECONDS = 0.05
MANY = 256


@contextmanager
def full_speed() -> Iterator[None]:
    """A guest of this process that exits at full speed meanwhile."""
    clock = Clock.choose(tsc_usable=True)
    cpu = Topology.read().affinity[-1]
    over = threading.Event()
    with (
        Kvm() as kvm,
        Guest(kvm, "pm_timer", 1) as guest,
        Engine(guest, "pm_timer", clock, [[cpu]], n_entries=1, samples_capacity=1) as engine,
    ):

        def run() -> None:
            while not over.is_set():
                engine.blocks([("immediate_exit", 0)], warmup_ns=0, block_ns=2_000_000_000)

        running = threading.Thread(target=run)
        running.start()
        time.sleep(0.5)
        try:
            yield
        finally:
            over.set()
            running.join()


def ns_per_exit(watch: Watch, seconds: float, detail_seconds: float) -> float:
    """The time of an exit within ``seconds``, of which the first part is looked at closely."""
    before, began = int(watch.read_kvm_counts().sum()), time.monotonic_ns()
    if detail_seconds:
        with watch.detail():
            time.sleep(detail_seconds)
    time.sleep(max(0.0, seconds - detail_seconds))
    after, ended = int(watch.read_kvm_counts().sum()), time.monotonic_ns()
    return (ended - began) / max(1, after - before)


def compare(watch: Watch, name: str, seconds: float, detail_seconds: float, target: str) -> None:
    """Print how much longer exits are with the programs than without."""
    order = random.Random(1)  # noqa: S311 - the order only has to be mixed
    more = []
    for _ in range(ROUNDS):
        found = {}
        for on in order.sample((False, True), 2):
            with ExitStack() as stack:
                if on:
                    stack.enter_context(watch.attached())
                found[on] = ns_per_exit(watch, seconds, detail_seconds if on else 0.0)
        more.append(found[True] / found[False] - 1)
    interval = running_interval([np.array(more)], location=huber)
    low, value, high = (100 * x for x in (interval.low, interval.estimate, interval.high))
    print(f"{name}: exits {value:+.2f} % (95 % CI {low:.2f} to {high:.2f}){target}", flush=True)


def memory() -> None:
    """Print the memory of the observer of many vCPUs while it observes."""
    code = (
        "import sys, time\n"
        "from kickbench.engine.engine import Clock, Engine\n"
        "from kickbench.guest.loader import Guest\n"
        "from kickbench.host.topology import Topology\n"
        "from kickbench.kvm import Kvm\n"
        f"cpus, n = Topology.read().affinity, {MANY}\n"
        "clock = Clock.choose(tsc_usable=True)\n"
        "seats = [[cpus[i % len(cpus)]] for i in range(n)]\n"
        "with Kvm() as kvm, Guest(kvm, 'hlt', n) as guest, Engine(guest, 'hlt', clock, seats, "
        "n_entries=1, samples_capacity=1) as engine:\n"
        "    print('up', flush=True)\n"
        "    while True: engine.blocks([('immediate_exit', 0)], warmup_ns=0, block_ns=10**9)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as vm:
        assert vm.stdout is not None
        vm.stdout.readline()
        time.sleep(1)
        watching = (
            "import sys\n"
            "from kickbench.observe import observer, process, recording\n"
            "observer.observe(process.find(int(sys.argv[1])), 8)\n"
            "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        )
        said = subprocess.run(
            [sys.executable, "-c", watching, str(vm.pid)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        vm.kill()
    print(f"memory with {MANY} vCPUs: {int(said) / 2**10:.0f} MiB; target below 100 MiB")


def main() -> None:
    with full_speed():
        files = list(process.find(os.getpid()).vcpu_files)
        began = time.monotonic()
        with Watch(os.getpid(), files) as watch:
            with watch.attached(), watch.detail():
                took = time.monotonic() - began
            print(f"loaded and attached in {took:.2f} s; target below 1 s", flush=True)
            compare(watch, "counted", PART_SECONDS, 0.0, "")
            compare(watch, "looked at closely", PART_SECONDS, PART_SECONDS, "")
            as_it_is = "; target at most 3 %"
            compare(watch, "as kickbench observe does", TURN_SECONDS, WINDOW_SECONDS, as_it_is)
    memory()


if __name__ == "__main__":
    main()
