# SPDX-License-Identifier: Apache-2.0
"""Observing VMs that change meanwhile: vCPUs that come later, a VMM that forks, a full ring."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blocks_until import MS, until
from observing import machine, needs_observer, seen_of, stored, watching
from own_vmm import qemu

from kickbench.engine.engine import Clock, Plan
from kickbench.errors import UsageError
from kickbench.guest.loader import Guest
from kickbench.kvm import Kvm
from kickbench.kvm.abi import KVM_EXIT_INTR, KVM_EXIT_IO
from kickbench.observe import kept, observer
from kickbench.report.words.verdict import verdict
from kickbench.summary.data import RunData
from kickbench.watch import layout, process, programs, turns
from kickbench.watch.programs import Watch
from kickbench.watch.snapshot import array_of

needs_qemu = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no QEMU")


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock.choose(counter_usable=True)


@pytest.mark.kvm
@needs_observer
@needs_qemu
def test_a_vcpu_that_is_plugged_in_is_seen_though_it_only_sleeps(tmp_path: Path) -> None:
    """It waits for the guest to start it, in its first KVM_RUN, which never returns."""
    seen = False
    with qemu(tmp_path, vcpus=1, room=2, name="growing") as vm:

        def on_turn(found: observer.Observed) -> None:
            nonlocal seen
            if len(found.turns) == 1:
                vm.add_vcpu()
            seen = all(found.vcpus["thread"]) and len(found.vcpus) == 2

        vmm = process.find(vm.pid)
        found = observer.observe(vmm, 60, on_turn=on_turn, keep_on=lambda: not seen)
        threads = {path.name for path in Path(f"/proc/{vm.pid}/task").iterdir()}
    assert found.ended == turns.ENDED_EARLY
    assert found.vcpus["id"].tolist() == [0, 1]
    assert {str(thread) for thread in found.vcpus["thread"]} <= threads
    assert len(found.turns[0].exits) == 1
    assert set(found.first) == set(found.last) == {0, 1}
    assert not found.vcpus["eintr_unasked"].any()
    assert not found.lost.total - found.lost.events


@pytest.mark.kvm
@needs_observer
def test_signals_before_a_threads_first_kvm_run_are_counted_apart() -> None:
    """Nothing tells then that it is a vCPU's thread, and they end no KVM_RUN but the first."""
    ready, sent_all = threading.Event(), threading.Event()

    def run(guest: Guest) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        ready.set()
        sent_all.wait()
        (vcpu,) = guest.vcpus
        vcpu.set_signal_mask(bytes(8))  # no signal is blocked in KVM_RUN
        reasons.append(vcpu.run_once())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        reasons.append(vcpu.run_once())

    reasons: list[int] = []
    with handling(signal.SIGUSR1, signal.SIGUSR2), Kvm() as kvm, Guest(kvm, "pm_timer", 1) as guest:
        files = list(process.find(os.getpid()).vcpu_files)
        with Watch(os.getpid(), files) as watch, watch.attached(), watch.detail():
            thread = threading.Thread(target=run, args=(guest,))
            thread.start()
            ready.wait()
            for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR2):
                signal.pthread_kill(thread.ident or 0, number)
            sent_all.set()
            thread.join()
            (vcpu,) = array_of(layout.Vcpu, watch.vcpus)
            kicks, (senders, _) = watch.take_kicks(), watch.senders()
    assert reasons == [KVM_EXIT_INTR, KVM_EXIT_IO]
    assert vcpu.kicks_before == 4
    assert (vcpu.exits, vcpu.eintr, vcpu.eintr_unasked) == (2, 1, 0)
    assert not vcpu.foreign_signals
    assert not len(kicks)
    assert not len(senders)


@pytest.mark.kvm
@needs_observer
def test_a_vcpu_that_is_removed_has_its_exits_and_the_others_go_on() -> None:
    removed = threading.Event()

    def run(guest: Guest, index: int, over: threading.Event) -> None:
        while not over.is_set():
            guest.vcpus[index].run_once()

    with Kvm() as kvm, Guest(kvm, "pm_timer", 2) as guest:
        over = threading.Event()
        threads = [
            threading.Thread(target=run, args=(guest, index, end))
            for index, end in enumerate((over, removed))
        ]
        for thread in threads:
            thread.start()

        def on_turn(*_: object) -> None:
            if not removed.is_set():
                removed.set()
                threads[1].join()
                guest.vcpus[1].close()

        try:
            found = observer.observe(process.find(os.getpid()), 3, on_turn=on_turn)
        finally:
            removed.set()
            over.set()
            for thread in threads:
                thread.join()
    assert found.ended is None
    assert found.vcpus["id"].tolist() == [0, 1]
    assert all(found.turns[0].exits)
    assert found.turns[-1].exits[0] > 0
    assert found.turns[-1].exits[1] == 0
    assert sum(turn.exits[0] for turn in found.turns) <= found.vcpus["exits"][0]


