# SPDX-License-Identifier: Apache-2.0
"""The runner's side of a worker process: it starts, hears and stops the worker, and leaves none.

The worker's own side is :mod:`kickbench.run.worker`.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from typing import Any

from kickbench.affinity import current_cpu, pinned
from kickbench.closing import Closing
from kickbench.errors import MeasurementError, StorageError
from kickbench.text import shorten

# The worker reports twice a second. It needs longer to build a VM of 1024 vCPUs, and to end a block
# whose vCPU is stuck. A worker that is silent for even longer hangs.
SILENCE_SECONDS = 60.0
# -P: a folder named kickbench in the current directory is not the installed package. An older
# Python is that of an agent, whose directory is the root. An agent's Python has no packages (-S),
# and nor have those that it starts.
PYTHON = [
    sys.executable,
    *(["-P"] if sys.version_info >= (3, 11) else []),
    *(["-S"] if sys.flags.no_site else []),
]
"""How Python is started with kickbench as it is in this process."""
# The C library keeps the stacks of threads that ended. A vCPU's thread would get such a stack, with
# its TLS, on the node of the thread that had created the earlier thread.
_STACKS = "glibc.pthread.stack_cache_size=0"


def worker_environment() -> dict[str, str]:
    """The environment of a worker: the user's own, with ours last. So are the C library's tunables,
    of which a later one wins (ld.so(8))."""
    tunables = f"{os.environ.get('GLIBC_TUNABLES', '')}:{_STACKS}".lstrip(":")
    return {**os.environ, "GLIBC_TUNABLES": tunables}


def _message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
        message["event"]
    except (ValueError, LookupError, TypeError):
        shown = shorten(line.decode(errors="replace"), 80)
        raise MeasurementError(f"the worker process sent what is no message: {shown}") from None
    return dict(message)


def _signal_name(number: int) -> str:
    """As kill -l prints it. Python knows only the first and the last of the real-time signals."""
    if signal.SIGRTMIN < number < signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    try:
        return signal.Signals(number).name
    except ValueError:  # the C library's own
        return f"signal {number}"


class WorkerProcess(Closing):
    """Runs one order (text, one line) in a process of its own. A context manager: at its end the
    process is gone.

    ``creator_cpus`` are the CPUs that this process runs on while it creates the worker. They decide
    the node of the worker's ``sighand_struct``, which has siglock (kernel/fork.c, copy_sighand).
    ``created_on`` are the CPUs that this process was seen on just before and just after.
    Raises MeasurementError when the worker does not start, dies, hangs or reports a failure,
    StorageError when it could not write.
    """

    def __init__(self, order: str, creator_cpus: Collection[int] | None = None) -> None:
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in close)
        with pinned(creator_cpus, "the creator of the worker process"):
            before = current_cpu()
            # A session of its own: Ctrl-C on the terminal is for the runner to act on.
            try:
                self._process = subprocess.Popen(
                    [*PYTHON, "-m", "kickbench.run.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._stderr,
                    start_new_session=True,
                    env=worker_environment(),
                )
            except OSError as error:
                self._stderr.close()
                raise MeasurementError(
                    f"the worker process cannot be started: {error.strerror}; see the limits of "
                    "processes and open files (ulimit -u, ulimit -n)"
                ) from error
            self.created_on = {before, current_cpu()} - {-1}
        self._tail = b""
        self._send(order + "\n")

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def messages(self, silence_seconds: float = SILENCE_SECONDS) -> Iterator[dict[str, Any]]:
        """The worker's messages, each as it comes, until the worker is done."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            heard = time.monotonic()
            while True:
                left = heard + silence_seconds - time.monotonic()
                if left <= 0:
                    raise MeasurementError(
                        f"the worker process did not answer for {silence_seconds:.0f} s and was "
                        "killed: it hung, or it got no CPU; try again on a quieter host"
                    )
                if not selector.select(left):
                    continue
                data = os.read(descriptor, 1 << 16)
                if not data:
                    self._check_end()
                    return
                heard = time.monotonic()
                *lines, self._tail = (self._tail + data).split(b"\n")
                for line in lines:
                    message = _message(line)
                    if message["event"] == "failed":
                        error = StorageError if message.get("storage") else MeasurementError
                        raise error(message["reason"])
                    yield message

    def ask_to_stop(self) -> None:
        """Have the worker end after its current round."""
        self._send("stop\n")

    def close(self) -> None:
        """Kill the worker if it still runs, and wait for its end."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                # What the worker did not read before it ended is lost.
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._stderr.close()

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None
        # If the worker has ended, messages() raises the error.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()

    def _check_end(self) -> None:
        code = self._process.wait()
        if code == 0:
            return
        how = f"ended with status {code}"
        if code < 0:
            how = f"was killed by {_signal_name(-code)}"
        self._stderr.seek(0)
        last = self._stderr.read()[-4000:].strip().rpartition("\n")[2]
        raise MeasurementError(f"the worker process {how}" + (f": {last}" if last else ""))
