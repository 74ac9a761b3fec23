# SPDX-License-Identifier: Apache-2.0
"""Runs the cases of a scenario one after another and stores their results.

It plans, has a machine measure the cases, follows the running estimate, decides when to stop, and
writes each finished case at once. An :class:`Observer` shows the progress.
:mod:`kickbench.summary.summarise` evaluates the numbers.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kickbench.engine.protocols import build, foreign_of, placebo_of
from kickbench.errors import (
    ConnectionBrokenError,
    HostError,
    KickbenchError,
    MachineFailedError,
    StorageError,
    UsageError,
)
from kickbench.host import doctor
from kickbench.host.topology import Topology
from kickbench.methods import CATALOGUE, is_protocol_file, method_label
from kickbench.native import placebo_name
from kickbench.results import tables
from kickbench.results.writer import RunWriter
from kickbench.run import kinds, schedule
from kickbench.run.emulated import origin
from kickbench.run.estimate import Estimate
from kickbench.run.foreman import Job, why_failed
from kickbench.run.machine import Facts, Machine
from kickbench.run.plan import Planned, Seats, plan, quicken
from kickbench.run.process import SILENCE_SECONDS
from kickbench.run.this_host import ThisHost
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
    machine: Machine | None = None,
) -> Outcome:
    """Run a scenario into a new folder below ``results_dir``.

    ``quick``: about ten seconds of measuring in all. ``strict``: a case that this host cannot run
    is an error, and is not skipped. ``wait``: when another kickbench measures on this host, wait
    for its end, and call ``say`` with a line that names it. ``machine`` measures; None: this host.
    Raises HostError when nothing can be run here, MeasurementError when results cannot be stored,
    RunInterruptedError on SIGINT.
    """
    machine = machine or ThisHost()
    cases = expand(scenario)
    facts = _look_at(machine, cases)
    planned = plan(cases, facts.topology, facts.capabilities)
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
        planned = quicken(planned, facts.topology)
    sources = _protocol_files(planned)
    with (
        _built(sources, facts.capabilities.machine) as protocols,
        machine.turn(_note(results_dir / scenario.name), None, wait=wait, say=say) as other,
    ):
        survey = machine.survey()
        with RunWriter.create(
            results_dir,
            scenario.name,
            scenario=scenario.to_dict(),
            cases=[item.case.to_dict() for item in planned],
            environment={
                **survey.environment,
                "doctor": [*_worth_knowing(survey.findings), *_finding_of(other)],
                "protocols": {str(source): _sha256(source) for source in sources},
            },
            **origin(machine.mark),
            host=survey.environment.get("hostname"),
        ) as writer:
            for case_id, reason in skipped.items():
                writer.mark(case_id, "skipped", reason)
            return _Run(machine, writer, planned, facts.topology, observer, protocols).finish()


def resume(
    folder: Path,
    observer: Observer,
    *,
    trust_protocols: bool = False,
    wait: bool = False,
    say: Callable[[str], None] = lambda _: None,
    machine: Machine | None = None,
) -> Outcome:
    """Finish an interrupted run: run its pending cases, and its failed cases once more.

    What the machine has measured meanwhile is collected first.

    Raises UsageError when the folder is in use or observed a VM, when the run began on another
    host, or when it names C files and ``trust_protocols`` is not set; else as :func:`run`.
    """
    machine = machine or ThisHost()
    with RunWriter.resume(folder) as writer:
        if any(entry["case"]["kind"] == "observed" for entry in writer.manifest["cases"]):
            raise UsageError(
                f"{folder}: is an observation of a VM, which cannot be continued; "
                "observe the VM again"
            )
        cases = [Case.from_dict(entry["case"]) for entry in writer.manifest["cases"]]
        facts = _look_at(machine, cases)
        _check_same_host(writer.manifest["environment"], machine.survey().environment)
        for entry in writer.manifest["cases"]:
            if entry["status"] == "failed":
                writer.mark(entry["id"], "pending")
        pending = set(writer.pending)
        todo = [case for case in cases if case.id in pending]
        planned = plan(todo, facts.topology, facts.capabilities)
        for item in planned:
            if item.skip is not None:
                writer.mark(item.case.id, "skipped", item.skip)
        sources = _protocol_files(planned)
        _check_trusted(sources, folder, writer.manifest["environment"], trust_protocols)
        with (
            _built(sources, facts.capabilities.machine) as protocols,
            machine.turn(_note(folder), writer.run_id, wait=wait, say=say),
        ):
            return _Run(machine, writer, planned, facts.topology, observer, protocols).finish()


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
def _built(sources: Sequence[Path], machine: str) -> Iterator[dict[str, Path]]:
    """Compile C files, each to a library. Raises UsageError with the compiler's messages."""
    if not sources:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="kickbench-") as folder:
        yield {str(source): build(source, Path(folder), machine) for source in sources}


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


def _look_at(machine: Machine, cases: Sequence[Case]) -> Facts:
    """Raises HostError if KVM is not usable, and all cases need it."""
    facts = machine.look()
    if not facts.capabilities.usable and not any(case.kind in WITHOUT_KVM for case in cases):
        raise HostError(facts.capabilities.reason or "KVM is not usable; see kickbench doctor")
    return facts


