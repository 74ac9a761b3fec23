# SPDX-License-Identifier: Apache-2.0
"""What KVM on this host can do, found out by doing it.

A scratch machine is created, a guest of an instruction or two is run, and each way to kick it is
tried: capability numbers and CPU flags are not trusted, because KVM can be there without vmx or svm
in /proc/cpuinfo, and a number of a proposal can mean something else in today's kernels. Nothing is
left behind, and :func:`probe` never raises.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kickbench import arch
from kickbench.errors import HostError
from kickbench.kvm import DEVICE, Kvm, KvmError, KvmUnavailableError, Vcpu, Vm, abi, ioctl, proposed
from kickbench.methods import Method

LOAD_ADDRESS = mmap.PAGESIZE
HALTS = 4
"""How often a guest must have halted without an exit."""

HALT_SECONDS = 0.005  # the guest has halted by then
LATE_SECONDS = 10.0
"""A signal that takes so long does not reach a halted guest. Something else ended its halt.

Bochs 2.7 does not wake a CPU that halts in a guest with interrupts masked, whatever the hypervisor
asked for. Only the NMI of Linux's RCU stall detector does, after 21 s.
"""

INTERRUPTIONS = 100  # more of them in a row are no signals that are no business of ours

SYS_PIDFD_SEND_SIGNAL = 424  # the same on all architectures, as of all newer calls
SYS_PIDFD_OPEN = 434
PIDFD_THREAD = os.O_EXCL  # include/uapi/linux/pidfd.h, Linux 6.9
LAST_ID = "/proc/sys/kernel/ns_last_pid"  # with CONFIG_CHECKPOINT_RESTORE
_FORBIDDEN = {errno.EPERM, errno.EACCES}

_PROPOSED = "proposed in 2015, in no released kernel; kickbench lab has it"

REQUIREMENTS = {
    "immediate_exit": "immediate_exit (KVM_CAP_IMMEDIATE_EXIT, Linux 4.11)",
    "user_exit": f"KVM_USER_EXIT ({_PROPOSED})",
    "exitfd": f"KVM_VCPU_MAKE_EXITFD ({_PROPOSED})",
}
"""The words of a message for a method's ``needs``, if the field's name is not enough."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Capabilities:
    """``usable``: a guest ran. ``reason``: why not and what to do, or None; it ends with ``advice``
    where there is any. The numbers are None when unknown.

    ``max_vcpus`` is what KVM allows in one machine. ``irqchip``,
    ``split_irqchip``, ``immediate_exit``, ``user_exit`` (KVM_USER_EXIT) and ``exitfd``
    (KVM_VCPU_MAKE_EXITFD) were tried on a scratch machine. ``halt_poll`` is KVM_CAP_HALT_POLL, and
    ``halts_inside`` that a guest was seen to halt without an exit. ``pidfd_thread``
    (PIDFD_SIGNAL_THREAD) was tried on the calling thread, where ``pidfd_forbidden`` is EPERM.
    ``counter_khz`` is the rate of the guest's counter. ``nested`` is None when a guest can be a
    hypervisor itself, else the reason why not. ``machine`` is the architecture, as in uname(2).
    ``hypercall_exits`` is that KVM_CAP_EXIT_HYPERCALL has KVM_HC_MAP_GPA_RANGE. Whether a guest
    gets past the instruction was not tried. ``private_memory``: there are VMs with
    memory that is private to the guest.
    ``last_id_settable``: a new thread can be given the id of one that ended (kernel.ns_last_pid).
    """

    path: str
    machine: str = os.uname().machine
    present: bool = False
    usable: bool = False
    reason: str | None = None
    advice: str | None = None
    api_version: int | None = None
    max_vcpus: int | None = None
    immediate_exit: bool = False
    user_exit: bool = False
    exitfd: bool = False
    pidfd_thread: bool = False
    pidfd_forbidden: bool = False
    irqchip: bool = False
    split_irqchip: bool = False
    halt_poll: bool = False
    halts_inside: bool = False
    nested: str | None = "KVM is not usable"
    counter_khz: int | None = None
    hypercall_exits: bool = False
    private_memory: bool = False
    last_id_settable: bool = False


