# SPDX-License-Identifier: Apache-2.0
"""A Dask scheduler and its workers, each worker with a host's name of its own.

All are on this machine, so the lock of the host has them measure one after the other. A UTS
namespace makes a host of each, and a network namespace can: root only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from sshd import Network

PREPARE = 'hostname {name} && mount --make-rprivate / && {more} exec "$@"'


class Cluster:
    """A scheduler at an address of this machine, and the workers that were started."""

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        self.folder = folder
        self.processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        self.file = file = folder / "scheduler.json"
        self._start(
            "scheduler",
            ["dask_scheduler", "--port", "0", "--scheduler-file", str(file)],
            address,
            [],
        )
        _wait_for(file)

    @property
    def address(self) -> str:
        """The scheduler's, for who is on this machine."""
        return self._address("127.0.0.1")

    def add(self, name: str, more: str = "", inside: Network | None = None) -> None:
        """A worker on a host of this name. ``more`` is run in its mount namespace before.

        ``inside`` a network, it measures whatever the other hosts do.
        """
        if inside is not None:
            more = f"export KICKBENCH_LOCK={self.folder}/{name}.lock"
        prepare = PREPARE.format(name=name, more=f"{more} &&" if more else "")
        self._start(
            name,
            [
                *("dask_worker", self._address(inside.near if inside else "127.0.0.1")),
                *("--nthreads", "1", "--no-nanny"),
            ],
            inside.address if inside else "127.0.0.1",
            [
                *(("ip", "netns", "exec", inside.name) if inside else ()),
                *("unshare", "-um", "sh", "-c", prepare, "sh"),
            ],
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

    def _address(self, host: str) -> str:
        _, _, port = json.loads(self.file.read_text())["address"].rpartition(":")
        return f"tcp://{host}:{port}"

    def _start(self, name: str, words: list[str], address: str, before: list[str]) -> None:
        module, *options = words
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *before,
                    *(sys.executable, "-P", "-m", f"distributed.cli.{module}", *options),
                    *("--host", address, "--no-dashboard"),
                ],
                env={
                    **os.environ,
                    "XDG_STATE_HOME": str(self.folder / name),
                    # A cable that is pulled is not noticed before.
                    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",
                },
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self.processes.append((name, process))


def _wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.1)
