# SPDX-License-Identifier: Apache-2.0
"""Has worker processes measure cases one after another, on the machine that it runs on.

The runner decides what is measured, and evaluates it. The foreman needs no runner to go on: without
a word from it, each process takes the time that its case may take. So a run on another machine goes
on when the connection breaks. Standard library only, because it is sent to such machines.

What it says are dicts with an ``event``, the ``case``'s id and, in the first three, the index of
the ``process``:

- ``ready`` and ``rounds``: the worker's own (:mod:`kickbench.run.worker`). ``spent_seconds`` is how
  long the case has measured so far.
- ``process``: a process is done, and its arrays are in the folder that :func:`arrays_of` names.
  ``report`` is what the worker said at its end, with its ``clock`` and its ``creator``.
- ``begin``, and ``end`` with the ``seconds`` that the case took.
- ``failed``: the case ends here, and ``reason`` says why. If its results could not be stored
  (``storage``), no further case begins.
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kickbench.errors import KickbenchError, MeasurementError, StorageError
from kickbench.run import placement
from kickbench.run.process import WorkerProcess
from kickbench.run.worker import Order
from kickbench.scenario.cases import Case


@dataclass(frozen=True)
class Job:
    """A case, and where its threads run: see :class:`kickbench.run.worker.Order`.

    ``creator`` are the CPUs of the process that creates the workers; None: any. A worker that says
    nothing for ``silence_seconds`` hangs.
    """

    case: Case
    vcpu_cpus: list[list[int]]
    kicker_cpus: list[int]
    creator: list[int] | None
    protocols: dict[str, str]
    silence_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The job as JSON."""
        return {**vars(self), "case": self.case.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Job:
        """The inverse of :meth:`to_dict`."""
        return cls(**{**data, "case": Case.from_dict(data["case"])})


def arrays_of(folder: Path, case_id: str, process: int) -> Path:
    """Where below the foreman's ``folder`` a process leaves its arrays."""
    return folder / f"{case_id}.{process}"


def arrays_of_case(folder: Path, case_id: str) -> list[Path]:
    """The folders of all processes of a case that there are."""
    return [path for path in folder.iterdir() if path.name.rpartition(".")[0] == case_id]


def why_failed(error: Exception) -> str:
    """Why a case failed. An error that is not one of kickbench's own is a bug, and says where."""
    if isinstance(error, KickbenchError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}, line {last.lineno}"
    return (
        f"kickbench failed at {where}: {error!r}; this is a bug: report this line, the scenario "
        "file and the output of kickbench doctor"
    )


class Foreman:
    """Measures ``jobs`` in their order, below ``folder``."""

    def __init__(self, jobs: Sequence[Job], folder: Path) -> None:
        self._jobs, self._folder = jobs, folder
        self._skipped: set[str] = set()
        self._current: tuple[str, int, WorkerProcess] | None = None

    def stop(self, case_id: str, process: int) -> None:
        """Have a process end after its current round, if it still runs."""
        self._ask_to_stop(lambda *current: current == (case_id, process))

    def skip(self, case_id: str) -> None:
        """Begin no further process of a case."""
        self._skipped.add(case_id)
        self._ask_to_stop(lambda case, _: case == case_id)

    def _ask_to_stop(self, which: Callable[[str, int], bool]) -> None:
        current = self._current  # another thread may ask, and this one may end it meanwhile
        if current is not None and which(*current[:2]):
            with contextlib.suppress(ValueError):  # its pipe is closed
                current[2].ask_to_stop()

    def work(self) -> Iterator[dict[str, Any]]:
        """Measure. Yields what happens, as it happens."""
        for job in self._jobs:
            case_id = job.case.id
            yield {"event": "begin", "case": case_id}
            begun = time.monotonic()
            try:
                yield from self._processes(job)
            except Exception as error:  # whatever failed, the other cases are measured
                disk = isinstance(error, OSError) and not isinstance(error, KickbenchError)
                storage = disk or isinstance(error, StorageError)
                reason = why_failed(error)
                if isinstance(error, OSError) and disk:
                    reason = f"{error.filename or self._folder}: {error.strerror or error}"
                yield {"event": "failed", "case": case_id, "reason": reason, "storage": storage}
                if storage:
                    return
            else:
                seconds = time.monotonic() - begun
                yield {"event": "end", "case": case_id, "seconds": seconds}

    def _processes(self, job: Job) -> Iterator[dict[str, Any]]:
        spent_seconds = 0.0
        for index in range(job.case.processes):
            if job.case.id in self._skipped:
                return
            left = job.case.processes - index
            order = Order(
                case=job.case,
                process=index,
                vcpu_cpus=job.vcpu_cpus,
                kicker_cpus=job.kicker_cpus,
                max_seconds=max(0.0, job.case.max_seconds - spent_seconds) / left,
                folder=arrays_of(self._folder, job.case.id, index),
                runner_pid=os.getpid(),
                protocols=job.protocols,
            )
            order.folder.mkdir()
            for message in self._process(order, job, spent_seconds):
                spent_seconds = message.get("spent_seconds", spent_seconds)
                yield message

    def _process(self, order: Order, job: Job, spent_before: float) -> Iterator[dict[str, Any]]:
        of = {"case": job.case.id, "process": order.process}
        report: dict[str, Any] = {}
        clock: dict[str, Any] = {}
        first_round: float | None = None

        def spent() -> float:
            return spent_before + (time.monotonic() - first_round if first_round else 0.0)

        with WorkerProcess(order.to_json(), job.creator) as worker:
            self._current = (job.case.id, order.process, worker)
            try:
                creator = placement.creator(job.creator, worker.created_on)
                for message in worker.messages(job.silence_seconds):
                    if message["event"] == "ready":
                        clock = message["clock"]
                        first_round = time.monotonic()
                    if message["event"] == "done":
                        report = message
                    else:
                        yield {**message, **of, "spent_seconds": spent()}
            finally:
                self._current = None
        if not report:
            raise MeasurementError(
                "the worker process ended without a result, as if a protocol had called exit()"
            )
        del report["event"]
        yield {
            "event": "process",
            **of,
            "spent_seconds": spent(),
            "report": {**report, "clock": clock, "creator": creator},
        }
