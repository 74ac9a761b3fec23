# SPDX-License-Identifier: Apache-2.0
"""What tests of the observer share: whether they can run, VMs to observe, and observations."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kickbench.engine.engine import Clock, Engine, Kickers
from kickbench.errors import KickbenchError
from kickbench.guest.loader import Guest
from kickbench.guest.mix import MixedExit
from kickbench.host.topology import Topology
from kickbench.kvm import Kvm
from kickbench.observe import observer, store
from kickbench.observe.observer import rows
from kickbench.observe.protocol import UNKNOWN
from kickbench.results.writer import RunWriter
from kickbench.summary.summarise import write_summary
from kickbench.watch import layout, process
from kickbench.watch.programs import Watch
from kickbench.watch.snapshot import Rows, Snapshot, Turn
from kickbench.watch.turns import threads_of

# -P: what is tested is the installed package, and not the checkout that is beside the tests.
KICKBENCH = (sys.executable, "-P", "-m", "kickbench")
CPUS = Topology.read().affinity
MIX = [MixedExit("port_read", 0x608, 4, 1)] * 3 + [MixedExit("mmio_write", 0xFE00_0000, 2, 1)]
PHASES = ("cost", "observing")
"""What ``kickbench observe`` does one after the other: each begins with a line of its own."""


def why_not_observe() -> str | None:
    """Why this host, user or build cannot observe; None if they can."""
    try:
        with Watch(os.getpid(), []), Watch(os.getpid(), []) as watch, watch.attached():
            return None
    except KickbenchError as error:
        return str(error).replace("\n", "; ")


_WHY_NOT = why_not_observe()
if _WHY_NOT and os.environ.get("KICKBENCH_REQUIRE_OBSERVER"):
    pytest.exit(f"the tests of the observer must run here, but: {_WHY_NOT}", 1)
needs_observer = pytest.mark.skipif(_WHY_NOT is not None, reason=f"cannot observe: {_WHY_NOT}")


@contextmanager
def machine(
    clock: Clock, program: str, *, vcpus: int = 1, rate_hz: float | None = None
) -> Iterator[tuple[Guest, Engine]]:
    """The engine's VM in this process."""
    pacing: dict[str, Any] = {}
    if rate_hz is not None:
        gaps = [int(clock.hz / rate_hz)]
        pacing = {"gaps_cycles": gaps, "first_gaps": [0] * vcpus, "ring_entries": 1024}
    if program == "mix":
        pacing["mix"] = MIX
    seats = [[CPUS[index % len(CPUS)]] for index in range(vcpus)]
    options: dict[str, Any] = {"n_entries": 1, "samples_capacity": 1 << 12}
    options["kickers"] = Kickers(count=1, cpus=[CPUS[-1]])
    with (
        Kvm() as kvm,
        Guest(kvm, program, vcpus, irqchip="kernel", **pacing) as guest,
        Engine(guest, program, clock, seats, **options) as engine,
    ):
        yield guest, engine


@contextmanager
def watching() -> Iterator[Watch]:
    """This process, watched in all details."""
    files = list(process.find(os.getpid()).vcpu_files)
    with Watch(os.getpid(), files) as watch, watch.attached(), watch.detail(), watch.handlers():
        yield watch


def until_nothing_is_lost(test: Callable[..., None]) -> Callable[..., None]:
    """Runs the test again, some times, if a program missed an event.

    The kernel leaves out a program that the same CPU has begun for another thread.
    """

    @functools.wraps(test)
    def run(*arguments: Any, **options: Any) -> None:
        for _ in range(5):
            try:
                return test(*arguments, **options)
            except EventsLostError:
                pass
        return test(*arguments, **options)

    return run


class EventsLostError(AssertionError):
    """A program missed an event."""


def seen_of(watch: Watch) -> observer.Observed:
    """What was watched so far. Raises EventsLostError if a program missed an event."""
    watch.read_kvm_counts()
    senders, sent = watch.senders()
    kicks, pid = watch.take_kicks(), os.getpid()
    found = observer.Observed(process.find(pid))
    found.see(
        Snapshot(
            n_threads=process.threads_of(pid),
            began_ns=1,
            elapsed_ns=1,
            detail_ns=1,
            blocks=[],
            turn=Turn(0, 1, [], []),
            first={},
            last=threads_of(watch, pid),
            lost=watch.lost(),
            rows=Rows(
                vcpus=watch.vcpus,
                ways=watch.ways,
                senders=senders,
                sent=sent,
                totals=bytes(watch.totals),
            ),
        )
    )
    found.kicks = rows(kicks, layout.Kick)
    if found.lost.events or found.lost.threads:
        raise EventsLostError(found.lost)
    return found


def observe(*arguments: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """``kickbench observe``, until it has ended."""
    command = [*KICKBENCH, "observe", *arguments, "--results", str(folder)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, **options
    )


@contextmanager
def observing(pid: int, folder: Path, phase: str = PHASES[-1]) -> Iterator[subprocess.Popen[str]]:
    """``kickbench observe``, which is in this phase now and would observe for a minute."""
    command = [*KICKBENCH, "observe", str(pid), "--seconds", "60", "--results", str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as running:
        assert running.stderr is not None
        said = [running.stderr.readline() for _ in PHASES[: PHASES.index(phase) + 1]]
        if phase == "observing":
            assert "observing, " in said[-1], said
        yield running


def only_run(folder: Path) -> Path:
    (manifest,) = folder.glob("*/*/manifest.json")
    return manifest.parent


def stored(found: observer.Observed, folder: Path) -> Path:
    """The observation as a run's folder."""
    name = "observed-own"
    cases = [store.parameters(1, UNKNOWN)]
    with RunWriter.create(folder, name, scenario={"name": name}, cases=cases, environment={}) as w:
        w.write_case(store.CASE_ID, store.document(found), store.tables(found))
        w.finish()
        write_summary(w.path)
        return w.path
