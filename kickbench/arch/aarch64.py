# SPDX-License-Identifier: Apache-2.0
"""arm64: its part of the KVM ABI, how a guest begins, and what makes the virtual counter a clock.

The ABI is that of ``arch/arm64/include/uapi/asm/kvm.h`` and ``include/uapi/linux/kvm.h``, under the
kernel's own names. A test compares every name with the headers of arm64. The meaning is in
``Documentation/virt/kvm/api.rst`` and ``Documentation/virt/kvm/devices/arm-vgic*.rst``. Registers
are those of the Arm Architecture Reference Manual (DDI 0487). This module is an
:class:`kickbench.arch.Arch`. Standard library only, because the worker imports it.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable, Mapping
from ctypes import c_uint32, c_uint64

from kickbench.kvm import Kvm, KvmError, Vcpu, Vm, abi, ioctl

NAME = "arm64"
CROSS_PACKAGES: tuple[str, ...] = ("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross")
LOAD_KVM = "boot the kernel at EL2, with CONFIG_KVM"
IOCTL_SYSCALL = 29
"""The number of ioctl(2): include/uapi/asm-generic/unistd.h."""
KEXEC_FILE_LOAD_SYSCALL = 294
"""The number of kexec_file_load(2): the same file."""

# --- the ABI ------------------------------------------------------------------------------------


class user_pt_regs(ctypes.Structure):
    """The general purpose registers (arch/arm64/include/uapi/asm/ptrace.h): the beginning of
    struct kvm_regs, by which KVM_REG_ARM_CORE numbers registers."""

    _fields_ = [
        ("regs", c_uint64 * 31),
        ("sp", c_uint64),
        ("pc", c_uint64),
        ("pstate", c_uint64),
    ]


class kvm_vcpu_init(ctypes.Structure):
    """Argument of KVM_ARM_PREFERRED_TARGET and KVM_ARM_VCPU_INIT."""

    _fields_ = [("target", c_uint32), ("features", c_uint32 * 7)]


class kvm_one_reg(ctypes.Structure):
    """Argument of KVM_SET_ONE_REG; ``addr`` is where the value is."""

    _fields_ = [("id", c_uint64), ("addr", c_uint64)]


class kvm_create_device(ctypes.Structure):
    """Argument of KVM_CREATE_DEVICE, which fills in ``fd``."""

    _fields_ = [("type", c_uint32), ("fd", c_uint32), ("flags", c_uint32)]


KVM_SET_ONE_REG = abi.IOW(0xAC, kvm_one_reg)
KVM_ARM_VCPU_INIT = abi.IOW(0xAE, kvm_vcpu_init)
KVM_ARM_PREFERRED_TARGET = abi.IOR(0xAF, kvm_vcpu_init)
KVM_CREATE_DEVICE = abi.IOWR(0xE0, kvm_create_device)
KVM_SET_DEVICE_ATTR = abi.IOW(0xE1, abi.kvm_device_attr)

KVM_CAP_ARM_VM_IPA_SIZE = 165
KVM_VM_TYPE_ARM_IPA_SIZE_MASK = 0xFF
KVM_ARM_VCPU_PSCI_0_2 = 2

KVM_REG_ARM64 = 0x6000_0000_0000_0000
KVM_REG_SIZE_U64 = 0x0030_0000_0000_0000
KVM_REG_ARM_CORE = 0x0010_0000
KVM_REG_ARM64_SYSREG = 0x0013_0000

KVM_DEV_TYPE_ARM_VGIC_V2 = 5
KVM_DEV_TYPE_ARM_VGIC_V3 = 7
KVM_DEV_ARM_VGIC_GRP_ADDR = 0
KVM_DEV_ARM_VGIC_GRP_CTRL = 4
KVM_DEV_ARM_VGIC_CTRL_INIT = 0
KVM_VGIC_V2_ADDR_TYPE_DIST = 0
KVM_VGIC_V2_ADDR_TYPE_CPU = 1
KVM_VGIC_V3_ADDR_TYPE_DIST = 2
KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION = 5

abi.name_ioctls(globals())


def set_register(vcpu: Vcpu, register: int, value: int) -> None:
    """KVM_SET_ONE_REG of 64 bits. Raises KvmError."""
    here = c_uint64(value)
    ioctl.call(vcpu.fd, KVM_SET_ONE_REG, kvm_one_reg(id=register, addr=ctypes.addressof(here)))


def _core(offset: int) -> int:
    """The number of a core register, by its offset in struct user_pt_regs, in bytes."""
    return KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | offset // 4


def _sysreg(op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
    """The number of a system register: ARM64_SYS_REG of the kernel's header."""
    encoded = op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
    return KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG | encoded