def probe(kvm_path: str | Path = DEVICE) -> Capabilities:
    """Try KVM out; takes some ten milliseconds. Never raises: see ``usable`` and ``reason``."""
    path = str(kvm_path)
    found = Capabilities(path=path, present=os.path.lexists(path))
    try:
        machine = arch.current()
        error = _error_of_pidfd()
        found = replace(
            found,
            pidfd_thread=error == 0,
            pidfd_forbidden=error in _FORBIDDEN,
            last_id_settable=os.access(LAST_ID, os.W_OK),
        )
        with Kvm(path, machine.LOAD_KVM) as kvm:
            for step in (_ask, _run_a_guest, _try_proposed, _try_irqchips, _try_halting):
                found = step(kvm, found)
            return replace(found, usable=True)
    except KvmUnavailableError as error:
        return replace(found, reason=str(error), advice=error.advice)
    except HostError as error:  # another machine
        return replace(found, reason=str(error))
    except KvmError as error:
        advice = _advice(error)
        return replace(found, reason=f"{path}: {error}: {advice}", advice=advice)
    except (OSError, ValueError) as error:
        return replace(found, reason=f"{path}: {error}")


def supports(method: Method, capabilities: Capabilities) -> str | None:
    """None when this host can measure ``method``, else the reason in a line or two."""
    if not capabilities.usable:
        return capabilities.reason or "KVM is not usable"
    if method.needs is not None and not getattr(capabilities, method.needs):
        return f"this kernel does not have {REQUIREMENTS.get(method.needs, method.needs)}"
    return None


def supports_transport(transport: str, capabilities: Capabilities) -> str | None:
    """None when this host can send kick signals by ``transport``, else the reason."""
    if transport == "pidfd" and capabilities.pidfd_forbidden:
        return (
            "signalling a thread by a pidfd is not permitted here (EPERM); the likely cause is "
            "seccomp, as in some containers"
        )
    if transport == "pidfd" and not capabilities.pidfd_thread:
        return "this kernel cannot signal a thread by a pidfd (PIDFD_SIGNAL_THREAD, Linux 6.9)"
    return None


def supports_state(state: str, capabilities: Capabilities) -> str | None:
    """None when this host can have a vCPU in ``state`` (of a scenario), else the reason."""
    if state == "polling" and not capabilities.halt_poll:
        return "this kernel cannot be told how long to poll for a halted vCPU (KVM_CAP_HALT_POLL)"
    if state == "halted_in_guest" and not capabilities.halts_inside:
        return arch.ARCHS[capabilities.machine].WHY_HALTS_LEAVE
    return None


def supports_program(program: str, capabilities: Capabilities) -> str | None:
    """None when guests of this host can run ``program``, else the reason."""
    if program == "hypercall" and not capabilities.hypercall_exits:
        return (
            "this KVM hands no hypercalls to user space (KVM_CAP_EXIT_HYPERCALL with "
            "KVM_HC_MAP_GPA_RANGE, Linux 5.14)"
        )
    if program == "memory_fault" and not capabilities.private_memory:
        return (
            "this KVM has no VMs with private memory (Linux 6.8 with CONFIG_KVM_SW_PROTECTED_VM; "
            "kickbench lab build --config private-memory builds one)"
        )
    return None


def supports_machine(vcpus: int, irqchip: str, capabilities: Capabilities) -> str | None:
    """None when this host can make a machine with ``vcpus`` and ``irqchip`` (none, split or
    kernel), else the reason."""
    if not capabilities.usable:
        return capabilities.reason or "KVM is not usable"
    if capabilities.max_vcpus is not None and vcpus > capabilities.max_vcpus:
        return f"KVM allows {capabilities.max_vcpus} vCPUs in a machine on this host, not {vcpus}"
    if irqchip == "kernel" and not capabilities.irqchip:
        return "this KVM cannot create an in-kernel irqchip"
    if irqchip == "split" and not capabilities.split_irqchip:
        return "this KVM cannot create a split irqchip"
    return None


