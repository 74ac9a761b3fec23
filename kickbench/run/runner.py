# SPDX-License-Identifier: Apache-2.0
"""Runs the cases of a scenario one after another and stores their results.

It plans, starts a fresh worker process for each (case, process), follows the running estimate,
decides when to stop, and writes each finished case at once. An :class:`Observer` shows the
progress. :mod:`kickbench.summary.summarise` evaluates the numbers.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kickbench.engine.protocols import build, placebo_of
from kickbench.errors import (
    HostError,
    KickbenchError,
    MeasurementError,
    StorageError,
    UsageError,
)
from kickbench.host import doctor, environment, turn
from kickbench.host.capabilities import Capabilities, probe
from kickbench.host.topology import Topology
from kickbench.methods import CATALOGUE, is_protocol_file, method_label
from kickbench.native import placebo_name
from kickbench.results import tables
from kickbench.results.writer import RunWriter
from kickbench.run import kinds, placement, schedule
from kickbench.run.emulated import Mark
from kickbench.run.estimate import Estimate
from kickbench.run.plan import Planned, Seats, plan, quicken
from kickbench.run.process import SILENCE_SECONDS, WorkerProcess
from kickbench.run.worker import Order
from kickbench.scenario.cases import Case
from kickbench.scenario.kinds import WITHOUT_KVM
from kickbench.scenario.model import Scenario
from kickbench.scenario.sweep import expand
from kickbench.summary.pyperf import write_pyperf
from kickbench.summary.summarise import write_summary
from kickbench.text import shorten

_LONGEST_FINDING = 500


class Observer(Protocol):
    """Receives the progress of a run. All times are in seconds."""

    def planned(self, folder: Path, cases: Sequence[Planned], todo: Sequence[Case]) -> None:
        """The run begins. ``todo`` are the cases that are left to run."""

    def case_begins(self, case: Case) -> None:
        """A case begins."""

    def case_advances(self, case: Case, spent_seconds: float, rounds: int, estimate: str) -> None:
        """More rounds are finished. ``estimate`` is the estimate so far, in words."""

    def case_ends(self, case: Case, status: str, reason: str | None) -> None:
        """A case is stored ("ok") or failed."""


@dataclass(frozen=True)
class Outcome:
    """The results folder, how many cases are stored, which failed and why, and the command that
    finishes the run."""

    folder: Path
    finished: int
    failed: dict[str, str]
    resume: str


class RunInterruptedError(Exception):
    """The user stopped the run; ``outcome`` has what is finished."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome.folder))
        self.outcome = outcome


