# SPDX-License-Identifier: Apache-2.0
"""The worker process: one VM, one case, rounds of blocks until it is told to stop.

``python -m kickbench.run.worker`` reads one JSON order on its standard input, writes one JSON
object a line on its standard output (see ``Order`` and ``_say``), and leaves plain arrays in the
order's folder. A later line ``stop`` on its standard input ends it after the current round, as
does the end of the input. It imports the standard library and numpy only, and ends with the runner
that started it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kickbench.engine.engine import Clock, Engine, histogram_edges, tsc_warp_cycles
from kickbench.errors import EXIT_MEASUREMENT, KickbenchError, MeasurementError
from kickbench.guest.loader import Guest
from kickbench.kvm import Kvm
from kickbench.run import schedule
from kickbench.scenario.cases import Case

# How often the runner hears of the rounds: each message costs a wake-up on a CPU that is measured.
REPORT_SECONDS = 0.5
PR_SET_PDEATHSIG = 1
MAX_WARP_PAIRS = 16
# The part of struct kb_block_result that is kept, in the order of the table of blocks.
KEPT = (
    "exits",
    "elapsed_cycles",
    "timed_exits",
    "timed_cycles",
    "max_cycles",
    "cpu_ns",
    "run_delay_ns",
    "voluntary_switches",
    "involuntary_switches",
    "migrations",
    "steal_ns",
    "rescues",
    "kicked",
    "spurious_exits",
    "unsampled",
    "cpu",
)
BLOCKS = np.dtype(
    [
        ("round", "i4"),
        ("position", "i2"),
        ("entry", "u1"),
        ("vcpu", "i2"),
        *((name, "i4" if name == "cpu" else "i8") for name in KEPT),
    ]
)
SAMPLES = np.dtype([("round", "i4"), ("entry", "u1"), ("vcpu", "i2"), ("cycles", "u4")])
HISTOGRAMS = np.dtype(
    [("entry", "u1"), ("low_cycles", "u4"), ("high_cycles", "u8"), ("count", "i8")]
)


@dataclass(frozen=True)
class Order:
    """What the runner asks for: a case, which of its processes this is, and where things run.

    ``vcpu_cpus[i]`` are the CPUs of vCPU i's thread, ``kicker_cpus`` those of the thread that
    conducts the blocks and kicks. ``folder`` takes the arrays.
    """

    case: Case
    process: int
    vcpu_cpus: list[list[int]]
    kicker_cpus: list[int]
    max_seconds: float
    max_rounds: int | None
    folder: Path
    runner_pid: int

    def to_json(self) -> str:
        """The order as one line."""
        return json.dumps({**vars(self), "case": self.case.to_dict(), "folder": str(self.folder)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of :meth:`to_json`."""
        data = json.loads(text)
        data["case"] = Case.from_dict(data["case"])
        data["folder"] = Path(data["folder"])
        return cls(**data)


def _say(event: str, **what: Any) -> None:
    print(json.dumps({"event": event, **what}), flush=True)


