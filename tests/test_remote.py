# SPDX-License-Identifier: Apache-2.0
"""Measuring on another machine: by a real OpenSSH server on loopback, on real KVM."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sshd
from command import KICKBENCH, kickbench_captured
from tiny import tiny
from watching import only_run, statuses, wait_for

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.kvm


def scenario(folder: Path, processes: int = 2, seconds: float = 1.0) -> Path:
    path = folder / "tiny.toml"
    path.write_text(tiny([1, 2], processes=processes, max_seconds=seconds, precision=1e-6))
    return path


class Started:
    """A run on the box whose second case measures: its worker there is stopped.

    ``command`` starts the run, in a folder of ``results``.
    """

    def __init__(self, box: sshd.Sshd, results: Path, *command: str | Path) -> None:
        self.box = box
        self.process = subprocess.Popen(
            [*KICKBENCH, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            self.supervisor: int = wait_for(lambda: next(iter(box.supervisors()), None))
            self.worker: int = wait_for(self._caught_in_the_second_case)
            self.folder: Path = next(iter(results.glob("*/*/manifest.json"))).parent
            wait_for(lambda: "ok" in statuses(self.folder).values())
        except BaseException:
            self.process.kill()
            self.process.communicate()
            raise

    def _caught_in_the_second_case(self) -> int | None:
        """Its worker, stopped. Nothing goes on there while this looks."""
        os.kill(self.supervisor, signal.SIGSTOP)
        try:
            ends = sum((run / "journal").read_bytes().count(b'"end"') for run in self.box.runs)
            for worker in self.box.workers(self.supervisor) if ends == 1 else []:
                os.kill(worker, signal.SIGSTOP)
                return worker
            assert ends < 2, "the run was over before its second case was seen"
            return None
        finally:
            os.kill(self.supervisor, signal.SIGCONT)

    def end(self) -> tuple[int, str]:
        """Its exit code, and what it said."""
        self.said, errors = self.process.communicate(timeout=300)
        return self.process.returncode, errors


@pytest.fixture
def start(box: sshd.Sshd, tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts a command that measures the scenario below tmp_path / "results"."""
    begun = []

    def begin(*command: str | Path) -> Started:
        begun.append(Started(box, tmp_path / "results", *command))
        return begun[-1]

    scenario(tmp_path, 1, 4.0)
    yield begin
    for run in begun:
        run.process.kill()
        run.process.communicate()


@pytest.fixture
def started(start: Callable[..., Started], tmp_path: Path) -> Started:
    results = tmp_path / "results"
    return start("run", tmp_path / "tiny.toml", "--host", "box", "--results", results)


@pytest.fixture
def nightly(box: sshd.Sshd, tmp_path: Path) -> Callable[[str], Path]:
    """Writes the file of a nightly job with these hosts."""

    def write(hosts: str) -> Path:
        path = tmp_path / "nightly.toml"
        path.write_text(f'scenarios = "tiny.toml"\nhosts = {hosts}\n')
        return path

    assert box.host == "box"
    return write


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
    assert [*statuses(started.folder).values()] == ["ok", "ok"]


def test_a_broken_connection_costs_nothing(started: Started) -> None:
    started.box.cut()
    code, errors = started.end()
    assert code == 4
    assert "the connection to box ended" in errors
    assert "the run goes on there" in errors
    assert f"kickbench run --resume {started.folder} --host box" in errors
    assert [*statuses(started.folder).values()] == ["ok", "pending"]
    assert started.box.supervisors() == [started.supervisor]
    os.kill(started.worker, signal.SIGCONT)
    resumed = kickbench_captured("run", "--resume", started.folder, "--host", "box")
    assert resumed.returncode == 0, resumed.stderr
    assert [*statuses(started.folder).values()] == ["ok", "ok"]
    assert started.box.runs == []
    # It was collected, and not measured again.
    assert "[1/1]" in resumed.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="it makes a network namespace: root only")
