# SPDX-License-Identifier: Apache-2.0
"""How process 1 of a machine follows its command and ends, without the machine: in a process
namespace of its own, whose process 1 it is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from kickbench.lab import inside

# A child that has left a process behind, which writes for ever.
FINISH = """
import os, subprocess, sys
from kickbench.lab import inside

class Link:
    control = 1
    relayed = {}
    def pass_on(self, name, data): pass
    def tell_files(self): return not sys.argv[1:]
    def drain(self): pass

assert os.getpid() == 1
reader, writer = os.pipe()
Link.relayed[reader] = "stdout"
subprocess.Popen(["yes"], stdout=writer, start_new_session=True)
os.close(writer)
os.read(reader, 1)
inside._finish(0, Link())
"""
IN_A_NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]


def finish(*arguments: str) -> str:
    if not shutil.which("unshare") or subprocess.run([*IN_A_NAMESPACE, "true"]).returncode:
        pytest.skip("no process namespace of one's own")
    command = [*IN_A_NAMESPACE, sys.executable, "-c", FINISH, *arguments]
    return subprocess.run(
        command, stdout=subprocess.PIPE, text=True, timeout=600, check=True
    ).stdout


def test_what_the_command_has_left_behind_does_not_keep_the_machine() -> None:
    assert finish() == "exit 0\n"


def test_a_run_that_is_not_brought_out_has_failed() -> None:
    assert finish("full") == "exit 4\n"


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
