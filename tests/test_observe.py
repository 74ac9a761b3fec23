# SPDX-License-Identifier: Apache-2.0
"""Observing VMs: the engine's own, whose truth is known, and QEMU, on real KVM."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partialmethod
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import synthetic_observed
from blocks_until import MS, Left, until
from hypothesis import given
from hypothesis import strategies as st
from observing import (
    KICKBENCH,
    PHASES,
    machine,
    needs_observer,
    observe,
    observing,
    only_run,
    seen_of,
    stored,
    until_nothing_is_lost,
    watching,
)
from own_vmm import qemu

from kickbench.engine.engine import Clock, Engine, Plan
from kickbench.errors import HostError, MeasurementError, UsageError
from kickbench.guest.loader import Guest
from kickbench.kvm import Kvm
from kickbench.observe import observer, recording, store
from kickbench.observe.observer import rows
from kickbench.observe.protocol import UNKNOWN, Seen, decide
from kickbench.observe.replay import scenario_of
from kickbench.report.pages.run import drawn, page
from kickbench.results.schema import dump_json
from kickbench.results.tables import TABLES, tables_of
from kickbench.run.this_host import ThisHost
from kickbench.scenario.model import Scenario
from kickbench.summary.data import RunData
from kickbench.watch import layout, process, programs, turns
from kickbench.watch.libbpf import library
from kickbench.watch.programs import PROGRAMS, Watch
from kickbench.watch.snapshot import Block

ROOT = Path(__file__).parent.parent
EINTR = layout.REASON_ERROR + 4


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock.choose(counter_usable=True)


# --- against the engine's own truth ---------------------------------------------------------------


@pytest.mark.kvm
@needs_observer
@until_nothing_is_lost
def test_exits_are_counted_as_the_guest_counts_them(clock: Clock) -> None:
    with machine(clock, "pm_timer", vcpus=2, rate_hz=5000) as (guest, engine), watching() as watch:
        until(engine, lambda left: left.results["exits"].sum() > 200, [("sigmask", 0)], ms=20)
        made = [guest.params(index).head for index in range(2)]
        found = seen_of(watch)
    assert (found.vcpus["id"] == [0, 1]).all()
    way = found.ways["way"]
    for slot in range(2):
        mine = way["vcpu"] == slot
        reads = mine & (way["reason"] == 2)
        assert set(way["address"][reads]) == {0x608}
        assert set(way["size"][reads]) == {4}
        assert not way["write"][reads].any()
        # A block can end between an exit and the guest's next instruction, which counts it.
        assert int(found.ways["exits"][reads].sum()) - made[slot] in (0, 1)
        assert found.ways["exits"][mine].sum() == found.vcpus["exits"][slot]
        assert set(way["reason"][mine]) <= {2, EINTR}
        times = found.vcpus["in_run_ns"][slot].sum()
        assert times == found.vcpus["entries"][slot] == found.vcpus["exits"][slot]


@pytest.mark.kvm
@needs_observer
@until_nothing_is_lost
def test_a_mix_is_seen_in_its_shares(clock: Clock) -> None:
    with machine(clock, "mix") as (_, engine), watching() as watch:
        until(engine, lambda left: left.results["exits"].sum() > 1000, [("flag_signal", 0)], ms=20)
        found = seen_of(watch)
    counts = {
        (int(way["reason"]), int(way["address"]), int(way["size"]), int(way["write"])): int(exits)
        for way, exits in zip(found.ways["way"], found.ways["exits"], strict=True)
        if way["reason"] < layout.REASON_ERROR
    }
    reads, writes = counts.pop((2, 0x608, 4, 0)), counts.pop((6, 0xFE00_0000, 2, 1))
    assert not counts
    assert reads / (reads + writes) == pytest.approx(3 / 4, abs=0.03)


@pytest.mark.kvm
@needs_observer
@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("sigmask", "sigmask"),
        ("sigmask_same", "sigmask_same"),
        ("flag_signal", "flag_signal"),
        ("immediate_exit", "immediate_exit"),
        ("immediate_exit_remote", "immediate_exit_remote"),
        # From outside it looks like the other order of the same two steps.
        ("immediate_exit_remote_flag_first", "immediate_exit_remote"),
    ],
)
@pytest.mark.parametrize(
    ("program", "state", "seen_in"),
    # None of them counts its accesses: the mask of a protocol would be gone after the blocks, when
    # the engine lets such a guest run on without one.
    [("hlt", "halted", 2), ("mix", "userspace", 0), ("spin", "guest", None)],
)
@until_nothing_is_lost
def test_kicks_are_counted_and_the_protocol_is_told(
    clock: Clock, method: str, told: str, program: str, state: str, seen_in: int | None
) -> None:
    plan = Plan(loop="kick", kicking="volleys", state=state, gap_ns=MS, userspace_ns=300_000)

    def enough(left: Left) -> bool:
        # On a busy host the first kicks may all find the vCPU waiting for a CPU.
        states = rows(watch.vcpus, layout.Vcpu)["kicks"]["by_state"].sum(axis=0)
        return len(left.kicks) > 15 and (seen_in is None or states[seen_in] > 0)

    with machine(clock, program, vcpus=2) as (_, engine), watching() as watch:
        left = until(engine, enough, [(method, 0)], ms=20, plan=plan)
        found = seen_of(watch)
    assert decide(store._seen(found))[0] == told, store._seen(found)
    assert not found.vcpus["eintr_unasked"].any()
    # The kicking thread's signals are the engine's kicks; the others end blocks.
    sent = found.sent["sent"].tolist()
    before = int(found.vcpus["kicks_before"].sum())  # those before the threads' first KVM_RUN
    assert any(n <= len(left.kicks) <= n + before for n in sent)
    assert set(found.senders["signal"].tolist()) == {signal.SIGUSR1}
    assert set(found.senders["system_call"].tolist()) == {234}  # tgkill
    pending = int((found.vcpus["kick"]["sent_ns"] > 0).sum())
    waiting = int(found.vcpus["kick"]["more"].sum())
    assert len(found.kicks) + int(found.kicks["more"].sum()) + pending + waiting == sum(sent)
    answered = found.kicks[found.kicks["left_ns"] > 0]
    assert (answered["left_ns"] >= answered["sent_ns"]).all()
    if seen_in is not None:
        assert (found.kicks["state"] == seen_in).any()
    if told in ("sigmask",):
        assert not found.kicks["handled_ns"].any()
    else:
        assert (found.kicks["handled_ns"] > 0).sum() > 0


@pytest.mark.kvm
@needs_observer
@pytest.mark.parametrize("method", ["sigmask", "immediate_exit"])
def test_kicks_are_answered_while_exits_are_only_counted(clock: Clock, method: str) -> None:
    plan = Plan(loop="kick", kicking="volleys", state="guest", gap_ns=MS)
    with machine(clock, "pm_timer") as (_, engine):
        files = list(process.find(os.getpid()).vcpu_files)
        with Watch(os.getpid(), files) as watch, watch.attached():
            with watch.detail():  # finds the threads
                until(engine, lambda left: left.results["exits"].sum() > 100, [(method, 0)], ms=10)
            watch.take_kicks()
            left = until(engine, lambda left: len(left.kicks) > 15, [(method, 0)], ms=20, plan=plan)
            kicks = rows(watch.take_kicks(), layout.Kick)
    assert len(kicks) > len(left.kicks) / 2


@pytest.mark.kvm
@needs_observer
@pytest.mark.parametrize("time", range(8))  # at times one has the struct and the page of another
def test_vms_that_a_thread_makes_again_are_told_apart(time: int) -> None:
    n_vms, n_exits = 8, 10
    with Watch(os.getpid(), []) as watch, watch.attached(), watch.detail():
        for _ in range(n_vms):
            with Kvm() as kvm, Guest(kvm, "pm_timer", 2) as guest:
                for _ in range(n_exits):
                    for vcpu, times in zip(guest.vcpus, (1, 2), strict=True):
                        for _ in range(times):
                            vcpu.run_once()
        vcpus, ways = rows(watch.vcpus, layout.Vcpu), rows(watch.ways, layout.WayCount)
        lost = watch.lost().total
    for number, times in ((0, 1), (1, 2)):
        exits = int(vcpus["exits"][vcpus["id"] == number].sum())
        # Of a KVM_RUN that was not seen to begin, the vCPU is taken to be the one before.
        assert abs(exits - n_vms * n_exits * times) <= lost
    # The page of an earlier vCPU is not read again.
    assert set(ways["way"]["address"].tolist()) == {0x608}


@pytest.mark.kvm
@needs_observer
def test_a_stop_of_the_process_is_no_eintr_that_nobody_asked_for(clock: Clock) -> None:
    def disturb() -> None:
        pid = os.getpid()
        code = f"import os, time\npid = {pid}\n"
        code += f"for _ in range(5):\n time.sleep(.05)\n os.kill(pid, {signal.SIGSTOP})\n"
        code += f" time.sleep(.05)\n os.kill(pid, {signal.SIGCONT})\n"
        subprocess.run([sys.executable, "-c", code], check=True)

    with machine(clock, "spin") as (_, engine), watching() as watch:
        stopping = threading.Thread(target=disturb)
        stopping.start()
        until(engine, lambda _: not stopping.is_alive(), [("flag_signal", 0)], ms=50)
        vcpus = rows(watch.vcpus, layout.Vcpu)
    assert vcpus["eintr"].sum() > 0
    assert not vcpus["eintr_unasked"].any()


@pytest.mark.kvm
@needs_observer
def test_a_vcpu_that_comes_later_is_seen_too(clock: Clock) -> None:
    with (
        Watch(os.getpid(), []) as watch,
        watch.attached(),
        watch.detail(),
        machine(clock, "pm_timer", vcpus=3) as (_, engine),
    ):
        until(engine, lambda left: left.results["exits"].all(), [("flag_signal", 0)], ms=10)
        vcpus = rows(watch.vcpus, layout.Vcpu)
    assert sorted(vcpus["id"]) == [0, 1, 2]
    assert (vcpus["exits"] > 0).all()
    assert len(set(vcpus["thread"].tolist())) == 3


@pytest.mark.kvm
@needs_observer
def test_two_observers_at_once_count_the_same(clock: Clock) -> None:
    with (
        machine(clock, "pm_timer") as (_, engine),
        watching() as one,
        watching() as other,
    ):
        until(engine, lambda left: left.results["exits"].sum() > 100, [("sigmask", 0)], ms=10)
        assert one.exits == other.exits
        assert one.exits[0] > 0


@pytest.mark.kvm
@needs_observer
def test_nothing_is_counted_while_detached(clock: Clock) -> None:
    def run(engine: Engine) -> None:
        until(engine, lambda left: left.results["exits"].sum() > 100, [("sigmask", 0)], ms=10)

    with machine(clock, "pm_timer") as (_, engine):
        run(engine)
        files = list(process.find(os.getpid()).vcpu_files)
        with Watch(os.getpid(), files) as watch:
            run(engine)
            assert not any(watch.exits)
            with watch.attached():
                run(engine)
            counted = sum(watch.exits)
            assert counted > 0
            run(engine)
            assert sum(watch.exits) == counted
            # Without details there are no reasons.
            assert not len(watch.ways)


# --- a run of its own -----------------------------------------------------------------------------


def assert_reported(run: Path) -> None:
    """The run has a page with all figures of its kind, and its summary says as much alone."""
    whole = RunData.load(run)
    names = {figure.name for figure, _ in drawn(whole)}
    assert names == {f"observed-{name}" for name in ("ways", "times", "over-time", "kicks")}
    assert "Who sent signals to it" in page(whole)
    shutil.rmtree(run / "cases")
    alone = RunData.load(run)
    assert alone.without_tables
    assert json.loads(dump_json(alone.summary)) == json.loads(dump_json(whole.summary))
    assert "Who sent signals to it" in page(alone)


@pytest.mark.kvm
@needs_observer
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no QEMU")
@pytest.mark.parametrize("vcpus", [1, 2, 8])
def test_qemu_is_observed_with_its_pauses(tmp_path: Path, vcpus: int) -> None:
    results = tmp_path / "results"
    name = f"tiny{os.getpid()}"
    with qemu(tmp_path, vcpus=vcpus, name=name) as vm:
        done = threading.Event()

        def pause() -> None:
            while not done.wait(0.2):
                vm.command("stop")
                vm.command("cont")

        pausing = threading.Thread(target=pause)
        pausing.start()
        try:
            run = observe("--name", name, "--seconds", "4", folder=results)
        finally:
            done.set()
            pausing.join()
    assert run.returncode == 0, run.stderr
    summary = json.loads((only_run(results) / "summary.json").read_text())
    (case,) = summary["cases"]
    assert (case["kind"], case["status"], case["pid"]) == ("observed", "ok", vm.pid)
    assert case["vmm"] == "qemu-system-x86_64"
    assert case["vcpus"] == vcpus
    assert case["lost_events"] <= case["exits"]["n"] / 1000
    assert case["protocol"]["id"] == "immediate_exit"
    assert case["protocol"]["evidence"]
    assert case["seconds"] == pytest.approx(4, rel=0.5)
    assert case["exits"]["per_second"] > 0
    assert max(case["exits"]["by_reason"], key=case["exits"]["by_reason"].get) == "io"
    (most, *_) = case["exits"]["ways"]
    assert (most["address"], most["size"], most["write"]) == (0x608, 4, False)
    kicks = case["kicks"]
    assert kicks["sent"] > 0
    # On a busy host each kick can find the vCPU on its way to the next KVM_RUN.
    assert (kicks["latency_ns"]["p50"] is not None) is (kicks["left"] > 0)
    assert kicks["left"] + kicks["in_userspace"] + kicks["unanswered"] > 0
    assert (kicks["pauses"] > 0) is (vcpus > 1)
    assert case["load"]["others_share"] >= 0
    assert "immediate_exit" in run.stdout
    assert "0x608" in run.stdout
    assert re.search(r"\d exits|times a second", run.stdout)
    assert_reported(only_run(results))


@pytest.mark.kvm
@needs_observer
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no QEMU")
def test_ctrl_c_keeps_what_was_seen(tmp_path: Path) -> None:
    results = tmp_path / "results"
    with qemu(tmp_path, vcpus=1, name="tiny") as vm, observing(vm.pid, results) as running:
        running.send_signal(signal.SIGINT)
        out, error = running.communicate(timeout=120)
    assert running.returncode == 130, error
    assert "what was seen until then is kept" in error
    assert "Traceback" not in error
    summary = json.loads((only_run(results) / "summary.json").read_text())
    assert summary["cases"][0]["status"] == "ok"
    assert summary["cases"][0]["ended"] == "it was interrupted"
    assert "times a second" in out


@pytest.mark.kvm
@needs_observer
@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_again_and_again_ends_it_as_one_does(
    clock: Clock, tmp_path: Path, phase: str
) -> None:
    results = tmp_path / "results"
    with machine(clock, "pm_timer"), observing(os.getpid(), results, phase) as running:
        for _ in range(5):  # all before it has ended: a block takes longer
            running.send_signal(signal.SIGINT)
            time.sleep(0.002)
        error = running.communicate(timeout=120)[1]
    assert running.returncode == 130, error
    assert "ignored" not in error
    assert "rror" not in error
    if phase == "cost":
        assert not results.exists()
    else:
        summary = json.loads((only_run(results) / "summary.json").read_text())
        assert summary["cases"][0]["ended"] == "it was interrupted"


@pytest.mark.kvm
@needs_observer
@pytest.mark.parametrize("again", [False, True])
def test_a_vm_that_is_closed_during_the_blocks_of_the_cost_is_no_vm(
    clock: Clock, again: bool
) -> None:
    with ExitStack() as stack:
        stack.enter_context(machine(clock, "pm_timer", vcpus=2))
        vmm = process.find(os.getpid())
        ended = False

        def progress(*_: object) -> None:
            nonlocal ended
            if not ended:
                ended = True
                stack.close()
                if again:  # other files have the numbers of the vCPUs' files then
                    for _ in range(40):
                        stack.enter_context(Path("/dev/null").open())

        with pytest.raises(MeasurementError, match="closed its VM"):
            observer.observe(vmm, 0.5, progress=progress)


@pytest.mark.kvm
@needs_observer
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no QEMU")
def test_the_end_of_the_vm_ends_it(tmp_path: Path) -> None:
    results = tmp_path / "results"
    with qemu(tmp_path, vcpus=1, name="tiny") as vm, observing(vm.pid, results) as running:
        vm.process.kill()
        running.communicate(timeout=120)
    assert running.returncode == 0
    summary = json.loads((only_run(results) / "summary.json").read_text())
    assert summary["cases"][0]["ended"] == "the process ended"


# --- a scenario of it, and its guest again --------------------------------------------------------


@pytest.mark.kvm
@needs_observer
@until_nothing_is_lost
def test_a_scenario_has_the_exits_the_gaps_and_the_kicks(clock: Clock, tmp_path: Path) -> None:
    plan = Plan(kicking="volleys", gap_ns=5 * MS)
    with machine(clock, "pm_timer", vcpus=2, rate_hz=2000) as (_, engine), watching() as watch:
        began = time.monotonic_ns()
        until(engine, lambda left: len(left.kicks) > 20, [("immediate_exit", 0)], ms=50, plan=plan)
        found = seen_of(watch)
        found.elapsed_ns = found.detail_ns = time.monotonic_ns() - began
        found.began_ns = began
    run = stored(found, tmp_path)
    (case,) = json.loads((run / "summary.json").read_text())["cases"]
    scenario = Scenario.from_dict(tomllib.loads(scenario_of(run)))
    assert scenario.vm.vcpus == (2,)
    (mixed,) = scenario.guest.mix
    assert (mixed.exit, mixed.address, mixed.size, mixed.share) == ("port_read", 0x608, 4, 1)
    rates = [vcpu["exits_per_second"] for vcpu in case["vcpus_seen"]]
    assert scenario.guest.exit_rate_hz == (pytest.approx(sum(rates) / 2, rel=1e-5),)
    assert len(scenario.guest.gaps_us) == 100
    assert list(scenario.guest.gaps_us) == sorted(scenario.guest.gaps_us)
    assert scenario.measure.baseline == "immediate_exit"
    assert {"exits", "kick"} <= set(scenario.measure.kinds)
    assert scenario.guest.kick_rate_hz[0] in (0, None)


def test_a_scenario_kicks_also_vcpus_that_waited_for_a_cpu(tmp_path: Path) -> None:
    rows = synthetic_observed._kicks(
        np.random.default_rng(1), 2, 10, 20, dict.fromkeys(range(4), 900_000)
    )
    rows["state"] = np.full(len(rows["state"]), 3)
    run = synthetic_observed.build(tmp_path, tables={"observed_kicks": rows})
    scenario = Scenario.from_dict(tomllib.loads(scenario_of(run)))
    assert "kick" in scenario.measure.kinds
    assert scenario.kick is not None
    assert scenario.kick.states == ("guest",)


@pytest.mark.kvm
@needs_observer
def test_a_scenario_is_replayed_and_observed(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text(
        """
        name = "small"
        [vm]
        vcpus = [2, 1]
        [guest]
        program = "mix"
        exit_rate_hz = 500
        kick_rate_hz = [0, 100]
        [[guest.mix]]
        exit = "port_read"
        address = 0x608
        size = 4
        share = 3
        [[guest.mix]]
        exit = "mmio_write"
        address = 0xfe003000
        size = 2
        share = 1
        [measure]
        kinds = ["exits"]
        methods = ["sigmask", "immediate_exit"]
        baseline = "sigmask"
        """
    )
    results = tmp_path / "results"
    run = observe("--replay", str(file), "--seconds", "3", folder=results)
    assert run.returncode == 0, run.stderr
    (case,) = json.loads((only_run(results) / "summary.json").read_text())["cases"]
    assert case["guest"] == "small"
    assert case["vcpus"] == 2
    ways = {(way["reason"], way["address"]) for way in case["exits"]["ways"]}
    assert {("io", 0x608), ("mmio", 0xFE00_3000)} <= ways
    assert not [vmm for vmm in process.running() if os.getpid() in process.ancestors(vmm.pid)]


def test_what_cannot_be_replayed_is_refused_in_a_line(tmp_path: Path) -> None:
    race = tmp_path / "race.toml"
    race.write_text(
        'name = "r"\n[vm]\nvcpus = 1\n[guest]\nprogram = "pm_timer"\n'
        '[measure]\nkinds = ["race"]\nmethods = ["sigmask"]\n'
    )
    for arguments, words in (
        (("--replay", str(tmp_path / "none.toml")), "none.toml"),
        (("--replay", str(race)), "does not measure the kind exits"),
        (("--replay", str(race), "1"), "one of them"),
    ):
        run = observe(*arguments, folder=tmp_path / "results")
        assert run.returncode == 2, run.stderr
        assert words in run.stderr
        assert "Traceback" not in run.stderr


# --- bad input ------------------------------------------------------------------------------------


def test_what_is_no_vm_is_refused_in_a_line(tmp_path: Path) -> None:
    for arguments, words in (
        (("999999999",), "there is no process 999999999"),
        ((str(os.getpid()),), "has no vCPU"),
        (("--name", "nobody"), 'no VM has the name "nobody"'),
        (("1", "--name", "both"), "one of them"),
        (("1", "--seconds", "0"), "--seconds"),
        (("1", "--seconds", "nan"), "--seconds"),
    ):
        run = observe(*arguments, folder=tmp_path)
        assert run.returncode == 2, run.stderr
        assert words in run.stderr
        assert len(run.stderr.splitlines()) <= 2
        assert not list(tmp_path.iterdir())


@pytest.mark.kvm
@needs_observer
def test_a_place_that_cannot_be_written_to_is_refused_before_observing(clock: Clock) -> None:
    with machine(clock, "pm_timer"):
        run = observe(str(os.getpid()), folder=Path("/proc/self"))
    assert run.returncode == 2, run.stderr
    assert "choose another --results" in run.stderr
    assert "observing" not in run.stderr


@pytest.mark.kvm
@needs_observer
@until_nothing_is_lost
def test_on_a_full_disk_it_is_stored_elsewhere(
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results, spare = tmp_path / "results", tmp_path / "spare"
    results.mkdir(exist_ok=True)
    spare.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", results], check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    monkeypatch.setattr(tempfile, "tempdir", str(spare))
    try:
        with machine(clock, "pm_timer") as (_, engine), watching() as watch:
            until(engine, lambda left: left.results["exits"].sum() > 9, [("sigmask", 0)], ms=10)
            found = seen_of(watch)
        monkeypatch.setattr(recording, "observe", lambda *_, **__: found)
        folder, _ = recording.record(ThisHost(), found.vmm, 1.0, results, live=False)
        assert folder.is_relative_to(spare)
        assert json.loads((folder / "summary.json").read_text())["cases"][0]["status"] == "ok"
        said = capsys.readouterr().err
        assert "the disk is full; what was seen is in" in said
        assert "--resume" not in said
        assert not list(results.glob("*/*/*"))
        monkeypatch.setattr(tempfile, "tempdir", str(results))
        with pytest.raises(MeasurementError, match="what was seen is lost"):
            recording.record(ThisHost(), found.vmm, 1.0, results, live=False)
    finally:
        subprocess.run(["umount", results], check=True)


def test_observing_imports_nothing_that_needs_much_memory() -> None:
    code = (
        "import sys\nfrom kickbench.observe import observer, recording\n"
        "print({'pandas', 'pyarrow', 'pydantic', 'scipy', 'matplotlib'} & {*sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_a_kernel_that_cannot_be_observed_is_named_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lockdown = tmp_path / "lockdown"
    lockdown.write_text("none integrity [confidentiality]\n")
    monkeypatch.setattr(programs, "object_file", lambda: tmp_path)
    monkeypatch.setattr(programs, "_BTF", tmp_path)
    monkeypatch.setattr(programs, "_LOCKDOWN", lockdown)
    with pytest.raises(HostError, match="boot it with lockdown=integrity"):
        Watch(os.getpid(), [])
    monkeypatch.setattr(programs, "_BTF", tmp_path / "vmlinux")
    with pytest.raises(HostError, match="CONFIG_DEBUG_INFO_BTF=y"):
        Watch(os.getpid(), [])


def test_without_a_pid_the_vms_are_listed(tmp_path: Path) -> None:
    run = observe(folder=tmp_path)
    assert run.returncode == 2
    assert "VM" in run.stderr


@pytest.mark.kvm
@needs_observer
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv")
@pytest.mark.parametrize(
    ("without", "words"),
    [("bpf,-perfmon,-sys_admin", "load the programs"), ("sys_ptrace,-sys_admin", "looked at")],
)
def test_without_rights_it_says_how_to_get_them(
    clock: Clock, tmp_path: Path, without: str, words: str
) -> None:
    with machine(clock, "pm_timer"):
        # Root without the capability in its bounding set cannot have it.
        command = ["setpriv", f"--bounding-set=-{without}", *KICKBENCH]
        arguments = ["observe", str(os.getpid()), "--results", str(tmp_path / "results")]
        run = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 3, run.stderr
    assert words in run.stderr
    assert "+perfmon" in run.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make the namespace")
def test_in_a_pid_namespace_it_says_where_to_run(tmp_path: Path) -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc", *KICKBENCH]
    run = subprocess.run(
        [*command, "observe", "1"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert run.returncode == 3, run.stderr
    assert "on the host" in run.stderr


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_name_of_a_guest_is_read(before: str, name: str) -> None:
    match = process._GUEST.search(f"{before},guest={name},debug-threads=on")
    assert match is not None
    if "," not in before + name and "=" not in before + name and "\n" not in before + name:
        assert match[1] == name or match[2] == before


# --- words and layout -----------------------------------------------------------------------------

COUNTS = st.integers(0, 5)
COUNTED = (
    *("kicks", "handled", "in_run", "set_before", "set_before_in_run", "handlers"),
    *("set_by_handler", "eintr", "eintr_immediate"),
)


@given(
    st.builds(
        Seen,
        signal=st.integers(0, 64),
        has_mask=st.booleans(),
        let_through=st.integers(0, 2**64 - 1),
        blocked=st.booleans(),
        **dict.fromkeys(COUNTED, COUNTS),
    )
)
def test_every_protocol_that_is_told_has_its_evidence(seen: Seen) -> None:
    told, evidence = decide(seen)
    assert evidence
    assert all(line.isprintable() for line in evidence)
    if told != UNKNOWN:
        assert seen.kicks or seen.has_mask
    if told in ("immediate_exit", "flag_signal", "immediate_exit_remote"):
        assert not seen.has_mask
        assert seen.handled


def test_a_flag_that_an_earlier_kick_left_set_is_not_the_senders() -> None:
    """QEMU kicks a vCPU again and again until it has paused."""
    qemu = Seen(
        signal=10,
        has_mask=False,
        let_through=0,
        blocked=False,
        kicks=20,
        handled=20,
        in_run=4,
        set_before=16,
        set_before_in_run=0,
        handlers=20,
        set_by_handler=20,
        eintr=4,
        eintr_immediate=0,
    )
    assert decide(qemu)[0] == "immediate_exit"
    assert decide(replace(qemu, in_run=0))[0] == "immediate_exit"
    assert decide(replace(qemu, set_before_in_run=4))[0] == "immediate_exit_remote"
    assert decide(replace(qemu, in_run=0, set_before=20))[0] == "immediate_exit_remote"


@given(st.integers(0, 2**45))
def test_the_edges_of_bins_are_those_of_the_programs(ns: int) -> None:
    log = max(ns, 1).bit_length() - 1
    bin_ = ns
    if log >= layout.SUB_BITS:
        bin_ = ((log - layout.SUB_BITS) << layout.SUB_BITS) + (ns >> (log - layout.SUB_BITS))
    bin_ = min(bin_, layout.BINS - 1)
    edges = layout.edges_ns()
    assert all(low < high for low, high in pairwise(edges))
    assert edges[bin_] <= ns
    if bin_ + 1 < layout.BINS:
        assert ns < edges[bin_ + 1]


CONSTANTS = ("SUB_BITS", "BINS", "REASON_ERROR", "MAX_VCPUS", "MAX_WAYS", "MAX_SENDERS")


def test_the_layout_is_that_of_the_header(tmp_path: Path) -> None:
    asked = ["#include <linux/types.h>", "#include <stddef.h>", "#include <stdio.h>"]
    asked += [f'#include "{ROOT / "kickbench/watch/watch.h"}"', "int main(void) {"]
    expected = []
    for name, kind in layout.STRUCTS.items():
        asked.append(f'printf("%zu\\n", sizeof(struct kb_{name}));')
        expected.append(ctypes.sizeof(kind))
        for field, *_ in kind._fields_:
            asked.append(f'printf("%zu\\n", offsetof(struct kb_{name}, {field}));')
            expected.append(getattr(kind, field).offset)
    for constant in CONSTANTS:
        asked.append(f'printf("%d\\n", KB_{constant});')
        expected.append(getattr(layout, constant))
    source = tmp_path / "layout.c"
    source.write_text("\n".join([*asked, "}"]))
    subprocess.run(["cc", "-o", tmp_path / "layout", source], check=True)
    said = subprocess.run([tmp_path / "layout"], check=True, capture_output=True)
    assert [int(line) for line in said.stdout.split()] == expected


@pytest.mark.skipif(
    shutil.which("clang") is None or not Path("/usr/include/bpf/bpf_core_read.h").exists(),
    reason="no clang, or no headers of libbpf",
)
@pytest.mark.parametrize(("machine", "entry"), [("x86", "kvm_fpu"), ("arm64", "kvm_entry")])
def test_the_programs_are_built_for_each_machine(tmp_path: Path, machine: str, entry: str) -> None:
    built = tmp_path / "watch.bpf.o"
    triplet = sysconfig.get_config_var("MULTIARCH") or ""
    subprocess.run(
        [
            *("clang", "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"),
            *("-Wno-unused-parameter", f"-D__TARGET_ARCH_{machine}", "-isystem", "/usr/include"),
            *("-isystem", f"/usr/include/{triplet}", "-c", ROOT / "kickbench/watch/watch.bpf.c"),
            *("-o", built),
        ],
        check=True,
    )
    reader = library()
    programs = reader.bpf_object__open_file(os.fsencode(built), None)
    assert programs
    for name in PROGRAMS:
        assert reader.bpf_object__find_program_by_name(programs, name.encode()), name
    reader.bpf_object__close(programs)
    assert f"tp_btf/{entry}".encode() in built.read_bytes()


def test_the_kind_has_its_tables() -> None:
    assert [table.name for table in tables_of("observed")] == [
        *("observed_ways", "observed_times", "observed_kicks", "observed_turns"),
        "observed_blocks",
    ]
    assert all(TABLES[table.name].schema for table in tables_of("observed"))


def test_the_cost_is_that_of_all_programs_that_may_be_attached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also of the one that looks at system calls, though it is detached after some handlers."""
    attached: set[str] = set()
    seen: list[set[str]] = []

    class Stub:
        def read_kvm_counts(self) -> list[int]:
            seen.append(set(attached))
            return [0]

        @contextmanager
        def _noted(self, name: str) -> Iterator[None]:
            attached.add(name)
            yield
            attached.remove(name)

        attached = partialmethod(_noted, "attached")
        detail = partialmethod(_noted, "detail")
        handlers = partialmethod(_noted, "handlers")

    monkeypatch.setattr(process, "is_open", lambda _: True)
    blocks: list[Block] = []
    vmm = process.Vmm(1, "vmm", "", {5: 0})
    for _ in turns._measure_cost(cast(Watch, Stub()), vmm, 0.5, blocks, lambda: True):
        pass
    expected = (set(), {"attached"}, {"attached", "detail", "handlers"})
    assert [expected[block.state] for block in blocks] == seen[::2] == seen[1::2]
    assert {block.state for block in blocks} == {0, 1, 2}


