# SPDX-License-Identifier: Apache-2.0
"""x86-64: its part of the KVM ABI, how a guest begins, and what makes the TSC a clock.

The ABI is that of ``arch/x86/include/uapi/asm/kvm.h`` and ``include/uapi/linux/kvm.h``, under the
kernel's own names. A test compares every name with the installed headers. This module is an
:class:`kickbench.arch.Arch`. Standard library only, because the worker imports it.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterator, Mapping
from ctypes import c_uint8, c_uint16, c_uint32, c_uint64

from kickbench.kvm import Kvm, KvmError, Vcpu, Vm, abi, ioctl

NAME = "x86-64"
CROSS_PACKAGES: tuple[str, ...] = ("gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross")
LOAD_KVM = "modprobe kvm_intel or modprobe kvm_amd"
IOCTL_SYSCALL = 16
"""The number of ioctl(2): arch/x86/entry/syscalls/syscall_64.tbl."""
KEXEC_FILE_LOAD_SYSCALL = 320
"""The number of kexec_file_load(2): the same table."""

# --- the ABI ------------------------------------------------------------------------------------


class kvm_regs(ctypes.Structure):
    """General purpose registers of a vCPU."""

    _fields_ = [
        (name, c_uint64)
        for name in (
            *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
            *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
            *("rip", "rflags"),
        )
    ]


class kvm_segment(ctypes.Structure):
    """A segment register with its hidden part."""

    _fields_ = [
        ("base", c_uint64),
        ("limit", c_uint32),
        ("selector", c_uint16),
        ("type", c_uint8),
        ("present", c_uint8),
        ("dpl", c_uint8),
        ("db", c_uint8),
        ("s", c_uint8),
        ("l", c_uint8),
        ("g", c_uint8),
        ("avl", c_uint8),
        ("unusable", c_uint8),
        ("padding", c_uint8),
    ]


class kvm_dtable(ctypes.Structure):
    """GDTR or IDTR."""

    _fields_ = [("base", c_uint64), ("limit", c_uint16), ("padding", c_uint16 * 3)]


class kvm_sregs(ctypes.Structure):
    """Segment and control registers of a vCPU."""

    _fields_ = [
        ("cs", kvm_segment),
        ("ds", kvm_segment),
        ("es", kvm_segment),
        ("fs", kvm_segment),
        ("gs", kvm_segment),
        ("ss", kvm_segment),
        ("tr", kvm_segment),
        ("ldt", kvm_segment),
        ("gdt", kvm_dtable),
        ("idt", kvm_dtable),
        ("cr0", c_uint64),
        ("cr2", c_uint64),
        ("cr3", c_uint64),
        ("cr4", c_uint64),
        ("cr8", c_uint64),
        ("efer", c_uint64),
        ("apic_base", c_uint64),
        ("interrupt_bitmap", c_uint64 * 4),
    ]


class kvm_cpuid_entry2(ctypes.Structure):
    """One leaf of CPUID."""

    _fields_ = [
        ("function", c_uint32),
        ("index", c_uint32),
        ("flags", c_uint32),
        ("eax", c_uint32),
        ("ebx", c_uint32),
        ("ecx", c_uint32),
        ("edx", c_uint32),
        ("padding", c_uint32 * 3),
    ]


class kvm_cpuid2(ctypes.Structure):
    """Argument of KVM_GET_SUPPORTED_CPUID and KVM_SET_CPUID2: ``nent`` entries follow."""

    _fields_ = [("nent", c_uint32), ("padding", c_uint32), ("entries", kvm_cpuid_entry2 * 0)]


class kvm_msr_entry(ctypes.Structure):
    """One model-specific register."""

    _fields_ = [("index", c_uint32), ("reserved", c_uint32), ("data", c_uint64)]


class kvm_msrs(ctypes.Structure):
    """Argument of KVM_SET_MSRS: ``nmsrs`` entries follow."""

    _fields_ = [("nmsrs", c_uint32), ("pad", c_uint32), ("entries", kvm_msr_entry * 0)]


KVM_GET_SUPPORTED_CPUID = abi.IOWR(0x05, kvm_cpuid2)
KVM_SET_TSS_ADDR = abi.IO(0x47)
KVM_SET_IDENTITY_MAP_ADDR = abi.IOW(0x48, c_uint64)
KVM_GET_REGS = abi.IOR(0x81, kvm_regs)
KVM_SET_REGS = abi.IOW(0x82, kvm_regs)
KVM_GET_SREGS = abi.IOR(0x83, kvm_sregs)
KVM_SET_SREGS = abi.IOW(0x84, kvm_sregs)
KVM_SET_MSRS = abi.IOW(0x89, kvm_msrs)
KVM_SET_CPUID2 = abi.IOW(0x90, kvm_cpuid2)
KVM_GET_TSC_KHZ = abi.IO(0xA3)

KVM_CAP_SET_TSS_ADDR = 4
KVM_CAP_SET_IDENTITY_MAP_ADDR = 37
KVM_CAP_GET_TSC_KHZ = 61
KVM_CAP_SPLIT_IRQCHIP = 121
KVM_CAP_X86_DISABLE_EXITS = 143
KVM_X86_DISABLE_EXITS_HLT = 1 << 1
KVM_CAP_VM_TYPES = 235
KVM_X86_SW_PROTECTED_VM = 1  # Linux 6.8
KVM_VCPU_TSC_CTRL = 0  # a group of attributes of a vCPU
KVM_VCPU_TSC_OFFSET = 0  # its attribute, Linux 5.16

abi.name_ioctls(globals())

SYSTEM_TIME_MSR = 0x4B564D01  # MSR_KVM_SYSTEM_TIME_NEW, arch/x86/include/uapi/asm/kvm_para.h
MAX_CPUID_ENTRIES = 256  # KVM_MAX_CPUID_ENTRIES, arch/x86/include/asm/kvm_host.h


class OneMsr(ctypes.Structure):
    """struct kvm_msrs with room for one."""

    _fields_ = [("nmsrs", c_uint32), ("pad", c_uint32), ("entries", kvm_msr_entry * 1)]


class Cpuid(ctypes.Structure):
    """struct kvm_cpuid2 with room for all the leaves that KVM knows."""

    _fields_ = [
        ("nent", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("entries", kvm_cpuid_entry2 * MAX_CPUID_ENTRIES),
    ]

    def leaf(self, function: int) -> kvm_cpuid_entry2:
        """The first leaf of that number; all zero when there is none."""
        leaves = self.entries[: self.nent]
        found: Iterator[kvm_cpuid_entry2] = (e for e in leaves if e.function == function)
        return next(found, kvm_cpuid_entry2(function=function))


def supported_cpuid(kvm: Kvm) -> Cpuid:
    """KVM_GET_SUPPORTED_CPUID: the CPU features that a vCPU may have. Raises KvmError."""
    cpuid = Cpuid(nent=MAX_CPUID_ENTRIES)
    ioctl.call(kvm.fd, KVM_GET_SUPPORTED_CPUID, cpuid)
    return cpuid


def set_cpuid(vcpu: Vcpu, cpuid: Cpuid) -> None:
    """KVM_SET_CPUID2, before the first KVM_RUN. Raises KvmError."""
    ioctl.call(vcpu.fd, KVM_SET_CPUID2, cpuid)


def start_clock(vcpu: Vcpu, address: int) -> None:
    """Write MSR_KVM_SYSTEM_TIME_NEW for the guest. Raises KvmError.

    KVM_KVMCLOCK_CTRL fails without that clock (kvm_set_guest_paused, arch/x86/kvm/x86.c).
    """
    msrs = OneMsr(nmsrs=1)
    msrs.entries[0].index, msrs.entries[0].data = SYSTEM_TIME_MSR, address | 1
    ioctl.call(vcpu.fd, KVM_SET_MSRS, msrs)


def get_sregs(vcpu: Vcpu) -> kvm_sregs:
    """KVM_GET_SREGS. Raises KvmError."""
    sregs = kvm_sregs()
    ioctl.call(vcpu.fd, KVM_GET_SREGS, sregs)
    return sregs


def set_sregs(vcpu: Vcpu, sregs: kvm_sregs) -> None:
    """KVM_SET_SREGS. Raises KvmError."""
    ioctl.call(vcpu.fd, KVM_SET_SREGS, sregs)


def set_regs(vcpu: Vcpu, regs: kvm_regs) -> None:
    """KVM_SET_REGS. Bit 1 of ``rflags`` must be set. Raises KvmError."""
    ioctl.call(vcpu.fd, KVM_SET_REGS, regs)


# --- a machine, and where its vCPUs begin ---------------------------------------------------------

# Where KVM on Intel keeps pages of its own if the CPU can't run real mode. QEMU has the same.
IDENTITY_MAP = 0xFFFBC000
TSS = 0xFFFBD000
IOAPIC_PINS = 24


BESIDE_PROGRAM: Mapping[int, bytes] = {}


def create_vm(kvm: Kvm, *, private_memory: bool = False) -> Vm:
    """A machine of KVM's default type, or one whose memory may be private to the guest."""
    return kvm.create_vm(KVM_X86_SW_PROTECTED_VM if private_memory else 0)


