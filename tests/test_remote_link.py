# SPDX-License-Identifier: Apache-2.0
"""A link and its machine over plain streams: a socket to a Python that this process has started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from kickbench.errors import ConnectionBrokenError, HostError, MachineFailedError
from kickbench.remote.box import Box
from kickbench.remote.link import PYTHON_ARGUMENTS, Link
from kickbench.run.emulated import Mark
from kickbench.run.machine import Facts


class Plain:
    """One socket to the standard input and output of a Python."""

    name = "plain"
    silence_seconds: float | None = None
    first_seconds: float | None = None

    def __init__(self, *arguments: str) -> None:
        self._ours, theirs = socket.socketpair()
        self.to = self.source = self._ours.fileno()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, *(arguments or PYTHON_ARGUMENTS)], stdin=theirs, stdout=theirs
            )
        self.connected: bool | None = None

    def ended(self) -> NoReturn:
        raise MachineFailedError(f"plain ended with {self.process.wait()}")

    def close(self, *, connected: bool) -> None:
        self.connected = connected
        self._ours.close()
        self.process.wait()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the agent goes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/kickbench/agent"


def test_any_two_streams_are_a_machine(home: Path) -> None:
    with Box(Plain()) as box:
        assert box.look() == Facts.of_this_host()
        assert box.host == "plain"
    assert home.is_dir()


def test_an_emulated_machine_is_named_by_its_mark() -> None:
    mark = Mark("QEMU", [], "kickbench lab run --resume")
    with Box(Plain(), mark) as box:
        assert (box.host, box.mark) == (None, mark)


def test_streams_are_told_whether_the_agent_has_answered() -> None:
    with Link(streams := Plain()) as link:
        link.send("facts")
        link.answer("facts")
    assert streams.connected is True
    with Link(streams := Plain()):
        pass
    assert streams.connected is False


@pytest.mark.parametrize("program", ["pass", "input(); input()"])
def test_the_streams_say_what_their_end_means(program: str) -> None:
    with (
        pytest.raises(MachineFailedError, match="plain ended with 0"),
        Box(Plain("-c", program)) as box,
    ):
        box.look()


def test_a_socket_that_is_reset_has_ended() -> None:
    # What it has not read is lost, so the other end gets a reset.
    program = "import os, sys; os.read(0, 1)"
    streams = Plain("-c", program)
    with Link(streams) as link:
        os.write(streams.to, b"x" * 10000)
        streams.process.wait()
        with pytest.raises(MachineFailedError, match="plain ended"):
            link.begin()


def test_an_agent_that_never_answers_is_left() -> None:
    streams = Plain("-c", "import time; print(flush=True); time.sleep(600)")
    streams.first_seconds = 0.1
    try:
        link = Link(streams)
        with pytest.raises(HostError, match="plain has said nothing for 0 s"):
            link.begin()
    finally:
        streams.process.kill()
        link.close()


def test_a_silence_ends_a_connection_if_its_streams_say_so() -> None:
    streams = Plain()
    streams.silence_seconds = 0.1
    with Link(streams) as link:
        link.begin()
        os.kill(streams.process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(ConnectionBrokenError, match="plain has said nothing for 0 s"):
                link.pass_over("nothing")
        finally:
            os.kill(streams.process.pid, signal.SIGCONT)
