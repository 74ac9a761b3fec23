# SPDX-License-Identifier: Apache-2.0
"""Puts the engine's failures into words: ``struct kb_failure`` of ``src/engine.h``."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from ctypes import c_char_p, c_int32, c_uint32, c_uint64
from dataclasses import dataclass
from pathlib import Path

from kickbench import arch
from kickbench.kvm import abi


class Failure(ctypes.Structure):
    """``struct kb_failure``, which documents the fields."""

    _fields_ = [
        ("vcpu", c_int32),
        ("error", c_int32),
        ("exit_reason", c_uint32),
        ("suberror", c_uint32),
        ("detail", c_uint64),
        ("stuck", c_int32),
        ("entering", c_int32),
        ("kicking", c_int32),
        ("finishing", c_int32),
        ("resource", c_int32),
        ("doing", c_int32),
        ("tid", c_int32),
        ("kicker", c_int32),
        ("slow", c_int32),
        ("following", c_int32),
        ("protocol", c_char_p),
    ]


FIRST_RUN_BUG = (
    "a signal in a VM's first KVM_RUN does that before Linux 6.14, where commit 916b7f42b3b3 mends "
    "it: use a kernel that has the commit, or kick no vCPU before its first KVM_RUN has returned"
)
"""Why every KVM_RUN of a VM fails with ENOMEM. The signal interrupts the creation of the thread
that recovers huge pages (kvm_mmu_post_init_vm() in arch/x86/kvm/mmu/mmu.c), and nobody tried again.
"""

CONDUCTOR = 31
"""KB_CONDUCTOR, the kicker that ends blocks."""

(_MEMORY, _FILES, _THREADS, _TIMERS, _PIDFDS, _CPUS) = range(1, 7)


@dataclass(frozen=True)
class _Need:
    """What could not be done, and the advice. {vcpus} and {kickers} stand for their counts."""

    what: str
    advice: str


_NEEDS = {
    _MEMORY: _Need(
        "allocate the buffers of {vcpus}",
        "raise the limit (ulimit -v, the cgroup's memory.max), or use fewer vCPUs, a lower exit "
        "rate or shorter blocks",
    ),
    _FILES: _Need(
        "open the files of {vcpus}",
        "raise the limit of open files (ulimit -n), or use fewer vCPUs",
    ),
    _THREADS: _Need(
        "start the threads of {vcpus} and {kickers}",
        "raise the limit of threads (ulimit -u, the cgroup's pids.max), or use fewer vCPUs",
    ),
    _TIMERS: _Need(
        "create a POSIX timer for each of {vcpus} and {kickers}",
        "raise the limit of pending signals (ulimit -i), or use fewer vCPUs or kickers",
    ),
    _PIDFDS: _Need(
        "open a pidfd of a thread (PIDFD_THREAD)", "use another transport, or Linux 6.9 or later"
    ),
    _CPUS: _Need(
        "run the threads of {vcpus} and {kickers} on the CPUs of the placement",
        "one is offline by now, or no longer in the cpuset; bring it back, or change the placement",
    ),
}

(
    _STARTING,
    _WAITING,
    _LEAVING,
    _ENTERING,
    _IN_LOOP,
    _IN_AFTER_RUN,
    _IN_FINISH_EXIT,
    _IN_HANDLER,
    _KICKING,
) = range(9)

_HOOKS = {
    _LEAVING: "kb_leave",
    _ENTERING: "kb_enter",
    _IN_AFTER_RUN: "kb_after_run",
    _IN_FINISH_EXIT: "kb_finish_exit",
    _IN_HANDLER: "kb_handler",
    _KICKING: "kb_kick",
}

_NOT_BACK = "did not return from kb_before_run within 10 s"
_USER_TIME, _SYSTEM_TIME, _GUEST_TIME = 11, 12, 40  # proc_pid_stat(5), after the name
_SOME_TICKS_S = 1.0


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _error(number: int) -> str:
    return f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"


def why_not_created(failure: Failure, n_vcpus: int, n_kickers: int) -> str:
    """What an engine could not get, and which limit to raise."""
    need = _NEEDS[failure.resource]
    what = need.what.format(vcpus=_count(n_vcpus, "vCPU"), kickers=_count(n_kickers, "kicker"))
    return f"could not {what}: {_error(failure.error)}: {need.advice}"


def describe(failure: Failure, n_vcpus: int, n_cpus: int) -> str:
    """What happened to a vCPU or a kicker, in the kernel's own names."""
    who = f"vCPU {failure.vcpu}"
    if failure.stuck and not failure.kicking:
        return _who_is_stuck(failure, n_vcpus, n_cpus)
    if failure.error:
        what = "KVM_RUN"
        if failure.entering or failure.kicking:
            what = "entering the protocol" if failure.entering else "a kick"
        elif failure.finishing:
            what = "completing the guest's I/O"
        elif failure.following:
            what = "what follows a pause"
        hint = ""
        if failure.error == errno.EMFILE:
            hint = "; raise the limit of open files (ulimit -n)"
        elif failure.error == errno.EAGAIN and failure.kicking:
            # A real-time signal is queued, or not sent (__send_signal_locked, kernel/signal.c).
            hint = "; its signal was not sent: raise the limit of pending signals (ulimit -i)"
        elif failure.error == errno.ENOMEM and what == "KVM_RUN":
            hint = f"; {FIRST_RUN_BUG}"
        return f"{who}: {what} failed: {_error(failure.error)}{hint}"
    reason = abi.exit_reason_name(failure.exit_reason)
    detail = ""
    if failure.exit_reason == abi.KVM_EXIT_SHUTDOWN:
        detail = " (triple fault)"
    elif failure.exit_reason == abi.KVM_EXIT_INTERNAL_ERROR:
        detail = f" ({abi.INTERNAL_ERRORS.get(failure.suberror, failure.suberror)})"
    elif failure.exit_reason == abi.KVM_EXIT_FAIL_ENTRY:
        detail = f" (hardware reason {failure.detail:#x})"
    return f"{who}: the guest left KVM_RUN with {reason}{detail}, which its program never does"


