# SPDX-License-Identifier: Apache-2.0
"""What the module of arm64 writes in machine code is what the assembler makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cross_compiler import assembled, compiled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kickbench.arch import ARCHS, aarch64
from kickbench.engine.protocols import include_folder
from kickbench.guest.mix import FIRST_ADDRESS, LAST_ADDRESS
from kickbench.guest.programs import PROGRAMS

ACCESSES = {
    ("mmio_read", 1): "ldrb w2, [x1]",
    ("mmio_read", 2): "ldrh w2, [x1]",
    ("mmio_read", 4): "ldr w2, [x1]",
    ("mmio_write", 1): "strb w2, [x1]",
    ("mmio_write", 2): "strh w2, [x1]",
    ("mmio_write", 4): "str w2, [x1]",
}


def test_the_probe_tells_the_counters_rate(tmp_path: Path) -> None:
    code = assembled("aarch64", tmp_path, "mrs x0, cntfrq_el0\nstr w0, [x1]")
    assert code == aarch64.PROBE


@pytest.mark.parametrize(("exit_", "size"), ACCESSES)
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(address=st.integers(FIRST_ADDRESS, LAST_ADDRESS))
def test_an_exit_is_the_access_at_its_address(
    exit_: str, size: int, address: int, tmp_path: Path
) -> None:
    lines = [
        f"movz w1, #{address & 0xFFFF:#x}",
        f"movk w1, #{address >> 16:#x}, lsl #16",
        ACCESSES[exit_, size],
    ]
    code = aarch64.exit_code(exit_, address, size)
    assert code == assembled("aarch64", tmp_path, "\n".join(lines))
    paced = assembled("aarch64", tmp_path, "\n".join([*lines, "br x20"]))
    assert aarch64.returning(code) == paced
    assert len(paced) == aarch64.PACED_ENTRY


@pytest.mark.parametrize("instructions", [1, 3, 12288])
def test_the_table_at_full_speed_begins_again_at_its_end(instructions: int, tmp_path: Path) -> None:
    text = f"begin: .rept {instructions}\nnop\n.endr\nb begin"
    code = assembled("aarch64", tmp_path, text)
    assert aarch64.repeated(code[:-4]) == code


def test_all_below_4_gib_maps_to_itself() -> None:
    ((address, table),) = aarch64.BESIDE_PROGRAM.items()
    entries = [int.from_bytes(table[at : at + 8], "little") for at in range(0, len(table), 8)]
    assert address % 4096 == 0
    assert [entry & 0x0000_FFFF_C000_0000 for entry in entries] == [gib << 30 for gib in range(4)]
    # Memory is normal, where exits are taken it is a device's, and no guest runs there.
    assert [entry >> 2 & 0b111 for entry in entries] == [0, 0, 1, 1]
    assert [bool(entry >> 53 & 1) for entry in entries] == [False, False, True, True]


def test_a_mark_is_an_instruction_that_changes_nothing(tmp_path: Path) -> None:
    source = tmp_path / "marks.c"
    source.write_text(
        "#include <kickbench/mark.h>\n"
        "void marks(void) { KB_PUT_MARK(KB_MARK_WATCH); KB_PUT_MARK(KB_MARK_PAUSED); }\n"
    )
    elf = compiled("aarch64", source, "-O2", f"-I{include_folder()}")
    code = elf.get_section_by_name(".text").data()
    expected = assembled("aarch64", tmp_path, "movz xzr, #0x4b00\nmovz xzr, #0x4b05\nret")
    assert code == expected


@pytest.mark.parametrize("machine", ARCHS)
def test_every_program_of_an_architecture_is_in_the_table_with_its_source(machine: str) -> None:
    folder = Path(__file__).parents[1] / "kickbench/guest/programs" / machine
    assert {path.stem for path in folder.glob("*.S")} == set(ARCHS[machine].PROGRAMS)
    assert set(ARCHS[machine].PROGRAMS) <= set(PROGRAMS)
    assert {name: program.exits for name, program in PROGRAMS.items()} == ARCHS["x86_64"].PROGRAMS
