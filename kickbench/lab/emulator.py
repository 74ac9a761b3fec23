# SPDX-License-Identifier: Apache-2.0
"""Starts an emulated machine, runs one command in it, and leaves no process behind.

What the command prints comes out as it is printed; the kernel's console is kept, to be shown when
the machine panics, hangs or does not come up. The machine's other end is
:mod:`kickbench.lab.inside`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import termios
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from kickbench.errors import MeasurementError
from kickbench.lab.machines import Channels, Machine

# Until the first sign of life, and between two: a machine says every 5 s of its own that it lives.
# A busy host emulates the machine that counts ten times slower than it lives.
BOOT_SECONDS = 180.0
SILENCE_SECONDS = 180.0
LIMIT_SECONDS = 4 * 3600.0
# After Ctrl-C: a run inside still writes its summary.
ENDING_SECONDS = 120.0
CONSOLE_LINES = 15
_NAMES = ("console", "control", "stdout", "stderr")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Limits:
    """Seconds of this host's: to the first sign of life, between two, and in all."""

    boot: float = BOOT_SECONDS
    silence: float = SILENCE_SECONDS
    total: float = LIMIT_SECONDS


@dataclass(frozen=True)
class Order:
    """A command for a machine: its words, environment and folder, and the folders of this host's
    that it writes to. ``terminal`` is (rows, columns) for a command that takes over the terminal,
    else None."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    cwd: Path
    shares: Sequence[Path] = ()
    terminal: tuple[int, int] | None = None


@dataclass
class _Ends:
    """Our ends of the sockets, and the emulator's."""

    ours: dict[str, socket.socket] = field(default_factory=dict)
    theirs: dict[str, socket.socket] = field(default_factory=dict)

    def close(self) -> None:
        for end in (*self.ours.values(), *self.theirs.values()):
            end.close()


def execute(machine: Machine, kernel: Path, order: Order, limits: Limits | None = None) -> int:
    """Run the command; returns its exit status, as a shell gives it.

    Ctrl-C is passed on, a second one ends the machine. Raises MeasurementError, with the console's
    last lines, when the machine ends by itself, hangs or takes too long.
    """
    limits = limits or Limits()
    names = _NAMES[:2] if order.terminal else _NAMES
    ends = _Ends()
    for name in names:
        ends.ours[name], ends.theirs[name] = socket.socketpair()
    shares = {f"share{number}": path for number, path in enumerate(order.shares)}
    descriptors = {name: end.fileno() for name, end in ends.theirs.items()}
    command = machine.command_line(
        kernel,
        shares,
        Channels(
            descriptors["console"],
            descriptors["control"],
            descriptors.get("stdout"),
            descriptors.get("stderr"),
        ),
        sys.executable,
    )
    process = None
    terminal = termios.tcgetattr(0) if order.terminal else None
    try:
        process = subprocess.Popen(
            command,
            pass_fds=list(descriptors.values()),
            stdin=None if order.terminal else subprocess.DEVNULL,
            stdout=None if order.terminal else subprocess.DEVNULL,
            stderr=ends.theirs["console"].fileno(),
            # Ctrl-C on the terminal is for us to pass on; and none survives us, however we end.
            process_group=-1 if order.terminal else 0,
            preexec_fn=functools.partial(die_with, os.getpid()),
        )
        for end in ends.theirs.values():
            end.close()
        return _Session(machine, process, ends.ours, order, shares, limits).run()
    finally:
        if process is not None:
            # Its own group, but for a terminal, which only the foreground's group may use.
            if order.terminal is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
        if terminal is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, terminal)
        ends.close()


def die_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Send us a signal when the parent goes, however it goes (prctl(2), PR_SET_PDEATHSIG)."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


class _Session:
    def __init__(
        self,
        machine: Machine,
        process: subprocess.Popen[bytes],
        ends: dict[str, socket.socket],
        order: Order,
        shares: Mapping[str, Path],
        limits: Limits,
    ) -> None:
        self._machine, self._process, self._ends, self._limits = machine, process, ends, limits
        self._console: deque[str] = deque(maxlen=CONSOLE_LINES)
        self._tails = {"console": b"", "control": b""}
        self._status: int | None = None
        self._alive = False
        self._interrupted = False
        self._order = {
            "argv": list(order.argv),
            "environment": dict(order.environment),
            "cwd": str(order.cwd),
            "shares": {tag: str(path) for tag, path in shares.items()},
            "terminal": order.terminal,
            "hostname": machine.id,
        }

    def run(self) -> int:
        begun = heard = time.monotonic()
        self._tell(json.dumps(self._order))
        with selectors.DefaultSelector() as selector:
            for name, end in self._ends.items():
                selector.register(end, selectors.EVENT_READ, name)
            while selector.get_map():
                now = time.monotonic()
                silence = self._limits.silence if self._alive else self._limits.boot
                until = min(heard + silence, begun + self._limits.total)
                if now >= until:
                    self._give_up(now - heard, now - begun)
                try:
                    for key, _ in selector.select(until - now):
                        if not self._take(key.data):
                            selector.unregister(key.fileobj)
                        if key.data == "control":
                            heard = time.monotonic()
                except KeyboardInterrupt:
                    heard = self._interrupt()
        if self._status is None:
            self._fail("ended by itself")
        self._process.wait()
        return self._status

    def _take(self, name: str) -> bool:
        """Read what one channel has; False when it is closed."""
        try:
            data = self._ends[name].recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if name in ("stdout", "stderr"):
            _pass_on(1 if name == "stdout" else 2, data)
            return bool(data)
        *lines, self._tails[name] = (self._tails[name] + data).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            if name == "console":
                self._console.append(text)
            else:
                self._alive = True
                if text.startswith("exit "):
                    self._status = int(text.removeprefix("exit "))
        return bool(data)

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):  # it has ended; what it said is still to be read
            self._ends["control"].sendall(text.encode() + b"\n")

    def _interrupt(self) -> float:
        """Pass Ctrl-C on, once; the second ends it all. Returns when it was heard of last."""
        if self._interrupted or not self._alive:
            raise KeyboardInterrupt
        self._interrupted = True
        self._tell(str(int(signal.SIGINT)))
        return time.monotonic()

    def _give_up(self, silent: float, spent: float) -> NoReturn:
        if spent >= self._limits.total:
            self._fail(f"did not end within {spent:.0f} s (--time-limit)")
        what = "gave no sign of life" if self._alive else "did not come up"
        self._fail(f"{what} for {silent:.0f} s and was ended")

    def _fail(self, what: str) -> NoReturn:
        last = [*self._console, self._tails["console"].decode(errors="replace").rstrip()]
        shown = "\n".join(f"  | {printable(line)}" for line in last if line)
        raise MeasurementError(
            f"the machine {self._machine.id} {what}; its console said last:\n"
            f"{shown or '  (nothing)'}"
        )


def _pass_on(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def printable(text: str) -> str:
    """A line of a console, without what would steer our terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Our own environment for a command inside, and more."""
    return {**os.environ, **more}
