# SPDX-License-Identifier: Apache-2.0
"""The worker process: one VM, one case, rounds of blocks until the runner asks it to stop.

``python -m kickbench.run.worker`` reads one JSON order on its standard input, writes one JSON
object a line on its standard output (see ``Order`` and ``_say``), and leaves plain arrays in the
order's folder. A later line ``stop`` on its standard input, or the end of that input, ends it after
the current round. It imports the standard library only, and ends with the runner that started it.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from kickbench import arch
from kickbench.affinity import pinned, policy
from kickbench.closing import end_with
from kickbench.engine.engine import Clock, Engine, StuckVcpuError
from kickbench.engine.lifecycle import Vmm
from kickbench.engine.protocols import load
from kickbench.errors import EXIT_MEASUREMENT, KickbenchError, MeasurementError
from kickbench.guest.loader import Guest
from kickbench.guest.programs import stays_in_kernel
from kickbench.host.clock import distrust as counter_distrust
from kickbench.host.clock import rate_objection
from kickbench.host.cores import mixture
from kickbench.host.load import Watch, near
from kickbench.kvm import Kvm
from kickbench.nested.guest import NestedGuest
from kickbench.records import Records
from kickbench.run import kinds, schedule, states
from kickbench.run.handover import HandoverBench
from kickbench.run.lifecycle import LifecycleBench
from kickbench.run.nested import NestedBench
from kickbench.run.placement import Whereabouts, remarks
from kickbench.scenario.cases import Case

if TYPE_CHECKING:
    from typing_extensions import Self

# The time between two messages to the runner: each costs a wake-up on a CPU that is measured.
REPORT_SECONDS = 0.5
# Errors of the results' disk: the other cases would meet them as well.
_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_HINTS = {
    errno.EMFILE: ": raise the limit of open files (ulimit -n), or use fewer vCPUs",
    errno.ENOMEM: ": use fewer vCPUs, a lower exit rate or shorter blocks",
}


@dataclass(frozen=True)
class Order:
    """What the runner asks for: a case, which of its processes this is, and where things run.

    ``vcpu_cpus[i]`` are the CPUs of vCPU i's thread, ``kicker_cpus`` those of the thread that
    conducts the blocks and kicks. ``folder`` takes the arrays. ``protocols`` are the libraries
    of the user's own protocols, by name.
    """

    case: Case
    process: int
    vcpu_cpus: list[list[int]]
    kicker_cpus: list[int]
    max_seconds: float
    folder: Path
    runner_pid: int
    protocols: dict[str, str]

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


_channel = sys.stdout


def _keep_channel() -> None:
    """Keep standard output for the messages, and send all else to standard error: a protocol may
    print, and its text must not come between the messages."""
    global _channel
    _channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)


def _say(event: str, **what: Any) -> None:
    print(json.dumps({"event": event, **what}), file=_channel, flush=True)


def _asked_to_stop() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def _choose_clock(order: Order, warnings: list[str]) -> Clock:
    distrust = counter_distrust([*chain(*order.vcpu_cpus)], order.kicker_cpus)
    if distrust and order.case.exit_rate_hz is not None:
        raise MeasurementError(
            f"a paced guest needs a usable {arch.current().COUNTER}: {distrust}; "
            "leave out exit_rate_hz"
        )
    if distrust:
        warnings.append(f"stamps are CLOCK_MONOTONIC_RAW, which costs more: {distrust}")
    return Clock.choose(counter_usable=not distrust)


def measure(order: Order) -> None:
    """Build the VM, run the rounds, save the arrays. Raises KickbenchError."""
    case = order.case
    warnings: list[str] = []
    participants = schedule.entries(case)
    rng = schedule.generator(case, order.process)
    begin = _BENCHES.get(case.kind, _engine_bench)
    with begin(order, participants, rng, warnings) as bench:
        _say("ready", clock=vars(bench.clock))
        rounds = _Rounds(order, bench, len(participants), rng)
        seats = {cpu for cpus in [*order.vcpu_cpus, order.kicker_cpus] for cpu in cpus}
        watch = Watch(near(seats), helpers=[order.runner_pid])
        stopped_by = rounds.run()
        load = vars(watch.read())
        for name, rows in bench.recorder.arrays().items():
            rows.save(order.folder / f"{name}.npy")
        facts = bench.facts  # while the machine is still there
    _say(
        "done",
        rounds=rounds.number,
        stopped_by=stopped_by,
        warnings=warnings,
        facts=facts,
        load=load,
    )


def _check_realtime(warnings: list[str]) -> None:
    """The vCPUs' real-time threads have a priority below the kickers'. Raises MeasurementError."""
    policies = {os.SCHED_FIFO: "SCHED_FIFO", os.SCHED_RR: "SCHED_RR"}
    name = policies.get(policy())
    if name is None:
        return
    priority = os.sched_getparam(0).sched_priority
    if priority <= os.sched_get_priority_min(os.SCHED_FIFO):
        raise MeasurementError(
            f"real-time vCPUs need a priority below the kickers', and {priority} is the lowest: "
            "use 2 or more (chrt -f 2)"
        )
    warnings.append(
        f"threads are real-time ({name}): vCPUs run at priority {priority - 1}, below the "
        f"kickers' {priority}; the kernel may pause them (kernel.sched_rt_runtime_us)"
    )


@contextmanager
def _no_way_back() -> Iterator[None]:
    """End the process if a thread is stuck: it uses the machine, which must not be torn down."""
    try:
        yield
    except StuckVcpuError as error:
        _say("failed", reason=str(error))
        os._exit(error.exit_code)


@contextmanager
def _engine_bench(
    order: Order,
    participants: list[schedule.Entry],
    rng: Random,
    warnings: list[str],
) -> Iterator[kinds.Bench]:
    case = order.case
    _check_realtime(warnings)
    if mixed := mixture(chain(*order.vcpu_cpus)):
        warnings.append(mixed)
    timing = schedule.Timing.of(case, order.vcpu_cpus)
    clock = _choose_clock(order, warnings)
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
            gap_scales=pacing.gap_scales,
            mix=schedule.mix_table(case.mix, rng),
            ring_entries=pacing.ring_entries,
            kvmclock="kvmclock_ctrl" in case.after,
            on_node_of=lambda index: pinned(order.vcpu_cpus[index], f"vCPU {index}"),
            **states.MACHINES.get(case.state or "", {}),
        ) as guest,
        pinned(order.kicker_cpus, "a kicking thread"),
        _no_way_back(),
        Engine(
            guest,
            case.program,
            clock,
            order.vcpu_cpus,
            n_entries=len(participants),
            samples_capacity=timing.samples_capacity,
            protocols={name: load(Path(path), name) for name, path in order.protocols.items()},
            kickers=kinds.kickers(case, order.kicker_cpus, timing, 2 * len(participants)),
            noise=kinds.noise_threads(case),
        ) as engine,
    ):
        if not engine.memory_locked:
            warnings.append("buffers are not locked in memory: raise the limit (ulimit -l)")
        if clock.is_counter:
            kvm_khz = arch.current().counter_khz(guest.vcpus[0])
            warnings += filter(None, [rate_objection(clock.hz, kvm_khz)])
        places = Whereabouts(
            engine, guest, order.vcpu_cpus, order.kicker_cpus, 4 * timing.samples_capacity
        )
        bench = _EngineBench(case, engine, participants, timing, clock, rng, places)
        before = states.stats(guest)
        yield bench
        warnings += states.remarks(case.state, guest, before)
        warnings += remarks(places.facts())
        if bench.noise is not None:
            bench.noise.rows.save(order.folder / "noise.npy")
            warnings += bench.noise.shortfalls(case, timing.block_ns)
        if isinstance(bench.recorder, kinds.ExitRecorder):
            warnings += bench.recorder.shortfalls(case, timing.block_ns)
            left, exits = bench.recorder.unsampled()
            if left:
                warnings.append(
                    f"the sample buffers were full: {left} of {exits} exits are in no quantile; "
                    "use shorter blocks"
                )
        if case.exit_rate_hz is not None:
            _warn_of_lateness(guest, warnings)


@contextmanager
def _nested_bench(
    order: Order,
    participants: list[schedule.Entry],
    rng: Random,
    warnings: list[str],
) -> Iterator[kinds.Bench]:
    (vcpu_cpus,) = order.vcpu_cpus
    if distrust := counter_distrust(vcpu_cpus, order.kicker_cpus):
        warnings.append(f"L1 has only its TSC as a clock, and cannot rely on it: {distrust}")
    clock = Clock.choose(counter_usable=True)
    seed = rng.randrange(1, 2**31)
    with (
        Kvm() as kvm,
        NestedGuest(
            kvm,
            vcpu_cpus=vcpu_cpus,
            sender_cpus=order.kicker_cpus,
            seed=seed,
            kick_rate_hz=order.case.kick_rate_hz,
        ) as guest,
    ):
        yield NestedBench(order.case, guest, participants, clock)


@contextmanager
def _handover_bench(
    order: Order,
    participants: list[schedule.Entry],
    rng: Random,
    warnings: list[str],
) -> Iterator[kinds.Bench]:
    cpus = sorted(set(chain(*order.vcpu_cpus)))
    if mixed := mixture(cpus):
        warnings.append(mixed)
    clock = _choose_clock(order, warnings)
    bench = HandoverBench(order.case, cpus, participants, clock, rng)
    if bench.sampled:
        warnings.append(f"{bench.sampled} of CPUs were measured, chosen at random")
    yield bench


@contextmanager
def _lifecycle_bench(
    order: Order,
    participants: list[schedule.Entry],
    rng: Random,
    warnings: list[str],
) -> Iterator[kinds.Bench]:
    (vcpu_cpus,) = order.vcpu_cpus
    if mixed := mixture(vcpu_cpus):
        warnings.append(mixed)
    vmm = Vmm(
        _choose_clock(order, warnings),
        vcpu_cpus,
        order.kicker_cpus,
        order.case.irqchip,
        order.case.transport,
        {name: load(Path(path), name) for name, path in order.protocols.items()},
    )
    yield LifecycleBench(order.case, vmm, participants, rng)


# The kinds whose rounds are not the engine's.
_BENCHES = {
    "nested": _nested_bench,
    "handover": _handover_bench,
    "lifecycle": _lifecycle_bench,
}


class _EngineBench:
    """Rounds in the engine, with a time-out for kicks that follows their latency."""

    def __init__(
        self,
        case: Case,
        engine: Engine,
        participants: list[schedule.Entry],
        timing: schedule.Timing,
        clock: Clock,
        rng: Random,
        places: Whereabouts,
    ) -> None:
        self._case, self._engine, self._participants = case, engine, participants
        self._timing, self.clock, self._rng, self._places = timing, clock, rng, places
        measurement = kinds.MEASUREMENTS[case.kind]
        self.recorder = measurement.recorder(case, len(participants))
        self.noise = kinds.NoiseRecorder() if case.has_noise else None
        self._plan = kinds.with_noise(measurement.plan(case), case)
        self._kicks = bool(measurement.n_kickers(case))
        self._accesses = kinds.AccessCounts(participants)
        self._times = kinds.KickTimes(participants, clock) if case.kind == "race" else None
        self._lost_after_ns = kinds.FIRST_LOST_AFTER_NS

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "lost_timeout_ns": self._lost_after_ns if self._kicks else None,
            "placement": self._places.facts(),
            "accesses": self._accesses.by_method,
            **({"latencies": self._times.by_method} if self._times else {}),
        }

    def _check_progress(self, number: int, results: Records) -> None:
        """Whether the guest took an exit, if some KVMs cannot. Raises MeasurementError."""
        program = self._case.program
        doubtful = stays_in_kernel(program) or program == "hypercall"
        if number == 0 and doubtful and not any(results["exits"]):
            raise MeasurementError(
                f"the guest does not get past its first {program}: this KVM or CPU cannot run it "
                f"in such a guest; leave the program {program} out"
            )

    def round(self, number: int, turns: list[int], _after_block: Callable[[], None], /) -> None:
        plan = replace(
            self._plan,
            seed=self._rng.randrange(1, 2**31),
            lost_after_ns=self._lost_after_ns,
        )
        results = self._engine.blocks(
            [(self._participants[entry].protocol, entry) for entry in turns],
            warmup_ns=self._timing.warmup_ns,
            block_ns=self._timing.block_ns,
            plan=plan,
        )
        self._check_progress(number, results)
        self._places.look(results)
        self._accesses.add(turns, results)
        lost_after_cycles = int(self._lost_after_ns * self.clock.hz / 1e9)
        taken = kinds.Round(number, self._engine, turns, results, lost_after_cycles)
        self.recorder.add(taken)
        if self._times is not None:
            self._times.add(taken)
        if self.noise is not None:
            self.noise.add(taken)
        if number == 0 and self._plan.kicking != "none":
            latencies = self.recorder.latencies_cycles()
            self._lost_after_ns = kinds.lost_after_ns(latencies, self.clock)


class _Rounds:
    """Runs rounds until the time is over, the runner asks to stop, or all entries are settled."""

    def __init__(self, order: Order, bench: kinds.Bench, n_entries: int, rng: Random) -> None:
        self._order, self._bench, self._rng = order, bench, rng
        self._entries = range(n_entries)
        self._unreported: list[list[dict[str, float]]] = []
        self._next_report = 0.0
        self.number = 0

    def run(self) -> str:
        """Run them. Returns what ended them: "max_seconds" or "precision"."""
        until = time.monotonic() + self._order.max_seconds
        self._next_report = time.monotonic() + REPORT_SECONDS
        stopped_by = "max_seconds"
        while entries := self._unsettled():
            values = self._round(entries)  # which may report, and begin a new list
            self._unreported.append(values)
            self._report_now_and_then()
            if time.monotonic() >= until:
                break
            if _asked_to_stop():
                stopped_by = "precision"
                break
        else:
            stopped_by = "precision"
        self._report()
        return stopped_by

    def _unsettled(self) -> list[int]:
        return [entry for entry in self._entries if not self._bench.recorder.is_settled(entry)]

    def _round(self, entries: list[int]) -> list[dict[str, float]]:
        """Run one round of these entries. Returns each participant's figures, in ns by metric."""
        turns = [entries[turn] for turn in schedule.round_order(len(entries), self._rng)]
        self._bench.round(self.number, turns, self._report_now_and_then)
        self.number += 1
        ns_per_cycle = 1e9 / self._bench.clock.hz
        return [
            {
                metric: cycles * ns_per_cycle
                for metric, cycles in self._bench.recorder.round_cycles(entry).items()
            }
            for entry in self._entries
        ]

    def _report_now_and_then(self) -> None:
        if time.monotonic() >= self._next_report:
            self._report()
            self._next_report = time.monotonic() + REPORT_SECONDS

    def _report(self) -> None:
        counts = [self._bench.recorder.counts(entry) for entry in self._entries]
        _say("rounds", ns=self._unreported, counts=counts)
        self._unreported = []


