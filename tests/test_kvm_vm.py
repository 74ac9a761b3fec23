# SPDX-License-Identifier: Apache-2.0
"""Kvm, Vm and Vcpu: on real KVM where it is, on a played kernel for what a good host never does."""

from __future__ import annotations

import ctypes
import errno
import grp
import mmap
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kickbench.arch import x86_64
from kickbench.errors import HostError, MeasurementError
from kickbench.kvm import Kvm, KvmError, Vcpu, Vm, abi, ioctl

# in al, dx; out dx, al; hlt
GUEST = b"\xec\xee\xf4"
LOAD_ADDRESS = 0x1000


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# --- real KVM ---------------------------------------------------------------------------------


def registers(vcpu: Vcpu) -> x86_64.kvm_regs:
    regs = x86_64.kvm_regs()
    ioctl.call(vcpu.fd, x86_64.KVM_GET_REGS, regs)
    return regs


def mp_state(vcpu: Vcpu) -> int:
    state = abi.kvm_mp_state()
    ioctl.call(vcpu.fd, abi.KVM_GET_MP_STATE, state)
    return int(state.mp_state)


@dataclass
class Machine:
    """A machine with one page of memory at LOAD_ADDRESS; its vCPU is about to execute GUEST."""

    vm: Vm
    vcpu: Vcpu
    page: int  # where the guest's page is in this process


@pytest.fixture
def machine() -> Iterator[Machine]:
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    memory[: len(GUEST)] = GUEST
    page = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    with Kvm() as kvm, kvm.create_vm() as vm:
        vm.set_memory(0, LOAD_ADDRESS, mmap.PAGESIZE, page)
        vcpu = vm.create_vcpu(0)
        sregs = x86_64.get_sregs(vcpu)
        sregs.cs.base, sregs.cs.selector = 0, 0
        x86_64.set_sregs(vcpu, sregs)
        x86_64.set_regs(vcpu, x86_64.kvm_regs(rip=LOAD_ADDRESS, rdx=0x608, rflags=2))
        yield Machine(vm, vcpu, page)
    memory.close()


@pytest.mark.kvm
def test_a_real_mode_guest_exits_for_in_out_and_hlt(machine: Machine) -> None:
    vcpu = machine.vcpu
    run = vcpu.run

    assert vcpu.run_once() == abi.KVM_EXIT_IO
    assert (run.io.direction, run.io.size, run.io.port, run.io.count) == (
        abi.KVM_EXIT_IO_IN,
        1,
        0x608,
        1,
    )
    data = ctypes.c_uint8.from_address(vcpu.run_address + run.io.data_offset)
    data.value = 0x5A

    assert vcpu.run_once() == abi.KVM_EXIT_IO
    assert (run.io.direction, run.io.port, data.value) == (abi.KVM_EXIT_IO_OUT, 0x608, 0x5A)

    assert vcpu.run_once() == abi.KVM_EXIT_HLT
    assert registers(vcpu).rip == LOAD_ADDRESS + len(GUEST)
    assert registers(vcpu).rax & 0xFF == 0x5A


@pytest.mark.kvm
def test_a_read_where_no_memory_is_exits_for_mmio(machine: Machine) -> None:
    vcpu = machine.vcpu
    x86_64.set_regs(vcpu, x86_64.kvm_regs(rip=LOAD_ADDRESS + 0x200, rflags=2, rbx=0x8000))
    ctypes.memmove(machine.page + 0x200, b"\x8a\x07", 2)  # mov al, [bx]

    assert vcpu.run_once() == abi.KVM_EXIT_MMIO
    assert (vcpu.run.mmio.phys_addr, vcpu.run.mmio.len, vcpu.run.mmio.is_write) == (0x8000, 1, 0)


@pytest.mark.kvm
def test_immediate_exit_leaves_before_the_guest_runs(machine: Machine) -> None:
    vm, vcpu = machine.vm, machine.vcpu
    if not vm.check_extension(abi.KVM_CAP_IMMEDIATE_EXIT):
        pytest.skip("this KVM has no immediate_exit")
    vcpu.run.immediate_exit = 1

    assert vcpu.run_once() == abi.KVM_EXIT_INTR
    assert registers(vcpu).rip == LOAD_ADDRESS


