# SPDX-License-Identifier: Apache-2.0
"""A Dask scheduler and its workers, each worker with a host's name of its own.

All are on this machine, so the lock of the host has them measure one after the other. A UTS
namespace makes a host of each: root only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PREPARE = 'hostname {name} && mount --make-rprivate / && {more} exec "$@"'


class Cluster:
    """A scheduler, and the workers that were started. ``address`` is the scheduler's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        file = folder / "scheduler.json"
        self._start(
            "scheduler", ["dask_scheduler", "--port", "0", "--scheduler-file", str(file)], []
        )
        _wait_for(file)
        self.file = file

    @property
    def address(self) -> str:
        return str(json.loads(self.file.read_text())["address"])

    def add(self, name: str, more: str = "") -> None:
        """A worker on a host of this name. ``more`` is run in its mount namespace before."""
        prepare = PREPARE.format(name=name, more=f"{more} &&" if more else "")
        self._start(
            name,
            ["dask_worker", "--scheduler-file", str(self.file), "--nthreads", "1", "--no-nanny"],
            ["unshare", "-um", "sh", "-c", prepare, "sh"],
        )

    def state(self, name: str) -> Path:
        """Where the host keeps what the store has not."""
        return self.folder / name / "kickbench" / "fleet" / name

    def kill(self, name: str) -> None:
        """The scheduler or a worker dies, and nothing that it started."""
        for process in (each for other, each in self.processes if other == name):
            process.kill()
            process.wait()

    def end(self) -> None:
        """End everything, also what measures on its own."""
        for _, process in self.processes:
            process.kill()
            process.wait()
        for lock in self.folder.glob("*/kickbench/fleet/*/*/lock"):
            try:
                os.kill(int(lock.read_text()), signal.SIGINT)
            except (OSError, ValueError):
                continue

    def _start(self, name: str, words: list[str], before: list[str]) -> None:
        module, *options = words
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *before,
                    *(sys.executable, "-P", "-m", f"distributed.cli.{module}", *options),
                    *("--host", "127.0.0.1", "--no-dashboard"),
                ],
                env={**os.environ, "XDG_STATE_HOME": str(self.folder / name)},
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self.processes.append((name, process))


def _wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.1)
