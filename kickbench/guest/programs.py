# SPDX-License-Identifier: Apache-2.0
"""The table of guest programs, each with its source in ``programs/<machine>/<name>.S``.

It says what a program does and how KVM_RUN returns from it; :mod:`kickbench.guest.loader` puts a
program into guest memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ExitKind = Literal[
    "pio", "mmio", "hlt", "mix", "kernel", "hypercall", "memory_fault", "bounce", "none"
]


@dataclass(frozen=True)
class Program:
    """One guest program.

    ``exits`` names the exit that each iteration takes to user space, on x86. An architecture
    without ports may have another (``PROGRAMS`` of :class:`kickbench.arch.Arch`). "mix": of ports
    or of memory. "memory_fault": KVM_RUN fails with EFAULT, again and again at the same access.
    "kernel": it leaves the guest, but KVM answers in the kernel. "bounce": KVM_RUN
    returns before the guest. "none": the program never leaves by itself. ``paced`` says whether a
    variant exists that paces itself by the counter and stamps its own round trips.
    """

    name: str
    doc: str
    exits: ExitKind
    paced: bool


_IN_KERNEL = {
    "cpuid": "executes CPUID, leaf 0",
    "rdmsr": "reads an MSR, IA32_BIOS_SIGN_ID",
    "wrmsr": "writes that MSR",
    "vmcall": "makes a hypercall that does nothing, VMCALL or VMMCALL",
    "ioeventfd": "writes one byte to a port that is an eventfd",
    "split_lock": "adds to four bytes on two cache lines, with LOCK",
}

PROGRAMS: dict[str, Program] = {
    program.name: program
    for program in (
        Program("pm_timer", "reads the ACPI PM timer, in eax, dx on port 0x608", "pio", True),
        Program("pio_out", "writes one byte to port 0x80, out dx, al", "pio", True),
        Program("mmio", "reads four bytes of an address that has no memory", "mmio", True),
        Program("mmio_write", "writes four bytes to such an address", "mmio", True),
        Program("hlt", "halts; exits only without an in-kernel irqchip", "hlt", True),
        Program("mix", "takes the exits of a table in turn, see kickbench.guest.mix", "mix", True),
        Program("hypercall", "asks user space to map memory", "hypercall", True),
        Program("memory_fault", "reads private memory that it has not got", "memory_fault", False),
        Program("bounce", "never runs: KVM_RUN with immediate_exit set", "bounce", False),
        *(Program(name, doc, "kernel", True) for name, doc in _IN_KERNEL.items()),
        Program("spin", "counts in its parameter block and never exits by itself", "none", False),
    )
}


def stays_in_kernel(program: str | None) -> bool:
    """Whether the exits of a program stay in the kernel. Only the guest itself can time them."""
    return program in PROGRAMS and PROGRAMS[program].exits == "kernel"
