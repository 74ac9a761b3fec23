# SPDX-License-Identifier: Apache-2.0
"""A Dask cluster for one command: a scheduler in this process, and a worker on each host by ssh.

ssh carries all that the two say, so ssh is all that a host needs to let in. TLS keeps other users
of the machines out of the ports on loopback that ssh opens for it: a scheduler does what anyone
asks that reaches it.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from kickbench.errors import HostError, UsageError
from kickbench.fleet.files import INSTALL
from kickbench.fleet.inventory import Host
from kickbench.fleet.versions import differing, versions
from kickbench.fleet.worker import ANSWER, END, END_SECONDS
from kickbench.numbers import plural
from kickbench.remote import ssh
from kickbench.results.schema import one_line

if TYPE_CHECKING:
    from distributed.security import Security

START_SECONDS = 120
AT_ONCE = 32
"""Connections that are made at a time."""

_OPTIONS = (
    # A fleet is many: nobody can answer their questions.
    *("-o", "BatchMode=yes", "-o", "ConnectTimeout=20"),
    # A connection that others share would keep our ports.
    *("-o", "ControlMaster=no", "-o", "ControlPath=none"),
    *("-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=10"),
    *("-o", "LogLevel=INFO"),  # or it would not say which port it got
)
_PORT = re.compile(r"Allocated port (\d+) for remote forward")
_NONE, _VERSION = "kickbench-none", "kickbench-version: "
_PROGRAM = (
    f"import kickbench; print('{_VERSION}' + kickbench.__version__, flush=True); "
    "from kickbench.fleet import worker; worker.main()\n"
)
"""It names the version before it needs what only this one may have."""
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._/+-]+")


def _command(python: str | None) -> str:
    """The command for a host. It is for any login shell, so it has no quotes inside."""
    ours = [sys.executable] if _PLAIN_PATH.fullmatch(sys.executable) else []
    candidates = [python] if python else [*ours, "python3"]
    return (
        f"exec sh -c 'for p in {' '.join(candidates)}; do"
        ' if "$p" -P -c "import kickbench" >/dev/null 2>&1; then'
        ' exec "$p" -P -c "import sys;exec(sys.stdin.readline())"; fi; done;'
        f" echo {_NONE}'"
    )


class Worker:
    """A worker on a host. ``port`` is a free one here; what connects to it reaches the worker."""

    def __init__(self, host: Host, order: dict[str, Any], port: int) -> None:
        there = f"127.0.0.2:{port}"  # not 127.0.0.1: the host may be this one
        self._order = {**order, "host": f"tls://{there}", "contact": f"tls://127.0.0.1:{port}"}
        scheduler = order["scheduler"].removeprefix("tls://")
        forwards = ["-R", f"127.0.0.1:0:{scheduler}", "-L", f"127.0.0.1:{port}:{there}"]
        options = [*_OPTIONS, *forwards, *(("-p", str(host.port)) if host.port else ())]
        words = [*ssh.command(host.address, *options), _command(host.python)]
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C is for us, and ssh finds no terminal to ask on
            )
        except OSError as error:
            raise HostError(f"{words[0]} cannot be run: {error.strerror}") from None

    def begin(self) -> None:
        """Wait until it is a worker. Raises HostError, in one line, if it is none."""
        late = threading.Timer(START_SECONDS, self._process.kill)
        late.start()
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        finally:
            late.cancel()

    def _begin(self) -> None:
        assert self._process.stdout is not None
        said: list[str] = []
        for line in self._process.stdout:
            if port := _PORT.search(line):
                self._order["scheduler"] = f"tls://127.0.0.1:{port[1]}"
                self._send(_PROGRAM + json.dumps(self._order) + "\n")
            elif line.startswith(_VERSION):
                version = line.removeprefix(_VERSION).strip()
                if others := differing({**versions(), "kickbench": version}, versions()):
                    raise HostError(one_line(others)[:300])
            elif line.startswith(_NONE):
                raise HostError(
                    f"no Python there has kickbench: {INSTALL} there, or name its Python with "
                    "ansible_python_interpreter"
                )
            elif line.startswith(ANSWER):
                answer = json.loads(line.removeprefix(ANSWER))
                if "fault" in answer:
                    raise HostError(one_line(answer["fault"])[:300])
                return
            elif line.strip():
                said.append(line.strip())
        last = "; ".join(said[-2:]) or f"ssh ended within {START_SECONDS} s and said nothing"
        raise HostError(one_line(last)[:300])

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # it has ended; what it said last tells why
            self._process.stdin.write(text)
            self._process.stdin.flush()

    def end(self) -> None:
        """Have the worker end when nothing runs there."""
        self._send(END)

    def close(self, seconds: float = 0) -> None:
        """Wait so long for its end, and then cut it off."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(OSError):
                stream.close()


@contextmanager
def workers(
    hosts: Sequence[Host], say: Callable[[str], None]
) -> Iterator[tuple[str, Security, dict[str, str]]]:
    """A scheduler with a worker on each host, as long as the ``with`` block lasts.

    It gets the scheduler's address, what its clients need, and why other hosts have no worker.
    ``say`` gets a line. Raises UsageError if Dask is not installed.
    """
    try:
        from distributed import LocalCluster
        from distributed.security import Security

        security = Security.temporary()  # type: ignore[no-untyped-call]
    except ImportError:
        raise UsageError(f"fleet run needs Dask; {INSTALL}") from None
    made: list[Worker] = []
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=0,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        security=security,
        silence_logs=logging.CRITICAL,
    ) as cluster:
        order = {
            "scheduler": cluster.scheduler_address,
            "versions": versions(),
            "security": {
                "tls_ca_file": security.tls_ca_file,
                "tls_worker_cert": security.tls_worker_cert,
                "tls_worker_key": security.tls_worker_key,
            },
        }
        say(f"connecting to {plural(len(hosts), 'host')} by ssh")
        try:
            yield cluster.scheduler_address, security, _started(hosts, order, made)
        finally:
            _ended(made)


def _started(hosts: Sequence[Host], order: dict[str, Any], made: list[Worker]) -> dict[str, str]:
    """Start all workers, and return why some have not."""

    def start(host: Host, port: int) -> None:
        made.append(Worker(host, order, port))
        made[-1].begin()

    faults = {}
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        starts = [pool.submit(start, *each) for each in zip(hosts, _ports(len(hosts)), strict=True)]
        for host, begun in zip(hosts, starts, strict=True):
            try:
                begun.result()
            except HostError as error:
                faults[host.name] = str(error)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return faults


def _ports(count: int) -> list[int]:
    """Ports on loopback that nobody has."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _ended(made: Sequence[Worker]) -> None:
    """End all workers, each when nothing runs there."""
    until = time.monotonic() + END_SECONDS
    try:
        for worker in made:
            worker.end()
        for worker in made:
            worker.close(max(0.0, until - time.monotonic()))
    finally:
        for worker in made:
            worker.close()