_X0 = _core(0)
_X1 = _core(8)
_PC = _core(user_pt_regs.pc.offset)
_PSTATE = _core(user_pt_regs.pstate.offset)
_SCTLR_EL1 = _sysreg(3, 0, 1, 0, 0)
_TTBR0_EL1 = _sysreg(3, 0, 2, 0, 0)
_TCR_EL1 = _sysreg(3, 0, 2, 0, 2)
_MAIR_EL1 = _sysreg(3, 0, 10, 2, 0)

# --- a machine, and where its vCPUs begin ---------------------------------------------------------

_MAX_IPA_BITS = 40


def create_vm(kvm: Kvm, *, private_memory: bool = False) -> Vm:
    """A machine with the addresses that this CPU has: some cores have fewer than KVM's default."""
    bits = kvm.check_extension(KVM_CAP_ARM_VM_IPA_SIZE)
    fewer = 0 < bits < _MAX_IPA_BITS
    return kvm.create_vm(bits & KVM_VM_TYPE_ARM_IPA_SIZE_MASK if fewer else 0)


def has_private_memory(kvm: Kvm) -> bool:
    """None of its own: the memory of a protected machine is private to it in another way."""
    return False


# The memory of a guest is cached, as it is here. With the MMU off, its accesses would go past the
# caches, and either side would read what the other no longer has (Arm ARM, "The effects of
# disabling an address translation stage"). So addresses below 4 GiB map to themselves by four
# blocks of 1 GiB: two of memory, and two of addresses where there is none.
_TRANSLATION = 0x8000
_BLOCK = 0b01
_INDEX_DEVICE = 1 << 2  # of MAIR_EL1
_INNER_SHAREABLE = 0b11 << 8
_ACCESSED = 1 << 10
_NEVER_EXECUTE = 0b11 << 53
_MEMORY = _BLOCK | _ACCESSED | _INNER_SHAREABLE
_NO_MEMORY = _BLOCK | _ACCESSED | _INDEX_DEVICE | _NEVER_EXECUTE
BESIDE_PROGRAM: Mapping[int, bytes] = {
    _TRANSLATION: struct.pack(
        "<4Q",
        *(gib << 30 | kind for gib, kind in enumerate((_MEMORY,) * 2 + (_NO_MEMORY,) * 2)),
    )
}

_MAIR = 0x04FF  # 0: normal memory, write-back; 1: a device, nGnRE
_TCR = (
    32  # T0SZ: addresses of 32 bits
    | 0b01 << 8  # IRGN0: the walk is cached, ...
    | 0b01 << 10  # ORGN0
    | 0b11 << 12  # SH0: ... and inner shareable
    | 0b00 << 14  # TG0: pages of 4 KiB
    | 1 << 23  # EPD1: nothing is above
    | 0b010 << 32  # IPS: 40 bits
)
_SCTLR = 0x30D0_0800 | 1 << 0 | 1 << 2 | 1 << 12  # what must be 1; MMU, caches
_EL1_MASKED = 0x3C5  # EL1h, with all interrupts masked


def set_up(vm: Vm, irqchip: str) -> None:
    """Nothing: the interrupt chip needs to know the vCPUs first."""


