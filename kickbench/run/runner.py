# SPDX-License-Identifier: Apache-2.0
"""Runs the cases of a scenario one after another and stores what they leave.

It plans, starts a fresh worker process for each (case, process), follows the running estimate,
says when to stop, and writes each finished case at once. What a user sees meanwhile is an
:class:`Observer`'s business; what the numbers mean, :mod:`kickbench.results.summary`'s.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kickbench.errors import HostError, MeasurementError, StorageError, UsageError
from kickbench.host import environment
from kickbench.host.capabilities import Capabilities, probe
from kickbench.host.topology import Topology
from kickbench.results import tables
from kickbench.results.pyperf_export import write_pyperf
from kickbench.results.store import RunWriter
from kickbench.results.summary import write_summary
from kickbench.run import schedule
from kickbench.run.plan import Planned, Seats, plan, quicken
from kickbench.run.process import WorkerProcess
from kickbench.run.worker import Order
from kickbench.scenario.cases import Case, expand
from kickbench.scenario.model import Scenario
from kickbench.stats.contrasts import Interval, running_interval, t_quantile

# Fewer rounds than this say nothing about their own scatter.
MIN_ROUNDS = 20

_ARRAYS = {"blocks": "blocks", "exit_histograms": "histograms", "exit_samples": "samples"}


@dataclass(frozen=True)
class Estimate:
    """The running estimate of one contrast, in ns per exit: method minus baseline."""

    method: str
    baseline: str
    interval: Interval


class Observer(Protocol):
    """Is told how a run goes. All times are in seconds."""

    def planned(self, folder: Path, cases: Sequence[Planned], todo: Sequence[Case]) -> None:
        """The run begins; ``todo`` are the cases that are left to run."""

    def case_begins(self, case: Case) -> None:
        """A case begins."""

    def case_advances(
        self, case: Case, spent_seconds: float, rounds: int, estimates: Sequence[Estimate]
    ) -> None:
        """Some more rounds are in."""

    def case_ends(self, case: Case, status: str, reason: str | None) -> None:
        """A case is stored ("ok") or failed."""


@dataclass(frozen=True)
class Outcome:
    """Where the results are, how many cases were stored by now, and which failed with what."""

    folder: Path
    finished: int
    failed: dict[str, str]


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
) -> Outcome:
    """Run a scenario into a new folder below ``results_dir``.

    ``quick``: about ten seconds of measuring in all. ``strict``: a case that this host cannot run
    is an error instead of being skipped. Raises HostError when nothing can be run here,
    MeasurementError when results cannot be stored, RunInterruptedError on SIGINT.
    """
    topology, capabilities = _look_at_host()
    planned = plan(expand(scenario), topology, capabilities)
    skipped = {item.case.id: item.skip for item in planned if item.skip is not None}
    if len(skipped) == len(planned):
        reasons = "; ".join(sorted(set(skipped.values())))
        raise HostError(f"this host can run no case of {scenario.name}: {reasons}")
    if skipped and strict:
        case_id, reason = next(iter(skipped.items()))
        raise HostError(
            f"--strict: {len(skipped)} of {len(planned)} cases cannot be run here, "
            f"the first is {case_id}: {reason}"
        )
    if quick:
        planned = quicken(planned)
    with RunWriter.create(
        results_dir,
        scenario.name,
        scenario=scenario.to_dict(),
        cases=[item.case.to_dict() for item in planned],
        environment=environment.collect(topology=topology),
        command=["kickbench", *sys.argv[1:]],
    ) as writer:
        for case_id, reason in skipped.items():
            writer.mark(case_id, "skipped", reason)
        return _run_pending(writer, planned, topology, observer)


def resume(folder: Path, observer: Observer) -> Outcome:
    """Finish an interrupted run: its pending cases, and those that failed, once more.

    Raises UsageError when the folder is in use or this is not the host that it was begun on, else
    as :func:`run`.
    """
    topology, capabilities = _look_at_host()
    with RunWriter.resume(folder) as writer:
        _check_same_host(writer.manifest["environment"], environment.collect(topology=topology))
        for entry in writer.manifest["cases"]:
            if entry["status"] == "failed":
                writer.mark(entry["id"], "pending")
        pending = set(writer.pending)
        cases = [Case.from_dict(entry["case"]) for entry in writer.manifest["cases"]]
        planned = plan([case for case in cases if case.id in pending], topology, capabilities)
        for item in planned:
            if item.skip is not None:
                writer.mark(item.case.id, "skipped", item.skip)
        return _run_pending(writer, planned, topology, observer)


def _look_at_host() -> tuple[Topology, Capabilities]:
    capabilities = probe()
    if not capabilities.usable:
        raise HostError(capabilities.reason or "KVM is not usable; see kickbench doctor")
    return Topology.read(), capabilities


def _check_same_host(begun: dict[str, Any], now: dict[str, Any]) -> None:
    def identity(facts: dict[str, Any]) -> dict[str, Any]:
        cpu, kernel = facts.get("cpu") or {}, facts.get("kernel") or {}
        return {
            "host": facts.get("hostname"),
            "kernel": (kernel.get("release"), kernel.get("version")),
            "CPU": (cpu.get("model"), cpu.get("microcode")),
        }

    for what, value in identity(begun).items():
        if identity(now)[what] != value:
            raise UsageError(
                f"the run was begun on another {what}: its cases would not be comparable; "
                "start a new run"
            )


def _run_pending(
    writer: RunWriter, planned: Sequence[Planned], topology: Topology, observer: Observer
) -> Outcome:
    pending = set(writer.pending)
    todo = [item for item in planned if item.case.id in pending]
    failed: dict[str, str] = {}
    observer.planned(writer.path, planned, [item.case for item in todo])
    try:
        for item in todo:
            observer.case_begins(item.case)
            try:
                measured = _CaseRun(item, topology, writer.path, observer).run()
            except StorageError as error:
                raise StorageError(
                    f"{error}; the finished cases are kept: when that is mended, continue with\n"
                    f"kickbench run --resume {writer.path}"
                ) from error
            except MeasurementError as error:
                failed[item.case.id] = str(error)
                writer.mark(item.case.id, "failed", str(error))
                observer.case_ends(item.case, "failed", str(error))
            else:
                writer.write_case(item.case.id, measured.document, measured.tables)
                observer.case_ends(item.case, "ok", None)
        writer.finish()
    except KeyboardInterrupt:
        raise RunInterruptedError(_conclude(writer, failed)) from None
    return _conclude(writer, failed)


def _conclude(writer: RunWriter, failed: dict[str, str]) -> Outcome:
    write_summary(writer.path)
    write_pyperf(writer.path)
    finished = sum(entry["status"] == "ok" for entry in writer.manifest["cases"])
    return Outcome(writer.path, finished, failed)


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
    # Per contrast (entry index): one list of per-round differences for each process.
    differences: dict[int, list[list[float]]] = field(default_factory=dict)
    baseline_ns: list[float] = field(default_factory=list)
    spent_seconds: float = 0.0
    rounds: int = 0

    def run(self) -> _Measured:
        case = self.case
        self.seats = Seats.of(case, self.topology)
        self.participants = schedule.entries(case)
        self.baseline = case.methods.index(case.baseline)
        begun = time.monotonic()
        processes: list[dict[str, Any]] = []
        parts: dict[str, list[Any]] = {name: [] for name in _ARRAYS}
        for index in range(case.processes):
            work = Path(tempfile.mkdtemp(prefix=".work.tmp-", dir=self.folder))
            try:
                processes.append(self._run_process(index, work))
                for name, file in _ARRAYS.items():
                    array = tables.load_worker_array(work / f"{file}.npy")
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
            max_rounds=None,
            folder=work,
            runner_pid=os.getpid(),
        )
        for entry in range(len(self.participants)):
            self.differences.setdefault(entry, []).append([])
        done: dict[str, Any] = {}
        clock: dict[str, Any] = {}
        first_round = None
        stopping = False
        with WorkerProcess(order.to_json(), self.seats.creator) as worker:
            for message in worker.messages():
                if message["event"] == "ready":
                    clock = message["clock"]
                    first_round = time.monotonic()
                elif message["event"] == "rounds":
                    self._take(message["ns_per_exit"])
                    now = time.monotonic()
                    spent = self.spent_seconds + now - (first_round or now)
                    self.observer.case_advances(case, spent, self.rounds, self._estimates())
                    if not stopping and self._precise_enough():
                        worker.ask_to_stop()
                        stopping = True
                else:
                    done = message
        if not done:
            raise MeasurementError("the worker process ended without a result")
        self.spent_seconds += time.monotonic() - (first_round or time.monotonic())
        return {
            "index": index,
            "clock": clock,
            "warnings": [*self.planned.notes, *self._crowding(), *done["warnings"]],
            "rounds": done["rounds"],
            "stopped_by": done["stopped_by"],
            "oversubscribed": bool(self._crowding()),
        }

    def _crowding(self) -> list[str]:
        cpus = {cpu for some in self.seats.vcpus for cpu in some}
        if len(self.seats.vcpus) <= len(cpus):
            return []
        crowd = f"{len(self.seats.vcpus)} vCPUs share {len(cpus)} CPUs"
        return [f"{crowd}: time per exit includes waiting for a CPU"]

    def _take(self, rounds: Sequence[Sequence[float | None]]) -> None:
        for means in rounds:
            self.rounds += 1
            reference = means[self.baseline]
            if reference is None:
                continue
            self.baseline_ns.append(reference)
            for entry, mean in enumerate(means):
                if mean is not None:
                    self.differences[entry][-1].append(mean - reference)

    def _contrasts(self) -> list[int]:
        """The entries that are compared with the baseline: all but itself, the control if alone."""
        others = [
            index
            for index, entry in enumerate(self.participants)
            if index != self.baseline and not entry.control
        ]
        return others or [len(self.participants) - 1]

    def _estimates(self) -> list[Estimate]:
        estimates = []
        for entry in self._contrasts():
            series = [rounds for rounds in self.differences[entry] if len(rounds) >= MIN_ROUNDS]
            if series:
                method = self.participants[entry].method
                estimates.append(Estimate(method, self.case.baseline, running_interval(series)))
        return estimates

    def _precise_enough(self) -> bool:
        """Whether the current process has rounds enough for the precision asked for.

        The final interval is Student's t over the processes' means. When they differ no more than
        their own intervals say, its half-width is that of one process's interval, times t over the
        normal quantile, over the root of the number of processes.
        """
        case = self.case
        if not self.baseline_ns:
            return False
        inflation = 1.0
        if case.processes > 1:
            t = t_quantile(0.95, case.processes - 1)
            inflation = t / 1.96 / math.sqrt(case.processes)
        wanted = case.precision * sum(self.baseline_ns) / len(self.baseline_ns)
        for entry in self._contrasts():
            rounds = self.differences[entry][-1]
            if len(rounds) < MIN_ROUNDS:
                return False
            if running_interval([rounds]).half_width * inflation > wanted:
                return False
        return True