def test_the_check_of_seconds() -> None:
    turns.check_seconds(0.5)
    for wrong in (0, -1, 1e9, float("nan")):
        with pytest.raises(UsageError):
            turns.check_seconds(wrong)


@pytest.mark.parametrize("name", ["b" * 70, "\x1b[31mred", "plain"])
def test_a_vm_is_found_by_any_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["qemu", "-name", f"guest={name}"]
    command = [sys.executable, "-c", "print(flush=True); input()", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as running:
        assert running.stdout is not None
        running.stdout.readline()  # now it has its command line
        guest = process._guest(Path(f"/proc/{running.pid}"))
        running.communicate()
    vmm = process.Vmm(1, "qemu", guest, {5: 0})
    monkeypatch.setattr(process, "running", lambda: iter([vmm]))
    assert process.find_by_name(name) is vmm


def test_a_huge_page_counts_as_the_small_ones_it_stands_for() -> None:
    small_kib = os.sysconf("SC_PAGE_SIZE") // 1024
    text = (
        f"7f00 default anon=3 dirty=3 N0=1 N1=2 kernelpagesize_kB={small_kib}\n"
        f"7f10 default file=/dev/hugepages/x huge dirty=1 N1=1 kernelpagesize_kB={8 * small_kib}\n"
        "7f20 default\n"
    )
    assert process.pages_of(text) == {0: 1, 1: 10}


def test_no_process_is_a_clear_error() -> None:
    with pytest.raises(UsageError, match="no process"):
        process.find(2**31 - 1)
    assert not process.is_alive(2**31 - 1)
    assert process.thread(2**31 - 1, 1) is None
    assert process.memory_nodes(2**31 - 1) == {}
