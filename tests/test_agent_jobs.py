# SPDX-License-Identifier: Apache-2.0
"""A run on another machine waits for its jobs as long as somebody can send them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from watching import wait_for

from kickbench.agent import supervisor
from kickbench.agent.runs import Run
from kickbench.agent.server import _Server

SERVER = """
import os, sys, time
from pathlib import Path
from kickbench.agent import supervisor
from kickbench.agent.runs import Run
run = Run.new(Path(sys.argv[1]))
supervisor.start(run, "test", wait=False)
print(run.folder, flush=True)
sys.stdin.read()
"""


def test_a_run_goes_when_the_server_has_ended_without_jobs(tmp_path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-P", "-c", SERVER, tmp_path], stdin=-1, stdout=-1, text=True
    )
    with server:
        assert server.stdout is not None
        folder = Path(server.stdout.readline().strip())
        wait_for(lambda: '"turn"' in (folder / "journal").read_text())
        assert folder.is_dir()
        server.kill()
    wait_for(lambda: not folder.exists())


def test_jobs_may_take_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first looks find none, and the server is alive."""
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.001)
    run = Run.new(tmp_path)
    commands = supervisor._Commands(run)
    threading.Timer(0.3, lambda: commands._folders.put(run.folder)).start()
    found = commands.jobs(os.getppid())
    assert found is not None
    assert found.folder == run.folder


def test_a_file_that_cannot_be_kept_is_no_request(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server = _Server(tmp_path)
    server._run = Run(tmp_path / "gone")
    server._input = b"\xc0\n\xa5{}\nrest"
    server._answer({"op": "bring", "name": "mine.so", "size": 6})
    assert server._input == b"rest"
    assert json.loads(capfd.readouterr().out)["event"] == "error"
