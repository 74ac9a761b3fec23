# SPDX-License-Identifier: Apache-2.0
"""Time per exit of a guest that counts its exits against one that does not. Target: at most 1.01.

On x86 the counting guest ends each turn with LOOP, the other one with JMP. They take turns in short
blocks; the figure is the ratio of the two, of the quiet exit and of the mean, with the 95 %
interval over the rounds. KVM without hardware virtualization below it emulates both instructions.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from random import Random

import numpy as np

from kickbench.engine.engine import Clock, Engine, quantile_levels
from kickbench.guest import loader
from kickbench.guest.loader import Guest, image
from kickbench.host.topology import Topology
from kickbench.kvm import Kvm
from kickbench.run.schedule import round_order
from kickbench.stats.contrasts import paired_contrast
from kickbench.stats.quiet import QUIET_LEVELS, quiet

SECONDS = 20.0
PROGRAMS = ("pm_timer", "mmio_write")
LOOP, JMP = b"\xe2", b"\xeb"


def _without_count(program: str, *, paced: bool) -> bytes:
    """The program with a jump in place of what counts: of the same length."""
    code = image(program, paced=paced)
    if code.count(LOOP) != 1:
        raise SystemExit(f"{program} has not one LOOP")
    return code.replace(LOOP, JMP)


def _compare(program: str) -> None:
    clock = Clock.choose(counter_usable=True)
    cpu = Topology.read().affinity[-1]
    rng = Random(1)
    names = [name for name, level in quantile_levels().items() if level in QUIET_LEVELS]
    columns = [list(quantile_levels()).index(name) for name in names]
    logs: dict[str, list[float]] = {"quiet": [], "mean": []}
    with ExitStack() as stack:
        kvm = stack.enter_context(Kvm())
        engines = []
        for load in (_without_count, image):
            loader.image = load  # type: ignore[assignment]
            guest = stack.enter_context(Guest(kvm, program, 1))
            options = {"n_entries": 1, "samples_capacity": 1 << 16}
            engines.append(stack.enter_context(Engine(guest, program, clock, [[cpu]], **options)))
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            found: dict[int, tuple[float, float]] = {}
            for turn in round_order(2, rng):
                result = engines[turn].blocks(
                    [("immediate_exit", 0)], warmup_ns=300_000, block_ns=4_000_000
                )
                levels = [result.column("quantiles", column)[0] for column in columns]
                if exits := result["exits"][0]:  # a busy host may leave none
                    mean = result["elapsed_cycles"][0] / exits
                    found[turn] = (float(quiet(levels)), mean)
            for index, figure in enumerate(logs if len(found) == 2 else ()):
                logs[figure].append(float(np.log(found[1][index] / found[0][index])))
    for figure, of_rounds in logs.items():
        ratio = paired_contrast([of_rounds])
        low, middle, high = np.exp([ratio.low, ratio.estimate, ratio.high])
        print(
            f"{program}, {figure} exit: counting / not counting {middle:.4f} "
            f"(95 % CI {low:.4f} to {high:.4f}, {len(of_rounds)} rounds); target at most 1.01"
        )


def main() -> None:
    for program in PROGRAMS:
        _compare(program)


if __name__ == "__main__":
    main()