@pytest.mark.kvm
def test_a_signal_that_the_mask_lets_in_interrupts_kvm_run(machine: Machine) -> None:
    vcpu = machine.vcpu
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        signal.raise_signal(signal.SIGUSR1)
        assert vcpu.run_once() == abi.KVM_EXIT_IO  # blocked: it stays pending
        vcpu.set_signal_mask(bytes(8))
        assert vcpu.run_once() == abi.KVM_EXIT_INTR
        assert signal.sigtimedwait([signal.SIGUSR1], 0) is not None
        vcpu.set_signal_mask(None)
        signal.raise_signal(signal.SIGUSR1)
        assert vcpu.run_once() == abi.KVM_EXIT_IO
        assert signal.sigtimedwait([signal.SIGUSR1], 0) is not None
    finally:
        signal.sigtimedwait([signal.SIGUSR1], 0)  # one left pending would kill the tests
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])


@pytest.mark.kvm
@pytest.mark.parametrize("by", ["immediate_exit", "a signal"])
def test_a_kvm_run_that_ends_at_once_completes_the_io_before(machine: Machine, by: str) -> None:
    """What kb_finish_exit rests on: the guest has its data, and ran no instruction for it."""
    vcpu = machine.vcpu
    assert vcpu.run_once() == abi.KVM_EXIT_IO
    ctypes.c_uint8.from_address(vcpu.run_address + vcpu.run.io.data_offset).value = 0x5A
    assert (registers(vcpu).rip, registers(vcpu).rax & 0xFF) == (LOAD_ADDRESS, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        if by == "immediate_exit":
            vcpu.run.immediate_exit = 1
        else:
            vcpu.set_signal_mask(bytes(8))
            signal.raise_signal(signal.SIGUSR1)
        for _ in range(2):  # the second one has nothing to do
            assert vcpu.run_once() == abi.KVM_EXIT_INTR
            assert (registers(vcpu).rip, registers(vcpu).rax & 0xFF) == (LOAD_ADDRESS + 1, 0x5A)
    finally:
        signal.sigtimedwait([signal.SIGUSR1], 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])


@pytest.mark.kvm
@pytest.mark.parametrize("irqchip", ["none", "split", "kernel"])
def test_the_mp_state_of_a_second_vcpu_can_be_set(irqchip: str) -> None:
    with Kvm() as kvm, kvm.create_vm() as vm:
        x86_64.set_up(vm, irqchip)
        vm.create_vcpu(0)
        vcpu = vm.create_vcpu(1)
        if irqchip != "none":
            assert mp_state(vcpu) == abi.KVM_MP_STATE_UNINITIALIZED
        vcpu.set_mp_state(abi.KVM_MP_STATE_RUNNABLE)
        assert mp_state(vcpu) == abi.KVM_MP_STATE_RUNNABLE


@pytest.mark.kvm
def test_the_guests_tsc_has_a_frequency(machine: Machine) -> None:
    assert x86_64.counter_khz(machine.vcpu) > 0


@pytest.mark.kvm
def test_a_guest_sees_the_cpuid_that_it_was_given(machine: Machine) -> None:
    with Kvm() as kvm:
        cpuid = x86_64.supported_cpuid(kvm)
    assert cpuid.leaf(0).eax >= 1
    assert cpuid.leaf(0x4711_4711).eax == 0
    cpuid.leaf(0).ebx = 0x6B636B69
    x86_64.set_cpuid(machine.vcpu, cpuid)
    ctypes.memmove(machine.page, b"\x66\x31\xc0\x0f\xa2\xf4", 6)  # xor eax, eax; cpuid; hlt
    assert machine.vcpu.run_once() == abi.KVM_EXIT_HLT
    assert registers(machine.vcpu).rbx == 0x6B636B69


@pytest.mark.kvm
def test_the_guests_tsc_is_the_hosts_and_an_offset_if_kvm_tells(machine: Machine) -> None:
    offset = x86_64.counter_offset(machine.vcpu)
    assert offset is None or 0 <= offset < 2**64