def has_private_memory(kvm: Kvm) -> bool:
    """Whether there are machines of that type."""
    return bool(kvm.check_extension(KVM_CAP_VM_TYPES) & 1 << KVM_X86_SW_PROTECTED_VM)


def set_up(vm: Vm, irqchip: str) -> None:
    """Set up a machine before its first vCPU. ``irqchip`` is "none", "split" or "kernel"."""
    if vm.check_extension(KVM_CAP_SET_IDENTITY_MAP_ADDR):
        ioctl.call(vm.fd, KVM_SET_IDENTITY_MAP_ADDR, c_uint64(IDENTITY_MAP))
    if vm.check_extension(KVM_CAP_SET_TSS_ADDR):
        ioctl.call(vm.fd, KVM_SET_TSS_ADDR, TSS)
    if irqchip != "none":
        IRQCHIPS[irqchip](vm, 0)


def finish(vm: Vm, irqchip: str, n_vcpus: int) -> None:
    """Nothing: the interrupt chip comes before the vCPUs."""


def _split_irqchip(vm: Vm, _: int) -> None:
    """In-kernel local APICs only. An IOAPIC would be in user space."""
    vm.enable_cap(KVM_CAP_SPLIT_IRQCHIP, IOAPIC_PINS)


def _whole_irqchip(vm: Vm, _: int) -> None:
    """All interrupt chips in the kernel."""
    ioctl.call(vm.fd, abi.KVM_CREATE_IRQCHIP)


