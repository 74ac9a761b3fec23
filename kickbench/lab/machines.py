# SPDX-License-Identifier: Apache-2.0
"""The emulated machines, as a table.

Nothing is started here: see :mod:`kickbench.lab.emulator`. Another emulator is a module beside
:mod:`kickbench.lab.qemu` and :mod:`kickbench.lab.bochs`, with a class that has the methods of
:class:`kickbench.lab.emulation.Emulator`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kickbench.errors import UsageError
from kickbench.lab.bochs import Bochs
from kickbench.lab.emulation import Emulator
from kickbench.lab.qemu import VIRT, Qemu


@dataclass(frozen=True)
class Machine:
    """An emulated host. ``doc`` says what it is for, and ``emulator`` makes it.

    If its clock counts instructions, ``count_step`` is how many it counts at a time. Otherwise it
    is 0.
    """

    id: str
    doc: str
    emulator: Emulator
    count_step: int = 0

    def description(self) -> str:
        """The words that mark its results."""
        return self.emulator.description()


def _in_turn(shift: int) -> tuple[str, ...]:
    """Six CPUs that take turns, on two nodes. An instruction takes 2^``shift`` ns."""
    return (
        *("-accel", "tcg,thread=single", "-icount", f"shift={shift},sleep=on"),
        *("-smp", "6", "-m", "1G"),
        *("-object", "memory-backend-ram,id=memory0,size=512M"),
        *("-object", "memory-backend-ram,id=memory1,size=512M"),
        *("-numa", "node,nodeid=0,cpus=0-2,memdev=memory0"),
        *("-numa", "node,nodeid=1,cpus=3-5,memdev=memory1"),
        *("-numa", "dist,src=0,dst=1,val=21"),
    )


# QEMU 7.2 reads all of a masked load of AVX2 (VPMASKMOV), also what the mask leaves out. So such a
# load at the end of memory ends in a page fault: numpy sorts by them, and Python crashed at times.
_AMD_CPU = "max,-avx2"


def _amd_in_turn(name: str, shift: int, cpu: str = _AMD_CPU) -> Qemu:
    return Qemu(name, (*_in_turn(shift), "-cpu", cpu))


_ARM64 = ("-M", "virt,virtualization=on,gic-version=3")
# QEMU spends most of its time on the pointers' authentication if it does that by the book. A guest
# has no use for SVE.
_ARM64_CPU = "max,sve=off,pauth-impdef=on"
# A counter of 1 GHz, as CPUs of Armv8.6 have, has a tick for each ns.
_ARM64_NS = ("-cpu", f"{_ARM64_CPU},cntfrq=1000000000")
# As KVM does for a vCPU whose thread is alone on its CPU. By default each KVM_RUN looks whether it
# is, and has six instructions more if so (kvm_vcpu_should_clear_twe in arch/arm64/kvm/arm.c).
_ARM64_ALONE = "kvm-arm.wfe_trap_policy=notrap kvm-arm.wfi_trap_policy=trap"


def _arm64_in_turn(name: str, shift: int) -> Qemu:
    words = (*_ARM64, *_in_turn(shift), *_ARM64_NS)
    return Qemu(name, words, "qemu-system-aarch64", _ARM64_ALONE, VIRT)


MACHINES: dict[str, Machine] = {
    machine.id: machine
    for machine in (
        Machine(
            "amd-numa",
            "two NUMA nodes and SVM: remote placements, every protocol, nested guests",
            Qemu(
                "SVM, 4 CPUs, 2 nodes",
                (
                    *("-accel", "tcg,thread=multi", "-cpu", _AMD_CPU, "-smp", "4", "-m", "2G"),
                    *("-object", "memory-backend-ram,id=memory0,size=1G"),
                    *("-object", "memory-backend-ram,id=memory1,size=1G"),
                    *("-numa", "node,nodeid=0,cpus=0-1,memdev=memory0"),
                    *("-numa", "node,nodeid=1,cpus=2-3,memdev=memory1"),
                    *("-numa", "dist,src=0,dst=1,val=21"),
                ),
            ),
        ),
        Machine(
            "amd-count",
            "one CPU whose clock counts its instructions: exact and repeatable costs",
            Qemu(
                "SVM, 1 CPU, a nanosecond is an instruction",
                # sleep=on: while the CPU waits for the host's files, time passes as outside. With
                # sleep=off it would leap from timer to timer, and every time-out would be over at
                # once.
                (
                    *("-accel", "tcg,thread=single", "-icount", "shift=0,sleep=on"),
                    *("-cpu", _AMD_CPU, "-smp", "1", "-m", "2G"),
                ),
            ),
            count_step=1,
        ),
        Machine(
            "amd-lines",
            "two NUMA nodes and CPUs that take turns: which cache lines they share",
            # An instruction takes 8 ns here. With 1 ns, the 100 ms for which the kernel watches its
            # local APIC's timer (calibrate_APIC_clock) take more than half of the boot.
            # With ERMS the kernel copies and clears a byte at a time, as QEMU does it, and the
            # plugin sees each access. Without it, the kernel does so by 8 bytes.
            _amd_in_turn("SVM, 6 CPUs in turn, 2 nodes", shift=3, cpu=f"{_AMD_CPU},-erms"),
        ),
        Machine(
            "arm64",
            "arm64 with EL2 and two NUMA nodes: every protocol, remote placements",
            Qemu(
                "arm64, EL2, GICv3, 4 CPUs, 2 nodes",
                (
                    *_ARM64,
                    *("-accel", "tcg,thread=multi", "-cpu", _ARM64_CPU, "-smp", "4", "-m", "2G"),
                    *("-object", "memory-backend-ram,id=memory0,size=1G"),
                    *("-object", "memory-backend-ram,id=memory1,size=1G"),
                    *("-numa", "node,nodeid=0,cpus=0-1,memdev=memory0"),
                    *("-numa", "node,nodeid=1,cpus=2-3,memdev=memory1"),
                    *("-numa", "dist,src=0,dst=1,val=21"),
                ),
                "qemu-system-aarch64",
                platform=VIRT,
            ),
        ),
        Machine(
            "arm64-count",
            "arm64 with one CPU whose clock counts its instructions: exact costs",
            Qemu(
                "arm64, EL2, GICv3, 1 CPU, a nanosecond is an instruction",
                (
                    *_ARM64,
                    *("-accel", "tcg,thread=single", "-icount", "shift=0,sleep=on"),
                    *(*_ARM64_NS, "-smp", "1", "-m", "2G"),
                ),
                "qemu-system-aarch64",
                _ARM64_ALONE,
                VIRT,
            ),
            count_step=1,
        ),
        Machine(
            "arm64-lines",
            "arm64 with two NUMA nodes and CPUs that take turns: which cache lines they share",
            _arm64_in_turn("arm64, EL2, GICv3, 6 CPUs in turn, 2 nodes", shift=3),
        ),
        Machine(
            "intel-vmx",
            "VMX on two CPUs whose clock counts instructions: every protocol, nested guests",
            Bochs(cpus=2),
            # With two CPUs, each executes five instructions at a time, and then the clock advances.
            count_step=5,
        ),
    )
}
"""The machines by name."""

LINES = {"x86_64": MACHINES["amd-lines"], "arm64": MACHINES["arm64-lines"]}
"""By architecture, the machine whose CPUs take turns."""

_COUNTS = "6 CPUs in turn, 2 nodes, a nanosecond is an instruction"
COUNTING_LINES = {
    "x86_64": replace(LINES["x86_64"], emulator=_amd_in_turn(f"SVM, {_COUNTS}", shift=0)),
    "arm64": replace(
        LINES["arm64"], emulator=_arm64_in_turn(f"arm64, EL2, GICv3, {_COUNTS}", shift=0)
    ),
}
"""These machines with a clock that counts the instructions of all CPUs. They boot more slowly."""


def find(name: str) -> Machine:
    """The machine of this name. Raises UsageError, with all names, if there is none."""
    if name not in MACHINES:
        raise UsageError(f"no machine {name}; there are: {', '.join(MACHINES)}")
    return MACHINES[name]
