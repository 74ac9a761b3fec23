# SPDX-License-Identifier: Apache-2.0
"""Starts an emulated machine, runs one command in it, and leaves no process behind.

The command's output is passed on as it comes. The last lines of the kernel's console are kept. They
are shown if the machine panics, hangs or does not come up. :mod:`kickbench.lab.inside` is the other
end, in the machine.
"""

from __future__ import annotations

import base64
import contextlib
import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from kickbench.errors import MeasurementError
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
    with machine.emulator.start(machine.id, kernel, order) as running:
        return _Session(machine.id, running, limits or Limits(), tidies_up).run()


class _Session:
    def __init__(self, machine: str, running: Running, limits: Limits, tidies_up: bool) -> None:
        self._machine, self._running, self._limits = machine, running, limits
        self._console: deque[str] = deque(maxlen=CONSOLE_LINES)
        self._tails = {"console": b"", "control": b"", "log": b""}
        self._status: int | None = None
        self._alive = False
        self._interrupted = not tidies_up

    def run(self) -> int:
        begun = heard = time.monotonic()
        with self._heeding_signals() as woken, selectors.DefaultSelector() as selector:
            for name, end in {**self._running.channels, "signal": woken}.items():
                selector.register(end, selectors.EVENT_READ, name)
            while len(selector.get_map()) > 1:  # that of the signals stays
                now = time.monotonic()
                silence = self._limits.silence if self._alive else self._limits.boot
                until = min(heard + silence, begun + self._limits.total)
                if now >= until:
                    self._give_up(now - heard, now - begun)
                for key, _ in selector.select(until - now):
                    if key.data == "signal":
                        os.read(woken, 1)
                        self._tell(str(int(signal.SIGINT)))
                    elif not self._take(key.data):
                        selector.unregister(key.fileobj)
                    if key.data in ("control", "signal"):
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
        if name in ("stdout", "stderr"):
            _pass_on(1 if name == "stdout" else 2, data)
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
            else:
                self._alive = True
                if text.startswith("exit "):
                    self._status = int(text.removeprefix("exit "))
                elif text.startswith("stderr "):
                    _pass_on(2, base64.b64decode(text.removeprefix("stderr ")))
                elif text.startswith("files "):
                    self._running.receive(text.removeprefix("files "))
        return bool(data)

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):  # it has ended; what it said is still to be read
            os.write(self._running.channels["control"], text.encode() + b"\n")

    @contextlib.contextmanager
    def _heeding_signals(self) -> Iterator[int]:
        """Turn the first signal that would raise KeyboardInterrupt into a byte to read.

        The exception would lose data that is just being read. The second signal does raise it, and
        so ends everything, whatever we wait for. Yields the descriptor to read from.
        """
        reader, writer = os.pipe()

        def heed(*_: object) -> None:
            if self._interrupted or not self._alive:
                raise KeyboardInterrupt
            self._interrupted = True
            os.write(writer, b"!")

        numbers = [
            number
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) is signal.default_int_handler
        ]
        try:
            for number in numbers:
                signal.signal(number, heed)
            yield reader
        finally:
            for number in numbers:
                signal.signal(number, signal.default_int_handler)
            os.close(reader)
            os.close(writer)

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


def _pass_on(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command inside: our own, and ``more``."""
    return {**os.environ, **more}
