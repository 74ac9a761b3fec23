# SPDX-License-Identifier: Apache-2.0
"""A connection to the agent on another machine: it sends the agent there, asks and listens.

It needs two streams to a Python there, and somebody who knows why they ended: see :class:`Streams`.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, Protocol

import kickbench.agent
from kickbench.closing import Closing
from kickbench.errors import (
    EXIT_MEASUREMENT,
    EXIT_USAGE,
    ConnectionBrokenError,
    HostError,
    KickbenchError,
    MachineFailedError,
    MeasurementError,
    UsageError,
)
from kickbench.native import built_file
from kickbench.remote import messages, package
from kickbench.text import printable, shorten

MAX_BANNER_BYTES = 1 << 20
PYTHON_ARGUMENTS = (
    *("-u", "-E", "-S", "-c"),
    "import io;exec(io.FileIO(0,closefd=False).readline())",
)
"""What Python gets there. It has no packages (-S): one could be another kickbench. It reads its
program from standard input, one line, and leaves the rest alone."""
_ERRORS: dict[int, type[KickbenchError]] = {
    EXIT_USAGE: UsageError,
    EXIT_MEASUREMENT: MeasurementError,
}
"""The errors of an answer, by the exit code that they would have there. All others: HostError."""
NO_PYTHON = "kickbench-no-python"
"""What comes instead of an answer if there is no Python there."""


class Streams(Protocol):
    """The two streams of a Python on another machine, which has got PYTHON_ARGUMENTS."""

    @property
    def name(self) -> str:
        """What the user calls the machine."""

    @property
    def to(self) -> int:
        """The descriptor of its standard input."""

    @property
    def source(self) -> int:
        """The descriptor of its standard output."""

    @property
    def silence_seconds(self) -> float | None:
        """After so long a silence the connection counts as broken; None: they end by themselves.
        The agent says something every 5 s."""

    @property
    def first_seconds(self) -> float | None:
        """The same for the agent's first answer."""

    def ended(self) -> NoReturn:
        """Raise what the end of the streams means."""

    def close(self, *, connected: bool) -> None:
        """End them. ``connected`` says whether the agent has answered."""