def _worth_knowing(findings: Sequence[doctor.Finding]) -> list[dict[str, str | None]]:
    """The doctor's findings that are not ok, for the reader of the figures."""
    return [
        {
            key: None if value is None else shorten(value, _LONGEST_FINDING)
            for key, value in vars(finding).items()
            if key != "why"
        }
        for finding in findings
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
                f"the run began on another {what}, and its cases would not be comparable: "
                + ("name it with --host, or " if what == "host" else "")
                + "start a new run"
            )


@dataclass
class _Run:
    """The cases of a run that are left to do, on their machine."""

    machine: Machine
    writer: RunWriter
    planned: Sequence[Planned]
    topology: Topology
    observer: Observer
    protocols: dict[str, Path]  # libraries of the user's own, by the path of their source
    failed: dict[str, str] = field(default_factory=dict)

    def finish(self) -> Outcome:
        """Measure them and store each."""
        pending = set(self.writer.pending)
        todo = [item for item in self.planned if item.case.id in pending]
        self.observer.planned(self.writer.path, self.planned, [item.case for item in todo])
        try:
            if todo:
                self._measure(todo)
            self.writer.finish()
        except KeyboardInterrupt:
            # The rest takes a moment, and must be done: a second Ctrl-C has no effect. It would
            # come to the main thread.
            if threading.current_thread() is threading.main_thread():
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_IGN)
            raise RunInterruptedError(self._conclude()) from None
        except ConnectionBrokenError as error:
            outcome = self._conclude()
            raise ConnectionBrokenError(
                f"{error}\nthe run goes on there within its limits; collect it with\n"
                f"{outcome.resume}"
            ) from error
        except MachineFailedError as error:
            outcome = self._conclude()
            raise MachineFailedError(
                f"{error}\nthe finished cases are kept; continue with\n{outcome.resume}"
            ) from error
        return self._conclude()

    def _measure(self, todo: Sequence[Planned]) -> None:
        for library in self.protocols.values():
            if (foreign := foreign_of(library)).exists():
                self.machine.bring(foreign)
        libraries = {
            method: [
                (name, self.machine.bring(path))
                for name, path in _copies(method_label(method), self.protocols[method])
            ]
            for method in {method for item in todo for method in item.case.methods}
            if method in self.protocols
        }
        by_id = {item.case.id: item for item in todo}
        current: dict[str, _CaseInProgress] = {}
        jobs: list[Job] = []
        for item in todo:
            try:
                jobs.append(_CaseInProgress(item, self.topology).job(libraries))
            except Exception as error:  # whatever failed, the other cases are measured
                self.observer.case_begins(item.case)
                self._fail(item.case, why_failed(error))
        with closing(self.machine.work(self.writer.run_id, jobs, self.writer.path)) as messages:
            for message in messages:
                # A machine may tell again of a case that was collected earlier.
                case_id = message["case"]
                if message["event"] == "begin" and case_id in by_id:
                    current[case_id] = _CaseInProgress(by_id[case_id], self.topology)
                if case_id in current:
                    self._take(current[case_id], message)
                    if message["event"] in ("end", "failed"):
                        del current[case_id], by_id[case_id]

    def _take(self, one: _CaseInProgress, message: dict[str, Any]) -> None:
        case = one.case
        match message["event"]:
            case "begin":
                self.observer.case_begins(case)
            case "rounds" if case.id not in self.failed:
                estimate = one.take_rounds(message)
                spent_seconds = message["spent_seconds"]
                self.observer.case_advances(case, spent_seconds, one.estimate.rounds, estimate)
                if one.may_stop():
                    self.machine.stop(case.id, message["process"])
            case "process" if case.id not in self.failed:
                self._try(case, lambda: one.take_process(message, self.machine))
            case "end" if case.id not in self.failed:
                self._try(case, lambda: self._store(one, message["seconds"]))
            case "failed" if message["storage"]:
                raise self._storage_failed(message["reason"])
            case "failed" if case.id not in self.failed:
                self._fail(case, message["reason"])

    def _try(self, case: Case, action: Callable[[], None]) -> None:
        """Whatever fails, the other cases are measured."""
        try:
            action()
        except (ConnectionBrokenError, MachineFailedError):
            raise
        except StorageError as error:
            self.machine.keep()
            raise self._storage_failed(str(error)) from error
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, KickbenchError):
                self.machine.keep()
                raise  # The results folder failed, and the other cases need it as well.
            self._fail(case, why_failed(error))
            self.machine.skip(case.id)

    def _store(self, one: _CaseInProgress, seconds: float) -> None:
        self.writer.write_case(one.case.id, one.document(seconds), one.tables())
        self.observer.case_ends(one.case, "ok", None)

    def _fail(self, case: Case, reason: str) -> None:
        self.failed[case.id] = reason
        self.writer.mark(case.id, "failed", reason)
        self.observer.case_ends(case, "failed", reason)

    def _storage_failed(self, reason: str) -> StorageError:
        return StorageError(
            f"{reason}; the finished cases are kept: make room or repair the disk, then "
            f"continue with\n{self._resume_command()}"
        )

    def _conclude(self) -> Outcome:
        write_summary(self.writer.path)
        write_pyperf(self.writer.path)
        finished = sum(entry["status"] == "ok" for entry in self.writer.manifest["cases"])
        return Outcome(self.writer.path, finished, self.failed, self._resume_command())

    def _resume_command(self) -> str:
        mark = self.machine.mark
        words = shlex.split(mark.resume) if mark else ["kickbench", "run", "--resume"]
        words += [str(self.writer.path)]
        words += ["--host", self.machine.host] if self.machine.host else []
        words += ["--trust-protocols"] if self.protocols else []
        return shlex.join(words)


