# SPDX-License-Identifier: Apache-2.0
"""A connection to the agent on another machine: it starts the agent there, asks and listens."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import select
import shlex
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import kickbench.agent
from kickbench.closing import Closing
from kickbench.errors import ConnectionBrokenError, HostError, MachineFailedError, UsageError
from kickbench.native import built_file
from kickbench.remote import messages
from kickbench.remote.package import agent
from kickbench.run.machine import is_host
from kickbench.text import printable, shorten

SILENCE_SECONDS = 30.0
"""The agent says something every 5 s. After so long a silence the connection counts as broken."""
MAX_BANNER_BYTES = 1 << 20
VARIABLE = "KICKBENCH_SSH"

# For any login shell, so it has no quotes inside. Python gets no packages (-S): one could be
# another kickbench. It reads its program from standard input, one line, and leaves the rest alone.
_START = (
    "exec sh -c 'for p in python3 python3.13 python3.12 python3.11 python3.10 python3.9"
    " /usr/libexec/platform-python; do if command -v $p >/dev/null 2>&1; then"
    ' exec $p -u -E -S -c "import io;exec(io.FileIO(0,closefd=False).readline())"; fi; done;'
    " echo; echo kickbench-no-python; exit 127'"
)
_NO_PYTHON = b"kickbench-no-python"


def ssh(host: str) -> list[str]:
    """The command that reaches a host. Raises UsageError for what is no host's name or command."""
    if not is_host(host):
        raise UsageError(f"--host: {shorten(printable(host))!r} is no host; write user@box or box")
    try:
        command = shlex.split(os.environ.get(VARIABLE, "")) or ["ssh"]
    except ValueError as error:
        raise UsageError(f"{VARIABLE}: {str(error).lower()}; write it as for a shell") from None
    return [*command, "-T", "--", host]


class Link(Closing):
    """A connection to ``host`` through ``command``, which gets the shell line to run as its last
    argument. A context manager. Raises HostError if the host cannot be reached or cannot run the
    agent, ConnectionBrokenError when the connection breaks."""

    def __init__(self, host: str, command: Sequence[str] | None = None) -> None:
        self.host = host
        words = [*(command or ssh(host)), _START]
        self._stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed in close)
        before = signal.getsignal(signal.SIGINT)
        # Ctrl-C on the terminal is for us, and ssh leaves a signal alone that it finds ignored. It
        # keeps the terminal, so that it can ask for a password.
        try:
            with _ignored(before):
                self._process = subprocess.Popen(
                    words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr
                )
        except OSError as error:
            self._stderr.close()
            raise HostError(
                f"{words[0]} cannot be run: {error.strerror}; install ssh, or set {VARIABLE}"
            ) from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._buffer = b""
        self._waiting: deque[dict[str, Any]] = deque()
        self._begun = self._connected = False

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

    def _begin(self) -> None:
        name, data = agent()
        token = f"kickbench-{secrets.token_hex(8)}:"
        source = built_file(kickbench.agent.__path__, "bootstrap.py").read_text()
        self._write(f"exec({source!r})\n".encode())
        self._write(json.dumps({"token": token, "agent": name}).encode() + b"\n")
        hello = self._hello(token)
        if hello["machine"] != platform.machine():
            raise HostError(
                f"{self.host} is {hello['machine']}, and this kickbench is built for "
                f"{platform.machine()}: run kickbench from a machine of that architecture"
            )
        if hello["have"]:
            data = b""
        self._write(json.dumps({"size": len(data)}).encode() + b"\n")
        self._write(data)
        self._hello(token)

    def _hello(self, token: str) -> dict[str, Any]:
        """The next answer of the bootstrap. What a login shell prints before it is passed over."""
        mark = token.encode()
        until = None  # a password may be asked for
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
        if error == "folder":
            raise HostError(
                f"{self.host} has no folder for the agent: {detail}\nmake one writable there that "
                "programs may be loaded from"
            )
        if error:
            raise HostError(f"{self.host}: the agent cannot be unpacked: {detail}; make room there")
        return {"have": hello.get("have") is True, "machine": machine}

    def _check_python(self) -> None:
        if _NO_PYTHON in self._buffer:
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
                raise HostError(f"{self.host}: {printable(message['reason'])}")
            if message["event"] in wanted:
                return message
            self._waiting.append(message)

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
                    self._receive(time.monotonic() + SILENCE_SECONDS)
                part, self._buffer = self._buffer[:size], self._buffer[size:]
                file.write(part)
                size -= len(part)

    def pass_over(self, event: str) -> None:
        """Wait for an event, whatever comes before it: the rest of a file, or of a line."""
        mark = json.dumps({"event": event}).encode() + b"\n"
        self._waiting.clear()
        while mark not in self._buffer:
            self._buffer = self._buffer[-len(mark) :]
            self._receive(time.monotonic() + SILENCE_SECONDS)
        self._buffer = self._buffer.partition(mark)[2]

    def close(self) -> None:
        """End the connection. A run that has its jobs goes on there."""
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        if not self._connected:
            # It may be asking for a password, and reads on. It gives the terminal its echo back.
            self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def _message(self) -> dict[str, Any]:
        while True:
            until = time.monotonic() + SILENCE_SECONDS
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

    def _receive(self, until: float | None) -> None:
        """Wait for bytes until a time of the monotonic clock; None: without an end."""
        left = None if until is None else max(0.0, until - time.monotonic())
        if not select.select([self._from], [], [], left)[0]:
            raise ConnectionBrokenError(f"{self.host} has said nothing for {SILENCE_SECONDS:.0f} s")
        data = os.read(self._from, 1 << 20)
        if not data:
            self._ended()
        self._buffer += data

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._to, view) :]
        except BrokenPipeError:
            self._drain()

    def _drain(self) -> None:
        """What the other end said before it went may explain it."""
        until = time.monotonic() + SILENCE_SECONDS
        while True:
            self._check_python()
            self._receive(until)

    def _ended(self) -> None:
        """Raise what the end of the connection means."""
        code = self._process.wait()
        self._stderr.seek(0)
        said = [line.strip() for line in self._stderr.read()[-4000:].splitlines() if line.strip()]
        last = ": " + printable("; ".join(said[-3:])) if said else f" (status {code})"
        raise ConnectionBrokenError(f"the connection to {self.host} ended{last}")


@contextlib.contextmanager
def _ignored(before: Any) -> Iterator[None]:
    """SIGINT is ignored in the ``with`` block, as a new process inherits it."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not in the main thread: nothing is sent to it alone
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