class Link(Closing):
    """A connection by two streams. A context manager. Raises HostError if the agent cannot run
    there, ConnectionBrokenError when the connection breaks."""

    def __init__(self, streams: Streams) -> None:
        self.host = streams.name
        self._streams = streams
        self._buffer = b""
        self._waiting: deque[dict[str, Any]] = deque()
        self._begun = self._connected = False
        self._silence_seconds = streams.first_seconds
        self._heard = time.monotonic()

    # --- the beginning --------------------------------------------------------------------------

    def begin(self) -> None:
        """Wait until the agent answers. Nothing happens if it does already.

        Until then the connection is made while the caller does something else.
        """
        if self._begun:
            return
        self._begun = True
        try:
            self._begin()
        except ConnectionBrokenError as error:  # before there was one
            raise HostError(str(error)) from None
        self._connected = True
        self._silence_seconds = self._streams.silence_seconds

    def _begin(self) -> None:
        agents = package.names()
        token = f"kickbench-{secrets.token_hex(8)}:"
        source = built_file(kickbench.agent.__path__, "bootstrap.py").read_text()
        self._write(f"exec({source!r})\n".encode())
        self._write(json.dumps({"token": token, "agents": agents}).encode() + b"\n")
        hello = self._hello(token)
        if hello["machine"] not in agents:
            raise HostError(self._lacks(hello["machine"]))
        data = b"" if hello["have"] else package.agent(hello["machine"])[1]
        self._write(json.dumps({"size": len(data)}).encode() + b"\n")
        self._write(data)
        self._hello(token)

    def _hello(self, token: str) -> dict[str, Any]:
        """The next answer of the bootstrap. What a login shell prints before it is passed over."""
        mark = token.encode()
        until = self._until()
        while mark not in self._buffer or b"\n" not in self._buffer.partition(mark)[2]:
            self._check_python()
            if len(self._buffer) > MAX_BANNER_BYTES:
                raise HostError(
                    f"{self.host}: the login shell there prints without an end: repair its "
                    "start-up files"
                )
            self._receive(until)
        line, _, self._buffer = self._buffer.partition(mark)[2].partition(b"\n")
        try:
            hello: dict[str, Any] = json.loads(line)
            error = hello.get("error")
            detail = shorten(printable(str(hello.get("detail", ""))), 500)
            version = shorten(printable(str(hello.get("python", ""))), 20)
            machine = shorten(printable(str(hello.get("machine", ""))), 20)
        except (ValueError, AttributeError):
            raise HostError(f"{self.host}: the agent there sent what is no message") from None
        if error == "python":
            raise HostError(
                f"{self.host} has Python {version}, and the agent needs 3.9 or later: install one "
                "there, for example python3.9"
            )
        if error == "machine":
            raise HostError(self._lacks(machine))
        if error == "folder":
            raise HostError(
                f"{self.host} has no folder for the agent: {detail}\nmake one writable there that "
                "programs may be loaded from"
            )
        if error:
            raise HostError(f"{self.host}: the agent cannot be unpacked: {detail}; make room there")
        return {"have": hello.get("have") is True, "machine": machine}

    def _lacks(self, machine: str) -> str:
        """That there is no agent for the machine, and why."""
        return f"{self.host} is {machine}, and {package.why_none(machine)}"

    def _check_python(self) -> None:
        if NO_PYTHON.encode() in self._buffer:
            raise HostError(
                f"{self.host} has no Python 3: install it there (Debian, Ubuntu: "
                "apt install python3; Fedora: dnf install python3; Alpine: apk add python3)"
            )

    # --- asking and listening -------------------------------------------------------------------

    def send(self, op: str, *words: Any, **what: Any) -> None:
        """Send a request."""
        self.begin()
        self._write(json.dumps({"op": op, "words": words, **what}).encode() + b"\n")

    def send_file(self, path: Path) -> None:
        """Send a file."""
        data = path.read_bytes()
        self.send("bring", name=path.name, size=len(data))
        self._write(data)
        self.answer("brought")

    def answer(self, *wanted: str) -> dict[str, Any]:
        """The next message of one of these events. Other messages wait for :meth:`events`."""
        while True:
            message = self._message()
            if message["event"] == "error":
                kind = _ERRORS.get(message["exit_code"], HostError)
                raise kind(f"{self.host}: {printable(message['reason'])}")
            if message["event"] in wanted:
                return message
            self._waiting.append(message)

    def ready(self, seconds: float) -> bool:
        """Whether there is something to read. Waits for ``seconds`` at most."""
        if self._waiting or self._buffer:
            return True
        if select.select([self._streams.source], [], [], seconds)[0]:
            return True
        silence = self._silence_seconds
        if silence is not None and time.monotonic() - self._heard > silence:
            raise ConnectionBrokenError(self._silent())
        return False

    def events(self) -> Iterator[dict[str, Any]]:
        """All messages that nobody has asked for, without an end."""
        while True:
            message = self._waiting.popleft() if self._waiting else self._message()
            if message["event"] == "error":
                raise MachineFailedError(f"{self.host}: {printable(message['reason'])}")
            yield message

    def receive_file(self, path: Path, size: int) -> None:
        """Write the next ``size`` bytes to a file."""
        with path.open("wb") as file:
            while size:
                if not self._buffer:
                    self._receive(self._until())
                part, self._buffer = self._buffer[:size], self._buffer[size:]
                file.write(part)
                size -= len(part)

    def pass_over(self, event: str) -> None:
        """Wait for an event, whatever comes before it: the rest of a file, or of a line."""
        mark = json.dumps({"event": event}).encode() + b"\n"
        self._waiting.clear()
        while mark not in self._buffer:
            self._buffer = self._buffer[-len(mark) :]
            self._receive(self._until())
        self._buffer = self._buffer.partition(mark)[2]

    def close(self) -> None:
        """End the connection. A run that has its jobs goes on there."""
        self._streams.close(connected=self._connected)

    def _message(self) -> dict[str, Any]:
        while True:
            until = self._until()
            while b"\n" not in self._buffer:
                if len(self._buffer) > messages.MAX_LINE_BYTES:
                    raise MachineFailedError(f"{self.host} sent a line without an end")
                self._receive(until)
            line, _, self._buffer = self._buffer.partition(b"\n")
            try:
                message = messages.parse(line)
            except ValueError as error:
                shown = shorten(printable(str(error)), 200)
                raise MachineFailedError(f"{self.host} sent what is no message: {shown}") from None
            if message["event"] != "alive":
                return message

    def _until(self) -> float | None:
        """When a silence that begins now is too long, by the monotonic clock; None: never."""
        seconds = self._silence_seconds
        return None if seconds is None else time.monotonic() + seconds

    def _receive(self, until: float | None) -> None:
        """Wait for bytes until a time of the monotonic clock; None: without an end."""
        left = None if until is None else max(0.0, until - time.monotonic())
        if not select.select([self._streams.source], [], [], left)[0]:
            raise ConnectionBrokenError(self._silent())
        try:
            data = os.read(self._streams.source, 1 << 20)
        except ConnectionResetError:  # a socket whose other end was closed
            data = b""
        if not data:
            self._streams.ended()
        self._heard = time.monotonic()
        self._buffer += data

    def _silent(self) -> str:
        return f"{self.host} has said nothing for {self._silence_seconds:.0f} s"

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._streams.to, view) :]
        except (BrokenPipeError, ConnectionResetError):
            self._drain()

    def _drain(self) -> None:
        """What the other end said before it went may explain it."""
        until = self._until()
        while True:
            self._check_python()
            self._receive(until)
