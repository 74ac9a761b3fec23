# SPDX-License-Identifier: Apache-2.0
"""Starts an emulated machine, runs one command in it, and leaves no process behind.

The command's output is passed on as it comes. The last lines of the kernel's console are kept. They
are shown if the machine panics, hangs or does not come up. :mod:`kickbench.lab.inside` is the other
end, in the machine.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from kickbench import interrupts
from kickbench.errors import MeasurementError
from kickbench.lab.disk import WINDOW_BYTES
from kickbench.lab.emulation import Order, Running, printable
from kickbench.lab.machines import Machine

# The limits until the first sign of life, and between two. A machine gives one every 5 s of its own
# time. On a busy host, the time of the machine that counts can pass ten times slower. Two Bochs
# machines at once, beside a build, took more than three minutes to come up.
BOOT_SECONDS = 600.0
SILENCE_SECONDS = 600.0
LIMIT_SECONDS = 4 * 3600.0
CONSOLE_LINES = 15


@dataclass(frozen=True)
class Limits:
    """Limits in this host's seconds: to the first sign of life, between two, and in all."""

    boot: float = BOOT_SECONDS
    silence: float = SILENCE_SECONDS
    total: float = LIMIT_SECONDS


def execute(
    machine: Machine,
    kernel: Path,
    order: Order,
    limits: Limits | None = None,
    *,
    tidies_up: bool = True,
) -> int:
    """Run the command. Returns its exit status, as a shell gives it.

    Ctrl-C is passed on, and a second one ends the machine. If the command has nothing to tidy up,
    the first one does. Raises MeasurementError, with the last lines of the console, if the machine
    ends by itself, hangs or takes too long.
    """
    with (
        machine.emulator.start(machine.id, kernel, order) as running,
        _heeding_signals(tidies_up) as (woken, begun),
    ):
        session = Session(machine.id, running, limits or Limits(), begun)
        status = session.run(woken, {"stdout": 1, "stderr": 2})
        assert status is not None
        return status