def _ask(kvm: Kvm, found: Capabilities) -> Capabilities:
    """What only KVM_CHECK_EXTENSION can tell, with the fallbacks of api.rst, section 4.7."""
    recommended = kvm.check_extension(abi.KVM_CAP_NR_VCPUS) or 4
    return replace(
        found,
        api_version=kvm.api_version(),
        max_vcpus=kvm.check_extension(abi.KVM_CAP_MAX_VCPUS) or recommended,
        hypercall_exits=bool(
            kvm.check_extension(abi.KVM_CAP_EXIT_HYPERCALL) & 1 << abi.KVM_HC_MAP_GPA_RANGE
        ),
        private_memory=arch.current().has_private_memory(kvm),
        nested=arch.current().why_not_nested(kvm),
    )


@contextmanager
def _scratch_vcpu(kvm: Kvm, prepare: Callable[[Vm], object] = lambda _: None) -> Iterator[Vcpu]:
    """A vCPU without an interrupt chip, about to run the architecture's PROBE.

    ``prepare`` is called with the machine before it has the vCPU.
    """
    code = arch.current().PROBE
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    memory[: len(code)] = code
    with memory, arch.current().create_vm(kvm) as vm:
        page = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        vm.set_memory(0, LOAD_ADDRESS, mmap.PAGESIZE, page)
        prepare(vm)
        vcpu = vm.create_vcpu(0)
        arch.current().start_probe(vm, vcpu, LOAD_ADDRESS)
        yield vcpu


def _run(vcpu: Vcpu) -> int:
    """The exit reason of KVM_RUN, made again when a signal that is not ours ends it."""
    reasons = (vcpu.run_once() for _ in range(INTERRUPTIONS))
    return next((reason for reason in reasons if reason != abi.KVM_EXIT_INTR), abi.KVM_EXIT_INTR)


def _run_a_guest(kvm: Kvm, found: Capabilities) -> Capabilities:
    """Run a small guest in a scratch machine, then in another with immediate_exit set."""
    machine = arch.current()
    with _scratch_vcpu(kvm) as vcpu:
        exit_reason = _run(vcpu)
        if exit_reason != machine.PROBE_EXIT:
            raise KvmUnavailableError(
                f"{found.path} does not run guests: {machine.PROBE_NAME} ended with "
                f"{abi.exit_reason_name(exit_reason)}",
                "see dmesg for KVM's own message",
            )
        counter_khz = machine.counter_khz(vcpu)
    immediate_exit = False
    if kvm.check_extension(abi.KVM_CAP_IMMEDIATE_EXIT):
        with _scratch_vcpu(kvm) as vcpu:
            vcpu.run.immediate_exit = 1
            immediate_exit = vcpu.run_once() == abi.KVM_EXIT_INTR
    return replace(found, immediate_exit=immediate_exit, counter_khz=counter_khz or None)


def _try_proposed(kvm: Kvm, found: Capabilities) -> Capabilities:
    return replace(
        found, user_exit=_is_kick(kvm, _user_exit), exitfd=_is_kick(kvm, _write_to_exitfd)
    )


def _is_kick(kvm: Kvm, kick: Callable[[Vcpu], None]) -> bool:
    """Whether ``kick`` keeps a vCPU from its guest for one KVM_RUN, which says why, and no more."""
    with _scratch_vcpu(kvm) as vcpu:
        try:
            kick(vcpu)
            return (
                _run(vcpu) == proposed.KVM_EXIT_REQUEST and _run(vcpu) == arch.current().PROBE_EXIT
            )
        except OSError:  # KvmError is one
            return False


def _user_exit(vcpu: Vcpu) -> None:
    ioctl.call(vcpu.fd, proposed.KVM_USER_EXIT, proposed.kvm_user_exit())