def run(
    scenario: Scenario,
    results_dir: Path,
    observer: Observer,
    *,
    quick: bool = False,
    strict: bool = False,
    wait: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run a scenario into a new folder below ``results_dir``.

    ``quick``: about ten seconds of measuring in all. ``strict``: a case that this host cannot run
    is an error, and is not skipped. ``wait``: when another kickbench measures on this host, wait
    for its end, and call ``say`` with a line that names it. Raises HostError when nothing can be
    run here, MeasurementError when results cannot be stored, RunInterruptedError on SIGINT.
    """
    cases = expand(scenario)
    topology, capabilities = _look_at_host(cases)
    planned = plan(cases, topology, capabilities)
    skipped = {item.case.id: item.skip for item in planned if item.skip is not None}
    if len(skipped) == len(planned):
        reasons = "; ".join(sorted(set(skipped.values())))
        raise HostError(f"this host can run no case of {scenario.name}: {reasons}")
    if skipped and strict:
        case_id, reason = next(iter(skipped.items()))
        raise HostError(
            f"--strict: {len(skipped)} of {len(planned)} cases cannot be run here, "
            f"the first is {case_id}: {reason}\nleave out --strict to skip them"
        )
    if quick:
        planned = quicken(planned, topology)
    sources = _protocol_files(planned)
    mark = Mark.of_this_process()
    with (
        _built(sources) as protocols,
        turn.taken(_note(results_dir / scenario.name), wait=wait, say=say) as other,
        RunWriter.create(
            results_dir,
            scenario.name,
            scenario=scenario.to_dict(),
            cases=[item.case.to_dict() for item in planned],
            environment={
                **environment.collect(topology=topology),
                "doctor": [*_diagnose(), *_finding_of(other)],
                "protocols": {str(source): _sha256(source) for source in sources},
            },
            command=mark.command if mark else ["kickbench", *sys.argv[1:]],
            emulated=mark is not None,
            emulated_by=mark.by if mark else None,
            count_step=mark.count_step if mark else 0,
        ) as writer,
    ):
        for case_id, reason in skipped.items():
            writer.mark(case_id, "skipped", reason)
        return _run_pending(writer, planned, topology, observer, protocols)


def resume(
    folder: Path,
    observer: Observer,
    *,
    trust_protocols: bool = False,
    wait: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Finish an interrupted run: run its pending cases, and its failed cases once more.

    Raises UsageError when the folder is in use or observed a VM, when the run began on another
    host, or when it names C files and ``trust_protocols`` is not set; else as :func:`run`.
    """
    with RunWriter.resume(folder) as writer, turn.taken(_note(folder), wait=wait, say=say):
        if any(entry["case"]["kind"] == "observed" for entry in writer.manifest["cases"]):
            raise UsageError(
                f"{folder}: is an observation of a VM, which cannot be continued; "
                "observe the VM again"
            )
        cases = [Case.from_dict(entry["case"]) for entry in writer.manifest["cases"]]
        topology, capabilities = _look_at_host(cases)
        _check_same_host(writer.manifest["environment"], environment.collect(topology=topology))
        for entry in writer.manifest["cases"]:
            if entry["status"] == "failed":
                writer.mark(entry["id"], "pending")
        pending = set(writer.pending)
        planned = plan([case for case in cases if case.id in pending], topology, capabilities)
        for item in planned:
            if item.skip is not None:
                writer.mark(item.case.id, "skipped", item.skip)
        sources = _protocol_files(planned)
        _check_trusted(sources, folder, writer.manifest["environment"], trust_protocols)
        with _built(sources) as protocols:
            return _run_pending(writer, planned, topology, observer, protocols)


def _protocol_files(planned: Sequence[Planned]) -> list[Path]:
    """The C files among the methods of the cases that are run."""
    methods = {method for item in planned if item.skip is None for method in item.case.methods}
    return sorted(Path(method) for method in methods if is_protocol_file(method))


def _sha256(source: Path) -> str:
    try:
        return hashlib.sha256(source.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror}") from None


@contextmanager
def _built(sources: Sequence[Path]) -> Iterator[dict[str, Path]]:
    """Compile C files, each to a library. Raises UsageError with the compiler's messages."""
    if not sources:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="kickbench-") as folder:
        yield {str(source): build(source, Path(folder)) for source in sources}


def _copies(name: str, library: Path) -> Iterator[tuple[str, Path]]:
    """The libraries that :func:`build` made of a C file, by the name of the protocol in each."""
    yield name, library
    yield placebo_name(name), placebo_of(library)


def _check_trusted(
    sources: Sequence[Path], folder: Path, begun: dict[str, Any], trust: bool
) -> None:
    """A results folder may come from anybody, and it names code that would be compiled and run."""
    if not sources:
        return
    if not trust:
        listed = ", ".join(str(source) for source in sources)
        raise UsageError(
            f"the run measures protocols from C files, and their code would be run: {listed}\n"
            "read the code, then add --trust-protocols"
        )
    known = begun.get("protocols")
    for source in sources:
        if source.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"{source} lies inside the results folder, and is not compiled: move the file out, "
                "and start a new run"
            )
        if not isinstance(known, dict) or known.get(str(source)) != _sha256(source):
            raise UsageError(
                f"{source} is not the file that the run began with: restore that file, or start a "
                "new run"
            )


def _look_at_host(cases: Sequence[Case]) -> tuple[Topology, Capabilities]:
    """Raises HostError if KVM is not usable, and all cases need it."""
    capabilities = probe()
    if not capabilities.usable and not any(case.kind in WITHOUT_KVM for case in cases):
        raise HostError(capabilities.reason or "KVM is not usable; see kickbench doctor")
    return Topology.read(), capabilities


def _diagnose() -> list[dict[str, str | None]]:
    """The doctor's findings that are not ok, for the reader of the figures. It takes a third of a
    second, before anything is measured."""
    return [
        {
            key: None if value is None else shorten(value, _LONGEST_FINDING)
            for key, value in vars(finding).items()
            if key != "why"
        }
        for finding in doctor.examine()
        if finding.status != "ok"
    ]


def _note(folder: Path) -> str:
    return f"pid {os.getpid()}, {folder.absolute()}"


