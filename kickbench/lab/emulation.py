# SPDX-License-Identifier: Apache-2.0
"""What the lab asks of an emulator, whichever it is: to start a machine in which one command runs,
with channels in and out, and to leave no process behind.

An emulator is a class with the methods of :class:`Emulator`: see :mod:`kickbench.lab.qemu` and
:mod:`kickbench.lab.bochs`. Who follows the machine is :mod:`kickbench.lab.emulator`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kickbench.errors import HostError

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Order:
    """A command for a machine: its words, environment and folder, and the folders of this host's
    that it writes to. ``reads``: files and folders without which it is nothing, for a machine that
    does not see this host's. ``terminal`` is (rows, columns) for a command that takes over the
    terminal, else None."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    cwd: Path
    shares: Sequence[Path] = ()
    reads: Sequence[Path] = ()
    terminal: tuple[int, int] | None = None

    @property
    def tags(self) -> dict[str, Path]:
        """The folders to write to, under a name for each."""
        return {f"share{number}": path for number, path in enumerate(self.shares)}

    def to_json(self, hostname: str, **more: object) -> bytes:
        """The line that :mod:`kickbench.lab.inside` reads."""
        facts = {
            "argv": list(self.argv),
            "environment": dict(self.environment),
            "cwd": str(self.cwd),
            "shares": {tag: str(path) for tag, path in self.tags.items()},
            "terminal": self.terminal,
            "hostname": hostname,
            **more,
        }
        return json.dumps(facts).encode() + b"\n"


@dataclass(frozen=True)
class Running:
    """A machine at work. ``channels`` are our descriptors, by name: console, control, stdout,
    stderr, and ``log``, on which an emulator may say PANIC when it is at its end, if it does not
    end then; ``receive`` takes the words after ``files`` when the machine says that there are
    some."""

    process: subprocess.Popen[bytes]
    channels: Mapping[str, int]
    receive: Callable[[str], None] = lambda _: None


class Emulator(Protocol):
    """``tool`` is the emulator's program. ``sees_host``: this host's files are there inside, with
    its compiler, and a terminal can be taken over; else there is what a run needs, no more."""

    @property
    def tool(self) -> str: ...
    @property
    def sees_host(self) -> bool: ...

    def description(self) -> str:
        """What marks its results, with the emulator's version: figures depend on it."""

    def start(
        self, machine: str, kernel: Path, order: Order
    ) -> AbstractContextManager[Running, bool | None]:
        """Start it. It is gone, with all that came with it, when the context is left."""


@contextlib.contextmanager
def child(
    command: Sequence[str], *, terminal: bool = False, grace: float = 0, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends when the context is left, with its children, and when we are killed.

    ``terminal``: it takes over ours, which only the foreground's process group may use; Ctrl-C on
    it is else for us to pass on. ``grace``: seconds to tidy up in, after SIGTERM. Raises HostError
    when the program cannot be started.
    """
    try:
        process: subprocess.Popen[bytes] = subprocess.Popen(
            command,
            process_group=-1 if terminal else 0,
            preexec_fn=functools.partial(die_with, os.getpid()),
            **options,
        )
    except OSError as error:
        raise HostError(f"{command[0]} does not run: {error.strerror}") from error
    try:
        yield process
    finally:
        try:
            if grace:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(grace)
        finally:
            if not terminal:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()


def die_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Send us a signal when the parent goes, however it goes (prctl(2), PR_SET_PDEATHSIG)."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def printable(text: str) -> str:
    """A line of a console, without what would steer our terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