def _warn_of_lateness(guest: Guest, warnings: list[str]) -> None:
    """Warn if the guest often dropped its schedule: it did not exit at the wanted rate."""
    late = sum(guest.params(index).late for index in range(guest.n_vcpus))
    exits = sum(guest.params(index).head for index in range(guest.n_vcpus))
    if late > exits / 20:
        warnings.append(
            f"the guest could not keep its exit rate: {late} of {exits} exits dropped the "
            "schedule; use a lower exit rate"
        )


def main() -> None:
    """Run one order. The exit code is 0, or that of the error, which is a message by then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _keep_channel()
    order = Order.from_json(sys.stdin.readline())
    if not end_with(order.runner_pid):
        sys.exit(EXIT_MEASUREMENT)
    # Two descriptors for each vCPU, and as much locked memory as this process may have.
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_MEMLOCK):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (hard, hard))
    try:
        measure(order)
    except KickbenchError as error:
        _say("failed", reason=str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        hint = _HINTS.get(error.errno or 0, "")
        storage = error.errno in _STORAGE
        if storage and not error.filename:
            where = f"{order.folder.parent}: "
        _say("failed", reason=f"{where}{error.strerror or error}{hint}", storage=storage)
        sys.exit(EXIT_MEASUREMENT)
    except MemoryError:
        _say("failed", reason=f"out of memory{_HINTS[errno.ENOMEM]}")
        sys.exit(EXIT_MEASUREMENT)


if __name__ == "__main__":
    main()