def _die_with_runner(runner_pid: int) -> None:
    """SIGKILL us when the runner goes, however it goes (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != runner_pid:
        sys.exit(EXIT_MEASUREMENT)


@contextmanager
def _pinned(cpus: list[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def tsc_distrust(cpus: list[int], root: str = "/") -> str | None:
    """Why the TSC is no clock for these CPUs, or None when it is."""
    flags: set[str] = set()
    with Path(root, "proc/cpuinfo").open() as lines:
        for line in lines:
            if line.startswith("flags"):
                flags = set(line.split(":")[1].split())
                break
    clocksource = Path(root, "sys/devices/system/clocksource/clocksource0/current_clocksource")
    kernel_trusts_it = clocksource.exists() and clocksource.read_text().strip() == "tsc"
    if "rdtscp" not in flags:
        return "the CPU has no RDTSCP"
    if not kernel_trusts_it and not {"constant_tsc", "nonstop_tsc"} <= flags:
        return "the TSC is not constant (no constant_tsc and nonstop_tsc)"
    for other in cpus[1 : MAX_WARP_PAIRS + 1]:
        if warp := tsc_warp_cycles(cpus[0], other):
            return f"the TSCs of CPU {cpus[0]} and CPU {other} differ by {warp} cycles"
    return None


class Recorder:
    """Collects what the rounds leave: all blocks, and whole rounds of samples up to a budget.

    When the budget is full every second kept round goes, and from then on only every 2nd, 4th,
    8th ... round is kept: evenly spread over the run, and blind to what the samples say.
    """

    def __init__(self, budget: int) -> None:
        self._blocks: list[NDArray[Any]] = []
        self._samples: dict[int, NDArray[Any]] = {}
        self._kept = 0
        self._budget = budget
        self._stride = 1
        self.rounds = 0

    def add(self, engine: Engine, order: list[int], results: NDArray[Any]) -> None:
        """Take one round: ``order[position]`` is the entry, ``results`` (blocks, vCPUs)."""
        rows = np.zeros(results.shape, BLOCKS)
        rows["round"] = self.rounds
        rows["position"] = np.arange(len(order))[:, None]
        rows["entry"] = np.array(order)[:, None]
        rows["vcpu"] = np.arange(results.shape[1])[None, :]
        for name in KEPT:
            rows[name] = results[name]
        self._blocks.append(rows.ravel())
        if self.rounds % self._stride == 0:
            self._keep_samples(engine, order, results)
        self.rounds += 1

    def _keep_samples(self, engine: Engine, order: list[int], results: NDArray[Any]) -> None:
        parts = []
        for position, entry in enumerate(order):
            for vcpu, result in enumerate(results[position]):
                cycles = engine.samples(
                    vcpu, int(result["samples_offset"]), int(result["samples_count"])
                )
                part = np.empty(len(cycles), SAMPLES)
                part["round"], part["entry"], part["vcpu"] = self.rounds, entry, vcpu
                part["cycles"] = cycles
                parts.append(part)
        self._samples[self.rounds] = np.concatenate(parts)
        self._kept += len(self._samples[self.rounds])
        while self._kept > self._budget and len(self._samples) > 1:
            self._stride *= 2
            for number in [n for n in self._samples if n % self._stride]:
                self._kept -= len(self._samples.pop(number))

    def save(self, folder: Path, engine: Engine, n_entries: int) -> None:
        """Write blocks.npy, samples.npy and histograms.npy."""
        edges = histogram_edges()
        histograms = []
        for entry in range(n_entries):
            counts = engine.histogram(entry)
            hit = np.flatnonzero(counts)
            part = np.empty(len(hit), HISTOGRAMS)
            part["entry"] = entry
            part["low_cycles"], part["high_cycles"] = edges[hit], edges[hit + 1]
            part["count"] = counts[hit]
            histograms.append(part)
        samples = list(self._samples.values())
        for name, array in (
            ("blocks", np.concatenate(self._blocks or [np.empty(0, BLOCKS)])),
            ("samples", np.concatenate(samples or [np.empty(0, SAMPLES)])),
            ("histograms", np.concatenate(histograms)),
        ):
            _save(folder / f"{name}.npy", array)


def _save(path: Path, array: NDArray[Any]) -> None:
    """As np.save, which reports a full disk without its errno."""
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.view(np.uint8).data)


def _round_ns_per_exit(results: NDArray[Any], order: list[int], hz: float) -> list[float | None]:
    """ns per exit of each entry in one round; None where it had no exit."""
    by_entry = np.array(order)
    means: list[float | None] = []
    for entry in range(max(order) + 1):
        mine = results[by_entry == entry]
        exits = int(mine["timed_exits"].sum())
        means.append(int(mine["timed_cycles"].sum()) / exits / hz * 1e9 if exits else None)
    return means


def _asked_to_stop() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def _choose_clock(order: Order, cpus: list[int], warnings: list[str]) -> Clock:
    distrust = tsc_distrust(cpus)
    if distrust and order.case.exit_rate_hz is not None:
        raise MeasurementError(f"a paced guest needs a usable TSC: {distrust}")
    if distrust:
        warnings.append(f"stamps are CLOCK_MONOTONIC_RAW, which costs more: {distrust}")
    return Clock.choose(tsc_usable=not distrust)


def measure(order: Order) -> None:
    """Build the VM, run the rounds, save the arrays. Raises KickbenchError."""
    case = order.case
    warnings: list[str] = []
    participants = schedule.entries(case)
    timing = schedule.Timing.of(case, order.vcpu_cpus)
    rng = schedule.generator(case, order.process)
    seats = {cpu for cpus in [*order.vcpu_cpus, order.kicker_cpus] for cpu in cpus}
    clock = _choose_clock(order, sorted(seats), warnings)
    pacing = schedule.Pacing.of(case, timing, clock.hz, rng)
    with (
        Kvm() as kvm,
        Guest(
            kvm,
            case.program,
            case.vcpus,
            irqchip=case.irqchip,
            gaps_cycles=pacing.gaps_cycles,
            first_gaps=pacing.first_gaps,
            ring_entries=pacing.ring_entries,
            on_node_of=lambda index: _pinned(order.vcpu_cpus[index]),
        ) as guest,
        _pinned(order.kicker_cpus),
        Engine(
            guest,
            case.program,
            clock,
            order.vcpu_cpus,
            n_entries=len(participants),
            samples_capacity=timing.samples_capacity,
        ) as engine,
    ):
        if not engine.memory_locked:
            warnings.append("buffers are not locked in memory: raise the limit (ulimit -l)")
        if case.exit_rate_hz is not None and guest.vcpus[0].tsc_khz():
            ratio = guest.vcpus[0].tsc_khz() * 1e3 / clock.hz
            if abs(ratio - 1) > 0.01:
                warnings.append(f"the guest's TSC runs at {ratio:.3f} of the host's rate")
        _say("ready", clock=vars(clock), block_ns=timing.block_ns)
        recorder = Recorder(case.sample_budget // case.processes)
        stopped_by = _rounds(order, engine, participants, timing, clock, rng, recorder)
        if case.exit_rate_hz is not None:
            _warn_of_lateness(guest, warnings)
        recorder.save(order.folder, engine, len(participants))
    _say(
        "done",
        rounds=recorder.rounds,
        stopped_by=stopped_by,
        warnings=warnings,
        entries=[vars(entry) for entry in participants],
    )


def _rounds(
    order: Order,
    engine: Engine,
    participants: list[schedule.Entry],
    timing: schedule.Timing,
    clock: Clock,
    rng: np.random.Generator,
    recorder: Recorder,
) -> str:
    """Run rounds until the time is up or the runner says stop; returns which of the two it was."""
    until = time.monotonic() + order.max_seconds
    next_report = time.monotonic() + REPORT_SECONDS
    unreported: list[list[float | None]] = []
    stopped_by = "max_seconds"
    while True:
        turns = schedule.round_order(len(participants), rng)
        results = engine.blocks(
            [(participants[entry].method, entry) for entry in turns],
            warmup_ns=timing.warmup_ns,
            block_ns=timing.block_ns,
        )
        recorder.add(engine, turns, results)
        unreported.append(_round_ns_per_exit(results, turns, clock.hz))
        now = time.monotonic()
        if now >= next_report:
            _say("rounds", ns_per_exit=unreported)
            unreported = []
            next_report = now + REPORT_SECONDS
        if now >= until or recorder.rounds == order.max_rounds:
            break
        if _asked_to_stop():
            stopped_by = "precision"
            break
    _say("rounds", ns_per_exit=unreported)
    return stopped_by


def _warn_of_lateness(guest: Guest, warnings: list[str]) -> None:
    """A guest that often dropped its schedule did not exit at the rate that was asked for."""
    late = sum(guest.params(index).late for index in range(guest.n_vcpus))
    exits = sum(guest.params(index).head for index in range(guest.n_vcpus))
    if late > exits / 20:
        warnings.append(
            f"the guest could not keep its exit rate: {late} of {exits} exits dropped the schedule"
        )


def main() -> None:
    """Do one order. Exit code 0, or that of the error, which was said on standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    order = Order.from_json(sys.stdin.readline())
    _die_with_runner(order.runner_pid)
    # Two descriptors for each vCPU; and buffers that are locked as far as we may.
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_MEMLOCK):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (hard, hard))
    try:
        measure(order)
    except KickbenchError as error:
        _say("failed", reason=str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        where = error.filename or order.folder
        _say("failed", reason=f"{where}: {error.strerror or error}", storage=True)
        sys.exit(EXIT_MEASUREMENT)


if __name__ == "__main__":
    main()
