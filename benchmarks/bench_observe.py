# SPDX-License-Identifier: Apache-2.0
"""What kickbench observe costs a guest that exits at full speed, and how soon it is there.

- The time of an exit while each is counted, and while each is looked at closely, against its time
  without: short blocks in random order, compared within their round.
- Both together, as ``kickbench observe`` takes turns at full speed. Target: at most 3 % longer.
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
from numpy.typing import NDArray

from kickbench.engine.engine import Clock, Engine
from kickbench.guest.loader import Guest
from kickbench.host.topology import Topology
from kickbench.kvm import Kvm
from kickbench.stats.contrasts import running_interval
from kickbench.stats.location import huber
from kickbench.watch import process
from kickbench.watch.programs import Watch
from kickbench.watch.turns import TURN_SECONDS, WINDOW_SECONDS

STATES = ("off", "counted", "closely")
ROUNDS = 200
BLOCK_SECONDS = 0.03
MANY = 256


@contextmanager
def full_speed() -> Iterator[None]:
    """A guest of this process that exits at full speed meanwhile."""
    clock = Clock.choose(counter_usable=True)
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


def ns_per_exit(watch: Watch, state: str) -> float:
    """The mean time of an exit in one block."""
    with ExitStack() as stack:
        if state != "off":
            stack.enter_context(watch.attached())
        if state == "closely":
            stack.enter_context(watch.detail())
            stack.enter_context(watch.handlers())
        before, began = sum(watch.read_kvm_counts()), time.monotonic_ns()
        time.sleep(BLOCK_SECONDS)
        after, ended = sum(watch.read_kvm_counts()), time.monotonic_ns()
    return (ended - began) / max(1, after - before)


def compare(watch: Watch) -> None:
    """Print how much longer exits are with the programs than without."""
    order = random.Random(1)
    rounds = [
        {state: ns_per_exit(watch, state) for state in order.sample(STATES, len(STATES))}
        for _ in range(ROUNDS)
    ]
    more = {
        state: np.array([found[state] / found["off"] - 1 for found in rounds]) for state in STATES
    }
    share = WINDOW_SECONDS / TURN_SECONDS
    together = (1 - share) * more["counted"] + share * more["closely"]
    show("each exit counted", more["counted"], "")
    show("each exit looked at closely", more["closely"], "")
    show("as kickbench observe does at full speed", together, "; target at most 3 %")


def show(name: str, more: NDArray[np.float64], target: str) -> None:
    """Print one of the figures."""
    interval = running_interval([more], location=huber)
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
        "clock = Clock.choose(counter_usable=True)\n"
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
            "from kickbench.observe import observer, recording\n"
            "from kickbench.watch import process\n"
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
            compare(watch)
    memory()


if __name__ == "__main__":
    main()
