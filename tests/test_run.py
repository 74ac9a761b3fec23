# SPDX-License-Identifier: Apache-2.0
"""``kickbench run`` from the outside, on real KVM: results, interruptions, kills, exit codes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from command import KICKBENCH, kickbench, kickbench_captured
from watching import only_run, statuses, wait_for

from kickbench.errors import HostError, MeasurementError
from kickbench.host.capabilities import Capabilities
from kickbench.host.doctor import examine
from kickbench.host.topology import Topology
from kickbench.results.reader import RunReader
from kickbench.run import machine, runner
from kickbench.run.estimate import MIN_ROUNDS
from kickbench.run.process import WorkerProcess
from kickbench.run.progress import PlainProgress
from kickbench.run.worker import Order
from kickbench.scenario.files import load
from kickbench.scenario.model import Scenario
from kickbench.scenario.sweep import expand

CPUS = Topology.read().affinity

TINY = """
name = "tiny"
[vm]
vcpus = {vcpus}
[guest]
program = "pm_timer"
[[placement]]
name = "here"
[[placement]]
name = "nowhere"
vcpus = "node:999"
[measure]
methods = ["flag_signal", "sigmask", "immediate_exit"]
processes = {processes}
max_seconds = {seconds}
precision = {precision}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Callable[..., Path]:
    def write(
        vcpus: str = "[1, 2]", processes: int = 2, seconds: float = 0.6, precision: float = 1e-6
    ) -> Path:
        path = tmp_path / "tiny.toml"
        path.write_text(
            TINY.format(vcpus=vcpus, processes=processes, seconds=seconds, precision=precision)
        )
        return path

    return write


class _InterruptedProgress(PlainProgress):
    """Raises what Ctrl-C raises, as soon as there is a round."""

    def case_advances(self, *_: object) -> None:
        raise KeyboardInterrupt


@pytest.mark.kvm
def test_a_run_in_a_thread_can_be_ended_and_keeps_what_is_finished(
    scenario: Callable[..., Path], tmp_path: Path
) -> None:
    """Only the main thread may set what a signal does."""
    wanted = load(scenario())
    with (
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        pytest.raises(runner.RunInterruptedError) as ended,
    ):
        pool.submit(runner.run, wanted, tmp_path, _InterruptedProgress()).result()
    assert ended.value.outcome.finished == 0


@pytest.mark.kvm
def test_a_run_leaves_everything_that_the_contract_promises(
    scenario: Callable[..., Path], tmp_path: Path
) -> None:
    # Twenty rounds are enough for so coarse a precision. Time for more is for a busy host, on which
    # one round may take seconds.
    path = scenario(seconds=60.0, precision=1.0)
    done = kickbench("run", path, "--results", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    folder = only_run(tmp_path / "results")
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["schema"], summary["scenario"], summary["emulated"]) == (2, "tiny", False)
    by_status: dict[str, list[Any]] = {}
    for case in summary["cases"]:
        by_status.setdefault(case["status"], []).append(case)
    assert {status: len(cases) for status, cases in by_status.items()} == {"ok": 2, "skipped": 2}
    for case in by_status["skipped"]:
        assert "no node 999" in case["reason"]
    for case in by_status["ok"]:
        assert set(case["methods"]) == {"flag_signal", "sigmask", "immediate_exit"}
        for method in case["methods"].values():
            cost = method["ns_per_exit"]
            assert 0 < cost["p50"] <= cost["p90"] <= cost["p99"] <= cost["max"]
            assert method["exits_per_second"] > 0
        contrast = next(c for c in case["contrasts"] if c["metric"] == "ns_per_exit")
        assert contrast["ci95"][0] <= contrast["diff"] <= contrast["ci95"][1]
        assert case["control"]["ok"] in (True, False, None)
        assert case["placebo"]["metric"] == case["control"]["metric"] == "quiet_ns_per_exit"
        assert case["placebo"]["ci95"][0] <= case["placebo"]["diff"] <= case["placebo"]["ci95"][1]
    pyperf = subprocess.run(
        [sys.executable, "-m", "pyperf", "stats", folder / "pyperf.json"],
        capture_output=True,
        check=False,
    )
    assert pyperf.returncode == 0
    # What the doctor warns of here, the reader of the figures elsewhere knows too.
    kept = {finding["id"]: finding for finding in summary["environment"]["doctor"]}
    steady = {"cpus", "nodes", "hypervisor", "kernel"}  # (load and steal come and go)
    warned = {finding.id for finding in examine() if finding.status == "warn"}
    assert kept.keys() & steady == warned & steady
    for finding in kept.values():
        assert set(finding) == {"id", "title", "status", "detail", "advice"}
        assert finding["status"] == "warn"
    assert not list(folder.rglob(".*tmp*"))
    assert "immediate_exit" in done.stdout
    assert "[1/2]" in done.stderr