@pytest.mark.kvm
def test_no_descriptor_survives_an_exec_or_the_with_block() -> None:
    with Kvm() as kvm, kvm.create_vm() as vm:
        fds = [kvm.fd, vm.fd, vm.create_vcpu(0).fd, vm.create_vcpu(1).fd]
        assert not any(os.get_inheritable(fd) for fd in fds)
    assert not any(is_open(fd) for fd in fds)
    with pytest.raises(ValueError, match="closed"):
        _ = vm.fd


@pytest.mark.kvm
def test_a_view_of_the_run_page_outlives_the_vcpu(machine: Machine) -> None:
    vm, vcpu = machine.vm, machine.vcpu
    run = vcpu.run
    vm.close()
    assert run.exit_reason == 0  # must not crash
    with pytest.raises(ValueError, match="closed"):
        _ = vcpu.run


@pytest.mark.kvm
def test_an_impossible_request_names_the_ioctl(machine: Machine) -> None:
    vm = machine.vm
    with pytest.raises(KvmError, match=r"KVM_CREATE_VCPU failed: File exists \(EEXIST\)") as caught:
        vm.create_vcpu(0)
    assert (caught.value.ioctl, caught.value.errno) == ("KVM_CREATE_VCPU", errno.EEXIST)


# --- a kernel that we play --------------------------------------------------------------------


@dataclass
class PlayedKernel:
    """Answers ioctls from a table: a value, or an OSError number wrapped in KvmError."""

    answers: dict[int, int | KvmError | Callable[[], int]] = field(default_factory=dict)
    fds: list[int] = field(default_factory=list)

    def new_fd(self) -> int:
        fd = os.memfd_create("played")
        os.ftruncate(fd, 3 * mmap.PAGESIZE)
        self.fds.append(fd)
        return fd

    def call(self, _fd: int, request: int, _arg: ioctl.Argument = None) -> int:
        answer = self.answers[request]
        if isinstance(answer, KvmError):
            raise answer
        return answer() if callable(answer) else answer

    def fail(self, request: int, number: int) -> None:
        self.answers[request] = KvmError(number, abi.ioctl_name(request))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> PlayedKernel:
    played = PlayedKernel()
    played.answers = {
        abi.KVM_GET_API_VERSION: 12,
        abi.KVM_GET_VCPU_MMAP_SIZE: 3 * mmap.PAGESIZE,
        abi.KVM_CREATE_VM: played.new_fd,
        abi.KVM_CREATE_VCPU: played.new_fd,
        abi.KVM_CHECK_EXTENSION: 0,
    }
    monkeypatch.setattr(ioctl, "call", played.call)
    return played


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A file in the place of /dev/kvm."""
    path = tmp_path / "kvm"
    path.touch()
    return path


def test_another_api_version_is_a_host_error_with_advice(
    kernel: PlayedKernel, device: Path
) -> None:
    kernel.answers[abi.KVM_GET_API_VERSION] = 11
    with pytest.raises(HostError, match=r"API version 11.*update the kernel"):
        Kvm(device)


def test_a_file_that_is_not_kvm_is_a_host_error(device: Path) -> None:
    with pytest.raises(HostError, match="is not a KVM device"):
        Kvm(device)


def test_a_missing_device_says_how_to_load_kvm(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"does not exist: load KVM \(modprobe kvm;"):
        Kvm(tmp_path / "kvm")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOENT, "modprobe kvm;"),
        (errno.EACCES, "its mode is"),
        (errno.EPERM, "--device"),
        (errno.ENODEV, "firmware"),
        (errno.EMFILE, "Too many open files"),
    ],
)
def test_each_reason_not_to_open_kvm_has_its_advice(
    number: int, advice: str, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, flags: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("kickbench.kvm.vm.os.open", refuse)
    with pytest.raises(HostError, match=advice) as caught:
        Kvm(device)
    assert str(device) in str(caught.value)
    assert str(caught.value).count("\n") <= 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file to another group")
@pytest.mark.parametrize(
    ("mode", "group", "advice"),
    [
        (0o660, "kvm", "join its group (sudo usermod -aG kvm $USER"),
        (0o660, "daemon", "join its group (sudo usermod -aG daemon $USER"),
        (0o600, "kvm", "its mode is 0600 (root:kvm), so let a group in (sudo chgrp kvm"),
        (0o600, "root", "its mode is 0600 (root:root), so let a group in"),
        (0o660, "root", "its mode is 0660 (root:root), so let a group in"),
    ],
)
def test_who_may_open_the_device_decides_what_helps(
    mode: int, group: str, advice: str, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To join the group of a device that its group may not open helps nobody."""
    if group not in {known.gr_name for known in grp.getgrall()}:
        pytest.skip(f"no group {group} here")
    shutil.chown(device, "root", group)
    device.chmod(mode)

    def refuse(path: object, flags: int) -> int:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("kickbench.kvm.vm.os.open", refuse)
    with pytest.raises(HostError) as caught:
        Kvm(device)
    assert advice in str(caught.value)


