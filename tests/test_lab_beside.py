# SPDX-License-Identifier: Apache-2.0
"""Work in a process of its own: what comes back, and that nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kickbench.errors import HostError, MeasurementError
from kickbench.lab.beside import beside


def test_work_is_done_in_another_process() -> None:
    with beside(lambda: (os.getpid(), ["a", 1.5])) as result:
        pid, found = result()
    assert pid != os.getpid()
    assert found == ["a", 1.5]


def test_an_error_of_the_work_is_raised_where_it_is_asked_for() -> None:
    def fail() -> None:
        raise HostError("no emulator")

    with beside(fail) as result, pytest.raises(HostError, match="no emulator"):
        result()


def test_work_that_was_killed_has_no_result() -> None:
    with (
        beside(lambda: os.kill(os.getpid(), signal.SIGKILL)) as result,
        pytest.raises(MeasurementError, match="was killed"),
    ):
        result()


def test_work_that_was_interrupted_interrupts_us() -> None:
    with (
        beside(lambda: signal.raise_signal(signal.SIGINT)) as result,
        pytest.raises(KeyboardInterrupt),
    ):
        result()


def test_an_error_of_ours_ends_the_work(tmp_path: Path) -> None:
    def work() -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(600)

    def fail() -> None:
        with beside(work):
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
                time.sleep(0.01)
            raise HostError("ours")

    with pytest.raises(HostError, match="ours"):
        fail()
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()


CHILD = """
import os, sys, time
from pathlib import Path
from kickbench.lab.beside import beside
def work():
    Path(sys.argv[1]).write_text(f"{os.getpid()}\\n")
    time.sleep(600)
with beside(work) as result:
    result()
"""


def test_the_work_does_not_outlive_us(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", CHILD, path]) as ours:
        while not path.exists() or not path.read_text().endswith("\n"):
            time.sleep(0.01)
        ours.kill()
    work = Path("/proc", path.read_text().strip(), "status")
    while work.exists() and "(zombie)" not in work.read_text():
        time.sleep(0.01)