def finish(vm: Vm, irqchip: str, n_vcpus: int) -> None:
    """Give a machine its interrupt chip, when it has its vCPUs."""
    if irqchip != "none":
        IRQCHIPS[irqchip](vm, n_vcpus)


def _reset(vcpu: Vcpu, vm: Vm) -> None:
    """KVM_ARM_VCPU_INIT: a CPU like the host's, powered on."""
    target = kvm_vcpu_init()
    ioctl.call(vm.fd, KVM_ARM_PREFERRED_TARGET, target)
    target.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2
    ioctl.call(vcpu.fd, KVM_ARM_VCPU_INIT, target)


def start(vm: Vm, vcpu: Vcpu, entry: int, argument: int, irqchip: str) -> None:
    """Have a vCPU begin at ``entry`` at EL1 with the MMU on, with ``argument`` in X0."""
    _reset(vcpu, vm)
    for register, value in (
        (_MAIR_EL1, _MAIR),
        (_TCR_EL1, _TCR),
        (_TTBR0_EL1, _TRANSLATION),
        (_SCTLR_EL1, _SCTLR),
        (_PSTATE, _EL1_MASKED),
        (_X0, argument),
        (_PC, entry),
    ):
        set_register(vcpu, register, value)


# --- interrupt chips ------------------------------------------------------------------------------

# Above all memory and all addresses that exits are taken at.
_GIC = 0x1_0000_0000
_REDISTRIBUTORS = _GIC + 0x1_0000
_V2_CPU_INTERFACE = _GIC + 0x1_0000
_COUNT_SHIFT = 52  # in the attribute of a region of redistributors


class _Gic:
    """A generic interrupt controller in the kernel: a descriptor that the machine keeps open."""

    def __init__(self, vm: Vm, kind: int) -> None:
        request = kvm_create_device(type=kind)
        ioctl.call(vm.fd, KVM_CREATE_DEVICE, request)
        self._fd = int(request.fd)
        vm.keep(self._fd)

    def place(self, what: int, address: int) -> None:
        value = c_uint64(address)
        self._set(KVM_DEV_ARM_VGIC_GRP_ADDR, what, ctypes.addressof(value))

    def begin(self) -> None:
        self._set(KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, 0)

    def _set(self, group: int, attribute: int, address: int) -> None:
        request = abi.kvm_device_attr(group=group, attr=attribute, addr=address)
        ioctl.call(self._fd, KVM_SET_DEVICE_ATTR, request)


def _create_gic(vm: Vm, n_vcpus: int) -> None:
    """GICv3; where the host's own cannot be one, GICv2, which has up to 8 vCPUs."""
    try:
        gic = _Gic(vm, KVM_DEV_TYPE_ARM_VGIC_V3)
    except KvmError:
        gic = _Gic(vm, KVM_DEV_TYPE_ARM_VGIC_V2)
        gic.place(KVM_VGIC_V2_ADDR_TYPE_DIST, _GIC)
        gic.place(KVM_VGIC_V2_ADDR_TYPE_CPU, _V2_CPU_INTERFACE)
    else:
        gic.place(KVM_VGIC_V3_ADDR_TYPE_DIST, _GIC)
        gic.place(KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, n_vcpus << _COUNT_SHIFT | _REDISTRIBUTORS)
    gic.begin()


IRQCHIPS: Mapping[str, Callable[[Vm, int], None]] = {"kernel": _create_gic}
"""The interrupt chips in the kernel, each with what creates it in a machine with so many vCPUs."""

UNSTARTED = abi.KVM_MP_STATE_STOPPED
"""What a vCPU is that PSCI has not powered on."""


WHY_HALTS_LEAVE = (
    "whether WFI leaves the guest is the same for all machines of a host (kvm-arm.wfi_trap_policy)"
)


def halt_inside(vm: Vm) -> None:
    """KVM has it for all machines or none (kvm-arm.wfi_trap_policy). Raises KvmError."""
    raise KvmError(errno.EINVAL, "KVM_ENABLE_CAP")


# --- a guest of two instructions ------------------------------------------------------------------

