# SPDX-License-Identifier: Apache-2.0
"""What runs in the machine while the plugin watches: a block of each method in each case.

``python -m kickbench.lab.explain.inside ORDER`` takes an :class:`Order` as JSON. It leaves
``facts.json`` (FACTS) in the order's folder.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path
from typing import Any, Self

from kickbench.affinity import pinned
from kickbench.engine.engine import Clock, Engine, Plan, library
from kickbench.engine.protocols import load
from kickbench.guest.loader import Guest
from kickbench.host.capabilities import probe, supports
from kickbench.kvm import Kvm
from kickbench.lab.explain.memory import Books, Kernel
from kickbench.methods import CATALOGUE, method_label
from kickbench.nested.guest import NestedGuest
from kickbench.records import Records
from kickbench.run import kinds, schedule
from kickbench.scenario.cases import Case
from kickbench.scenario.kinds import ITERATIONS

FACTS = "facts.json"
BLOCK_NS = {"exits": 300_000, "kick": 100_000_000, "pause_all": 60_000_000}
"""Of the machine's time, in which a nanosecond is an instruction. That is more than a hundred exits
within a timer's period, more than a hundred kicks, and dozens of pauses."""
NESTED_COUNT = 100
"""Round trips of the guest hypervisor."""
RUNNING_NS = 40_000_000
"""The same for kicks of a vCPU that runs: the time goes on while it does."""
TURNS_NS = 12_000_000
"""The length of a block of exits in which CPUs take turns: each has hundreds of exits."""

_SYS_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_CPU_CLOCK = (1, 64, 0)
"""PERF_TYPE_SOFTWARE, the size of the attributes, and PERF_COUNT_SW_CPU_CLOCK: linux/perf_event.h,
as are these bits: exclude_user, exclude_kernel and exclude_hv."""
_COUNT_NOTHING = 0b111 << 4


