# SPDX-License-Identifier: Apache-2.0
"""What differs between architectures: a module for each, all with the names of :class:`Arch`.

Two more places depend on the architecture. ``engine/include/kickbench/arch/`` has the counter and
the fences of the hot loops, ``guest/programs/`` the guests in assembly. All other code asks
:func:`current`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Protocol

from kickbench.arch import aarch64, x86_64
from kickbench.errors import HostError
from kickbench.kvm import Kvm, Vcpu, Vm


class Arch(Protocol):
    """One architecture. Its functions raise KvmError.

    ``CROSS_PACKAGES`` are Debian's packages that build its parts on another architecture.
    ``LOAD_KVM`` says how KVM comes to be there. ``IRQCHIPS`` create an interrupt chip in the
    kernel, by the words of a scenario, for so many vCPUs. ``PROBE`` is a small guest, which ends
    with ``PROBE_EXIT``.

    ``PROGRAMS`` has the kind of exit of each guest program that there is (``ExitKind`` of
    :mod:`kickbench.guest.programs`). ``BESIDE_PROGRAM`` is what a guest's memory has besides, by
    its address. ``HAS_PORTS``: there are exits of ports. ``HALT_LEAVES``: a guest that halts
    without an interrupt chip in the kernel leaves to user space. ``UNSTARTED`` is the MP state of a
    vCPU that nobody has started. ``WHY_HALTS_LEAVE`` says why, if guests cannot
    be let halt inside. ``HAS_KVMCLOCK``: there is ``start_clock``. ``PACED_ENTRY`` is the
    length of what ``returning`` returns.

    ``COUNTER`` stamps exits, and results call it ``CLOCK_KIND``. ``CLOCK_SOURCES`` are the
    kernel's clock sources that read it, ``BARE_CLOCK_SOURCE`` is the one on bare metal. A CPU must
    have ``STAMP_FLAG``, and should have ``STEADY_FLAGS``. ``MAX_STAMPED_CPU`` is the last CPU whose
    number comes with the counter.
    """

    NAME: str
    CROSS_PACKAGES: tuple[str, ...]
    LOAD_KVM: str
    IOCTL_SYSCALL: int
    KEXEC_FILE_LOAD_SYSCALL: int
    IRQCHIPS: Mapping[str, Callable[[Vm, int], None]]
    PROBE: bytes
    PROBE_NAME: str
    PROBE_EXIT: int
    PROGRAMS: Mapping[str, str]
    BESIDE_PROGRAM: Mapping[int, bytes]
    HAS_PORTS: bool
    HALT_LEAVES: bool
    UNSTARTED: int
    WHY_HALTS_LEAVE: str
    HAS_KVMCLOCK: bool
    COUNTER: str
    CLOCK_KIND: str
    CLOCK_SOURCES: frozenset[str]
    BARE_CLOCK_SOURCE: str
    STAMP_FLAG: str | None
    STEADY_FLAGS: tuple[str, ...]
    MAX_STAMPED_CPU: int
    PACED_ENTRY: int

    def create_vm(self, kvm: Kvm, *, private_memory: bool = False) -> Vm:
        """A machine of the type that this host can have. Its memory may be private to the guest if
        asked for, where :meth:`has_private_memory`."""

    def has_private_memory(self, kvm: Kvm) -> bool:
        """Whether there are machines whose memory may be private to the guest."""

    def set_up(self, vm: Vm, irqchip: str) -> None:
        """Set up what a machine needs before its first vCPU."""

    def finish(self, vm: Vm, irqchip: str, n_vcpus: int) -> None:
        """Set up what a machine needs after its last vCPU."""

    def start(self, vm: Vm, vcpu: Vcpu, entry: int, argument: int, irqchip: str) -> None:
        """Have a vCPU begin at ``entry``, with ``argument`` in a register."""

    def halt_inside(self, vm: Vm) -> None:
        """Let a guest that halts wait in the guest, before the first vCPU."""

    def start_clock(self, vcpu: Vcpu, address: int) -> None:
        """Have KVM keep a paravirtual clock for the vCPU, in 32 bytes of the guest's memory."""

    def start_probe(self, vm: Vm, vcpu: Vcpu, address: int) -> None:
        """Have a vCPU begin at PROBE."""

    def exit_code(self, exit_: str, address: int, size: int) -> bytes:
        """The instructions that take one exit of the guest program mix."""

    def repeated(self, code: bytes) -> bytes:
        """The code in an endless loop."""

    def returning(self, code: bytes) -> bytes:
        """The code of one exit, and what leads back to a paced guest."""

    def why_not_nested(self, kvm: Kvm) -> str | None:
        """Why a guest cannot be a hypervisor; None when it can."""

    def counter_khz(self, vcpu: Vcpu) -> int:
        """The rate of the guest's counter; 0 when KVM does not know it."""


ARCHS: dict[str, Arch] = {"x86_64": x86_64, "aarch64": aarch64}
"""The architectures by the machine's name in uname(2)."""


@cache
def current() -> Arch:
    """The architecture of this host. Raises HostError when kickbench does not support it."""
    machine = os.uname().machine
    if machine not in ARCHS:
        raise HostError(f"kickbench measures {names()} hosts only, and this host is {machine}")
    return ARCHS[machine]


def names() -> str:
    """The architectures, in words."""
    return " and ".join(arch.NAME for arch in ARCHS.values())
