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

from kickbench.arch import x86_64
from kickbench.errors import HostError
from kickbench.kvm import Kvm, Vcpu, Vm


class Arch(Protocol):
    """One architecture. Its functions raise KvmError.

    ``LOAD_KVM`` is the command that loads KVM's module. ``IRQCHIPS`` create an interrupt chip in
    the kernel, by the words of a scenario. ``PROBE`` is a guest of one instruction, which ends with
    ``PROBE_EXIT``. ``COUNTER`` stamps exits. ``CLOCK_SOURCES`` are the kernel's clock sources that
    read it, ``BARE_CLOCK_SOURCE`` is the one on bare metal. A CPU must have ``STAMP_FLAG``, and
    should have ``STEADY_FLAGS``. ``MAX_STAMPED_CPU`` is the last CPU whose number comes with the
    counter. ``PACED_ENTRY`` is the length of what ``returning`` returns.
    """

    NAME: str
    LOAD_KVM: str
    IOCTL_SYSCALL: int
    IRQCHIPS: Mapping[str, Callable[[Vm], None]]
    PROBE: bytes
    PROBE_NAME: str
    PROBE_EXIT: int
    COUNTER: str
    CLOCK_SOURCES: frozenset[str]
    BARE_CLOCK_SOURCE: str
    STAMP_FLAG: str
    STEADY_FLAGS: tuple[str, ...]
    MAX_STAMPED_CPU: int
    PACED_ENTRY: int

    def set_up(self, vm: Vm, irqchip: str) -> None:
        """Set up what a machine needs before its first vCPU."""

    def start(self, vcpu: Vcpu, entry: int, argument: int, irqchip: str) -> None:
        """Have a vCPU begin at ``entry``, with ``argument`` in a register."""

    def start_probe(self, vcpu: Vcpu, address: int) -> None:
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


ARCHS: dict[str, Arch] = {"x86_64": x86_64}
"""The architectures by the machine's name in uname(2)."""


@cache
def current() -> Arch:
    """The architecture of this host. Raises HostError when kickbench does not support it."""
    machine = os.uname().machine
    if machine not in ARCHS:
        names = " and ".join(arch.NAME for arch in ARCHS.values())
        raise HostError(f"kickbench measures {names} hosts only, and this host is {machine}")
    return ARCHS[machine]