def test_a_failing_vcpu_closes_everything(kernel: PlayedKernel, device: Path) -> None:
    kernel.fail(abi.KVM_CREATE_VCPU, errno.ENOMEM)
    kvm = Kvm(device)
    fds = [kvm.fd]

    def start() -> None:
        with kvm, kvm.create_vm() as vm:
            vm.create_vcpu(0)

    with pytest.raises(KvmError, match=r"KVM_CREATE_VCPU failed: .*ENOMEM"):
        start()
    assert not any(is_open(fd) for fd in [*fds, *kernel.fds])


def test_a_vcpu_that_cannot_be_mapped_is_closed(kernel: PlayedKernel, device: Path) -> None:
    kernel.answers[abi.KVM_GET_VCPU_MMAP_SIZE] = 1 << 60
    with Kvm(device) as kvm, kvm.create_vm() as vm:
        with pytest.raises((OSError, ValueError)):
            vm.create_vcpu(0)
        assert not is_open(kernel.fds[-1])


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.ENXIO, errno.EINVAL])
def test_a_kernel_without_the_attribute_does_not_tell_the_offset(
    number: int, kernel: PlayedKernel, device: Path
) -> None:
    kernel.fail(abi.KVM_GET_DEVICE_ATTR, number)
    with Kvm(device) as kvm, kvm.create_vm() as vm:
        assert x86_64.counter_offset(vm.create_vcpu(0)) is None
        kernel.fail(abi.KVM_GET_DEVICE_ATTR, errno.EFAULT)
        with pytest.raises(KvmError, match="EFAULT"):
            x86_64.counter_offset(vm.create_vcpu(1))


def test_a_vm_that_cannot_be_created_opens_nothing(kernel: PlayedKernel, device: Path) -> None:
    kernel.fail(abi.KVM_CREATE_VM, errno.EBUSY)
    with Kvm(device) as kvm, pytest.raises(KvmError, match="EBUSY"):
        kvm.create_vm()
    assert kernel.fds == []


def test_kvm_error_is_an_os_error_and_a_failed_measurement() -> None:
    error = KvmError(errno.EINVAL, "KVM_RUN")
    assert isinstance(error, OSError)
    assert isinstance(error, MeasurementError)
    assert (error.errno, error.exit_code) == (errno.EINVAL, 4)
    assert str(error) == "KVM_RUN failed: Invalid argument (EINVAL)"


def test_call_retries_an_interrupted_ioctl_but_not_kvm_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [-1, -1, 7]

    class Libc:
        @staticmethod
        def ioctl(*_: object) -> int:
            ctypes.set_errno(errno.EINTR)
            return answers.pop(0)

    monkeypatch.setattr(ioctl, "_libc", Libc)
    assert ioctl.call(3, abi.KVM_CREATE_VM) == 7
    answers[:] = [-1, 0]
    with pytest.raises(KvmError) as caught:
        ioctl.call(3, abi.KVM_RUN)
    assert caught.value.errno == errno.EINTR


def test_the_bindings_import_only_the_standard_library() -> None:
    program = (
        "import sys, kickbench.kvm\n"
        "own = {m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(*sorted(m for m in own if not m.startswith('_') and 'editable' not in m))"
    )
    output = subprocess.run(
        [sys.executable, "-S", "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(abi.__file__).parents[2])},
    ).stdout
    assert output.split() == ["kickbench"]