def _write_to_exitfd(vcpu: Vcpu) -> None:
    """Raises OSError when what the ioctl returns is no new descriptor that takes 8 bytes."""
    # Listed, then looked at once more: the listing itself had a descriptor, free again by now.
    listed = list(Path("/proc/self/fd").iterdir())
    ours = {entry.name for entry in listed if os.path.lexists(entry)}
    exitfd = ioctl.call(vcpu.fd, proposed.KVM_VCPU_MAKE_EXITFD)
    if str(exitfd) in ours:  # a success of something else: 0 would be our standard input
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    try:
        os.write(exitfd, (1).to_bytes(8, "little"))
    finally:
        with contextlib.suppress(OSError):
            os.close(exitfd)


def _error_of_pidfd() -> int:
    """0 when pidfd_open(PIDFD_THREAD) and pidfd_send_signal, here of signal 0, work; else errno."""
    pidfd = _syscall(SYS_PIDFD_OPEN, threading.get_native_id(), PIDFD_THREAD)
    if pidfd < 0:
        return ctypes.get_errno() or errno.ENOSYS
    try:
        if _syscall(SYS_PIDFD_SEND_SIGNAL, pidfd, 0, None, 0) == 0:
            return 0
        return ctypes.get_errno() or errno.ENOSYS
    finally:
        os.close(pidfd)


def _syscall(number: int, *arguments: int | None) -> int:
    """A system call that Python may have been built without; -1 when it fails."""
    as_long = [None if argument is None else ctypes.c_long(argument) for argument in arguments]
    return int(_libc.syscall(ctypes.c_long(number), *as_long))


def _try_irqchips(kvm: Kvm, found: Capabilities) -> Capabilities:
    made = {name: _can(kvm, create) for name, create in arch.current().IRQCHIPS.items()}
    return replace(found, irqchip=made.get("kernel", False), split_irqchip=made.get("split", False))


def _try_halting(kvm: Kvm, found: Capabilities) -> Capabilities:
    return replace(
        found,
        halt_poll=kvm.check_extension(abi.KVM_CAP_HALT_POLL) > 0,
        halts_inside=_halts_inside(kvm),
    )


def _halts_inside(kvm: Kvm) -> bool:
    """Whether a guest's HLT does not end KVM_RUN, which then needs a signal, each time.

    On a busy host the signal may come before the guest runs at all, and once looks like a halt.
    """
    return all(_halted_inside(kvm) for _ in range(HALTS))


def _halted_inside(kvm: Kvm) -> bool:
    """Whether a guest's HLT did not end KVM_RUN until a signal came, and ended with the signal.

    The signal is blocked but for KVM_RUN, and taken here. So no handler sees it.
    """
    kick = signal.SIGUSR1
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {kick})
    kicker = threading.Timer(HALT_SECONDS, signal.pthread_kill, (threading.get_ident(), kick))
    try:
        with _scratch_vcpu(kvm, arch.current().halt_inside) as vcpu:
            inside = sum(1 << number - 1 for number in before - {kick})
            vcpu.set_signal_mask(inside.to_bytes(8, "little"))
            begun = time.monotonic()
            kicker.start()
            while vcpu.run_once() == abi.KVM_EXIT_INTR:
                if kick in signal.sigpending():
                    return time.monotonic() - begun < LATE_SECONDS
            return False
    except KvmError:
        return False
    finally:
        if kicker.ident is not None:
            kicker.join()
            signal.sigwait({kick})
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _can(kvm: Kvm, create: Callable[[Vm, int], None]) -> bool:
    """Whether a fresh machine, for one vCPU, can have this interrupt chip."""
    with arch.current().create_vm(kvm) as vm:
        try:
            create(vm, 1)
        except KvmError:
            return False
        return True


def _advice(error: KvmError) -> str:
    if error.ioctl == "KVM_CREATE_VM" and error.errno == errno.EBUSY:
        return "another hypervisor (VirtualBox, VMware) owns the CPUs; stop it"
    if error.errno == errno.ENOMEM:
        return "free memory, or raise the cgroup's memory limit"
    return "see dmesg for KVM's own message"
