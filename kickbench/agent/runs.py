# SPDX-License-Identifier: Apache-2.0
"""The folder of a run on the machine that measures: what server and supervisor share there.

- ``journal``: what the supervisor said, one JSON object a line.
- ``commands``: a named pipe to the supervisor, one command a line.
- ``lock``: locked as long as the supervisor lives.
- ``jobs.json``: what is to be measured.
- ``work``: the arrays of processes that are done.
- ``brought``: the libraries of the user's own protocols.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DAYS_KEPT = 14
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")


class Run:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.jobs = folder / "jobs.json"
        self.work = folder / "work"
        self.brought = folder / "brought"

    @classmethod
    def new(cls, runs: Path) -> Run:
        """Make a folder for a run that has no name yet."""
        run = cls(runs / f".new-{os.urandom(8).hex()}")
        run.work.mkdir(parents=True)
        run.brought.mkdir()
        os.mkfifo(run.folder / "commands", 0o600)
        run.journal.touch()
        return run

    @classmethod
    def named(cls, runs: Path, run_id: str) -> Run:
        """The folder of the run with this id, which may be missing. Raises ValueError for an id
        that is none."""
        if not _ID.fullmatch(run_id):
            raise ValueError(f"{run_id!r} is no run")
        return cls(runs / run_id)

    def rename(self, run_id: str) -> Run:
        """Give the run its name."""
        named = Run.named(self.folder.parent, run_id)
        # What an earlier supervisor of the run left was collected.
        shutil.rmtree(named.folder, ignore_errors=True)
        self.folder.rename(named.folder)
        return named

    def tell(self, *words: object) -> None:
        """Send the supervisor a command. Nothing happens if it has ended."""
        with contextlib.suppress(OSError):
            descriptor = os.open(self.folder / "commands", os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(descriptor, (json.dumps(words) + "\n").encode())
            finally:
                os.close(descriptor)

    def commands(self) -> Iterator[list[Any]]:
        """The supervisor's side: each command, for ever."""
        # Opened for writing as well, so that it does not end with the first who writes.
        with os.fdopen(os.open(self.folder / "commands", os.O_RDWR), "rb", 0) as pipe:
            while True:
                yield json.loads(pipe.readline())

    def lock(self) -> int:
        """Lock the run for this process, for as long as it lives."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def is_alive(self) -> bool:
        """Whether the run has a supervisor."""
        try:
            descriptor = os.open(self.folder / "lock", os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def remove_old(runs: Path) -> None:
    """Remove the runs that nobody has collected for DAYS_KEPT days."""
    for folder in _unused(runs, "*"):
        if not (run := Run(folder)).is_alive():
            run.remove()


def remove_other_agents(mine: Path) -> None:
    """Remove the agents beside ``mine`` that nobody has used for DAYS_KEPT days: another version of
    kickbench sends another one."""
    with contextlib.suppress(OSError):
        os.utime(mine)
    for folder in _unused(mine.parent, "agent-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _unused(parent: Path, pattern: str) -> list[Path]:
    oldest = time.time() - DAYS_KEPT * 86400
    with contextlib.suppress(OSError):
        return [folder for folder in parent.glob(pattern) if folder.stat().st_mtime < oldest]
    return []
