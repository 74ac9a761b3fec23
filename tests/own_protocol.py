# SPDX-License-Identifier: Apache-2.0
"""Blocks of a protocol's file on real KVM.

Not in the module of the tests: some of them play a file in a process of its own, which then need
not import pytest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from blocks_until import until

from kickbench.engine.engine import LANDED, LOST, Clock, Engine, Kickers, Plan
from kickbench.engine.protocols import build, load
from kickbench.guest.loader import Guest
from kickbench.host.topology import Topology
from kickbench.kvm import Kvm
from kickbench.methods import method_label

CPUS = Topology.read().affinity

RACE = Plan(
    loop="kick",
    kicking="aimed",
    userspace_ns=3000,
    window_ns=50_000,
    lost_after_ns=5_000_000,
)


@contextmanager
def playing(path: Path, folder: Path, program: str = "spin", n_vcpus: int = 1) -> Iterator[Engine]:
    """An engine that knows the protocol of a file."""
    name = method_label(path.name)
    loaded = {name: load(build(path, folder), name)}
    with (
        Kvm() as kvm,
        Guest(kvm, program, n_vcpus, irqchip="kernel") as guest,
        Engine(
            guest,
            program,
            Clock.choose(counter_usable=True),
            [[CPUS[0]]] * n_vcpus,
            n_entries=1,
            samples_capacity=1 << 16,
            protocols=loaded,
            kickers=Kickers(count=1, cpus=[CPUS[-1]], pauses_capacity=1000),
        ) as engine,
    ):
        yield engine


def blocks(
    path: Path,
    folder: Path,
    plan: Plan,
    program: str = "spin",
    ms: int = 100,
    seen: Callable[[Any], object] = len,
) -> tuple[Any, Any]:
    """The results of one vCPU's blocks of a protocol, and their kicks: until some kicks were seen.

    ``seen`` says so of the kicks. By default, one is enough.
    """
    with playing(path, folder, program) as engine:
        left = until(
            engine, lambda left: seen(left.kicks), [(method_label(path.name), 0)], ms=ms, plan=plan
        )
        return left.results[:, 0], left.kicks


def no_kicks(_: Any) -> bool:
    """For blocks that need none."""
    return True


def counts(kicks: Any) -> tuple[int, int, int]:
    """Kicks sent, lost, and landed."""
    flags = kicks["flags"]
    return (
        len(kicks),
        int(np.count_nonzero(flags & LOST)),
        int(np.count_nonzero(flags & LANDED)),
    )


def some_lost(kicks: Any) -> bool:
    """Whether there are enough to judge how many of those that landed are lost."""
    return counts(kicks)[1] >= 10


def some_landed(kicks: Any) -> bool:
    return counts(kicks)[2] >= 10
