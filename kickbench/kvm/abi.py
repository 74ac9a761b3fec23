# SPDX-License-Identifier: Apache-2.0
"""The KVM ABI that kickbench uses, under the kernel's own names: constants, ioctl numbers, structs.

Source: ``include/uapi/linux/kvm.h``. The meaning is in ``Documentation/virt/kvm/api.rst``. A test
compares every name of this module with the installed headers. Nothing here opens or calls anything.
What differs between architectures is in :mod:`kickbench.arch`.

Public names that begin with ``KVM_`` or ``kvm_`` are the kernel's; classes with a leading
underscore stand for structs and unions that have no name in C.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import c_int32, c_uint8, c_uint16, c_uint32, c_uint64

# --- structs ---------------------------------------------------------------------------------


class kvm_userspace_memory_region(ctypes.Structure):
    """Argument of KVM_SET_USER_MEMORY_REGION; a size of 0 deletes the slot."""

    _fields_ = [
        ("slot", c_uint32),
        ("flags", c_uint32),
        ("guest_phys_addr", c_uint64),
        ("memory_size", c_uint64),
        ("userspace_addr", c_uint64),
    ]


class kvm_signal_mask(ctypes.Structure):
    """Argument of KVM_SET_SIGNAL_MASK: ``len`` bytes of the kernel's sigset_t follow (8 on x86)."""

    _fields_ = [("len", c_uint32), ("sigset", c_uint8 * 0)]


class kvm_mp_state(ctypes.Structure):
    """Argument of KVM_GET_MP_STATE and KVM_SET_MP_STATE."""

    _fields_ = [("mp_state", c_uint32)]


class kvm_enable_cap(ctypes.Structure):
    """Argument of KVM_ENABLE_CAP."""

    _fields_ = [
        ("cap", c_uint32),
        ("flags", c_uint32),
        ("args", c_uint64 * 4),
        ("pad", c_uint8 * 64),
    ]


class kvm_device_attr(ctypes.Structure):
    """Argument of KVM_GET_DEVICE_ATTR; ``addr`` is where the value is."""

    _fields_ = [("flags", c_uint32), ("group", c_uint32), ("attr", c_uint64), ("addr", c_uint64)]


class kvm_stats_header(ctypes.Structure):
    """The begin of what a file descriptor of KVM_GET_STATS_FD reads."""

    _fields_ = [
        ("flags", c_uint32),
        ("name_size", c_uint32),
        ("num_desc", c_uint32),
        ("id_offset", c_uint32),
        ("desc_offset", c_uint32),
        ("data_offset", c_uint32),
    ]


class kvm_stats_desc(ctypes.Structure):
    """One statistic there; ``name_size`` bytes of its name follow."""

    _fields_ = [
        ("flags", c_uint32),
        ("exponent", ctypes.c_int16),
        ("size", c_uint16),
        ("offset", c_uint32),
        ("bucket_size", c_uint32),
        ("name", ctypes.c_char * 0),
    ]


class kvm_ioeventfd(ctypes.Structure):
    """Argument of KVM_IOEVENTFD; ``len`` bytes written to ``addr`` add 1 to the eventfd."""

    _fields_ = [
        ("datamatch", c_uint64),
        ("addr", c_uint64),
        ("len", c_uint32),
        ("fd", c_int32),
        ("flags", c_uint32),
        ("pad", c_uint8 * 36),
    ]


class kvm_memory_attributes(ctypes.Structure):
    """Argument of KVM_SET_MEMORY_ATTRIBUTES: guest memory from ``address`` on, in bytes."""

    _fields_ = [
        ("address", c_uint64),
        ("size", c_uint64),
        ("attributes", c_uint64),
        ("flags", c_uint64),
    ]


class _run_hw(ctypes.Structure):
    _fields_ = [("hardware_exit_reason", c_uint64)]


class _run_fail_entry(ctypes.Structure):
    _fields_ = [("hardware_entry_failure_reason", c_uint64), ("cpu", c_uint32)]


