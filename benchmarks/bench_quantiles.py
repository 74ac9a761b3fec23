# SPDX-License-Identifier: Apache-2.0
"""The share of a run's time that the quantiles of its blocks take. Target: at most 1 %.

Blocks run as those of a run at full speed. Then the quantiles of the same exits are computed again,
between two readings of the clock, and their time is divided by that of the blocks. The figure is a
ratio of times in one run; on a busy host both grow.
"""

from __future__ import annotations

import time

import numpy as np

from kickbench.engine.engine import Clock, Engine, quantiles
from kickbench.guest.loader import Guest
from kickbench.host.topology import Topology
from kickbench.kvm import Kvm

CALLS = 100
BLOCKS = 12


def main() -> None:
    clock = Clock.choose(counter_usable=True)
    cpu = Topology.read().affinity[-1]
    shares, exits = [], []
    with (
        Kvm() as kvm,
        Guest(kvm, "pm_timer", 1) as guest,
        Engine(guest, "pm_timer", clock, [[cpu]], n_entries=1, samples_capacity=1 << 16) as engine,
    ):
        for _ in range(CALLS):
            begun = time.perf_counter()
            results = engine.blocks(
                [("immediate_exit", 0)] * BLOCKS, warmup_ns=300_000, block_ns=4_000_000
            )
            blocks_seconds = time.perf_counter() - begun
            samples = [
                engine.samples(0, *where)
                for where in zip(results["samples_offset"], results["samples_count"], strict=True)
            ]
            begun = time.perf_counter()
            for some in samples:
                quantiles(some, 1.0)
            shares.append((time.perf_counter() - begun) / blocks_seconds)
            exits += [len(some) for some in samples]
    low, middle, high = np.quantile(shares, (0.05, 0.5, 0.95)) * 100
    print(
        f"quantiles of blocks of {np.median(exits):,.0f} exits: {middle:.2f} % of the blocks' time "
        f"({low:.2f} to {high:.2f} in 90 % of {CALLS} calls); target at most 1 %"
    )


if __name__ == "__main__":
    main()
