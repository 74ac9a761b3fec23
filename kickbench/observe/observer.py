# SPDX-License-Identifier: Apache-2.0
"""Observes a VMM for some seconds: what it costs first, then the observation itself.

The cost is measured in short blocks that take turns in random order: the programs are off, they
count, or they also note times. KVM itself counts how often the guest leaves, in all blocks alike.

A vCPU that leaves more than :data:`BUSY_HZ` times a second is only counted then, and looked at
closely for :data:`WINDOW_SECONDS` of each second. So the guest hardly notices. Every exit and kick
is counted all the time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kickbench.errors import MeasurementError, UsageError
from kickbench.host.load import Load
from kickbench.host.load import Watch as LoadWatch
from kickbench.observe.kept import KeptKicks
from kickbench.watch import layout, process
from kickbench.watch.process import Thread, Vmm
from kickbench.watch.programs import Lost, Rows, Watch

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
INTERRUPTED = "it was interrupted"
ENDED_EARLY = "it was ended early"


@dataclass(frozen=True)
class Block:
    """A block of the measurement of what observing costs: ``exits`` as KVM counts them."""

    round: int
    state: int
    exits: int
    elapsed_ns: int


@dataclass(frozen=True)
class Turn:
    """About a second: the exits of each vCPU within it, and the CPU that its thread ended on."""

    at_ns: int
    elapsed_ns: int
    exits: list[int]
    cpus: list[int]


@dataclass
class Observed:
    """What was seen of a VMM. The rows are those of :mod:`kickbench.watch.layout`.

    ``kicks`` are those that :mod:`kickbench.observe.kept` keeps. ``vcpus`` counts all of them.
    ``detail_ns`` of ``elapsed_ns`` were looked at closely. ``first`` and ``last`` have the vCPUs'
    threads when they were seen first and at the end, by slot. ``load`` is what else ran on the
    host: the VMM's time counts as our own. ``ended``: why it ended before its time, or None.
    """

    vmm: Vmm
    n_threads: int
    began_ns: int = 0
    elapsed_ns: int = 0
    detail_ns: int = 0
    blocks: list[Block] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    first: dict[int, Thread] = field(default_factory=dict)
    last: dict[int, Thread] = field(default_factory=dict)
    memory_nodes: dict[int, int] = field(default_factory=dict)
    load: Load | None = None
    ended: str | None = None
    vcpus_before: Rows = field(default_factory=lambda: np.zeros(0, layout.VCPU))
    vcpus: Rows = field(default_factory=lambda: np.zeros(0, layout.VCPU))
    ways: Rows = field(default_factory=lambda: np.zeros(0, layout.WAY_COUNT))
    kicks: Rows = field(default_factory=lambda: np.zeros(0, layout.KICK))
    senders: Rows = field(default_factory=lambda: np.zeros(0, layout.SENDER))
    sent: Rows = field(default_factory=lambda: np.zeros(0, layout.SENDER_COUNT))
    totals: Rows = field(default_factory=lambda: np.zeros(0, layout.TOTALS))
    lost: Lost = field(default_factory=lambda: Lost(0, 0, 0, 0, 0, 0))


Progress = Callable[[str, float], None]
"""Is called with what happens now, in words, and the share of the time that is over."""
OnTurn = Callable[["Observed", Watch], None]


def observe(
    vmm: Vmm,
    seconds: float,
    *,
    progress: Progress = lambda *_: None,
    on_turn: OnTurn = lambda *_: None,
    keep_on: Callable[[], bool] = lambda: True,
) -> Observed:
    """Observe the VMM for ``seconds``, after a second to some seconds of measuring what that costs.

    ``keep_on`` that returns False ends it early, and what was seen until then is returned. So does
    the end of the process. ``keep_on`` is called often. If it ends the observation before anything
    was seen, KeyboardInterrupt is raised. Raises HostError if this host or user cannot observe, and
    MeasurementError if the VM ended before anything was seen.
    """
    found = Observed(vmm, process.threads_of(vmm.pid))
    with Watch(vmm.pid, list(vmm.vcpu_files)) as watch:
        _measure_cost(watch, found, seconds, progress, keep_on)
    with Watch(vmm.pid, list(vmm.vcpu_files)) as watch:
        _check_open(vmm)  # only now, as Watch has taken the files for vCPUs
        _watch(watch, found, seconds, progress, on_turn, keep_on)
    return found


def _check_open(vmm: Vmm) -> None:
    if not process.is_open(vmm):
        raise MeasurementError(f"process {vmm.title} has ended, or closed its VM")


def _measure_cost(
    watch: Watch,
    found: Observed,
    seconds: float,
    progress: Progress,
    keep_on: Callable[[], bool],
) -> None:
    rounds = round(_COST_SHARE * seconds / (3 * BLOCK_SECONDS))
    rounds = min(_MOST_ROUNDS, max(_LEAST_ROUNDS, rounds))
    order = random.Random(1)
    for number in range(rounds):
        progress("measuring what observing costs", 0.0)
        for state in order.sample(range(3), 3):
            with ExitStack() as stack:
                if state != OFF:
                    stack.enter_context(watch.attached())
                if state == DETAIL:  # the most that may be attached then
                    stack.enter_context(watch.detail())
                    stack.enter_context(watch.handlers())
                before, began = watch.read_kvm_counts(), time.monotonic_ns()
                time.sleep(BLOCK_SECONDS)
                after, ended = watch.read_kvm_counts(), time.monotonic_ns()
            exits = int(after.sum()) - int(before.sum())
            found.blocks.append(Block(number, state, max(0, exits), ended - began))
            if not keep_on():
                raise KeyboardInterrupt
        _check_open(found.vmm)  # else the memory of its vCPUs is somebody else's


def _watch(
    watch: Watch,
    found: Observed,
    seconds: float,
    progress: Progress,
    on_turn: OnTurn,
    keep_on: Callable[[], bool],
) -> None:
    watch.read_kvm_counts()
    found.vcpus_before = watch.vcpus
    found.first = _threads(watch, found.vmm.pid)
    kicks = KeptKicks()
    load = LoadWatch(process.online_cpus(), helpers=[found.vmm.pid])
    with ExitStack() as stack:
        stack.enter_context(watch.attached())
        found.began_ns = time.monotonic_ns()
        _take_turns(watch, found, seconds, kicks, progress, on_turn, keep_on)
        found.elapsed_ns = time.monotonic_ns() - found.began_ns
    kicks.add(watch.take_kicks())
    if process.is_alive(found.vmm.pid):
        found.load = load.read()
    found.vcpus, found.ways, found.totals = watch.vcpus, watch.ways, watch.totals
    found.senders, found.sent = watch.senders()
    found.kicks = kicks.rows
    found.lost = watch.lost()
    found.last = _threads(watch, found.vmm.pid)
    found.memory_nodes = process.memory_nodes(found.vmm.pid)


def _take_turns(
    watch: Watch,
    found: Observed,
    seconds: float,
    kicks: KeptKicks,
    progress: Progress,
    on_turn: OnTurn,
    keep_on: Callable[[], bool],
) -> None:
    ends = found.began_ns + round(seconds * 1e9)
    exits = watch.exits
    rate_hz = _rate_hz(found)
    while (began := time.monotonic_ns()) < ends:
        turn_ends = min(ends, began + round(TURN_SECONDS * 1e9))
        closely = WINDOW_SECONDS if rate_hz > BUSY_HZ else TURN_SECONDS
        detail_ends = min(turn_ends, began + round(closely * 1e9))
        with ExitStack() as stack:
            stack.enter_context(watch.detail())
            if int(watch.totals["handlers"][0]) < _ENOUGH_HANDLERS:
                stack.enter_context(watch.handlers())
            detail_began = time.monotonic_ns()
            _sleep_until(detail_ends, watch, kicks, keep_on)
            found.detail_ns += time.monotonic_ns() - detail_began
        _sleep_until(turn_ends, watch, kicks, keep_on)
        if process.is_open(found.vmm):  # else the memory of its vCPUs is somebody else's
            watch.look_again(process.vcpu_files(found.vmm.pid))
        now, exits_now = time.monotonic_ns(), watch.exits
        threads = _threads(watch, found.vmm.pid)
        found.first = threads | found.first
        found.turns.append(
            Turn(
                began - found.began_ns,
                now - began,
                _more(exits, exits_now),
                [threads[i].cpu if i in threads else -1 for i in range(len(exits_now))],
            )
        )
        rate_hz = max(found.turns[-1].exits, default=0) * 1e9 / (now - began)
        exits = exits_now
        progress("observing", min(1.0, (now - found.began_ns) / (seconds * 1e9)))
        on_turn(found, watch)
        if not process.is_alive(found.vmm.pid):
            found.ended = "the process ended"
            return
        if not keep_on():
            found.ended = ENDED_EARLY
            return


def _rate_hz(found: Observed) -> float:
    """The rate at which the VMM left in the blocks before, as if all were one vCPU's."""
    elapsed_ns = sum(block.elapsed_ns for block in found.blocks)
    return sum(block.exits for block in found.blocks) * 1e9 / elapsed_ns if elapsed_ns else 0.0


def _sleep_until(ends: int, watch: Watch, kicks: KeptKicks, keep_on: Callable[[], bool]) -> None:
    while (left := ends - time.monotonic_ns()) > 0 and keep_on():
        time.sleep(min(STEP_SECONDS, left / 1e9))
        kicks.add(watch.take_kicks())


def _more(before: NDArray[np.uint64], after: NDArray[np.uint64]) -> list[int]:
    older = np.zeros(len(after), np.int64)
    older[: len(before)] = before.astype(np.int64)
    return [int(n) for n in after.astype(np.int64) - older]


def _threads(watch: Watch, pid: int) -> dict[int, Thread]:
    found = {}
    for slot, tid in enumerate(watch.vcpus["thread"].tolist()):
        if tid and (thread := process.thread(pid, tid)) is not None:
            found[slot] = thread
    return found


def check_seconds(seconds: float) -> None:
    """Raises UsageError for a time that cannot be observed."""
    if not 0.5 <= seconds <= 86_400:
        raise UsageError("--seconds: expected a number from 0.5 to 86400")
