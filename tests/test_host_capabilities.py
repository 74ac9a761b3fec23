# SPDX-License-Identifier: Apache-2.0
"""What the probe concludes, on real KVM and on kernels that we play through the ioctl layer."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from kickbench.arch import x86_64
from kickbench.arch.x86_64 import Cpuid
from kickbench.host import capabilities as probing
from kickbench.host.capabilities import (
    Capabilities,
    probe,
    supports,
    supports_machine,
    supports_program,
    supports_transport,
)
from kickbench.kvm import KvmError, abi, ioctl, proposed
from kickbench.methods import CATALOGUE

USABLE = Capabilities(
    path="/dev/kvm",
    present=True,
    usable=True,
    immediate_exit=True,
    irqchip=True,
    split_irqchip=True,
    max_vcpus=288,
)


def open_fds() -> set[str]:
    gc.collect()  # so that nothing of an earlier test goes away in between
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


# --- real KVM ---------------------------------------------------------------------------------


@pytest.mark.kvm
def test_a_host_with_kvm_is_usable() -> None:
    found = probe()
    assert (found.present, found.usable, found.reason, found.api_version) == (True, True, None, 12)
    assert found.max_vcpus is not None
    assert found.max_vcpus >= 1
    assert all(supports(method, found) is None for method in CATALOGUE.values() if not method.needs)


@pytest.mark.kvm
def test_the_probe_leaves_nothing_open() -> None:
    before = open_fds()
    probe()
    assert open_fds() == before


@pytest.mark.kvm
@pytest.mark.parametrize("need", ["user_exit", "exitfd"])
def test_a_released_kernel_lacks_what_was_proposed_and_says_so(need: str) -> None:
    found = probe()
    if getattr(found, need):
        pytest.skip("this kernel is patched")
    reason = supports(CATALOGUE[need], found) or ""
    assert "proposed in 2015, in no released kernel; kickbench lab has it" in reason
    assert reason.startswith("this kernel does not have KVM_")


def test_pidfds_of_threads_are_found_as_python_finds_them() -> None:
    try:
        pidfd = os.pidfd_open(threading.get_native_id(), os.O_EXCL)
    except OSError:
        there = False
    else:
        there = True
        os.close(pidfd)
    assert probe().pidfd_thread is there


# Where seccomp answers pidfd_open (434) with EPERM, as in some containers.
FORBIDDEN = """
import ctypes, struct, sys
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 434), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
filters = b"".join(struct.pack("HBBI", *one) for one in code)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filters", ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(4, filters)), 0, 0) == 0
from kickbench.host.capabilities import probe, supports_transport
print(supports_transport("pidfd", probe()))
"""


def test_a_pidfd_that_seccomp_forbids_is_not_the_kernels_fault() -> None:
    command = [sys.executable, "-P", "-c", FORBIDDEN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert "not permitted here (EPERM); the likely cause is seccomp" in done.stdout, done.stderr


def test_no_device_is_absent_with_advice(tmp_path: Path) -> None:
    found = probe(tmp_path / "kvm")
    assert (found.present, found.usable) == (False, False)
    assert "does not exist: load KVM" in (found.reason or "")
    assert "modprobe" in (found.advice or "")


def test_a_directory_or_a_plain_file_is_present_but_unusable(tmp_path: Path) -> None:
    (tmp_path / "kvm").touch()
    for path in (tmp_path, tmp_path / "kvm"):
        found = probe(path)
        assert (found.present, found.usable) == (True, False)
        assert str(path) in (found.reason or "")


# --- a kernel that we play --------------------------------------------------------------------


class PlayedKernel:
    """A KVM that can do everything, until told otherwise."""

    def __init__(self) -> None:
        self.extensions = {abi.KVM_CAP_IMMEDIATE_EXIT: 1, x86_64.KVM_CAP_GET_TSC_KHZ: 1}
        self.answers: dict[int, Callable[[], int]] = {
            abi.KVM_GET_API_VERSION: lambda: 12,
            abi.KVM_GET_VCPU_MMAP_SIZE: lambda: mmap.PAGESIZE,
            x86_64.KVM_GET_TSC_KHZ: lambda: 2_000_000,
            abi.KVM_CREATE_VM: self.new_fd,
            abi.KVM_CREATE_VCPU: self.new_vcpu,
            abi.KVM_RUN: self.run,
            proposed.KVM_USER_EXIT: self.request_exit,
            proposed.KVM_VCPU_MAKE_EXITFD: self.make_exitfd,
        }
        self.run_page: mmap.mmap | None = None
        self.exit_reason = abi.KVM_EXIT_HLT
        self.honours_immediate_exit = True
        self.honours_requests = True
        self.forgets_requests = True
        self.requested = False
        self.exitfd: int | None = None  # ours, of the same eventfd
        self.user_exit_argument = b""
        self.keeps_halted_guests = self.halts_inside = False
        self.late_runs = 0  # that begin when the signal is there already, as on a busy host
        self.cpuid_ecx: dict[int, int] = {}  # by leaf

    def new_fd(self) -> int:
        fd = os.memfd_create("played")
        os.ftruncate(fd, mmap.PAGESIZE)
        return fd

    def new_vcpu(self) -> int:
        fd = self.new_fd()
        self.run_page = mmap.mmap(fd, mmap.PAGESIZE)
        return fd

    def request_exit(self) -> int:
        self.requested = True
        return 0

    def make_exitfd(self) -> int:
        theirs = os.eventfd(0)  # the lowest number that is free, as the kernel would
        self.exitfd = os.dup(theirs)
        return theirs

    def run(self) -> int:
        assert self.run_page is not None
        run = abi.kvm_run.from_buffer(self.run_page)
        if run.immediate_exit and self.honours_immediate_exit:
            raise KvmError(errno.EINTR, "KVM_RUN")
        if self.exitfd is not None and select.select([self.exitfd], [], [], 0)[0]:
            os.eventfd_read(self.exitfd)
            self.requested = True
        late = self.halts_inside and self.late_runs > 0
        self.late_runs -= late
        while (self.keeps_halted_guests or late) and self.halts_inside:
            if signal.SIGUSR1 in signal.sigpending():
                raise KvmError(errno.EINTR, "KVM_RUN")
        run.exit_reason = self.exit_reason
        if self.requested and self.honours_requests:
            run.exit_reason = proposed.KVM_EXIT_REQUEST
            self.requested = not self.forgets_requests
        return 0

    def fail(self, request: int, number: int) -> None:
        def answer() -> int:
            raise KvmError(number, abi.ioctl_name(request))

        self.answers[request] = answer

    def call(self, _fd: int, request: int, arg: ioctl.Argument = None) -> int:
        if request == abi.KVM_CREATE_VCPU:  # nothing is pending on a new one
            self.requested = False
            self.close()
        if request == proposed.KVM_USER_EXIT:
            assert isinstance(arg, proposed.kvm_user_exit)
            self.user_exit_argument = bytes(arg)
        if request == x86_64.KVM_GET_SUPPORTED_CPUID and request not in self.answers:
            assert isinstance(arg, Cpuid)
            for entry, leaf in zip(arg.entries, self.cpuid_ecx, strict=False):
                entry.function, entry.ecx = leaf, self.cpuid_ecx[leaf]
            arg.nent = len(self.cpuid_ecx)
        if request == abi.KVM_CREATE_VM:
            self.halts_inside = False
        if isinstance(arg, abi.kvm_enable_cap) and arg.cap == x86_64.KVM_CAP_X86_DISABLE_EXITS:
            self.halts_inside = bool(arg.args[0] & x86_64.KVM_X86_DISABLE_EXITS_HLT)
        if request == abi.KVM_CHECK_EXTENSION:
            assert isinstance(arg, int)
            return self.extensions.get(arg, 0)
        return self.answers.get(request, lambda: 0)()

    def close(self) -> None:
        fd, self.exitfd = self.exitfd, None
        if fd is not None:
            os.close(fd)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[PlayedKernel]:
    played = PlayedKernel()
    monkeypatch.setattr(ioctl, "call", played.call)
    yield played
    played.close()


@pytest.fixture
def device(tmp_path: Path) -> Path:
    (tmp_path / "kvm").touch()
    return tmp_path / "kvm"


def test_a_kernel_that_does_everything(kernel: PlayedKernel, device: Path) -> None:
    found = probe(device)
    assert found.usable
    assert found.reason is None
    assert found.immediate_exit
    assert found.user_exit
    assert found.exitfd
    assert found.irqchip
    assert found.split_irqchip
    assert found.counter_khz == 2_000_000


@pytest.mark.parametrize(("allowed", "keeps"), [(0b1110, True), (0b1110, False), (0b1100, True)])
def test_a_guest_halts_inside_if_it_is_seen_to(
    kernel: PlayedKernel, device: Path, allowed: int, keeps: bool
) -> None:
    kernel.extensions[x86_64.KVM_CAP_X86_DISABLE_EXITS] = allowed
    kernel.keeps_halted_guests = keeps
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    found = probe(device)
    assert found.usable
    assert found.halts_inside == (keeps and allowed == 0b1110)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == masked
    assert signal.SIGUSR1 not in signal.sigpending()


def test_a_signal_that_comes_before_the_guest_runs_is_no_halt(
    kernel: PlayedKernel, device: Path
) -> None:
    kernel.extensions[x86_64.KVM_CAP_X86_DISABLE_EXITS] = 0b1110
    kernel.late_runs = 1
    assert not probe(device).halts_inside


def test_a_halt_that_a_signal_does_not_end_is_of_no_use(
    kernel: PlayedKernel, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.extensions[x86_64.KVM_CAP_X86_DISABLE_EXITS] = 0b1110
    kernel.keeps_halted_guests = True
    monkeypatch.setattr(probing, "LATE_SECONDS", probing.HALT_SECONDS)
    assert not probe(device).halts_inside


def test_how_long_to_poll_can_be_set_if_the_kernel_says_so(
    kernel: PlayedKernel, device: Path
) -> None:
    assert not probe(device).halt_poll
    kernel.extensions[abi.KVM_CAP_HALT_POLL] = 1
    assert probe(device).halt_poll


@pytest.mark.parametrize(("allowed", "exits"), [(0, False), (1 << 3, False), (1 << 12, True)])
def test_hypercalls_exit_if_the_kernel_hands_out_the_one_of_mapping(
    kernel: PlayedKernel, device: Path, allowed: int, exits: bool
) -> None:
    kernel.extensions[abi.KVM_CAP_EXIT_HYPERCALL] = allowed
    assert probe(device).hypercall_exits is exits


@pytest.mark.parametrize(("types", "has"), [(0, False), (1, False), (1 << 1, True)])
def test_memory_can_be_private_in_a_type_of_vm(
    kernel: PlayedKernel, device: Path, types: int, has: bool
) -> None:
    kernel.extensions[x86_64.KVM_CAP_VM_TYPES] = types
    found = probe(device)
    assert found.private_memory is has
    assert (supports_program("memory_fault", found) is None) is has


def test_an_old_kernel_does_not_say_how_many_vcpus(kernel: PlayedKernel, device: Path) -> None:
    found = probe(device)
    assert found.max_vcpus == 4


def test_too_old_for_immediate_exit_only_that_method_is_missing(
    kernel: PlayedKernel, device: Path
) -> None:
    del kernel.extensions[abi.KVM_CAP_IMMEDIATE_EXIT]
    found = probe(device)
    assert found.usable
    reasons = {method.id: supports(method, found) for method in CATALOGUE.values()}
    assert reasons["sigmask"] is None
    assert reasons["flag_signal"] is None
    assert "KVM_CAP_IMMEDIATE_EXIT" in (reasons["immediate_exit"] or "")


def test_a_capability_without_the_behaviour_does_not_count(
    kernel: PlayedKernel, device: Path
) -> None:
    kernel.honours_immediate_exit = False
    found = probe(device)
    assert found.usable
    assert not found.immediate_exit


@pytest.mark.parametrize(("leaf", "ecx"), [(1, 1 << 5), (0x8000_0001, 1 << 2)])
def test_a_guest_can_be_a_hypervisor_with_vmx_or_svm_and_nested_state(
    leaf: int, ecx: int, kernel: PlayedKernel, device: Path
) -> None:
    kernel.extensions[abi.KVM_CAP_NESTED_STATE] = 1
    kernel.cpuid_ecx = {leaf: ecx}
    assert probe(device).nested is None
    kernel.cpuid_ecx = {leaf: ~ecx & 0xFFFFFFFF, 7: ecx}
    assert "does not offer VMX or SVM" in (probe(device).nested or "")
    kernel.cpuid_ecx = {}
    assert "KVM_GET_SUPPORTED_CPUID" in (probe(device).nested or "")
    kernel.fail(x86_64.KVM_GET_SUPPORTED_CPUID, errno.ENOMEM)
    found = probe(device)
    assert "KVM_GET_SUPPORTED_CPUID failed" in (found.nested or "")
    assert found.usable


def test_without_nested_state_no_guest_is_a_hypervisor(kernel: PlayedKernel, device: Path) -> None:
    kernel.cpuid_ecx = {1: 1 << 5}
    assert "KVM_CAP_NESTED_STATE" in (probe(device).nested or "")


def test_where_kvm_cannot_be_used_nothing_is_nested(tmp_path: Path) -> None:
    assert probe(tmp_path / "none").nested is not None


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EINVAL, errno.EPERM])
def test_without_the_ioctl_there_is_no_user_exit_and_no_exitfd(
    number: int, kernel: PlayedKernel, device: Path
) -> None:
    kernel.fail(proposed.KVM_USER_EXIT, number)
    kernel.fail(proposed.KVM_VCPU_MAKE_EXITFD, number)
    found = probe(device)
    assert found.usable
    assert (found.user_exit, found.exitfd) == (False, False)


def test_each_of_the_two_can_be_there_alone(kernel: PlayedKernel, device: Path) -> None:
    kernel.fail(proposed.KVM_USER_EXIT, errno.ENOTTY)
    found = probe(device)
    assert (found.user_exit, found.exitfd) == (False, True)
    del kernel.answers[proposed.KVM_USER_EXIT]
    kernel.answers[proposed.KVM_USER_EXIT] = kernel.request_exit
    kernel.fail(proposed.KVM_VCPU_MAKE_EXITFD, errno.ENOTTY)
    found = probe(device)
    assert (found.user_exit, found.exitfd) == (True, False)


def test_user_exit_is_asked_for_with_32_zero_bytes(kernel: PlayedKernel, device: Path) -> None:
    probe(device)
    assert kernel.user_exit_argument == bytes(32)


def test_an_ioctl_that_is_accepted_but_does_not_kick_does_not_count(
    kernel: PlayedKernel, device: Path
) -> None:
    kernel.honours_requests = False
    found = probe(device)
    assert found.usable
    assert (found.user_exit, found.exitfd) == (False, False)


def test_a_vcpu_that_never_runs_again_after_the_kick_does_not_count(
    kernel: PlayedKernel, device: Path
) -> None:
    kernel.forgets_requests = False
    found = probe(device)
    assert found.usable
    assert (found.user_exit, found.exitfd) == (False, False)


@pytest.mark.parametrize("what", ["a success of something else", "read only", "not a descriptor"])
def test_what_is_no_new_descriptor_that_takes_a_write_is_no_exitfd(
    what: str, kernel: PlayedKernel, device: Path, tmp_path: Path
) -> None:
    """Above all our own descriptors are left alone: 0 is a success, and standard input."""
    ours = os.open(tmp_path / "ours", os.O_RDWR | os.O_CREAT)

    def answer() -> int:
        match what:
            case "a success of something else":
                return ours
            case "read only":
                return os.open(os.devnull, os.O_RDONLY)
            case _:
                return 1 << 20

    kernel.answers[proposed.KVM_VCPU_MAKE_EXITFD] = answer
    before = open_fds()
    found = probe(device)
    kernel.run_page = None
    assert (found.user_exit, found.exitfd) == (True, False)
    assert open_fds() == before
    os.close(ours)
    assert (tmp_path / "ours").read_bytes() == b""


def test_a_kvm_run_that_is_interrupted_for_ever_ends_the_probe(
    kernel: PlayedKernel, device: Path
) -> None:
    kernel.fail(abi.KVM_RUN, errno.EINTR)
    assert "KVM_EXIT_INTR" in (probe(device).reason or "")


@pytest.mark.parametrize("missing", [probing.SYS_PIDFD_OPEN, probing.SYS_PIDFD_SEND_SIGNAL])
def test_a_kernel_that_knows_half_of_the_pidfds_has_none_of_threads(
    missing: int, kernel: PlayedKernel, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def syscall(number: int, *_: int | None) -> int:
        if number == missing:
            return -1
        return kernel.new_fd() if number == probing.SYS_PIDFD_OPEN else 0

    monkeypatch.setattr(probing, "_syscall", syscall)
    before = open_fds()
    assert not probe(device).pidfd_thread
    kernel.run_page = None
    kernel.close()
    assert open_fds() == before


def test_an_irqchip_that_cannot_be_created_is_not_there(kernel: PlayedKernel, device: Path) -> None:
    kernel.fail(abi.KVM_CREATE_IRQCHIP, errno.ENOTTY)
    kernel.fail(abi.KVM_ENABLE_CAP, errno.EINVAL)
    found = probe(device)
    assert found.usable
    assert (found.irqchip, found.split_irqchip) == (False, False)


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        (abi.KVM_EXIT_FAIL_ENTRY, "KVM_EXIT_FAIL_ENTRY"),
        (abi.KVM_EXIT_INTERNAL_ERROR, "KVM_EXIT_INTERNAL_ERROR"),
        (abi.KVM_EXIT_SHUTDOWN, "KVM_EXIT_SHUTDOWN"),
        (99, "KVM_EXIT_99"),
    ],
)
def test_a_kvm_that_does_not_run_guests_is_not_usable(
    reason: int, name: str, kernel: PlayedKernel, device: Path
) -> None:
    kernel.exit_reason = reason
    found = probe(device)
    assert not found.usable
    assert name in (found.reason or "")


@pytest.mark.parametrize(
    ("request_", "number", "words"),
    [
        (abi.KVM_CREATE_VM, errno.EBUSY, "another hypervisor"),
        (abi.KVM_CREATE_VM, errno.ENOMEM, "free memory"),
        (abi.KVM_CREATE_VCPU, errno.EINVAL, "KVM_CREATE_VCPU failed: Invalid argument"),
        (abi.KVM_SET_USER_MEMORY_REGION, errno.EINVAL, "KVM_SET_USER_MEMORY_REGION"),
        (abi.KVM_RUN, errno.EFAULT, "KVM_RUN failed"),
        (abi.KVM_GET_API_VERSION, errno.EIO, "KVM_GET_API_VERSION"),
    ],
)
def test_any_failing_ioctl_is_a_reason_and_leaves_nothing_open(
    request_: int, number: int, words: str, kernel: PlayedKernel, device: Path
) -> None:
    kernel.fail(request_, number)
    before = open_fds()
    found = probe(device)
    kernel.run_page = None  # our own second descriptors
    kernel.close()
    assert not found.usable
    assert words in (found.reason or "")
    assert found.advice
    assert open_fds() == before


def test_another_api_version_is_not_usable(kernel: PlayedKernel, device: Path) -> None:
    kernel.answers[abi.KVM_GET_API_VERSION] = lambda: 10
    assert "API version 10" in (probe(device).reason or "")


# --- what follows from it ---------------------------------------------------------------------


def test_every_need_of_the_catalogue_is_a_capability() -> None:
    known = {field.name for field in fields(Capabilities)}
    assert {method.needs for method in CATALOGUE.values() if method.needs} <= known


def test_without_kvm_no_method_is_supported_and_all_say_why() -> None:
    nothing = Capabilities(path="/dev/kvm", reason="/dev/kvm does not exist: load KVM")
    for method in CATALOGUE.values():
        assert supports(method, nothing) == "/dev/kvm does not exist: load KVM"


def test_a_transport_is_supported_where_the_kernel_has_it() -> None:
    assert "Linux 6.9" in (supports_transport("pidfd", USABLE) or "")
    assert supports_transport("pidfd", replace(USABLE, pidfd_thread=True)) is None
    forbidden = supports_transport("pidfd", replace(USABLE, pidfd_forbidden=True)) or ""
    assert "not permitted here (EPERM); the likely cause is seccomp" in forbidden
    assert supports_transport("tgkill", USABLE) is None
    assert supports_transport("timer", USABLE) is None


@pytest.mark.parametrize(
    ("vcpus", "irqchip", "capabilities", "words"),
    [
        (288, "kernel", USABLE, None),
        (289, "none", USABLE, "288 vCPUs"),
        (1, "kernel", replace(USABLE, irqchip=False), "in-kernel irqchip"),
        (1, "split", replace(USABLE, split_irqchip=False), "split irqchip"),
        (1, "none", replace(USABLE, irqchip=False, split_irqchip=False), None),
        (1, "none", Capabilities(path="/dev/kvm", reason="because"), "because"),
    ],
)
def test_which_machines_a_host_can_make(
    vcpus: int, irqchip: str, capabilities: Capabilities, words: str | None
) -> None:
    reason = supports_machine(vcpus, irqchip, capabilities)
    assert reason is None if words is None else words in (reason or "")
