# SPDX-License-Identifier: Apache-2.0
"""Exits per second of the recorded loop against a bare C loop over KVM_RUN. Target: at least 0.99.

Both run in the same VM and thread, in interleaved rounds; the figure is the ratio of the two, with
the 95 % interval over the rounds.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from pathlib import Path
from random import Random

import numpy as np

from kickbench.engine.engine import Clock, Engine
from kickbench.guest.loader import Guest
from kickbench.host.topology import Topology
from kickbench.kvm import Kvm
from kickbench.run.schedule import round_order
from kickbench.stats.contrasts import paired_contrast

SECONDS = 20.0
INCLUDE = Path(__file__).resolve().parent.parent / "kickbench/engine/include"


def build(folder: str) -> ctypes.CDLL:
    library = Path(folder, "bare.so")
    source = Path(__file__).with_name("bare.c")
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-shared", f"-I{INCLUDE}"]
    subprocess.run(["cc", *flags, source, "-o", library], check=True)
    return ctypes.CDLL(str(library))


def main() -> None:
    clock = Clock.choose(counter_usable=True)
    cpu = Topology.read().affinity[-1]
    rng = Random(1)
    logs: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Kvm() as kvm,
        Guest(kvm, "pm_timer", 1) as guest,
        Engine(
            guest,
            "pm_timer",
            clock,
            [[cpu]],
            n_entries=2,
            samples_capacity=1 << 16,
            protocols={"bare": build(folder)},
        ) as engine,
    ):
        methods = ["bare", "immediate_exit"]
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            order = round_order(2, rng)
            schedule = [(methods[entry], entry) for entry in order]
            results = engine.blocks(schedule, warmup_ns=300_000, block_ns=4_000_000)
            exits, cycles = (np.array(results[name]) for name in ("exits", "elapsed_cycles"))
            rates = [
                exits[np.array(order) == entry].sum() / cycles[np.array(order) == entry].sum()
                for entry in range(2)
            ]
            logs.append(float(np.log(rates[1] / rates[0])))
    ratio = paired_contrast([logs])
    low, middle, high = np.exp([ratio.low, ratio.estimate, ratio.high])
    print(
        f"recorded loop / bare loop, exits per second: {middle:.4f} "
        f"(95 % CI {low:.4f} to {high:.4f}, {len(logs)} rounds); target at least 0.99"
    )


if __name__ == "__main__":
    main()