_PROBE_ADDRESS = 0x8000_0000
PROBE = struct.pack("<2I", 0xD53BE000, 0xB9000020)
"""mrs x0, cntfrq_el0; str w0, [x1]: it tells the counter's rate, and leaves."""
PROBE_NAME = "a store to an address without memory"
PROBE_EXIT = abi.KVM_EXIT_MMIO


def start_clock(vcpu: Vcpu, address: int) -> None:
    """There is no such clock."""
    raise NotImplementedError


def start_probe(vm: Vm, vcpu: Vcpu, address: int) -> None:
    """Have a vCPU begin at PROBE, with the MMU off."""
    _reset(vcpu, vm)
    set_register(vcpu, _PSTATE, _EL1_MASKED)
    set_register(vcpu, _X1, _PROBE_ADDRESS)
    set_register(vcpu, _PC, address)


# --- programs, and the exits of the program mix ---------------------------------------------------

PROGRAMS: Mapping[str, str] = {
    "pm_timer": "mmio",
    "mmio": "mmio",
    "mmio_write": "mmio",
    "hlt": "hlt",
    "mix": "mix",
    "bounce": "bounce",
    "spin": "none",
}
HAS_PORTS = False
HALT_LEAVES = False
HAS_KVMCLOCK = False

PACED_ENTRY = 16
"""Bytes of an exit in the table of a paced guest: KB_MIX_ENTRY of params.h."""

# By exit and size: ldr w2, [x1] and its likes.
_ACCESSES = {
    ("mmio_read", 1): 0x39400022,
    ("mmio_read", 2): 0x79400022,
    ("mmio_read", 4): 0xB9400022,
    ("mmio_write", 1): 0x39000022,
    ("mmio_write", 2): 0x79000022,
    ("mmio_write", 4): 0xB9000022,
}
_MOVZ_W1 = 0x52800001
_MOVK_W1_HIGH = 0x72A00001
_B = 0x14000000
_BR_X20 = 0xD61F0280


def exit_code(exit_: str, address: int, size: int) -> bytes:
    """The instructions that take an exit of a mix. They use X1 and X2 only."""
    low, high = address & 0xFFFF, address >> 16
    access = _ACCESSES[exit_, size]
    return struct.pack("<3I", _MOVZ_W1 | low << 5, _MOVK_W1_HIGH | high << 5, access)


def repeated(code: bytes) -> bytes:
    """The code, and a branch from its end to its begin."""
    return code + struct.pack("<I", _B | -len(code) // 4 & 0x3FF_FFFF)


def returning(code: bytes) -> bytes:
    """The code of one exit, and a branch to where X20 points, in PACED_ENTRY bytes."""
    return code + struct.pack("<I", _BR_X20)


# --- guest hypervisors ----------------------------------------------------------------------------


def why_not_nested(kvm: Kvm) -> str | None:
    """Why a guest cannot be a hypervisor."""
    return "the guest hypervisor of kickbench is a program of x86-64"


# --- the counter ----------------------------------------------------------------------------------

COUNTER = "virtual counter"
CLOCK_KIND = "cntvct"
CLOCK_SOURCES = frozenset({"arch_sys_counter"})
"""drivers/clocksource/arm_arch_timer.c."""
BARE_CLOCK_SOURCE = "arch_sys_counter"
STAMP_FLAG: str | None = None  # every CPU has the counter
STEADY_FLAGS: tuple[str, ...] = ()
MAX_STAMPED_CPU = 2**31 - 1
"""struct rseq has the CPU's number in 32 bits."""


def counter_khz(vcpu: Vcpu) -> int:
    """CNTFRQ_EL0, which PROBE has just stored; 0 for a vCPU that did not run it."""
    run = vcpu.run
    if run.exit_reason != abi.KVM_EXIT_MMIO or run.mmio.phys_addr != _PROBE_ADDRESS:
        return 0
    return int.from_bytes(bytes(run.mmio.data[:4]), "little") // 1000
