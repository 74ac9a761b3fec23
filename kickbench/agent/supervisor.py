# SPDX-License-Identifier: Apache-2.0
"""Measures a run on this machine, and needs nobody who listens.

It is a copy of the server, which has imported all that it needs, and it outlives the server. It
waits for its turn and for its jobs, and writes what its foreman says into the journal
(:mod:`kickbench.agent.runs`). First come ``say`` with
a ``text`` for the user, and ``turn`` with the ``other`` run that measures here, and at the end
``finished``. The commands are ``jobs FOLDER``, ``stop CASE PROCESS``, ``skip CASE`` and ``cancel``.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import threading
import traceback
from pathlib import Path
from typing import Any

from kickbench.agent.runs import Run
from kickbench.host import turn
from kickbench.run.foreman import Foreman, Job

LOOK_SECONDS = 1.0
NAME = "kickbench-run"
"""What ps calls a supervisor."""
_PR_SET_NAME = 15


class _Commands:
    """Takes the commands of a run, in a thread of its own."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._folders: queue.Queue[Path] = queue.Queue()
        self._foreman: Foreman | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    def jobs(self, server: int) -> Run | None:
        """The run with its name and its jobs; None if they do not come: the server, which
        is the parent process, has ended.

        No time is too long. What comes before the jobs may be compiled meanwhile, and the time of
        an idle emulated machine can pass far faster than that of its host.
        """
        while True:
            has_ended = os.getppid() != server
            try:
                return Run(self._folders.get(timeout=LOOK_SECONDS))
            except queue.Empty:
                if has_ended:
                    return None

    def steer(self, foreman: Foreman) -> None:
        """Pass on what is meant for the foreman."""
        self._foreman = foreman

    def _listen(self) -> None:
        for name, *words in self._run.commands():
            if name == "jobs":
                self._folders.put(Path(words[0]))
            elif name == "cancel":
                os.kill(os.getpid(), signal.SIGINT)
            elif self._foreman is not None and name in ("stop", "skip"):
                getattr(self._foreman, name)(*words)


def supervise(run: Run, note: str, server: int, *, wait: bool) -> None:
    """Measure the jobs that come from the server, the parent process."""
    journal = os.open(run.journal, os.O_WRONLY | os.O_APPEND)
    lock = run.lock()

    def write(message: dict[str, Any]) -> None:
        os.write(journal, json.dumps(message).encode() + b"\n")

    commands = _Commands(run)
    try:
        with turn.taken(
            note, wait=wait, say=lambda text: write({"event": "say", "text": text})
        ) as other:
            write({"event": "turn", "other": other})
            named = commands.jobs(server)
            if named is None:
                run.remove()
                return
            jobs = [_job(job, named) for job in json.loads(named.jobs.read_text())]
            foreman = Foreman(jobs, named.work)
            commands.steer(foreman)
            for message in foreman.work():
                write(message)
            write({"event": "finished"})
    finally:
        os.close(lock)
        os.close(journal)


def _job(data: dict[str, Any], run: Run) -> Job:
    """The job, with the paths that the libraries have here."""
    protocols = {
        name: str(run.brought / Path(file).name) for name, file in data["protocols"].items()
    }
    return Job.from_dict({**data, "protocols": protocols})


def start(run: Run, note: str, *, wait: bool) -> int:
    """Start a supervisor. Returns its process id."""
    server = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        _name_process(NAME)
        null = os.open(os.devnull, os.O_RDONLY)
        said = os.open(run.folder / "stderr", os.O_WRONLY | os.O_CREAT, 0o600)
        for number, descriptor in enumerate((null, said, said)):
            os.dup2(descriptor, number)
        os.closerange(3, 64)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        supervise(run, note, server, wait=wait)
        status = 0
    except KeyboardInterrupt:  # cancelled: whoever did it removes the folder
        status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _name_process(name: str) -> None:
    """What ps calls this process (prctl(2), PR_SET_NAME)."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