def test_a_cable_that_is_pulled_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sshd.SSHD is None or not shutil.which("ip"):
        pytest.skip("no sshd or ip: apt install openssh-server iproute2")
    if subprocess.run(["unshare", "--net", "true"]).returncode:
        pytest.skip("no network namespaces here")
    scenario(tmp_path, 1, 4.0)
    (folder := tmp_path / "sshd").mkdir()
    with sshd.network() as network, sshd.running(folder, network) as box:
        monkeypatch.setenv("KICKBENCH_SSH", box.ssh)
        results = tmp_path / "results"
        run = Started(
            box, results, "run", tmp_path / "tiny.toml", "--host", "box", "--results", results
        )
        try:
            network.cable("down")
            code, errors = run.end()
            assert code == 4
            assert "box has said nothing for 30 s" in errors
            assert "the run goes on there" in errors
            assert [*statuses(run.folder).values()] == ["ok", "pending"]
            assert box.supervisors() == [run.supervisor]
            os.kill(run.worker, signal.SIGCONT)
            wait_for(lambda: box.supervisors() == [])
            network.cable("up")
            resumed = kickbench_captured("run", "--resume", run.folder, "--host", "box")
            assert resumed.returncode == 0, resumed.stderr
            assert [*statuses(run.folder).values()] == ["ok", "ok"]
            assert box.runs == []
        finally:
            run.process.kill()
            run.process.communicate()
            for pid in box.supervisors():
                os.kill(pid, signal.SIGKILL)


def test_a_connection_that_breaks_in_a_later_process_costs_nothing(
    start: Callable[..., Started], tmp_path: Path
) -> None:
    scenario(tmp_path, 2, 4.0)
    run = start("run", tmp_path / "tiny.toml", "--host", "box", "--results", tmp_path / "results")
    os.kill(run.worker, signal.SIGCONT)
    (journal,) = (folder / "journal" for folder in run.box.runs)
    wait_for(lambda: journal.read_text().count('"event": "process"') == 3)
    worker = wait_for(lambda: next(iter({*run.box.workers(run.supervisor)} - {run.worker}), None))
    os.kill(worker, signal.SIGSTOP)
    time.sleep(1)  # the arrays of the case's first process are fetched
    run.box.cut()
    assert run.end()[0] == 4
    os.kill(worker, signal.SIGCONT)
    resumed = kickbench_captured("run", "--resume", run.folder, "--host", "box")
    assert resumed.returncode == 0, resumed.stderr
    assert [*statuses(run.folder).values()] == ["ok", "ok"]


def test_a_killed_kickbench_leaves_the_run_to_be_collected(started: Started) -> None:
    started.process.kill()
    started.end()
    os.kill(started.worker, signal.SIGCONT)
    wait_for(lambda: started.box.supervisors() == [])
    assert len(started.box.runs) == 1
    resumed = kickbench_captured("run", "--resume", started.folder, "--host", "box")
    assert resumed.returncode == 0, resumed.stderr
    assert [*statuses(started.folder).values()] == ["ok", "ok"]
    assert started.box.runs == []


def test_a_box_that_went_down_loses_only_the_case_that_ran(started: Started) -> None:
    started.box.cut()
    started.end()
    os.kill(started.supervisor, signal.SIGKILL)
    wait_for(lambda: started.box.supervisors() == [])
    resumed = kickbench_captured("run", "--resume", started.folder, "--host", "box")
    assert resumed.returncode == 0, resumed.stderr
    assert [*statuses(started.folder).values()] == ["ok", "ok"]
    assert started.box.runs == []


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_run_with_protocols_of_its_own_is_resumed_there(
    start: Callable[..., Started], tmp_path: Path, goes_on: bool
) -> None:
    source = shutil.copy(EXAMPLES / "protocols/cloud_hypervisor_7427_fixed.c", tmp_path)
    tiny = tmp_path / "tiny.toml"
    tiny.write_text(tiny.read_text().replace('"sigmask"', f'"{source}"'))
    run = start("run", tiny, "--host", "box", "--results", tmp_path / "results")
    run.box.cut()
    code, errors = run.end()
    assert code == 4
    assert errors.count("the code of your protocols is sent to box and run there") == 1
    if goes_on:
        os.kill(run.worker, signal.SIGCONT)
    else:
        os.kill(run.supervisor, signal.SIGKILL)
        wait_for(lambda: run.box.supervisors() == [])
    trusted = ("--host", "box", "--trust-protocols")
    resumed = kickbench_captured("run", "--resume", run.folder, *trusted)
    assert resumed.returncode == 0, resumed.stderr
    assert [*statuses(run.folder).values()] == ["ok", "ok"]
    assert run.box.runs == []


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


