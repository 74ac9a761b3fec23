# SPDX-License-Identifier: Apache-2.0
"""How an instruction transfers control, from its bytes.

Sources: Intel SDM volume 2 and AMD APM volume 3, the opcodes of control transfers. Arm ARM
(DDI 0487), C4.1.65, "Branches, Exception Generating and System instructions".
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf2\xf3")
_NO_REX = 0x40


class Flow(Enum):
    """Where an instruction lets the CPU go on."""

    NEXT = auto()
    JUMP = auto()
    CALL = auto()
    RETURN = auto()
    ENTER = auto()
    """SYSCALL, SYSENTER, INT or SVC: to the kernel, which comes back behind it."""
    LEAVE = auto()
    """SYSRET, SYSEXIT, IRET or ERET."""
    GUEST = auto()
    """VMRUN, VMLAUNCH or VMRESUME. On arm64 that is an ERET, which only its function tells from
    another one."""


def of_x86_64(code: bytes) -> Flow:
    """How an instruction of x86-64 transfers control."""
    at = 0
    while at < len(code) and code[at] in _PREFIXES:
        at += 1
    if at < len(code) and code[at] & 0xF0 == _NO_REX:
        at += 1
    first, second, third = (*code[at : at + 3], 0, 0, 0)[:3]
    reg = second >> 3 & 7
    if first == 0x0F:
        return _flow_of_two(second, third)
    if first == 0xFF and reg in (2, 3):
        return Flow.CALL
    if first == 0xFF and reg in (4, 5):
        return Flow.JUMP
    return _ONE.get(first, Flow.NEXT)


def _flow_of_two(second: int, third: int) -> Flow:
    if second == 0x01:
        return Flow.GUEST if third in (0xD8, 0xC2, 0xC3) else Flow.NEXT
    if 0x80 <= second <= 0x8F:
        return Flow.JUMP
    return {0x05: Flow.ENTER, 0x34: Flow.ENTER, 0x07: Flow.LEAVE, 0x35: Flow.LEAVE}.get(
        second, Flow.NEXT
    )


_ONE = {
    **dict.fromkeys((*range(0x70, 0x80), *range(0xE0, 0xE4), 0xE9, 0xEB), Flow.JUMP),
    **dict.fromkeys((0xE8, 0x9A), Flow.CALL),
    **dict.fromkeys((0xC2, 0xC3, 0xCA, 0xCB), Flow.RETURN),
    **dict.fromkeys((0xCC, 0xCD), Flow.ENTER),
    0xCF: Flow.LEAVE,
}


# Of each: a mask, and what is left of the instruction's 32 bits under it.
_OF_ARM64 = (
    (0xFC000000, 0x94000000, Flow.CALL),  # BL
    (0xFEFF0000, 0xD63F0000, Flow.CALL),  # BLR, BLRAA etc.
    (0xFEFF0000, 0xD65F0000, Flow.RETURN),  # RET, RETAA, RETAB
    (0xFEFF0000, 0xD69F0000, Flow.LEAVE),  # ERET, ERETAA, ERETAB
    (0xFEFF0000, 0xD61F0000, Flow.JUMP),  # BR, BRAA etc.
    (0xFC000000, 0x14000000, Flow.JUMP),  # B
    (0xFF000000, 0x54000000, Flow.JUMP),  # B.cond
    (0x7E000000, 0x34000000, Flow.JUMP),  # CBZ, CBNZ
    (0x7E000000, 0x36000000, Flow.JUMP),  # TBZ, TBNZ
    (0xFFE0001F, 0xD4000001, Flow.ENTER),  # SVC
    (0xFFE0001F, 0xD4000002, Flow.ENTER),  # HVC
)


def of_arm64(code: bytes) -> Flow:
    """How an instruction of arm64 transfers control."""
    word = int.from_bytes(code, "little")
    for mask, value, flow in _OF_ARM64:
        if word & mask == value:
            return flow
    return Flow.NEXT


FLOWS: dict[str, Callable[[bytes], Flow]] = {"x86_64": of_x86_64, "arm64": of_arm64}
"""By the architecture, as the lab calls it."""
