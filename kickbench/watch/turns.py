# SPDX-License-Identifier: Apache-2.0
"""Watches a VMM for some seconds: what that costs first, then the VMM itself.

The cost is measured in short blocks that take turns in random order: the programs are off, they
count, or they also note times. KVM itself counts how often the guest leaves, in all blocks alike.

A vCPU that leaves more than :data:`BUSY_HZ` times a second is only counted then, and looked at
closely for :data:`WINDOW_SECONDS` of each second. So the guest hardly notices. Every exit and kick
is counted all the time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Union

from kickbench.errors import MeasurementError, UsageError
from kickbench.host.load import Watch as LoadWatch
from kickbench.watch import process
from kickbench.watch.process import Thread, Vmm
from kickbench.watch.programs import Watch
from kickbench.watch.snapshot import Block, Progress, Rows, Snapshot, Turn

BUSY_HZ = 25_000.0
"""Exits per second of one vCPU above which details are noted a part of the time. Noting them takes
0.7 us an exit, and the program for handlers 0.4 us, so 3 % of the time at this rate."""
WINDOW_SECONDS = 0.05
STEP_SECONDS = 0.05
"""How often the observer wakes up."""
TURN_SECONDS = 1.0

OFF, COUNTING, DETAIL = range(3)
"""What the programs do in a block. Details include the ends of handlers."""
BLOCK_SECONDS = 0.02
_COST_SHARE = 0.1
_LEAST_ROUNDS, _MOST_ROUNDS = 16, 50
"""Of fewer rounds the interval is far too wide at times, because it must guess how they depend."""
_ENOUGH_HANDLERS = 100
"""Ends of handlers that tell the protocol. The program for them is detached then, so the measured
cost is the most that observing takes."""
ENDED_EARLY = "it was ended early"

News = Union[Progress, Snapshot]
KeepOn = Callable[[], bool]
Watching = Callable[[Vmm, float, KeepOn], Generator[News, None, None]]
"""A function like :func:`watch`."""


def watch(vmm: Vmm, seconds: float, keep_on: KeepOn = lambda: True) -> Generator[News, None, None]:
    """Watch the VMM for ``seconds``, after a second to some seconds of measuring what that costs.

    ``keep_on`` that returns False ends it early. So does the end of the process. ``keep_on`` is
    called often. If that is before anything was seen, there is no snapshot. Raises HostError if
    this host or user cannot observe, MeasurementError if the VM ended before anything was seen.
    """
    n_threads = process.threads_of(vmm.pid)
    blocks: list[Block] = []
    with Watch(vmm.pid, list(vmm.vcpu_files)) as programs:
        yield from _measure_cost(programs, vmm, seconds, blocks, keep_on)
    if not keep_on():
        return
    with Watch(vmm.pid, list(vmm.vcpu_files)) as programs:
        _check_open(vmm)  # only now, as Watch has taken the files for vCPUs
        yield from _Turns(programs, vmm, n_threads, blocks, keep_on).all(seconds)


def _check_open(vmm: Vmm) -> None:
    if not process.is_open(vmm):
        raise MeasurementError(f"process {vmm.title} has ended, or closed its VM")


def _measure_cost(
    programs: Watch, vmm: Vmm, seconds: float, blocks: list[Block], keep_on: KeepOn
) -> Iterator[Progress]:
    rounds = round(_COST_SHARE * seconds / (3 * BLOCK_SECONDS))
    rounds = min(_MOST_ROUNDS, max(_LEAST_ROUNDS, rounds))
    order = random.Random(1)
    for number in range(rounds):
        yield Progress("measuring what observing costs", 0.0)
        for state in order.sample(range(3), 3):
            with ExitStack() as stack:
                if state != OFF:
                    stack.enter_context(programs.attached())
                if state == DETAIL:  # the most that may be attached then
                    stack.enter_context(programs.detail())
                    stack.enter_context(programs.handlers())
                before, began = programs.read_kvm_counts(), time.monotonic_ns()
                time.sleep(BLOCK_SECONDS)
                after, ended = programs.read_kvm_counts(), time.monotonic_ns()
            blocks.append(Block(number, state, max(0, sum(after) - sum(before)), ended - began))
            if not keep_on():
                return
        _check_open(vmm)  # else the memory of its vCPUs is somebody else's


class _Turns:
    """What is known of a VMM while it is watched."""

    def __init__(
        self, programs: Watch, vmm: Vmm, n_threads: int, blocks: list[Block], keep_on: KeepOn
    ) -> None:
        self._programs, self._vmm, self._keep_on = programs, vmm, keep_on
        self._n_threads, self._blocks = n_threads, blocks
        programs.read_kvm_counts()
        self._kvm_before = programs.kvm_counts
        self._first = self._threads()
        self._began_ns = self._detail_ns = 0
        self._exits: list[int] = []
        self._kicks: list[bytes] = []

    def all(self, seconds: float) -> Iterator[Snapshot]:
        """A snapshot after each turn, and one at the end."""
        load = LoadWatch(process.online_cpus(), helpers=[self._vmm.pid])
        with self._programs.attached():
            self._began_ns = time.monotonic_ns()
            ends = self._began_ns + round(seconds * 1e9)
            rate_hz = self._rate_before_hz()
            self._exits = self._programs.exits
            ended = None
            while ended is None:
                turn = self._turn(ends, rate_hz)
                rate_hz = max(turn.exits, default=0) * 1e9 / turn.elapsed_ns
                yield self._snapshot(turn, turn.at_ns + turn.elapsed_ns)
                if not process.is_alive(self._vmm.pid):
                    ended = "the process ended"
                elif not self._keep_on():
                    ended = ENDED_EARLY
                elif time.monotonic_ns() >= ends:
                    break
            elapsed_ns = time.monotonic_ns() - self._began_ns
        self._kicks.append(self._programs.take_kicks())
        yield replace(
            self._snapshot(turn, elapsed_ns),
            is_last=True,
            load=load.read() if process.is_alive(self._vmm.pid) else None,
            memory_nodes=process.memory_nodes(self._vmm.pid),
            ended=ended,
        )

    def _turn(self, ends: int, rate_hz: float) -> Turn:
        programs, began = self._programs, time.monotonic_ns()
        turn_ends = min(ends, began + round(TURN_SECONDS * 1e9))
        closely = WINDOW_SECONDS if rate_hz > BUSY_HZ else TURN_SECONDS
        detail_ends = min(turn_ends, began + round(closely * 1e9))
        with ExitStack() as stack:
            stack.enter_context(programs.detail())
            if programs.totals.handlers < _ENOUGH_HANDLERS:
                stack.enter_context(programs.handlers())
            detail_began = time.monotonic_ns()
            self._sleep_until(detail_ends)
            self._detail_ns += time.monotonic_ns() - detail_began
        self._sleep_until(turn_ends)
        if process.is_open(self._vmm):  # else the memory of its vCPUs is somebody else's
            programs.look_again(process.vcpu_files(self._vmm.pid))
        now, exits_now = time.monotonic_ns(), programs.exits
        threads = self._threads()
        self._first = {**threads, **self._first}
        exits = self._exits + [0] * (len(exits_now) - len(self._exits))
        self._exits = exits_now
        return Turn(
            began - self._began_ns,
            now - began,
            [after - before for before, after in zip(exits, exits_now)],
            [threads[slot].cpu if slot in threads else -1 for slot in range(len(exits_now))],
        )

    def _snapshot(self, turn: Turn, elapsed_ns: int) -> Snapshot:
        senders, sent = self._programs.senders()
        kicks, self._kicks = b"".join(self._kicks), []
        return Snapshot(
            n_threads=self._n_threads,
            began_ns=self._began_ns,
            elapsed_ns=elapsed_ns,
            detail_ns=self._detail_ns,
            blocks=self._blocks,
            turn=turn,
            first=self._first,
            last=self._threads(),
            lost=self._programs.lost(),
            rows=Rows(
                kvm_before=self._kvm_before,
                vcpus=self._programs.vcpus,
                ways=self._programs.ways,
                senders=senders,
                sent=sent,
                totals=bytes(self._programs.totals),
                kicks=kicks,
            ),
        )

    def _rate_before_hz(self) -> float:
        """The rate at which the VMM left in the blocks before, as if all were one vCPU's."""
        elapsed_ns = sum(block.elapsed_ns for block in self._blocks)
        exits = sum(block.exits for block in self._blocks)
        return exits * 1e9 / elapsed_ns if elapsed_ns else 0.0

    def _sleep_until(self, ends: int) -> None:
        while (left := ends - time.monotonic_ns()) > 0 and self._keep_on():
            time.sleep(min(STEP_SECONDS, left / 1e9))
            self._kicks.append(self._programs.take_kicks())

    def _threads(self) -> dict[int, Thread]:
        return threads_of(self._programs, self._vmm.pid)


def threads_of(programs: Watch, pid: int) -> dict[int, Thread]:
    """The threads that run vCPUs of the process, by slot."""
    found = {}
    for slot, tid in enumerate(programs.threads):
        if tid and (thread := process.thread(pid, tid)) is not None:
            found[slot] = thread
    return found


def check_seconds(seconds: float) -> None:
    """Raises UsageError for a time that cannot be observed."""
    if not 0.5 <= seconds <= 86_400:
        raise UsageError("--seconds: expected a number from 0.5 to 86400")
