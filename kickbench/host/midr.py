# SPDX-License-Identifier: Apache-2.0
"""Names a core by its Main ID Register, which the kernel shows where CPUs have one.

The numbers are those of ``asm/cputype.h`` in the kernel's source. A processor may have cores of
several kinds, each with a number of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kickbench.host.files import read_text

_IMPLEMENTERS = {
    0x41: "Arm",
    0x42: "Broadcom",
    0x43: "Cavium",
    0x46: "Fujitsu",
    0x48: "HiSilicon",
    0x4E: "NVIDIA",
    0x50: "APM",
    0x51: "Qualcomm",
    0x61: "Apple",
    0x6D: "Microsoft",
    0xC0: "Ampere",
}
# The parts that hosts of virtual machines have. Of others, the number is as good a name.
_PARTS = {
    (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD41): "Cortex-A78",
    (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4F): "Neoverse-V2",
    (0x41, 0xD84): "Neoverse-V3",
    (0x41, 0xD8E): "Neoverse-N3",
    (0x43, 0x0A1): "ThunderX",
    (0x43, 0x0AF): "ThunderX2",
    (0x46, 0x001): "A64FX",
    (0x48, 0xD01): "TSV110",
    (0x50, 0x000): "X-Gene",
    (0x61, 0x022): "M1 Icestorm",
    (0x61, 0x023): "M1 Firestorm",
    (0x61, 0x032): "M2 Blizzard",
    (0x61, 0x033): "M2 Avalanche",
    (0x6D, 0xD49): "Azure Cobalt 100",
    (0xC0, 0xAC3): "Ampere-1",
    (0xC0, 0xAC4): "Ampere-1A",
}


@dataclass(frozen=True)
class Core:
    """What MIDR_EL1 says (Arm ARM, D19.2): who made the core, which part, and its revision."""

    implementer: int
    part: int
    variant: int
    revision: int

    @property
    def vendor(self) -> str:
        """Who made it."""
        return _IMPLEMENTERS.get(self.implementer, f"implementer {self.implementer:#04x}")

    @property
    def name(self) -> str:
        """Who made it, and which part it is."""
        part = _PARTS.get((self.implementer, self.part), f"part {self.part:#05x}")
        return f"{self.vendor} {part}"

    @property
    def stepping(self) -> str:
        """Its revision, as errata have it."""
        return f"r{self.variant}p{self.revision}"


def read(cpu: int, root: str | Path = "/") -> Core | None:
    """The core of an online CPU; None where the kernel has no such file."""
    folder = f"/sys/devices/system/cpu/cpu{cpu}/regs/identification"
    try:
        value = int(read_text(root, f"{folder}/midr_el1") or "", 16)
    except ValueError:
        return None
    return Core(value >> 24 & 0xFF, value >> 4 & 0xFFF, value >> 20 & 0xF, value & 0xF)