# A VMM of its own, which forks when it reads a line, says the child's pid, and runs on.
FORKING = """
import os, select, sys, time
from kickbench.guest.loader import Guest
from kickbench.kvm import Kvm
with Kvm() as kvm, Guest(kvm, "pm_timer", 1) as guest:
    print("begun", flush=True)
    while True:
        guest.vcpus[0].run_once()
        if select.select([0], [], [], 0)[0]:
            os.read(0, 100) or sys.exit()
            if not (child := os.fork()):
                time.sleep(600)
            print(child, flush=True)
"""


@pytest.mark.kvm
@needs_observer
def test_a_vmm_that_forks_is_one_vm() -> None:
    pipe = subprocess.PIPE
    command = [sys.executable, "-P", "-c", FORKING, "--name", "forking"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as vmm:
        assert vmm.stdin is not None
        assert vmm.stdout is not None
        assert vmm.stdout.readline() == "begun\n"
        child = 0

        def on_turn(*_: object) -> None:
            nonlocal child
            if not child:
                print(file=vmm.stdin, flush=True)
                assert vmm.stdout is not None
                child = int(vmm.stdout.readline())

        try:
            one = process.find_by_name("forking")
            during = observer.observe(one, 2, on_turn=on_turn)
            after = observer.observe(one, 0.5)
            assert one.pid == vmm.pid
            assert process.vcpu_files(child) == one.vcpu_files
            assert process.find_by_name("forking") == one
            with pytest.raises(UsageError, match=f"forked from process {vmm.pid}"):
                process.find(child)
        finally:
            vmm.stdin.close()
            if child:
                os.kill(child, signal.SIGKILL)
    for found in (during, after):
        assert found.ended is None
        assert found.vcpus["thread"].tolist() == [vmm.pid]
        assert found.turns[-1].exits[0] > 0


# --- more kicks than there is room for ------------------------------------------------------------


@pytest.mark.kvm
@needs_observer
def test_kicks_that_the_full_ring_loses_are_counted_and_said(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "RING_BYTES", 4096)
    plan = Plan(loop="kick", kicking="volleys", state="guest", gap_ns=MS)

    def lost_some(_: object) -> bool:
        return watch.lost().kicks > 20

    with machine(clock, "spin") as (_, engine), watching() as watch:
        until(engine, lost_some, [("immediate_exit", 0)], ms=20, plan=plan)
        found = seen_of(watch)
    (vcpu,) = found.vcpus
    answered = int(vcpu["kicks"]["by_state"].sum())
    assert len(found.kicks) == answered - found.lost.kicks > 0
    pending = int(vcpu["kick"]["sent_ns"] > 0)
    together = int(vcpu["kicks"]["more"] + vcpu["kick"]["more"])
    assert found.sent["sent"].sum() == answered + pending + together
    left = found.kicks[found.kicks["left_ns"] > 0]
    assert vcpu["kicks"]["longest_ns"] >= (left["left_ns"] - left["sent_ns"]).max()

    found.detail_ns = found.elapsed_ns = 10**9
    data = RunData.load(stored(found, tmp_path))
    (case,) = data.summary["cases"]
    assert case["lost"]["kicks"] == case["lost_events"] - case["lost"]["events"] > 0
    kicks = case["kicks"]
    assert kicks["n"] == answered + pending
    assert kicks["kept"] == len(found.kicks) + pending
    assert kicks["n"] == kicks["left"] + kicks["in_userspace"] + kicks["unanswered"]
    assert sum(state["n"] for state in kicks["by_state"].values()) == kicks["n"]
    assert kicks["latency_ns"]["max"] == vcpu["kicks"]["longest_ns"]
    said = verdict(data.summary)
    assert any("got lost" in line and " kicks" in line for line in said.alarms)
    words = f"those of {kicks['kept']:,} of {kicks['n']:,} kicks"
    assert any(words in line for line in said.lines)


@pytest.mark.kvm
@needs_observer
def test_of_many_kicks_some_are_kept_and_all_are_counted(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST_KICKS", 50)
    plan = Plan(loop="kick", kicking="volleys", state="guest", gap_ns=MS)
    over = threading.Event()

    def kick() -> None:
        until(engine, lambda _: over.is_set(), [("immediate_exit", 0)], ms=20, plan=plan)

    with machine(clock, "spin") as (_, engine):
        kicking = threading.Thread(target=kick)
        kicking.start()
        try:
            found = observer.observe(process.find(os.getpid()), 2)
        finally:
            over.set()
            kicking.join()
    n = int(found.vcpus["kicks"]["by_state"].sum())
    assert n - found.lost.kicks > 50 >= len(found.kicks) > 0


@contextmanager
def handling(*numbers: int) -> Iterator[None]:
    """These signals have a handler that does nothing."""
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