def _who_is_stuck(failure: Failure, n_vcpus: int, n_cpus: int) -> str:
    protocol = failure.protocol.decode() if failure.protocol else ""
    crowd = f"{_count(n_vcpus, 'vCPU')} on {_count(n_cpus, 'CPU')}"
    if failure.doing == _KICKING:
        kicker = "the thread that ends blocks"
        if failure.kicker != CONDUCTOR:
            kicker = f"kicker {failure.kicker}"
        if failure.slow:
            return (
                f"{protocol}: the kicks took too long, with {crowd}: {kicker} had only reached "
                f"vCPU {failure.vcpu}, in kb_kick, 20 s after its time was over; use fewer vCPUs"
            )
        return f"{protocol}: kb_kick of vCPU {failure.vcpu} did not return within 10 s, in {kicker}"
    if failure.kicker >= 0:
        return (
            f"kicker {failure.kicker} did not arrive within 10 s, with {crowd}: it got no CPU; "
            "give it one (placement.kicker)"
        )
    who = f"vCPU {failure.vcpu}"
    if hook := _HOOKS.get(failure.doing):
        return f"{protocol}: {hook} of {who} did not return within 10 s"
    if failure.doing == _IN_LOOP:
        return f"{protocol}: {who} {_where_in_loop(failure.tid)}"
    if failure.doing == _STARTING:
        return (
            f"the thread of {who} did not begin within 30 s, with {crowd}: use fewer vCPUs, or a "
            "quieter host"
        )
    return (
        f"{protocol}: the thread of {who} did not arrive within 10 s, with {crowd}: use fewer "
        "vCPUs, or a quieter host"
    )


def _where_in_loop(tid: int) -> str:
    """Where a thread hangs. The hot loop leaves no mark, but a thread that sleeps is in a system
    call. A thread that runs is in KVM_RUN, unless its CPU time is that of user space.
    """
    task = Path(f"/proc/self/task/{tid}")
    in_kvm_run = "could not be kicked out of KVM_RUN within 10 s"
    try:  # not there without CONFIG_HAVE_ARCH_TRACEHOOK
        number = (task / "syscall").read_text().split()[0]
    except (OSError, IndexError):
        return f"{in_kvm_run}, or kb_before_run did not return"
    if number == str(arch.current().IOCTL_SYSCALL):
        return in_kvm_run
    if number == "running":
        return f"{_NOT_BACK} (it runs)" if _is_in_user_space(task) else in_kvm_run
    return f"{_NOT_BACK} (it is in system call {number})"


def _is_in_user_space(task: Path) -> bool:
    """Whether a thread that runs uses its ticks in user space. Those of its guest do not count."""

    def ticks() -> list[int]:
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        return [int(fields[index]) for index in (_USER_TIME, _SYSTEM_TIME, _GUEST_TIME)]

    before = ticks()
    time.sleep(_SOME_TICKS_S)
    user, system, guest = (now - then for now, then in zip(ticks(), before))
    return user - guest > system