class _CaseInProgress:
    """One case: what its processes have left so far, and the estimate over all of them."""

    def __init__(self, planned: Planned, topology: Topology) -> None:
        self.case = planned.case
        self.participants = schedule.entries(self.case)
        self._seats = Seats.of(self.case, topology)
        self._planned = planned
        self.estimate = Estimate(self.case, crowded=bool(self._crowding()))
        self._counts: dict[int, list[dict[str, int]]] = {}  # by process, then by entry
        self._stopping = -1
        self._processes: list[dict[str, Any]] = []
        names = [table.name for table in tables.tables_of_case(self.case.to_dict())]
        self._parts: dict[str, list[Any]] = {name: [] for name in names}

    def job(self, libraries: Mapping[str, Sequence[tuple[str, str]]]) -> Job:
        """The case for a foreman. ``libraries`` are the protocols in each C file, by its path."""
        timing = schedule.Timing.of(self.case, self._seats.vcpus)
        # The worker sends nothing before its first round is over.
        round_ns = 2 * len(self.participants) * (timing.warmup_ns + timing.block_ns)
        creator = self._seats.creator
        return Job(
            case=self.case,
            vcpu_cpus=self._seats.vcpus,
            kicker_cpus=self._seats.kicker,
            creator=None if creator is None else list(creator),
            protocols={
                name: path
                for method in self.case.methods
                for name, path in libraries.get(method, ())
            },
            silence_seconds=SILENCE_SECONDS + round_ns / 1e9,
        )

    def take_rounds(self, message: Mapping[str, Any]) -> str:
        """Take the rounds that a worker reports. Returns the estimate in words."""
        if message["process"] not in self._counts:
            self.estimate.begin_process()
        self._counts[message["process"]] = message["counts"]
        self.estimate.take(message["ns"])
        return self.estimate.in_words(
            [
                {name: sum(one.get(name, 0) for one in entry) for name in entry[-1]}
                for entry in zip(*self._counts.values(), strict=True)
            ]
        )

    def may_stop(self) -> bool:
        """Whether the current process is to be stopped: it is said once."""
        process = max(self._counts)
        if self._stopping == process or not self.estimate.is_precise_enough():
            return False
        self._stopping = process
        return True

    def take_process(self, message: Mapping[str, Any], machine: Machine) -> None:
        """Take what a process found. Raises MeasurementError if it is damaged."""
        index, report = message["process"], message["report"]
        with machine.arrays(self.case.id, index) as folder:
            for name, parts in self._parts.items():
                array = tables.load_worker_array(folder / f"{name}.npy")
                entries = [vars(entry) for entry in self.participants]
                parts.append(tables.from_worker(name, array, entries=entries, process=index))
        self._processes.append(
            {
                "index": index,
                "clock": report["clock"],
                "warnings": [
                    *self._planned.notes,
                    *self._crowding(),
                    *self._seats.notes(kinds.kicking_threads(self.case)),
                    *report["warnings"],
                ],
                "rounds": report["rounds"],
                "stopped_by": report["stopped_by"],
                "oversubscribed": bool(self._crowding()),
                "load": report["load"],
                **report["facts"],
                "placement": {
                    "creator": report["creator"],
                    **report["facts"].get("placement", {}),
                },
            }
        )

    def document(self, seconds: float) -> dict[str, Any]:
        """case.json of the case, which took so long."""
        precise = all(process["stopped_by"] == "precision" for process in self._processes)
        return {
            "case": self.case.to_dict(),
            "seconds": seconds,
            "stopped_by": "precision" if precise else "max_seconds",
            "processes": self._processes,
            "claims": {
                method_label(method): (CATALOGUE[method].race_free if method in CATALOGUE else None)
                for method in self.case.methods
            },
        }

    def tables(self) -> dict[str, Any]:
        """The tables of the case."""
        return {name: tables.combine(parts) for name, parts in self._parts.items()}

    def _crowding(self) -> list[str]:
        cpus = {cpu for some in self._seats.vcpus for cpu in some}
        if len(self._seats.vcpus) <= len(cpus):
            return []
        crowd = f"{len(self._seats.vcpus)} vCPUs share {len(cpus)} CPU{'s' * (len(cpus) > 1)}"
        return [f"{crowd}: time per exit includes waiting for a CPU"]