MIX = """
name = "mix"
[vm]
vcpus = 2
[guest]
program = "mix"
gaps_us = [100, 200, 1500]
vcpu_rates = [10, 1]
[[guest.mix]]
exit = "port_read"
address = 0x608
size = 4
share = 0.9
[[guest.mix]]
exit = "mmio_write"
address = 0xfe003000
size = 2
share = 0.1
[measure]
kinds = ["exits", "kick", "pause_all"]
processes = 1
max_seconds = 1.5
[kick]
states = ["storm", "userspace"]
"""


@pytest.mark.kvm
def test_a_mix_plays_its_recording_at_the_rates_of_the_vcpus(tmp_path: Path) -> None:
    path = tmp_path / "mix.toml"
    path.write_text(MIX)
    done = kickbench("run", path, "--results", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    reader = RunReader(only_run(tmp_path / "results"))
    assert set(statuses(reader.path)) == {
        "exits-mix-2vcpu-1666.7hz-any",
        "kick-storm-2vcpu-1kicker-tgkill-any",
        "kick-userspace-2vcpu-1kicker-tgkill-any",
        "pause_all-mix-2vcpu-tgkill-any",
    }
    assert set(statuses(reader.path).values()) == {"ok"}
    blocks = reader.table("exits-mix-2vcpu-1666.7hz-any", "blocks")
    exits = [pc.sum(blocks.filter(pc.field("vcpu") == vcpu)["exits"]).as_py() for vcpu in (0, 1)]
    assert exits[0] > exits[1] > 0


@pytest.mark.kvm
def test_precision_ends_a_case_before_its_time(
    scenario: Callable[..., Path], tmp_path: Path
) -> None:
    model = load(scenario("1", 1, 300, 0.9))
    outcome = runner.run(model, tmp_path, PlainProgress())
    (document,) = [json.loads(p.read_text()) for p in outcome.folder.glob("cases/*/case.json")]
    assert document["stopped_by"] == "precision"
    assert document["processes"][0]["rounds"] >= MIN_ROUNDS


@pytest.mark.kvm
def test_a_shipped_scenario_runs_quickly_by_its_name(tmp_path: Path) -> None:
    done = kickbench_captured("run", "quick", "--quick", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(statuses(only_run(tmp_path)).values()) == {"ok"}


@pytest.mark.kvm
def test_strict_refuses_a_scenario_that_the_host_cannot_run_whole(
    scenario: Callable[..., Path], tmp_path: Path
) -> None:
    done = kickbench_captured("run", scenario(), "--strict", "--results", tmp_path / "results")
    assert done.returncode == 3
    assert "no node 999" in done.stderr
    assert not (tmp_path / "results").exists()


class Started:
    """A run in the background that stands still where its second case is being measured.

    ``worker`` is that case's. Both processes are stopped (SIGSTOP), so that nothing goes on while
    a test does something, however long that takes.
    """

    def __init__(self, scenario: Path, results: Path) -> None:
        self.process = subprocess.Popen(
            [*KICKBENCH, "run", str(scenario), "--results", str(results)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.folder: Path = wait_for(
            lambda: next((p.parent for p in results.glob("*/*/manifest.json")), None)
        )
        self.worker: int = wait_for(self._caught_in_the_second_case)

    def _caught_in_the_second_case(self) -> int | None:
        self.process.send_signal(signal.SIGSTOP)
        ended = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert ended is not None
        assert ended.si_code == os.CLD_STOPPED, "the run was over before its second case was seen"
        workers = [pid for pid in children(self.process.pid) if alive(pid)]
        if list(statuses(self.folder).values()).count("ok") == 1 and workers:
            os.kill(workers[0], signal.SIGSTOP)
            return workers[0]
        self.process.send_signal(signal.SIGCONT)
        return None

    def end(self) -> tuple[int, str]:
        """Let it go on to its end: its exit code, and what it said of errors."""
        for pid in (self.worker, self.process.pid):
            os.kill(pid, signal.SIGCONT)
        _, errors = self.process.communicate(timeout=600)
        return self.process.returncode, errors


def children(pid: int) -> list[int]:
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listing.read_text().split()] if listing.exists() else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def started(scenario: Callable[..., Path], tmp_path: Path) -> Iterator[Started]:
    run = Started(scenario("[1, 2, 3]", 1, 1.5), tmp_path / "results")
    yield run
    if run.process.poll() is None:
        for pid in children(run.process.pid):  # stopped before its prctl, it would stay
            os.kill(pid, signal.SIGKILL)
    run.process.kill()
    run.process.wait()
    assert run.process.stderr is not None
    run.process.stderr.close()


@pytest.mark.kvm
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_is_finished_and_can_be_resumed(
    started: Started, number: signal.Signals
) -> None:
    started.process.send_signal(number)
    code, errors = started.end()
    assert code == 130
    assert re.search(r"[1-9] finished cases? (is|are) kept", errors)
    assert f"kickbench run --resume {started.folder}" in errors
    wait_for(lambda: not alive(started.worker))
    summary = json.loads((started.folder / "summary.json").read_text())
    assert "ok" in {case["status"] for case in summary["cases"]}
    resumed = kickbench_captured("run", "--resume", started.folder)
    assert resumed.returncode == 0, resumed.stderr
    assert set(statuses(started.folder).values()) == {"ok", "skipped"}


@pytest.mark.kvm
def test_a_killed_runner_leaves_no_worker_and_can_be_resumed(started: Started) -> None:
    before = statuses(started.folder)
    assert alive(started.worker)
    started.process.kill()
    started.process.wait()
    with contextlib.suppress(ProcessLookupError):  # it may have been stopped before its prctl
        os.kill(started.worker, signal.SIGCONT)
    wait_for(lambda: not alive(started.worker))
    done = next(case for case, status in before.items() if status == "ok")
    stamp = (started.folder / "cases" / done / "blocks.parquet").stat().st_mtime_ns
    resumed = kickbench_captured("run", "--resume", started.folder)
    assert resumed.returncode == 0, resumed.stderr
    assert set(statuses(started.folder).values()) == {"ok", "skipped"}
    assert (started.folder / "cases" / done / "blocks.parquet").stat().st_mtime_ns == stamp
    assert not list(started.folder.rglob(".*tmp*"))


@pytest.mark.kvm
def test_a_killed_worker_fails_its_case_and_the_others_stand(started: Started) -> None:
    os.kill(started.worker, signal.SIGKILL)
    code, errors = started.end()
    assert code == 4
    assert "killed by SIGKILL" in errors
    found = statuses(started.folder)
    assert sorted(found.values()) == sorted(["ok", "failed", "ok", *["skipped"] * 3])
    resumed = kickbench_captured("run", "--resume", started.folder)
    assert resumed.returncode == 0, resumed.stderr
    assert "failed" not in statuses(started.folder).values()


@pytest.mark.kvm
def test_a_running_run_cannot_be_resumed_by_another(started: Started) -> None:
    second = kickbench_captured("run", "--resume", started.folder)
    assert second.returncode == 2
    assert "in use by another kickbench" in second.stderr


@pytest.mark.kvm
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounts a tiny disk")
def test_a_full_disk_is_one_clear_line_and_keeps_what_is_finished(
    scenario: Callable[..., Path], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], check=False
    )
    if mounted.returncode:
        pytest.skip("this container may not mount")
    try:
        done = kickbench_captured("run", scenario("[1, 2]", 1, 3), "--results", disk)
        assert done.returncode == 4
        assert "the disk is full" in done.stderr or "No space left" in done.stderr
        assert "Traceback" not in done.stderr
        folder = only_run(disk)
        assert "pending" in statuses(folder).values()
        assert f"kickbench run --resume {folder}" in done.stderr
        assert not list(folder.rglob(".*tmp*"))
        disk_grows = ["mount", "-o", "remount,size=100m", disk]
        subprocess.run(disk_grows, check=True)
        assert kickbench_captured("run", "--resume", folder).returncode == 0
        assert set(statuses(folder).values()) == {"ok", "skipped"}
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_without_kvm_a_run_is_refused_before_it_leaves_anything(
    scenario: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = Capabilities(path="/dev/kvm", reason="/dev/kvm does not exist: modprobe kvm_intel")
    monkeypatch.setattr(machine, "probe", lambda: missing)
    with pytest.raises(HostError, match="does not exist"):
        runner.run(load(scenario()), tmp_path / "results", PlainProgress())
    assert not (tmp_path / "results").exists()


@pytest.mark.kvm
def test_a_run_is_not_resumed_on_another_host(
    scenario: Callable[..., Path], tmp_path: Path
) -> None:
    outcome = runner.run(load(scenario("1", 1, 0.2)), tmp_path, PlainProgress())
    manifest = outcome.folder / "manifest.json"
    document = json.loads(manifest.read_text())
    document["environment"]["hostname"] = "elsewhere"
    manifest.write_text(json.dumps(document))
    done = kickbench_captured("run", "--resume", outcome.folder)
    assert done.returncode == 2
    assert "another host" in done.stderr


def order(model: Scenario, folder: Path, **changes: Any) -> Order:
    values: dict[str, Any] = {
        "case": expand(model)[0],
        "process": 0,
        "vcpu_cpus": [[CPUS[0]]] * expand(model)[0].vcpus,
        "kicker_cpus": list(CPUS),
        "max_seconds": 30.0,
        "folder": folder,
        "runner_pid": os.getpid(),
        "protocols": {},
        **changes,
    }
    return Order(**values)


@pytest.mark.kvm
def test_the_creator_is_honoured_before_the_worker_exists(
    scenario: Callable[..., Path], tmp_path: Path
) -> None:
    """The worker inherits the affinity that its creator had at the fork, not a later one."""
    before = os.sched_getaffinity(0)
    wanted = {CPUS[-1]}
    with WorkerProcess(order(load(scenario()), tmp_path).to_json(), wanted) as worker:
        assert os.sched_getaffinity(0) == before
        assert os.sched_getaffinity(worker.pid) == wanted
    assert not alive(worker.pid)


@pytest.mark.kvm
def test_every_vcpu_thread_runs_on_its_own_cpu(
    scenario: Callable[..., Path], tmp_path: Path
) -> None:
    seats = [[CPUS[0]], [CPUS[-1]]]
    model = load(scenario("2"))
    with WorkerProcess(order(model, tmp_path, vcpu_cpus=seats).to_json()) as worker:
        assert next(worker.messages())["event"] == "ready"
        masks = [
            os.sched_getaffinity(int(task.name))
            for task in Path(f"/proc/{worker.pid}/task").iterdir()
        ]
    assert all({seat[0]} in masks for seat in seats)


@pytest.mark.kvm
def test_a_worker_that_is_silent_is_killed(scenario: Callable[..., Path], tmp_path: Path) -> None:
    with WorkerProcess(order(load(scenario()), tmp_path).to_json()) as worker:
        messages = worker.messages(silence_seconds=0.0)
        with pytest.raises(MeasurementError, match="did not answer"):
            list(messages)
    assert not alive(worker.pid)


def test_a_worker_whose_runner_is_gone_does_not_begin(
    scenario: Callable[..., Path], tmp_path: Path
) -> None:
    text = order(load(scenario()), tmp_path, runner_pid=1).to_json()
    with WorkerProcess(text) as worker, pytest.raises(MeasurementError, match="status 4"):
        list(worker.messages())


@pytest.mark.kvm
@pytest.mark.parametrize("beside", [[], [CPUS[0]]])
def test_a_worker_names_the_cpu_that_is_gone(
    scenario: Callable[..., Path], tmp_path: Path, beside: list[int]
) -> None:
    text = order(load(scenario("1")), tmp_path, vcpu_cpus=[[*beside, 1024]]).to_json()
    named = "vCPU 0 cannot run on CPU 1024"
    with WorkerProcess(text) as worker, pytest.raises(MeasurementError, match=named):
        list(worker.messages())


def test_an_order_survives_its_journey(scenario: Callable[..., Path], tmp_path: Path) -> None:
    there = order(load(scenario()), tmp_path)
    assert Order.from_json(there.to_json()) == there