class Session:
    """Talks to a machine while it runs. ``begun`` is called at the first sign of life."""

    def __init__(
        self,
        machine: str,
        running: Running,
        limits: Limits,
        begun: Callable[[], None] = lambda: None,
    ) -> None:
        self._machine, self._running, self._limits = machine, running, limits
        self._begun = begun
        self._console: deque[str] = deque(maxlen=CONSOLE_LINES)
        self._tails = {"console": b"", "control": b"", "log": b""}
        self._status: int | None = None
        self._alive = False
        self._selector = selectors.DefaultSelector()
        self._outlets: Mapping[str, int] = {}
        self._partner: int | None = None
        self._unread = b""

    def run(self, woken: int, outlets: Mapping[str, int], partner: int | None = None) -> int | None:
        """Follow the machine to its end. Returns the command's exit status.

        A byte on ``woken`` is a Ctrl-C for the command, and its end has us leave at once, without a
        status. ``outlets`` are where stdout and stderr go; what is none of ours is left alone.
        ``partner`` is a socket with the standard input and output of a command that talks, if
        windows carry them.
        """
        self._outlets, self._partner = outlets, partner
        begun = heard = time.monotonic()
        ours = {"console", "control", "log", *outlets} & self._running.channels.keys()
        with self._selector as selector:
            for name in ours:
                selector.register(self._running.channels[name], selectors.EVENT_READ, name)
            selector.register(woken, selectors.EVENT_READ, "woken")
            while ours:
                now = time.monotonic()
                silence = self._limits.silence if self._alive else self._limits.boot
                until = min(heard + silence, begun + self._limits.total)
                if now >= until:
                    self._give_up(now - heard, now - begun)
                for key, events in selector.select(until - now):
                    if key.data == "woken":
                        if not os.read(woken, 1):
                            return None
                        self._tell(f"signal {int(signal.SIGINT)}")
                    elif key.data == "partner":
                        self._serve_partner(events)
                    elif not self._take(key.data):
                        selector.unregister(key.fileobj)
                        ours.remove(key.data)
                    if key.data in ("control", "woken"):
                        heard = time.monotonic()
        if self._status is None:
            self._fail("ended by itself")
        self._running.process.wait()
        return self._status

    def _take(self, name: str) -> bool:
        """Read what one channel has. Returns False when it is closed."""
        try:
            data = os.read(self._running.channels[name], 1 << 16)
        except OSError:  # a reset, or a terminal that nobody has open any more
            data = b""
        if name in self._outlets:
            _pass_on(self._outlets[name], data)
            return bool(data)
        *lines, self._tails[name] = (self._tails[name] + data).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            if name == "console":
                self._console.append(text)
            elif name == "log":
                if "PANIC" in text:
                    self._console.append(text)
                    self._running.process.kill()
            elif text:
                self._heed(*text.split())
        return bool(data)

    def _heed(self, name: str, *words: str) -> None:
        """Do what a line of the machine says (:mod:`kickbench.lab.inside`)."""
        if not self._alive:
            self._alive = True
            self._begun()
            if self._partner is not None:  # not earlier: nobody had opened the port
                self._change_partner(add=selectors.EVENT_READ)
        try:
            self._obey(name, *words)
        except (ValueError, LookupError):
            self._fail(f"sent what cannot be: {printable(' '.join([name, *words]))}")

    def _obey(self, name: str, *words: str) -> None:
        windows = self._running.windows
        if name == "exit":
            self._status = int(words[0])
        elif windows is not None and name in self._outlets:
            _pass_on(self._outlets[name], windows.take(name, int(words[0])))
            self._tell(f"taken {name}")
        elif windows is not None and name == "stdout":
            self._unread = windows.take(name, int(words[0]))
            self._change_partner(add=selectors.EVENT_WRITE)
        elif name == "taken":
            self._change_partner(add=selectors.EVENT_READ)

    # --- a command that talks, by windows -------------------------------------------------------

    def _serve_partner(self, events: int) -> None:
        """Move what its partner writes or reads."""
        assert self._partner is not None
        assert self._running.windows is not None
        if events & selectors.EVENT_READ:
            try:
                data = os.read(self._partner, WINDOW_BYTES)
            except ConnectionResetError:
                data = b""
            self._running.windows.put("stdin", data)
            self._tell(f"stdin {len(data)}")
            self._change_partner(remove=selectors.EVENT_READ)
        if events & selectors.EVENT_WRITE:
            try:
                self._unread = self._unread[os.write(self._partner, self._unread) :]
            except (BrokenPipeError, ConnectionResetError):  # it has left
                self._unread = b""
            if not self._unread:
                self._tell("taken stdout")
                self._change_partner(remove=selectors.EVENT_WRITE)

    def _change_partner(self, *, add: int = 0, remove: int = 0) -> None:
        """Change which events of the partner we wait for."""
        assert self._partner is not None
        before = self._selector.get_map().get(self._partner)
        events = ((before.events if before else 0) | add) & ~remove
        if before:
            self._selector.unregister(self._partner)
        if events:
            self._selector.register(self._partner, events, "partner")

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):  # it has ended; what it said is still to be read
            os.write(self._running.channels["control"], text.encode() + b"\n")

    def _give_up(self, silent: float, spent: float) -> NoReturn:
        if spent >= self._limits.total:
            self._fail(f"did not end within {spent:.0f} s; set a larger --time-limit")
        what = "gave no sign of life" if self._alive else "did not come up"
        self._fail(f"{what} for {silent:.0f} s and was ended")

    def _fail(self, what: str) -> NoReturn:
        last = [*self._console, self._tails["console"].decode(errors="replace").rstrip()]
        shown = "\n".join(f"  | {printable(line)}" for line in last if line)
        raise MeasurementError(
            f"the machine {self._machine} {what}; the last lines of its console:\n"
            f"{shown or '  (none)'}"
        )


@contextlib.contextmanager
def _heeding_signals(tidies_up: bool) -> Iterator[tuple[int, Callable[[], None]]]:
    """Turn the first signal that would raise KeyboardInterrupt into a byte to read.

    The exception would lose data that is just being read. The second signal does raise it, and so
    ends everything, whatever we wait for. Yields the descriptor to read from, and what to call when
    the command has begun: before, and if it has nothing to tidy up, the first signal raises too.
    """
    reader, writer = os.pipe()
    passes_on = False

    def begun() -> None:
        nonlocal passes_on
        passes_on = tidies_up

    def heed(*_: object) -> None:
        nonlocal passes_on
        if not passes_on:
            raise KeyboardInterrupt
        passes_on = False
        os.write(writer, b"!")

    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if interrupts.is_heeded(number)
    ]
    try:
        for number in numbers:
            signal.signal(number, heed)
        yield reader, begun
    finally:
        interrupts.heed(*numbers)
        os.close(reader)
        os.close(writer)


def _pass_on(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command inside: our own, and ``more``."""
    return {**os.environ, **more}