IRQCHIPS: Mapping[str, Callable[[Vm, int], None]] = {
    "split": _split_irqchip,
    "kernel": _whole_irqchip,
}
"""The interrupt chips in the kernel, each with what creates it, before the first vCPU."""


def start(vm: Vm, vcpu: Vcpu, entry: int, argument: int, irqchip: str) -> None:
    """Have a vCPU begin at ``entry`` in 32-bit mode without paging, with ``argument`` in ESI."""
    sregs = get_sregs(vcpu)
    flat = {"base": 0, "limit": 0xFFFFFFFF, "present": 1, "s": 1, "db": 1, "g": 1}
    sregs.cs = kvm_segment(selector=0x08, type=0b1011, **flat)
    data = kvm_segment(selector=0x10, type=0b0011, **flat)
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data
    sregs.cr0 |= 1  # protected mode, no paging
    set_sregs(vcpu, sregs)
    set_regs(vcpu, kvm_regs(rip=entry, rflags=0b10, rsi=argument))
    if irqchip != "none":
        vcpu.set_mp_state(abi.KVM_MP_STATE_RUNNABLE)  # all but the first would wait for a SIPI


UNSTARTED = abi.KVM_MP_STATE_UNINITIALIZED
"""What a vCPU is that waits for INIT and SIPI. It needs the local APIC in the kernel."""


WHY_HALTS_LEAVE = (
    "HLT leaves the guest here in any case, or no kick reaches the guest in it "
    "(KVM_CAP_X86_DISABLE_EXITS)"
)


def halt_inside(vm: Vm) -> None:
    """Let HLT wait in the guest, without an exit. Before the first vCPU. Raises KvmError."""
    if not vm.check_extension(KVM_CAP_X86_DISABLE_EXITS) & KVM_X86_DISABLE_EXITS_HLT:
        raise KvmError(errno.EINVAL, "KVM_ENABLE_CAP")  # older kernels ignore unknown bits
    vm.enable_cap(KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT)


# --- a guest of one instruction -------------------------------------------------------------------

PROBE = b"\xf4"
PROBE_NAME = "a HLT in real mode"
PROBE_EXIT = abi.KVM_EXIT_HLT


def start_probe(vm: Vm, vcpu: Vcpu, address: int) -> None:
    """Have a vCPU without an interrupt chip begin at PROBE, in real mode."""
    sregs = get_sregs(vcpu)
    sregs.cs.base, sregs.cs.selector = 0, 0
    set_sregs(vcpu, sregs)
    set_regs(vcpu, kvm_regs(rip=address, rflags=2))


# --- programs, and the exits of the program mix ---------------------------------------------------

