# SPDX-License-Identifier: Apache-2.0
"""The streams of a Python on another machine, by the user's own ssh."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from kickbench.errors import ConnectionBrokenError, HostError, UsageError
from kickbench.remote.link import NO_PYTHON, PYTHON_ARGUMENTS
from kickbench.run.machine import is_host
from kickbench.text import printable, shorten

VARIABLE = "KICKBENCH_SSH"
SILENCE_SECONDS = 30.0
FIRST_SECONDS = 600.0
"""ssh may ask for a password, and the agent is sent."""

*_OPTIONS, _PROGRAM = PYTHON_ARGUMENTS
# For any login shell, so it has no quotes inside.
_START = (
    "exec sh -c 'for p in python3 python3.13 python3.12 python3.11 python3.10 python3.9"
    " /usr/libexec/platform-python; do if command -v $p >/dev/null 2>&1; then"
    f' exec $p {" ".join(_OPTIONS)} "{_PROGRAM}"; fi; done;'
    f" echo; echo {NO_PYTHON}; exit 127'"
)


def command(host: str, *options: str) -> list[str]:
    """The command that reaches a host, with more options for ssh.

    Raises UsageError for what is no host's name or command.
    """
    if not is_host(host):
        raise UsageError(f"--host: {shorten(printable(host))!r} is no host; write user@box or box")
    try:
        words = shlex.split(os.environ.get(VARIABLE, "")) or ["ssh"]
    except ValueError as error:
        raise UsageError(f"{VARIABLE}: {str(error).lower()}; write it as for a shell") from None
    return [*words, *options, "-T", "--", host]


class Ssh:
    """The streams of a Python on ``host``, as :class:`kickbench.remote.link.Streams`.

    ``through`` gets the shell line to run as its last argument; None: what :func:`command` says.
    Raises HostError if ssh cannot be run.
    """

    silence_seconds = SILENCE_SECONDS
    first_seconds = FIRST_SECONDS

    def __init__(self, host: str, through: Sequence[str] | None = None) -> None:
        self.name = host
        words = [*(through or command(host)), _START]
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
        self.to, self.source = self._process.stdin.fileno(), self._process.stdout.fileno()

    def ended(self) -> NoReturn:
        """Raise ConnectionBrokenError with what ssh said last."""
        code = self._process.wait()
        self._stderr.seek(0)
        said = [line.strip() for line in self._stderr.read()[-4000:].splitlines() if line.strip()]
        last = ": " + printable("; ".join(said[-3:])) if said else f" (status {code})"
        raise ConnectionBrokenError(f"the connection to {self.name} ended{last}")

    def close(self, *, connected: bool) -> None:
        """End ssh."""
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        if not connected:
            # It may be asking for a password, and reads on. It gives the terminal its echo back.
            self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()


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