def test_the_nightly_job_measures_there_and_takes_no_host_for_two(
    nightly: Callable[[str], Path], box: sshd.Sshd, tmp_path: Path
) -> None:
    scenario(tmp_path)
    first = kickbench_captured("nightly", nightly('["box"]'), "--json", tmp_path / "first.json")
    assert first.returncode == 0, first.stderr
    (night,) = json.loads((tmp_path / "first.json").read_text())["scenarios"]
    assert night["host"] == "box"
    assert (tmp_path / f"history/fingerprint={night['fingerprint']}").is_dir()
    assert box.runs == []
    # The box is this machine, so the two have one fingerprint.
    both = nightly('["this host", "box"]')
    second = kickbench_captured("nightly", both, "--json", tmp_path / "second.json")
    assert second.returncode == 2, second.stderr
    assert "kickbench: tiny on box" in second.stderr
    here, there = json.loads((tmp_path / "second.json").read_text())["scenarios"]
    assert (here["host"], here["fingerprint"]) == ("this host", night["fingerprint"])
    assert (here["nights"], there["run_id"]) == (2, None)
    assert "box has the fingerprint of this host" in " ".join(there["errors"])
    assert len(list(tmp_path.glob("history/*/*/*.parquet"))) == 2


def test_a_host_that_is_down_does_not_end_the_nightly_job(
    nightly: Callable[[str], Path], tmp_path: Path
) -> None:
    scenario(tmp_path)
    done = kickbench_captured("nightly", nightly('["nobody@no-such-host.invalid", "box"]'))
    assert done.returncode == 3, done.stderr
    said = " ".join(done.stdout.split())
    assert "Not measured: tiny on nobody@no-such-host.invalid." in said
    assert "was not measured: the connection to nobody@no-such-host.invalid ended" in said
    assert len(list(tmp_path.glob("history/*/*/*.parquet"))) == 1


def test_a_night_whose_connection_breaks_is_no_night_and_is_collected(
    nightly: Callable[[str], Path], start: Callable[..., Started], tmp_path: Path
) -> None:
    night = start("nightly", nightly('["box"]'))
    night.box.cut()
    code, errors = night.end()
    assert code == 4, errors
    said = " ".join(night.said.split())
    assert "the run goes on there, but is not a night; collect it with" in said
    assert f"kickbench run --resume {night.folder} --host box" in said
    assert not list(tmp_path.glob("history/fingerprint=*"))
    os.kill(night.worker, signal.SIGCONT)
    resumed = kickbench_captured("run", "--resume", night.folder, "--host", "box")
    assert resumed.returncode == 0, resumed.stderr
    assert [*statuses(night.folder).values()] == ["ok", "ok"]
    assert night.box.runs == []


def test_an_interrupted_nightly_job_leaves_nothing_there(
    nightly: Callable[[str], Path], start: Callable[..., Started], tmp_path: Path
) -> None:
    night = start("nightly", nightly('["box", "this host"]'))
    night.process.send_signal(signal.SIGTERM)
    code, errors = night.end()
    assert code == 130, errors
    assert "The job was interrupted: tiny on box was being measured" in " ".join(night.said.split())
    assert night.box.runs == []
    assert night.box.supervisors() == []
    assert not list(tmp_path.glob("history/fingerprint=*"))
