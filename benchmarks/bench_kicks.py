# SPDX-License-Identifier: Apache-2.0
"""Kicks: what measuring adds to one, how many are aimed per second, how long pauses take.

Targets: p50 of the kick latency at most 1.05 times that of a minimal C program that does the same;
at least 5,000 aimed kicks per second in a race; 1,000 pauses of 16 vCPUs within a minute.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import kickbench.guest
from kickbench.engine.engine import LOST, MET, Clock, Engine, Kickers, Plan
from kickbench.guest.loader import Guest
from kickbench.host.topology import Topology
from kickbench.kvm import Kvm
from kickbench.native import built_file

ROUNDS = 15
KICKS = 400
GAP_NS = 150_000
PAUSES_VCPUS = 16
CPUS = Topology.read().affinity
VCPU_CPU, KICKER_CPU = CPUS[0], CPUS[-1]


def minimal_median_cycles(program: Path) -> float:
    image = built_file(kickbench.guest.__path__, "images/spin.max.bin")
    arguments = [program, image, VCPU_CPU, KICKER_CPU, KICKS, GAP_NS]
    done = subprocess.run([str(a) for a in arguments], check=True, capture_output=True, text=True)
    return float(done.stdout)


@contextmanager
def running(
    program: str, clock: Clock, seats: list[list[int]], kickers: Kickers
) -> Iterator[Engine]:
    """An engine whose vCPUs run the program, one for each of the seats."""
    with (
        Kvm() as kvm,
        Guest(kvm, program, len(seats)) as guest,
        Engine(
            guest, program, clock, seats, n_entries=1, samples_capacity=1, kickers=kickers
        ) as engine,
    ):
        yield engine


def our_median_cycles(clock: Clock) -> float:
    plan = Plan(loop="kick", kicking="volleys", state="guest", gap_ns=GAP_NS)
    with running("spin", clock, [[VCPU_CPU]], Kickers(1, [KICKER_CPU])) as engine:
        engine.blocks(
            [("immediate_exit", 0)], warmup_ns=300_000, block_ns=KICKS * GAP_NS, plan=plan
        )
        (kicks,) = engine.kicks()
    latency, flags = np.array(kicks["latency"]), np.array(kicks["flags"])
    return float(np.median(latency[(flags & (MET | LOST)) == MET]))


def overhead(clock: Clock) -> None:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "minimal_kick")
        source = Path(__file__).with_name("minimal_kick.c")
        flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-pthread"]
        subprocess.run(["cc", *flags, source, "-o", program], check=True)
        ratios = [our_median_cycles(clock) / minimal_median_cycles(program) for _ in range(ROUNDS)]
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    print(
        f"kick latency p50 / minimal C program's: {middle:.3f} (quartiles {low:.3f} to {high:.3f}, "
        f"{ROUNDS} pairs); target at most 1.05"
    )


def aimed_per_second(clock: Clock) -> None:
    for window_ns in (0, 50_000):
        plan = Plan(
            loop="kick",
            kicking="aimed",
            userspace_ns=0 if window_ns else 3_000,
            window_ns=window_ns,
            lost_after_ns=10_000_000,
        )
        kickers = Kickers(1, [KICKER_CPU], kicks_capacity=1 << 20)
        with running("spin", clock, [[VCPU_CPU]], kickers) as engine:
            for method in ("sigmask", "immediate_exit"):
                engine.blocks([(method, 0)], warmup_ns=300_000, block_ns=2_000_000_000, plan=plan)
                print(
                    f"aimed kicks per second, {method}, window {window_ns} ns: "
                    f"{sum(map(len, engine.kicks())) / 2:,.0f}; target at least 5,000"
                )


def pauses(clock: Clock) -> None:
    seats = [[CPUS[index % len(CPUS)]] for index in range(PAUSES_VCPUS)]
    plan = Plan(loop="kick", kicking="pauses", gap_ns=500_000)
    for program in ("hlt", "pm_timer"):
        kickers = Kickers(1, CPUS, pauses_capacity=1 << 16)
        with running(program, clock, seats, kickers) as engine:
            begun = time.monotonic()
            engine.blocks(
                [("immediate_exit", 0)], warmup_ns=300_000, block_ns=10_000_000_000, plan=plan
            )
            count = len(engine.pauses())
            seconds = (time.monotonic() - begun) / max(1, count) * 1000
            print(
                f"1,000 pauses of {PAUSES_VCPUS} vCPUs, guest {program}, from {count} of them: "
                f"{seconds:.1f} s; target within 60 s"
            )


def main() -> None:
    clock = Clock.choose(counter_usable=True)
    overhead(clock)
    aimed_per_second(clock)
    pauses(clock)


if __name__ == "__main__":
    main()
