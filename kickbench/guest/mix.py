# SPDX-License-Identifier: Apache-2.0
"""The exits of the guest program ``mix``: which there are, and how its table has them.

:func:`kickbench.run.schedule.mix_table` draws a table from the exits' shares. Standard library
only, because the worker imports this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from kickbench import arch

EXITS: dict[str, str] = {
    "port_read": "reads a port",
    "port_write": "writes to a port",
    "mmio_read": "reads an address without memory",
    "mmio_write": "writes to an address without memory",
}
"""The exits that a mix may have, with what the guest does."""

SIZES = (1, 2, 4)
MAX_EXITS = 256
"""The most exits that differ."""
MAX_SHARE = 1e12
MAX_ENTRIES = 4096
"""The entries of a table: a power of two."""

# All memory of a guest is below: at most 1 GiB of rings, and some pages for each vCPU.
FIRST_ADDRESS = 0x8000_0000
LAST_ADDRESS = 0xFFFF_FFFF
LAST_PORT = 0xFFFF
PAGE = 4096

# What never leaves to user space: by interrupt chip, the first and the last address. The ports are
# those of the PIC (arch/x86/kvm/i8259.c), the addresses those of the IOAPIC and the local APIC.
_PIC = ((0x20, 0x21), (0xA0, 0xA1), (0x4D0, 0x4D1))
_IOAPIC = (0xFEC0_0000, 0xFEC0_00FF)
_LOCAL_APIC = (0xFEE0_0000, 0xFEE0_0FFF)
_KVMS_OWN = (0xFFFB_C000, 0xFFFB_FFFF)  # IDENTITY_MAP and TSS of kickbench/arch/x86_64.py
_KEPT_PORTS = {"none": (), "split": (), "kernel": _PIC}
_KEPT_ADDRESSES = {
    "none": (_KVMS_OWN,),
    "split": (_KVMS_OWN, _LOCAL_APIC),
    "kernel": (_KVMS_OWN, _LOCAL_APIC, _IOAPIC),
}


@dataclass(frozen=True)
class MixedExit:
    """One exit of a mix: ``exit`` is a key of :data:`EXITS`, ``address`` a port or an address in
    guest memory, ``size`` in bytes. ``share`` is its weight among the exits of the mix."""

    exit: str
    address: int
    size: int
    share: float


def is_port(exit_: str) -> bool:
    """Whether an exit is of a port."""
    return exit_.startswith("port")


def why_not_an_exit(exit_: str, address: int, size: int) -> str | None:
    """Why the guest cannot take this exit with any interrupt chip: what was expected of its
    address, in words. None if it can.

    KVM makes two exits of an access that crosses a page.
    """
    if is_port(exit_):
        fits = 0 <= address <= LAST_PORT + 1 - size
        return None if fits else f"a port from 0 to {LAST_PORT + 1 - size:#x}"
    if not FIRST_ADDRESS <= address <= LAST_ADDRESS:
        return f"an address without memory, {FIRST_ADDRESS:#x} to {LAST_ADDRESS:#x}"
    if address % PAGE > PAGE - size:
        return f"an address whose {size} bytes are in one page"
    return _why_kept(address, size, (_KVMS_OWN,))


def why_kept(exit_: str, address: int, size: int, irqchip: str) -> str | None:
    """Why KVM handles this access itself with that interrupt chip; None if it leaves."""
    return _why_kept(address, size, (_KEPT_PORTS if is_port(exit_) else _KEPT_ADDRESSES)[irqchip])


def _why_kept(address: int, size: int, kept: Sequence[tuple[int, int]]) -> str | None:
    for first, last in kept:
        if address <= last and first < address + size:
            return f"an address outside {first:#x} to {last:#x}, which KVM keeps to itself"
    return None


def nearest(exit_: str, address: int, size: int, irqchip: str) -> int:
    """The address at which the guest takes this exit: the same if it can, else one that costs as
    much, because no device is at either.

    For the exits of other machines, which may have devices where this guest has memory.
    """
    if is_port(exit_):
        moved = min(address, LAST_PORT + 1 - size)
        spare = 0x80
    else:
        moved = FIRST_ADDRESS | address & (FIRST_ADDRESS - 1)
        moved -= max(0, moved % PAGE - (PAGE - size))
        spare = FIRST_ADDRESS | address % PAGE & ~3
    return spare if why_kept(exit_, moved, size, irqchip) else moved


def code(table: Sequence[MixedExit], *, paced: bool) -> tuple[bytes, list[int]]:
    """The table's machine code, as the program mix runs it, and where in it each exit begins."""
    machine = arch.current()
    exits = [machine.exit_code(entry.exit, entry.address, entry.size) for entry in table]
    if paced:
        exits = [machine.returning(one) for one in exits]
    begins = [0, *accumulate(len(one) for one in exits[:-1])]
    whole = b"".join(exits)
    return whole if paced else machine.repeated(whole), begins