@dataclass(frozen=True)
class Job:
    """A case, and the CPUs of its threads: one for each vCPU and for each kicker.

    ``creator`` is the CPU that creates the process, and ``conductor`` the one on which its other
    threads are then. ``timers`` has (CPU, period in ns): each ends the turn of whichever CPU runs.
    """

    case: Case
    vcpus: tuple[int, ...]
    kickers: tuple[int, ...]
    creator: int = 0
    conductor: int = 0
    timers: tuple[tuple[int, int], ...] = ()

    @property
    def in_turns(self) -> bool:
        """Whether vCPUs make exits on CPUs that take turns."""
        return self.case.kind == "exits" and bool(self.timers)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        return {**asdict(self), "case": self.case.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        cpus = {name: tuple(data[name]) for name in ("vcpus", "kickers")}
        timers = tuple((cpu, period_ns) for cpu, period_ns in data["timers"])
        return cls(**{**data, **cpus, "timers": timers, "case": Case.from_dict(data["case"])})


@dataclass(frozen=True)
class Order:
    """What to run.

    ``protocols`` are the libraries of the user's own protocols, by name. ``folder`` takes the
    facts. With ``kernel`` the facts say whose memory is whose.
    """

    jobs: list[Job]
    protocols: dict[str, str]
    folder: str
    kernel: Kernel | None = None

    def to_json(self) -> str:
        """The order as one line."""
        jobs = [job.to_dict() for job in self.jobs]
        kernel = self.kernel and self.kernel.to_dict()
        return json.dumps({**vars(self), "jobs": jobs, "kernel": kernel})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of :meth:`to_json`."""
        data = json.loads(text)
        jobs = [Job.from_dict(job) for job in data["jobs"]]
        kernel = data["kernel"] and Kernel.from_dict(data["kernel"])
        return cls(**{**data, "jobs": jobs, "kernel": kernel})


def run(order: Order) -> dict[str, Any]:
    """Run all blocks, each in a section of its own. Returns the facts.

    A job has ``sections``, each with its ``method`` and ``counts``: what the machine's clock
    counted, for each exit, kick, pause or round trip. A section that is not ``shown`` warmed up. A
    job has the ``maps`` of its process, and its ``books``: see
    :class:`kickbench.lab.explain.memory.Books`. ``structs`` are those that they were read with.
    """
    # A thread that is woken up does not interrupt the one that runs: the kicker's call is over
    # before the vCPU's thread is delivered the kick (wakeup_preempt in kernel/sched/fair.c).
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    skipped = _lacking(order)
    protocols = {name: load(Path(path), name) for name, path in order.protocols.items()}
    books = Books(order.kernel) if order.kernel else None
    library().kb_watch()  # The plugin begins to watch. The next mark is the first that it notes.
    found = []
    for number, job in enumerate(order.jobs):
        with _in_turns(job.timers):
            found.append(_created_for(job, order, number, protocols, skipped, books))
    return {
        "jobs": found,
        "skipped": skipped,
        "structs": books and books.structs.to_json(),
        "maps": Path("/proc/self/maps").read_text(),
        "release": os.uname().release,
    }


def _created_for(job: Job, *arguments: Any) -> dict[str, Any]:
    """What :func:`_run_job` returns in a process that is created on the job's CPU.

    Where a process is created decides where its sighand_struct lies (copy_sighand in
    kernel/fork.c). Then it leaves that CPU to a vCPU: no other thread takes part in its turns.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def work() -> None:
        os.sched_setaffinity(0, [job.conductor])
        theirs.send(_run_job(*arguments))

    with pinned([job.creator], "the creator"):
        process = context.Process(target=work)
        process.start()
    theirs.close()
    try:
        return dict(ours.recv())
    except EOFError:
        raise SystemExit(1) from None  # it has said why
    finally:
        process.join()


@contextmanager
def _in_turns(timers: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Meanwhile each of these CPUs has a timer of its own that goes off all the time.

    QEMU runs the CPUs in one thread, one after another, each until the next timer of the machine.
    Without such a timer one vCPU's block would be over before another one's begins. The timer is
    the one of a perf event: the kernel sets it anew wherever it goes off, and no thread is woken
    (perf_swevent_hrtimer in kernel/events/core.c).
    """
    with ExitStack() as stack:
        for cpu, period_ns in timers:
            attributes = struct.pack("=IIQQQQQ16x", *_CPU_CLOCK, period_ns, 0, 0, _COUNT_NOTHING)
            call = (_SYS_PERF_EVENT_OPEN[os.uname().machine], attributes, -1, cpu, -1, 0)
            event = ctypes.CDLL(None, use_errno=True).syscall(*call)
            if event < 0:
                raise OSError(ctypes.get_errno(), f"perf_event_open on CPU {cpu}")
            stack.callback(os.close, event)
        yield


def _run_job(
    order: Order,
    number: int,
    protocols: dict[str, ctypes.CDLL],
    skipped: dict[str, str],
    books: Books | None,
) -> dict[str, Any]:
    job = order.jobs[number]

    def memory() -> dict[str, Any]:
        """What is said of the process's memory, as long as it has its VM."""
        return {
            "maps": Path("/proc/self/maps").read_text(),
            "books": books.now(Path(order.folder) / f"pages{number}") if books else None,
        }

    if job.case.kind == "nested":
        return _run_nested(job, skipped, memory)
    return _run_engine(job, protocols, skipped, memory)


def _run_engine(
    job: Job,
    protocols: dict[str, ctypes.CDLL],
    skipped: dict[str, str],
    memory: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """Run a block of each method in the engine."""
    case = job.case
    cpus = [[cpu] for cpu in job.vcpus]
    timing = schedule.Timing.of(case, cpus)
    clock = Clock("tsc", 1e9, 0)
    block_ns = TURNS_NS if job.in_turns else BLOCK_NS[case.kind]
    mix = schedule.mix_table(case.mix, schedule.generator(case, 0))
    if case.kind == "kick" and job.timers:
        block_ns = RUNNING_NS
    before = _threads()
    with (
        Kvm() as kvm,
        Guest(kvm, case.program, case.vcpus, irqchip=case.irqchip, mix=mix) as guest,
        Engine(
            guest,
            case.program,
            clock,
            cpus,
            n_entries=1,
            samples_capacity=timing.samples_capacity,
            protocols=protocols,
            kickers=kinds.kickers(case, job.kickers, timing, 1),
        ) as engine,
    ):
        # The engine lets its kickers share their CPUs. Here each has one of its own.
        threads = sorted(_threads() - before)
        for thread, cpu in zip(threads[case.vcpus :], job.kickers, strict=False):
            os.sched_setaffinity(thread, [cpu])
        plan = kinds.MEASUREMENTS[case.kind].plan(case)
        methods = [name for name in map(method_label, case.methods) if name not in skipped]
        # The first exits of a vCPU fill KVM's page tables, which takes longer than a block.
        warm_up = methods[:1] if job.in_turns else []
        sections = []
        for position, method in enumerate([*warm_up, *methods]):
            print(f"{os.uname().nodename}: {method}, {case.kind}", file=sys.stderr, flush=True)
            library().kb_watch()
            # No warm-up within the block: its exits are not recorded, so their loop does more.
            results = engine.blocks([(method, 0)], warmup_ns=0, block_ns=block_ns, plan=plan)
            counted = _counted(engine, plan, results)
            shown = position >= len(warm_up)
            sections.append({"method": method, "counts": counted, "shown": shown})
        return {"sections": sections, **memory()}


def _counted(engine: Engine, plan: Plan, results: Records) -> list[int]:
    """What the clock counted in the last block."""
    if plan.kicking == "none":
        where = results["samples_offset"][0], results["samples_count"][0]
        return engine.samples(0, *where).tolist()
    if plan.kicking == "pauses":
        return engine.pauses()["last"].tolist()
    return [latency for kicks in engine.kicks() for latency in kicks["latency"] if latency]


def _run_nested(
    job: Job, skipped: dict[str, str], memory: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Run an order of each way in the guest hypervisor."""
    ways = [way for way in job.case.methods if way not in skipped]
    sections = []
    with Kvm() as kvm, NestedGuest(kvm, vcpu_cpus=job.vcpus) as guest:
        for way in ways:
            print(f"{os.uname().nodename}: {way}, nested", file=sys.stderr, flush=True)
            library().kb_watch()
            records = guest.run(way, NESTED_COUNT)
            counts = [*compress(records["cycles"], records["expected"])]
            sections.append({"method": way, "counts": counts, "shown": True})
        return {"sections": sections, **memory()}


def _threads() -> set[int]:
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}


def _lacking(order: Order) -> dict[str, str]:
    """The methods that this kernel does not have, with the reasons."""
    found = probe()
    methods = {method_label(method) for job in order.jobs for method in job.case.methods}
    reasons = {
        method: supports(CATALOGUE[method], found)
        for method in sorted(methods - set(order.protocols) - set(ITERATIONS))
    }
    return {method: reason for method, reason in reasons.items() if reason}


def main() -> None:
    """Run the order that is the only argument."""
    order = Order.from_json(sys.argv[1])
    (Path(order.folder) / FACTS).write_text(json.dumps(run(order)))


if __name__ == "__main__":
    main()