def _finding_of(other: str | None) -> list[dict[str, str | None]]:
    """The other run as a finding of the doctor, so that reports show it with those."""
    if other is None:
        return []
    found = {"id": "other_run", "title": "other runs", "status": "warn", "detail": other}
    return [{**found, "advice": "run one at a time (--wait)"}]


def _check_same_host(begun: dict[str, Any], now: dict[str, Any]) -> None:
    def identity(facts: dict[str, Any]) -> dict[str, Any]:
        parts = {name: facts.get(name) for name in ("cpu", "kernel")}
        cpu, kernel = (part if isinstance(part, dict) else {} for part in parts.values())
        return {
            "host": facts.get("hostname"),
            "kernel": (kernel.get("release"), kernel.get("version")),
            "CPU": (cpu.get("model"), cpu.get("microcode")),
            "set of CPUs": (cpu.get("online"), cpu.get("affinity")),
        }

    for what, value in identity(begun).items():
        if identity(now)[what] != value:
            raise UsageError(
                f"the run began on another {what}, and its cases would not be comparable: start a "
                "new run"
            )


def _run_pending(
    writer: RunWriter,
    planned: Sequence[Planned],
    topology: Topology,
    observer: Observer,
    protocols: dict[str, Path],
) -> Outcome:
    pending = set(writer.pending)
    todo = [item for item in planned if item.case.id in pending]
    failed: dict[str, str] = {}
    observer.planned(writer.path, planned, [item.case for item in todo])
    try:
        for item in todo:
            observer.case_begins(item.case)
            try:
                measured = _CaseRun(item, topology, writer.path, observer, protocols).run()
            except StorageError as error:
                raise StorageError(
                    f"{error}; the finished cases are kept: make room or repair the disk, then "
                    f"continue with\n{_resume_command(writer, protocols)}"
                ) from error
            except Exception as error:  # whatever failed, the other cases are measured
                if isinstance(error, OSError) and not isinstance(error, KickbenchError):
                    raise  # The results folder failed, and the other cases need it as well.
                reason = _why_failed(error)
                failed[item.case.id] = reason
                writer.mark(item.case.id, "failed", reason)
                observer.case_ends(item.case, "failed", reason)
            else:
                writer.write_case(item.case.id, measured.document, measured.tables)
                observer.case_ends(item.case, "ok", None)
        writer.finish()
    except KeyboardInterrupt:
        # The rest takes a moment, and must be done: a second Ctrl-C has no effect.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise RunInterruptedError(_conclude(writer, failed, protocols)) from None
    return _conclude(writer, failed, protocols)


def _why_failed(error: Exception) -> str:
    if isinstance(error, KickbenchError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}, line {last.lineno}"
    return (
        f"kickbench failed at {where}: {error!r}; this is a bug: report this line, the scenario "
        "file and the output of kickbench doctor"
    )


def _resume_command(writer: RunWriter, protocols: dict[str, Path]) -> str:
    mark = Mark.of_this_process()
    resume = mark.resume if mark else "kickbench run --resume"
    trust = " --trust-protocols" if protocols else ""
    return f"{resume} {shlex.quote(str(writer.path))}{trust}"


def _conclude(writer: RunWriter, failed: dict[str, str], protocols: dict[str, Path]) -> Outcome:
    write_summary(writer.path)
    write_pyperf(writer.path)
    finished = sum(entry["status"] == "ok" for entry in writer.manifest["cases"])
    return Outcome(writer.path, finished, failed, _resume_command(writer, protocols))


@dataclass
class _Measured:
    document: dict[str, Any]
    tables: dict[str, Any]