class _run_io(ctypes.Structure):
    _fields_ = [
        ("direction", c_uint8),
        ("size", c_uint8),
        ("port", c_uint16),
        ("count", c_uint32),
        ("data_offset", c_uint64),
    ]


class _run_mmio(ctypes.Structure):
    _fields_ = [
        ("phys_addr", c_uint64),
        ("data", c_uint8 * 8),
        ("len", c_uint32),
        ("is_write", c_uint8),
    ]


class _run_internal(ctypes.Structure):
    _fields_ = [("suberror", c_uint32), ("ndata", c_uint32), ("data", c_uint64 * 16)]


class _run_system_event(ctypes.Structure):
    _fields_ = [("type", c_uint32), ("ndata", c_uint32), ("data", c_uint64 * 16)]


class _run_exit(ctypes.Union):
    _fields_ = [
        ("hw", _run_hw),
        ("fail_entry", _run_fail_entry),
        ("io", _run_io),
        ("mmio", _run_mmio),
        ("internal", _run_internal),
        ("system_event", _run_system_event),
        ("padding", c_uint8 * 256),
    ]


class _run_sync_regs(ctypes.Union):
    _fields_ = [("padding", c_uint8 * 2048)]


class kvm_run(ctypes.Structure):
    """The page that a vCPU's fd maps. User space and KVM_RUN share it."""

    _anonymous_ = ("_exit",)
    _fields_ = [
        ("request_interrupt_window", c_uint8),
        ("immediate_exit", c_uint8),
        ("padding1", c_uint8 * 6),
        ("exit_reason", c_uint32),
        ("ready_for_interrupt_injection", c_uint8),
        ("if_flag", c_uint8),
        ("flags", c_uint16),
        ("cr8", c_uint64),
        ("apic_base", c_uint64),
        ("_exit", _run_exit),
        ("kvm_valid_regs", c_uint64),
        ("kvm_dirty_regs", c_uint64),
        ("s", _run_sync_regs),
    ]


# --- ioctl numbers (include/uapi/asm-generic/ioctl.h) -------------------------------------------

KVMIO = 0xAE

_WRITE = 1
_READ = 2


def IOC(direction: int, number: int, size: int) -> int:  # noqa: N802 (the kernel's macro)
    return direction << 30 | size << 16 | KVMIO << 8 | number


def IO(number: int) -> int:  # noqa: N802
    return IOC(0, number, 0)


def IOR(number: int, argument: type[ctypes.Structure]) -> int:  # noqa: N802
    return IOC(_READ, number, ctypes.sizeof(argument))


def IOW(  # noqa: N802
    number: int, argument: type[ctypes.Structure] | type[c_uint64]
) -> int:
    return IOC(_WRITE, number, ctypes.sizeof(argument))


def IOWR(number: int, argument: type[ctypes.Structure]) -> int:  # noqa: N802
    return IOC(_READ | _WRITE, number, ctypes.sizeof(argument))


# On /dev/kvm.
KVM_GET_API_VERSION = IO(0x00)
KVM_CREATE_VM = IO(0x01)
KVM_CHECK_EXTENSION = IO(0x03)  # also on a VM
KVM_GET_VCPU_MMAP_SIZE = IO(0x04)
# On a VM.
KVM_CREATE_VCPU = IO(0x41)
KVM_SET_USER_MEMORY_REGION = IOW(0x46, kvm_userspace_memory_region)
KVM_CREATE_IRQCHIP = IO(0x60)
KVM_IOEVENTFD = IOW(0x79, kvm_ioeventfd)
KVM_ENABLE_CAP = IOW(0xA3, kvm_enable_cap)
KVM_SET_MEMORY_ATTRIBUTES = IOW(0xD2, kvm_memory_attributes)
# On a vCPU.
KVM_RUN = IO(0x80)
KVM_SET_SIGNAL_MASK = IOW(0x8B, kvm_signal_mask)
KVM_GET_MP_STATE = IOR(0x98, kvm_mp_state)
KVM_SET_MP_STATE = IOW(0x99, kvm_mp_state)
KVM_GET_STATS_FD = IO(0xCE)
KVM_GET_DEVICE_ATTR = IOW(0xE2, kvm_device_attr)  # also on a VM and on a device

