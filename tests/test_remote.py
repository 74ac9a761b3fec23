# SPDX-License-Identifier: Apache-2.0
"""Measuring on another machine: by a real OpenSSH server on loopback, on real KVM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sshd
from command import KICKBENCH, kickbench_captured

SCENARIO = """
name = "tiny"
[vm]
vcpus = [1, 2]
[guest]
program = "pm_timer"
[measure]
methods = ["sigmask", "immediate_exit"]
processes = {processes}
max_seconds = {seconds}
precision = 1e-6
"""

pytestmark = pytest.mark.kvm


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sshd.Sshd]:
    if sshd.SSHD is None:
        assert not os.environ.get("KICKBENCH_REQUIRE_SSHD"), "the tests by ssh must run here"
        pytest.skip("no sshd: apt install openssh-server")
    folder = tmp_path / "sshd"
    folder.mkdir()
    with sshd.running(folder) as server:
        monkeypatch.setenv("KICKBENCH_SSH", server.ssh)
        yield server
        for pid in server.supervisors():
            os.kill(pid, signal.SIGKILL)


def scenario(folder: Path, processes: int = 2, seconds: float = 1.0) -> Path:
    path = folder / "tiny.toml"
    path.write_text(SCENARIO.format(processes=processes, seconds=seconds))
    return path


def only_run(results: Path) -> Path:
    (folder,) = results.glob("*/*")
    return folder


def statuses(folder: Path) -> list[str]:
    manifest = json.loads((folder / "manifest.json").read_text())
    return [entry["status"] for entry in manifest["cases"]]


def wait_for(condition: Callable[[], Any], seconds: float = 300.0) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen")


class Started:
    """A run on the box whose second case measures: its worker there is stopped."""

    def __init__(self, box: sshd.Sshd, path: Path, results: Path) -> None:
        self.box = box
        self.process = subprocess.Popen(
            [*KICKBENCH, "run", path, "--host", box.host, "--results", results],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.folder: Path = wait_for(lambda: next(iter(results.glob("*/*/manifest.json")), None))
        self.folder = self.folder.parent
        wait_for(lambda: statuses(self.folder)[0] == "ok")
        (self.supervisor,) = box.supervisors()
        self.worker: int = wait_for(lambda: next(iter(sshd.children(self.supervisor)), None))
        os.kill(self.worker, signal.SIGSTOP)

    def end(self) -> tuple[int, str]:
        """Its exit code, and what it said."""
        _, errors = self.process.communicate(timeout=300)
        return self.process.returncode, errors


@pytest.fixture
def started(box: sshd.Sshd, tmp_path: Path) -> Iterator[Started]:
    run = Started(box, scenario(tmp_path, 1, 4.0), tmp_path / "results")
    yield run
    run.process.kill()
    run.process.communicate()


def test_a_run_there_is_as_one_here(box: sshd.Sshd, tmp_path: Path) -> None:
    there = kickbench_captured(
        "run", scenario(tmp_path), "--host", box.host, "--results", tmp_path / "there"
    )
    assert there.returncode == 0, there.stderr
    here = kickbench_captured("run", scenario(tmp_path), "--results", tmp_path / "here")
    assert here.returncode == 0, here.stderr
    one, other = (only_run(tmp_path / name) for name in ("there", "here"))
    files = [{path.relative_to(run) for path in run.rglob("*")} for run in (one, other)]
    assert files[0] == files[1]
    for case_file in one.rglob("case.json"):
        documents = [
            json.loads((run / case_file.relative_to(one)).read_text()) for run in (one, other)
        ]
        assert documents[0].keys() == documents[1].keys()
        processes = [document["processes"] for document in documents]
        assert len(processes[0]) == len(processes[1]) == 2
        assert processes[0][0].keys() == processes[1][0].keys()
    assert "[2/2]" in there.stderr
    assert "sigmask" in there.stdout
    assert box.runs == []
    assert box.supervisors() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_there_and_can_be_resumed(
    started: Started, number: signal.Signals
) -> None:
    started.process.send_signal(number)
    code, errors = started.end()
    assert code == 130
    assert f"kickbench run --resume {started.folder} --host {started.box.host}" in errors
    assert "Traceback" not in errors
    assert started.box.supervisors() == []
    assert started.box.runs == []
    assert not Path(f"/proc/{started.worker}").exists()
    resumed = kickbench_captured("run", "--resume", started.folder, "--host", "box")
    assert resumed.returncode == 0, resumed.stderr
    assert statuses(started.folder) == ["ok", "ok"]


def test_a_broken_connection_costs_nothing(started: Started) -> None:
    started.box.cut()
    code, errors = started.end()
    assert code == 4
    assert "the connection to box ended" in errors
    assert "the run goes on there" in errors
    assert f"kickbench run --resume {started.folder} --host box" in errors
    assert statuses(started.folder) == ["ok", "pending"]
    assert started.box.supervisors() == [started.supervisor]
    os.kill(started.worker, signal.SIGCONT)
    resumed = kickbench_captured("run", "--resume", started.folder, "--host", "box")
    assert resumed.returncode == 0, resumed.stderr
    assert statuses(started.folder) == ["ok", "ok"]
    assert started.box.runs == []
    # It was collected, and not measured again.
    assert "[1/1]" in resumed.stderr


def test_a_killed_kickbench_leaves_the_run_to_be_collected(started: Started) -> None:
    started.process.kill()
    started.end()
    os.kill(started.worker, signal.SIGCONT)
    wait_for(lambda: started.box.supervisors() == [])
    assert len(started.box.runs) == 1
    resumed = kickbench_captured("run", "--resume", started.folder, "--host", "box")
    assert resumed.returncode == 0, resumed.stderr
    assert statuses(started.folder) == ["ok", "ok"]
    assert started.box.runs == []


def test_a_box_that_went_down_loses_only_the_case_that_ran(started: Started) -> None:
    started.box.cut()
    started.end()
    os.kill(started.supervisor, signal.SIGKILL)
    wait_for(lambda: started.box.supervisors() == [])
    resumed = kickbench_captured("run", "--resume", started.folder, "--host", "box")
    assert resumed.returncode == 0, resumed.stderr
    assert statuses(started.folder) == ["ok", "ok"]
    assert started.box.runs == []


def test_a_supervisor_that_is_killed_is_told(started: Started) -> None:
    os.kill(started.supervisor, signal.SIGKILL)
    code, errors = started.end()
    assert code == 4
    assert "the run was ended there" in errors
    assert f"continue with\nkickbench run --resume {started.folder} --host box" in errors


def test_a_run_there_waits_for_its_turn(started: Started, tmp_path: Path) -> None:
    second = subprocess.Popen(
        [
            *(*KICKBENCH, "run", scenario(tmp_path, 1, 0.2)),
            *("--host", "box", "--wait", "--results", tmp_path / "second"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert second.stderr is not None
    line = second.stderr.readline()
    assert "box: another kickbench measures on this host" in line
    assert "waiting for its end" in line
    assert not list((tmp_path / "second").glob("*/*"))
    os.kill(started.worker, signal.SIGCONT)
    assert started.end()[0] == 0
    assert second.wait(300) == 0
    second.stderr.close()
    assert started.box.runs == []