@dataclass
class _CaseRun:
    """One case: its processes one after another, and the estimate over all of them."""

    planned: Planned
    topology: Topology
    folder: Path
    observer: Observer
    protocols: dict[str, Path]  # libraries of the user's own, by the path of their source
    counts: list[list[dict[str, int]]] = field(default_factory=list)  # per process, by entry
    spent_seconds: float = 0.0

    def run(self) -> _Measured:
        case = self.case
        self.seats = Seats.of(case, self.topology)
        self.participants = schedule.entries(case)
        self.estimate = Estimate(case, crowded=bool(self._crowding()))
        begun = time.monotonic()
        processes: list[dict[str, Any]] = []
        names = [table.name for table in tables.tables_of_case(case.to_dict())]
        parts: dict[str, list[Any]] = {name: [] for name in names}
        for index in range(case.processes):
            work = Path(tempfile.mkdtemp(prefix=".work.tmp-", dir=self.folder))
            try:
                processes.append(self._run_process(index, work))
                for name in names:
                    array = tables.load_worker_array(work / f"{name}.npy")
                    parts[name].append(
                        tables.from_worker(
                            name,
                            array,
                            entries=[vars(entry) for entry in self.participants],
                            process=index,
                        )
                    )
            finally:
                shutil.rmtree(work, ignore_errors=True)
        document = {
            "case": case.to_dict(),
            "seconds": time.monotonic() - begun,
            "stopped_by": (
                "precision"
                if all(process["stopped_by"] == "precision" for process in processes)
                else "max_seconds"
            ),
            "processes": processes,
            "claims": {
                method_label(method): (CATALOGUE[method].race_free if method in CATALOGUE else None)
                for method in case.methods
            },
        }
        return _Measured(document, {name: tables.combine(part) for name, part in parts.items()})

    @property
    def case(self) -> Case:
        return self.planned.case

    def _run_process(self, index: int, work: Path) -> dict[str, Any]:
        case = self.case
        left = case.processes - index
        order = Order(
            case=case,
            process=index,
            vcpu_cpus=self.seats.vcpus,
            kicker_cpus=self.seats.kicker,
            max_seconds=max(0.0, case.max_seconds - self.spent_seconds) / left,
            folder=work,
            runner_pid=os.getpid(),
            protocols={
                name: str(path)
                for method in case.methods
                if method in self.protocols
                for name, path in _copies(method_label(method), self.protocols[method])
            },
        )
        self.estimate.begin_process()
        done: dict[str, Any] = {}
        clock: dict[str, Any] = {}
        counts: list[dict[str, int]] = []
        first_round = None
        stopping = False
        with WorkerProcess(order.to_json(), self.seats.creator) as worker:
            creator = placement.creator(self.seats.creator, worker.created_on)
            for message in worker.messages(SILENCE_SECONDS + self._round_seconds()):
                if message["event"] == "ready":
                    clock = message["clock"]
                    first_round = time.monotonic()
                elif message["event"] == "rounds":
                    self.estimate.take(message["ns"])
                    now = time.monotonic()
                    spent = self.spent_seconds + now - (first_round or now)
                    counts = message["counts"]
                    words = self.estimate.in_words(self._all_counts(counts))
                    self.observer.case_advances(case, spent, self.estimate.rounds, words)
                    if not stopping and self.estimate.is_precise_enough():
                        worker.ask_to_stop()
                        stopping = True
                else:
                    done = message
        if not done:
            raise MeasurementError(
                "the worker process ended without a result, as if a protocol had called exit()"
            )
        self.counts.append(counts)
        self.spent_seconds += time.monotonic() - (first_round or time.monotonic())
        return {
            "index": index,
            "clock": clock,
            "warnings": [
                *self.planned.notes,
                *self._crowding(),
                *self.seats.notes(kinds.kicking_threads(case)),
                *done["warnings"],
            ],
            "rounds": done["rounds"],
            "stopped_by": done["stopped_by"],
            "oversubscribed": bool(self._crowding()),
            "load": done["load"],
            **done["facts"],
            "placement": {"creator": creator, **done["facts"].get("placement", {})},
        }

    def _round_seconds(self) -> float:
        """How long a round takes. The worker sends nothing before its first round is over."""
        timing = schedule.Timing.of(self.case, self.seats.vcpus)
        blocks = 2 * len(self.participants)
        return blocks * (timing.warmup_ns + timing.block_ns) / 1e9

    def _all_counts(self, current: Sequence[dict[str, int]]) -> list[dict[str, int]]:
        """The counts of all processes together, by entry. ``current`` are the current process's."""
        return [
            {name: sum(one.get(name, 0) for one in entry) for name in entry[-1]}
            for entry in zip(*self.counts, current, strict=True)
        ]

    def _crowding(self) -> list[str]:
        cpus = {cpu for some in self.seats.vcpus for cpu in some}
        if len(self.seats.vcpus) <= len(cpus):
            return []
        crowd = f"{len(self.seats.vcpus)} vCPUs share {len(cpus)} CPU{'s' * (len(cpus) > 1)}"
        return [f"{crowd}: time per exit includes waiting for a CPU"]