PROGRAMS: Mapping[str, str] = {
    "pm_timer": "pio",
    "pio_out": "pio",
    "mmio": "mmio",
    "mmio_write": "mmio",
    "hlt": "hlt",
    "mix": "mix",
    "hypercall": "hypercall",
    "memory_fault": "memory_fault",
    "bounce": "bounce",
    "cpuid": "kernel",
    "rdmsr": "kernel",
    "wrmsr": "kernel",
    "vmcall": "kernel",
    "ioeventfd": "kernel",
    "split_lock": "kernel",
    "spin": "none",
}
HAS_PORTS = True
HALT_LEAVES = True
HAS_KVMCLOCK = True

PACED_ENTRY = 16
"""Bytes of an exit in the table of a paced guest: KB_MIX_ENTRY of params.h."""

_OPERAND_16 = b"\x66"
# By exit: the opcode for one byte. That for two or four is the next. Without EDX as the port, and
# with an address that follows the opcode.
_OPCODES = {"port_read": 0xEC, "port_write": 0xEE, "mmio_read": 0xA0, "mmio_write": 0xA2}


def exit_code(exit_: str, address: int, size: int) -> bytes:
    """The instructions of 32-bit mode that take an exit of a mix. They use EAX and EDX only.

    KVM's emulator knows them.
    """
    prefix = _OPERAND_16 if size == 2 else b""
    where = address.to_bytes(4, "little")
    opcode = bytes([_OPCODES[exit_] + (size > 1)])
    if exit_.startswith("port"):
        return b"\xba" + where + prefix + opcode  # mov $port, %edx
    return prefix + opcode + where


def repeated(code: bytes) -> bytes:
    """The code, and a jump from its end to its begin."""
    return code + b"\xe9" + (-len(code) - 5).to_bytes(4, "little", signed=True)


def returning(code: bytes) -> bytes:
    """The code of one exit, and a jump to where ECX points, in PACED_ENTRY bytes."""
    return (code + b"\xff\xe1").ljust(PACED_ENTRY, b"\x90")


# --- guest hypervisors ----------------------------------------------------------------------------

_CPUID_VMX = 1 << 5  # leaf 1, ECX
_CPUID_SVM = 1 << 2  # leaf 8000_0001h, ECX


def why_not_nested(kvm: Kvm) -> str | None:
    """Why a guest cannot be a hypervisor; None when it can."""
    if not kvm.check_extension(abi.KVM_CAP_NESTED_STATE):
        return "this KVM cannot run nested guests: it has no nested state (KVM_CAP_NESTED_STATE)"
    try:
        cpuid = supported_cpuid(kvm)
    except KvmError as error:
        return str(error)
    if cpuid.leaf(1).ecx & _CPUID_VMX or cpuid.leaf(0x8000_0001).ecx & _CPUID_SVM:
        return None
    return (
        "this KVM does not offer VMX or SVM to guests (KVM_GET_SUPPORTED_CPUID); "
        "load kvm_intel or kvm_amd with nested=1"
    )


# --- the counter: the TSC -------------------------------------------------------------------------

COUNTER = "TSC"
CLOCK_KIND = "tsc"
CLOCK_SOURCES = frozenset({"tsc", "tsc-early", "kvm-clock", "hyperv_clocksource_tsc_page", "xen"})
"""Clock sources that read the TSC. On bare metal there is ``tsc`` alone (and ``tsc-early`` in the
first second). The others are a hypervisor's: each is the TSC, scaled by the hypervisor."""
BARE_CLOCK_SOURCE = "tsc"
STAMP_FLAG: str | None = "rdtscp"
STEADY_FLAGS: tuple[str, ...] = ("constant_tsc", "nonstop_tsc")
MAX_STAMPED_CPU = 4095
"""RDTSCP returns the CPU's number in 12 bits (kickbench/engine/include/kickbench/arch/x86_64.h)."""


def counter_khz(vcpu: Vcpu) -> int:
    """KVM_GET_TSC_KHZ: the rate of the guest's TSC; 0 when KVM does not know it."""
    try:
        return ioctl.call(vcpu.fd, KVM_GET_TSC_KHZ)
    except KvmError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL, errno.EIO):
            return 0
        raise


def counter_offset(vcpu: Vcpu) -> int | None:
    """The vCPU's TSC less the host's, modulo 2**64; None if KVM lacks it (before 5.16)."""
    value = c_uint64()
    attribute = abi.kvm_device_attr(
        group=KVM_VCPU_TSC_CTRL, attr=KVM_VCPU_TSC_OFFSET, addr=ctypes.addressof(value)
    )
    try:
        ioctl.call(vcpu.fd, abi.KVM_GET_DEVICE_ATTR, attribute)
    except KvmError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL, errno.ENXIO):
            return None
        raise
    return value.value