# --- constants --------------------------------------------------------------------------------

KVM_API_VERSION = 12

KVM_CAP_IRQCHIP = 0
KVM_CAP_USER_MEMORY = 3
KVM_CAP_NR_VCPUS = 9
KVM_CAP_MAX_VCPUS = 66
KVM_CAP_IMMEDIATE_EXIT = 136
KVM_CAP_NESTED_STATE = 157
KVM_CAP_HALT_POLL = 182
KVM_CAP_EXIT_HYPERCALL = 201

KVM_EXIT_UNKNOWN = 0
KVM_EXIT_EXCEPTION = 1
KVM_EXIT_IO = 2
KVM_EXIT_HYPERCALL = 3
KVM_EXIT_DEBUG = 4
KVM_EXIT_HLT = 5
KVM_EXIT_MMIO = 6
KVM_EXIT_IRQ_WINDOW_OPEN = 7
KVM_EXIT_SHUTDOWN = 8
KVM_EXIT_FAIL_ENTRY = 9
KVM_EXIT_INTR = 10
KVM_EXIT_SET_TPR = 11
KVM_EXIT_TPR_ACCESS = 12
KVM_EXIT_NMI = 16
KVM_EXIT_INTERNAL_ERROR = 17
KVM_EXIT_WATCHDOG = 21
KVM_EXIT_SYSTEM_EVENT = 24
KVM_EXIT_IOAPIC_EOI = 26
KVM_EXIT_HYPERV = 27
KVM_EXIT_X86_RDMSR = 29
KVM_EXIT_X86_WRMSR = 30
KVM_EXIT_DIRTY_RING_FULL = 31
KVM_EXIT_AP_RESET_HOLD = 32
KVM_EXIT_X86_BUS_LOCK = 33
KVM_EXIT_XEN = 34
KVM_EXIT_NOTIFY = 37
KVM_EXIT_MEMORY_FAULT = 39

KVM_IOEVENTFD_FLAG_PIO = 2

KVM_MEMORY_ATTRIBUTE_PRIVATE = 1 << 3

KVM_HC_MAP_GPA_RANGE = 12  # include/uapi/linux/kvm_para.h

KVM_EXIT_IO_IN = 0
KVM_EXIT_IO_OUT = 1

KVM_INTERNAL_ERROR_EMULATION = 1
KVM_INTERNAL_ERROR_SIMUL_EX = 2
KVM_INTERNAL_ERROR_DELIVERY_EV = 3
KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON = 4

KVM_MP_STATE_RUNNABLE = 0
KVM_MP_STATE_UNINITIALIZED = 1
KVM_MP_STATE_HALTED = 3
KVM_MP_STATE_STOPPED = 5

# --- names for messages -----------------------------------------------------------------------


def _names(prefix: str, *, without: tuple[str, ...] = ()) -> dict[int, str]:
    return {
        value: name
        for name, value in globals().items()
        if name.startswith(prefix) and name not in without
    }


EXIT_REASONS = _names("KVM_EXIT_", without=("KVM_EXIT_IO_IN", "KVM_EXIT_IO_OUT"))
INTERNAL_ERRORS = _names("KVM_INTERNAL_ERROR_")
IOCTL_NAMES: dict[int, str] = {}


def name_ioctls(names: Mapping[str, object]) -> None:
    """Learn the names of ioctls, for messages, from a module's names."""
    IOCTL_NAMES.update(
        (value, name)
        for name, value in names.items()
        if name.startswith("KVM_") and isinstance(value, int) and value >> 8 & 0xFF == KVMIO
    )


name_ioctls(globals())


def exit_reason_name(reason: int) -> str:
    """The kernel's name of an exit reason; ``"KVM_EXIT_<number>"`` for one unknown here."""
    return EXIT_REASONS.get(reason, f"KVM_EXIT_{reason}")


def ioctl_name(request: int) -> str:
    """The kernel's name of an ioctl of this module; ``"ioctl 0x<number>"`` for any other."""
    return IOCTL_NAMES.get(request, f"ioctl {request:#x}")
