# SPDX-License-Identifier: Apache-2.0
"""How process 1 of a machine follows its command and ends, without the machine: in a process
namespace of its own, whose process 1 it is. Its streams go by the windows of a file."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kickbench.errors import MeasurementError
from kickbench.lab import disk, inside
from kickbench.lab.emulation import Order, Running
from kickbench.lab.emulator import Limits, Session

IN_A_NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--uts", "--fork"]
IN_A_NAMESPACE += ["--kill-child"]
EXECUTE = """
import sys
from pathlib import Path
from kickbench.lab import inside
inside.execute(inside._Serial(int(sys.argv[1]), Path(sys.argv[2]), direct=False))
"""


@contextlib.contextmanager
def started(folder: Path, *argv: str, talks: bool = False) -> Iterator[Running]:
    """Process 1 with this order, and with a socket for its serial port."""
    if not shutil.which("unshare") or subprocess.run([*IN_A_NAMESPACE, "true"]).returncode:
        pytest.skip("no process namespace of one's own")
    order = Order(argv, dict(os.environ), folder, talks=talks)
    disk.write(folder / "disk", order.to_json("inside"), [])
    ours, theirs = socket.socketpair()
    command = [*IN_A_NAMESPACE, sys.executable, "-c", EXECUTE, str(theirs.fileno())]
    with ours, closing(disk.Windows(folder / "disk")) as windows:
        with theirs:
            process = subprocess.Popen([*command, str(folder / "disk")], pass_fds=[theirs.fileno()])
        try:
            yield Running(process, {"control": ours.fileno()}, windows)
        finally:
            process.kill()
            process.wait()


def output(folder: Path, *argv: str) -> tuple[int | None, bytes, bytes]:
    """The exit status of a command, and what it writes."""
    reader, writer = os.pipe()
    with (
        started(folder, *argv) as running,
        (folder / "stdout").open("wb") as stdout,
        (folder / "stderr").open("wb") as stderr,
    ):
        outlets = {"stdout": stdout.fileno(), "stderr": stderr.fileno()}
        status = Session("inside", running, Limits()).run(reader, outlets)
    os.close(reader)
    os.close(writer)
    return status, (folder / "stdout").read_bytes(), (folder / "stderr").read_bytes()


def test_the_streams_of_a_command_go_by_windows(tmp_path: Path) -> None:
    program = "import os, sys; os.write(2, b'aside'); sys.stdout.buffer.write(b'\\0\\xff' * 2**20)"
    found = output(tmp_path, sys.executable, "-c", program + "; sys.stdout.flush(); sys.exit(7)")
    assert found == (7, b"\0\xff" * 2**20, b"aside")


def test_a_command_without_an_input_reads_nothing(tmp_path: Path) -> None:
    assert output(tmp_path, "cat") == (0, b"", b"")


def test_what_the_command_has_left_behind_does_not_keep_the_machine(tmp_path: Path) -> None:
    status, _, errors = output(tmp_path, "sh", "-c", "setsid yes & sleep 0.1; exit 3")
    assert (status, errors) == (3, b"")


def test_a_command_may_talk_in_both_directions_at_once(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(5 << 20)
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair()
    with started(tmp_path, "cat", talks=True) as running, ours, theirs:
        session = Session("inside", running, Limits())
        arguments = (reader, {}, theirs.fileno())
        found: list[int | None] = []
        thread = threading.Thread(target=lambda: found.append(session.run(*arguments)))
        thread.start()
        sending = threading.Thread(target=ours.sendall, args=(data,))
        sending.start()
        time.sleep(0.5)  # nobody reads: it must not keep what is written
        received = b""
        while len(received) < len(data):
            received += ours.recv(1 << 16)
        sending.join()
        ours.shutdown(socket.SHUT_WR)
        thread.join()
    assert received == data
    assert found == [0]
    os.close(reader)
    os.close(writer)


def test_a_session_may_be_left(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with started(tmp_path, "sleep", "600") as running:
        os.close(writer)
        assert Session("inside", running, Limits()).run(reader, {}) is None
    os.close(reader)


def test_a_window_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with started(tmp_path, "sleep", "600") as running:
        session = Session("inside", running, Limits())
        session._outlets = {"stdout": 1}
        with pytest.raises(MeasurementError, match="sent what cannot be: stdout 99999999"):
            session._heed("stdout", "99999999")
    os.close(reader)
    os.close(writer)


def test_a_signal_reaches_a_command_without_a_group_of_its_own() -> None:
    child = subprocess.Popen(["sleep", "600"])
    assert os.getpgid(child.pid) != child.pid
    inside._signal(child.pid, signal.SIGTERM)
    assert child.wait(60) == -signal.SIGTERM


def test_a_signal_reaches_what_the_command_has_started() -> None:
    child = subprocess.Popen(
        ["sh", "-c", "sleep 600; true"], stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout is not None
    time.sleep(0.2)
    inside._signal(child.pid, signal.SIGTERM)
    assert child.stdout.read() == b""  # the last one to hold it has ended
    child.wait(60)
    child.stdout.close()
