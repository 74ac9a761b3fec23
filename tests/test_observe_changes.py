# SPDX-License-Identifier: Apache-2.0
"""Observing VMs that change meanwhile: vCPUs that come later, a VMM that forks, a full ring."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from observing import needs_observer
from own_vmm import qemu

from kickbench.guest.loader import Guest
from kickbench.kvm import Kvm
from kickbench.kvm.abi import KVM_EXIT_INTR, KVM_EXIT_IO
from kickbench.observe import observer, process
from kickbench.observe.watch import Watch

needs_qemu = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no QEMU")


@pytest.mark.kvm
@needs_observer
@needs_qemu
def test_a_vcpu_that_is_plugged_in_is_seen_though_it_only_sleeps(tmp_path: Path) -> None:
    """It waits for the guest to start it, in its first KVM_RUN, which never returns."""
    seen = False
    with qemu(tmp_path, vcpus=1, room=2, name="growing") as vm:

        def on_turn(found: observer.Observed, watch: Watch) -> None:
            nonlocal seen
            if len(found.turns) == 1:
                vm.add_vcpu()
            seen = all(watch.vcpus["thread"]) and len(watch.vcpus) == 2

        vmm = process.find(vm.pid)
        found = observer.observe(vmm, 60, on_turn=on_turn, keep_on=lambda: not seen)
        threads = {path.name for path in Path(f"/proc/{vm.pid}/task").iterdir()}
    assert found.ended == observer.ENDED_EARLY
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
            (vcpu,), kicks, (senders, _) = watch.vcpus, watch.take_kicks(), watch.senders()
    assert reasons == [KVM_EXIT_INTR, KVM_EXIT_IO]
    assert vcpu["kicks_before"] == 4
    assert (vcpu["exits"], vcpu["eintr"], vcpu["eintr_unasked"]) == (2, 1, 0)
    assert not vcpu["foreign_signals"]
    assert not len(kicks)
    assert not len(senders)


@contextmanager
def handling(*numbers: int) -> Iterator[None]:
    """These signals have a handler that does nothing."""
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
