# SPDX-License-Identifier: Apache-2.0
"""Answers the other end of a connection: what this machine is, and the runs on it.

Requests are JSON objects, one a line, each with an ``op``. So are the answers, each with an
``event``. :class:`_Server` has a method for each request. From ``begin`` or ``attach`` on, the
lines of the run's journal come as they are written, and ``gone`` when its supervisor has ended.
``alive`` comes when nothing else did for a while. The server ends with the connection, and a run
does not.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import kickbench
from kickbench.agent import supervisor
from kickbench.agent.runs import Run, remove_old, remove_other_agents
from kickbench.engine.engine import library
from kickbench.errors import EXIT_HOST, KickbenchError
from kickbench.run.foreman import arrays_of, arrays_of_case
from kickbench.run.machine import Facts, Survey
from kickbench.run.this_host import ThisHost
from kickbench.watch.process import RightsError, Vmm
from kickbench.watch.snapshot import Progress

ALIVE_SECONDS = 5.0
TAKEN_SECONDS = 60
"""After so long nobody is there who takes what is said of a VM."""
_JOURNAL_SECONDS = 0.2
_CHUNK = 1 << 20


class _Server:
    def __init__(self, folder: Path) -> None:
        self._runs = folder / "runs"
        self._runs.mkdir(exist_ok=True)
        remove_old(self._runs)
        remove_other_agents(Path(kickbench.__path__[0]).parent)
        self._input = b""
        self._run: Run | None = None
        self._has_jobs = False
        self._offset = 0
        self._gone = False

    # --- requests -------------------------------------------------------------------------------

    def facts(self) -> None:
        """What the plan of a run needs. An engine that cannot be loaded is told now."""
        library()
        self._say("facts", **Facts.of_this_host().to_dict())

    def survey(self) -> None:
        """What the environment is, and the doctor's findings."""
        self._say("survey", **Survey.of_this_host().to_dict())

    def begin(self, note: str, *, wait: bool) -> None:
        """Start a supervisor, which waits for its turn and then for jobs."""
        run = Run.new(self._runs)
        pid = supervisor.start(run, note, wait=wait)
        while not run.is_alive() and not os.waitpid(pid, os.WNOHANG)[0]:
            time.sleep(0.01)
        self._follow(run)

    def attach(self, run: str) -> None:
        """Tell all that a run has said, and what it will say. ``found`` says whether it is here."""
        wanted = Run.named(self._runs, run)
        found = wanted.jobs.is_file()
        self._say("attached", found=found)
        if found:
            self._follow(wanted)
            self._has_jobs = True

    def bring(self, name: str, size: int) -> None:
        """Take a file of ``size`` bytes, which follow, under its name."""
        assert self._run is not None
        # All of it is read first. What a failure leaves unread would be taken for requests.
        while len(self._input) < size:
            data = os.read(0, _CHUNK)
            if not data:
                sys.exit(1)
            self._input += data
        data, self._input = self._input[:size], self._input[size:]
        (self._run.brought / Path(name).name).write_bytes(data)
        self._say("brought")

    def jobs(self, run: str, jobs: list[dict[str, Any]]) -> None:
        """Have the supervisor measure jobs, as the run with this id."""
        assert self._run is not None
        self._run = self._run.rename(run)
        self._run.jobs.write_text(json.dumps(jobs))
        self._run.tell("jobs", str(self._run.folder))
        self._has_jobs = True

    def tell(self, *words: Any) -> None:
        """Send the supervisor a command."""
        if self._run is not None:
            self._run.tell(*words)

    def fetch(self, case: str, process: int) -> None:
        """Send the arrays of a process: their names and sizes, and then their bytes."""
        assert self._run is not None
        folder = arrays_of(self._run.work, case, process)
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        self._say("files", files=[[path.name, path.stat().st_size] for path in paths])
        for path in paths:
            with path.open("rb") as file:
                while data := file.read(_CHUNK):
                    _write(data)

    def drop(self, case: str) -> None:
        """Remove the arrays of a case, which is stored outside."""
        assert self._run is not None
        for folder in arrays_of_case(self._run.work, case):
            shutil.rmtree(folder, ignore_errors=True)

    def forget(self) -> None:
        """End the run, and remove all of it."""
        if self._run is not None:
            self._end()
        self._say("forgotten")

    def vms(self, pid: int | None, name: str | None) -> None:
        """Which VMs run here."""
        self._say("vms", vms=[vmm.to_dict() for vmm in ThisHost().vms(pid, name)])

    def watch(self, vmm: dict[str, Any], seconds: float) -> None:
        """Watch a VM. Any request ends it early, and so does the end of the connection."""
        for news in ThisHost().watch(Vmm.from_dict(vmm), seconds, self._has_no_request):
            # The kernel ends this process, and with it the programs, if nobody takes the news.
            signal.alarm(TAKEN_SECONDS)
            if isinstance(news, Progress):
                self._say("progress", **vars(news))
            else:
                self._say("snapshot", **news.to_dict())
            signal.alarm(0)
        self._say("watched")

    def enough(self) -> None:
        """End :meth:`watch`."""

    # --- the connection -------------------------------------------------------------------------

    def serve(self) -> None:
        """Answer until the connection ends."""
        said = time.monotonic()
        while True:
            wait = _JOURNAL_SECONDS if self._run is not None and not self._gone else ALIVE_SECONDS
            if select.select([0], [], [], wait)[0]:
                data = os.read(0, _CHUNK)
                if not data:
                    break
                self._input += data
                while b"\n" in self._input:
                    line, _, self._input = self._input.partition(b"\n")
                    self._answer(json.loads(line))
                    said = time.monotonic()
            if self._tell_news():
                said = time.monotonic()
            elif time.monotonic() - said >= ALIVE_SECONDS:
                said = time.monotonic()
                self._say("alive")
        if self._run is not None and not self._has_jobs:
            self._end()

    def _answer(self, request: dict[str, Any]) -> None:
        words = request.pop("words", [])
        try:
            getattr(self, request.pop("op"))(*words, **request)
        except RightsError as error:
            reason = f"{error.what}: reach the machine as root"
            self._say("error", reason=reason, exit_code=EXIT_HOST)
        except KickbenchError as error:
            self._say("error", reason=str(error), exit_code=error.exit_code)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            self._say("error", reason=f"{where}{error.strerror or error}")

    def _has_no_request(self) -> bool:
        return not (self._input or select.select([0], [], [], 0)[0])

    def _follow(self, run: Run) -> None:
        self._run, self._offset, self._gone = run, 0, False

    def _tell_news(self) -> bool:
        """Pass on what is new in the journal. Returns whether there was anything."""
        if self._run is None or self._gone:
            return False
        alive = self._run.is_alive()  # asked before the journal is read for the last time
        try:
            with self._run.journal.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            data = b""
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        if data:
            _write(data)
        if not alive:
            self._gone = True
            self._say("gone", last=_last_words(self._run.folder))
        return bool(data)

    def _end(self) -> None:
        assert self._run is not None
        while self._run.is_alive():
            self._run.tell("cancel")
            time.sleep(0.05)
        self._run.remove()
        self._run = None

    def _say(self, event: str, **what: Any) -> None:
        _write(json.dumps({"event": event, **what}).encode() + b"\n")


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def _last_words(folder: Path) -> str:
    """Why the supervisor of a run has ended. It cannot write that to a full disk."""
    try:
        if os.statvfs(folder).f_bavail == 0:
            return f"{folder}: no space left on device; make room there"
        return (folder / "stderr").read_text(errors="replace")[-4000:].strip().rpartition("\n")[2]
    except OSError:
        return ""


def serve(folder: str) -> None:
    """Answer requests on standard input until it ends. ``folder`` is the agent's."""
    try:
        _Server(Path(folder)).serve()
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(1)
