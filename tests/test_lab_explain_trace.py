# SPDX-License-Identifier: Apache-2.0
"""What the plugin writes, and what is read of it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kickbench.lab.explain.trace import BEGIN, CODE, END, EXECUTED, READ, SECTION, WROTE, Trace
from kickbench.lab.explain.trace import usual as usual_turn

RDTSCP, NOP = bytes([0x0F, 0x01, 0xF9]), b"\x90"
STAMP, PLAIN, KERNEL_STAMP, OTHER_MARK = 3, 4, 5, 6


def mark(number: int) -> bytes:
    return bytes([0x0F, 0x1F, 0x84, 0x00]) + struct.pack("<I", 0x4B420000 + number)


# The number of each instruction is its place.
INSTRUCTIONS = [
    (0x1000, mark(SECTION)),
    (0x1010, mark(BEGIN)),
    (0x1020, mark(END)),
    (0x1030, RDTSCP),
    (0x1040, NOP),
    (0xFFFF_FFFF_8100_0000, RDTSCP),
    (0x1060, mark(0x77)),
]


@dataclass
class Writer:
    """Writes what the plugin writes."""

    entries: list[int] = field(default_factory=list)

    def execute(self, number: int, cpu: int = 0) -> None:
        self.entries.append(EXECUTED << 56 | cpu << 48 | number)

    def touch(self, what: int, address: int, size_shift: int = 3, cpu: int = 0) -> None:
        self.entries.append(what << 56 | cpu << 48 | address << 4 | size_shift)

    def write(self, path: Path) -> Trace:
        code = np.zeros(len(INSTRUCTIONS), CODE)
        for record, (vaddr, raw) in zip(code, INSTRUCTIONS, strict=True):
            record["vaddr"], record["size"] = vaddr, len(raw)
            record["bytes"][: len(raw)] = np.frombuffer(raw, np.uint8)
        code.tofile(f"{path}.code")
        np.array(self.entries, "<u8").tofile(f"{path}.trace")
        return Trace.read(path)


def test_turns_begin_and_end_with_the_loops_stamps(tmp_path: Path) -> None:
    writer = Writer()
    for number in (SECTION, BEGIN, PLAIN, STAMP, PLAIN, KERNEL_STAMP, STAMP, PLAIN, PLAIN, STAMP,
                   PLAIN, END):  # fmt: skip
        writer.execute(number)
    ((stretch,),) = writer.write(tmp_path / "t").sections()
    assert [turn.executed.tolist() for turn in stretch.turns()] == [
        [STAMP, PLAIN, KERNEL_STAMP],
        [STAMP, PLAIN, PLAIN],
    ]
    whole = stretch.whole()
    assert whole.executed.size == 6
    assert whole.stamps.tolist() == [0, 3]


def test_memory_is_of_the_instruction_that_touched_it(tmp_path: Path) -> None:
    writer = Writer()
    for number in (SECTION, BEGIN, STAMP):
        writer.execute(number)
    writer.touch(READ, 0x40)
    writer.execute(PLAIN)
    writer.touch(READ, 0xF28840)
    writer.touch(WROTE, 0xF28848, size_shift=2)
    for number in (STAMP, END):
        writer.execute(number)
    ((stretch,),) = writer.write(tmp_path / "t").sections()
    turn = stretch.whole()
    assert turn.executed.tolist() == [STAMP, PLAIN]
    assert turn.addresses.tolist() == [0x40, 0xF28840, 0xF28848]
    assert turn.wrote.tolist() == [False, False, True]
    assert turn.by.tolist() == [0, 1, 1]


def test_a_stretch_that_is_begun_anew_did_not_end(tmp_path: Path) -> None:
    writer = Writer()
    for number in (SECTION, BEGIN, PLAIN, BEGIN, STAMP, STAMP, END, END, SECTION):
        writer.execute(number)
    first, second = writer.write(tmp_path / "t").sections()
    assert [stretch.values.tolist() for stretch in first] == [[BEGIN, STAMP, STAMP, END]]
    assert second == []


def test_what_was_not_finished_is_left_out(tmp_path: Path) -> None:
    writer = Writer()
    for number in (SECTION, BEGIN, STAMP, STAMP, END, SECTION, BEGIN, STAMP):
        writer.execute(number)
    writer.write(tmp_path / "t")
    with (tmp_path / "t.trace").open("ab") as file:
        file.write(b"\x01\x02\x03")
    first, second = Trace.read(tmp_path / "t").sections()
    assert len(first) == 1
    assert second == []


def test_a_stretch_without_time(tmp_path: Path) -> None:
    writer = Writer()
    for number in (SECTION, BEGIN, STAMP, END):
        writer.execute(number)
    ((stretch,),) = writer.write(tmp_path / "t").sections()
    assert stretch.turns() == []
    with pytest.raises(ValueError, match="two stamps"):
        stretch.whole()


@given(
    st.lists(
        st.lists(st.lists(st.lists(st.sampled_from([PLAIN, KERNEL_STAMP, OTHER_MARK]), max_size=5),
                          min_size=1, max_size=4), max_size=3),
        min_size=1, max_size=3,
    ),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_whatever_was_written_is_read(tmp_path_factory, sections, random) -> None:  # type: ignore[no-untyped-def]
    """Sections of stretches of turns, each stretch on its own CPU, and mixed with the others."""
    writer = Writer()
    for stretches in sections:
        writer.execute(SECTION)
        streams = []
        for cpu, turns in enumerate(stretches):
            flat = [BEGIN]
            for turn in turns:
                flat += [STAMP, *turn]
            streams.append([(number, cpu) for number in [*flat, STAMP, END]])
        while any(streams):
            stream = random.choice([one for one in streams if one])
            number, cpu = stream.pop(0)
            writer.execute(number, cpu)
    trace = writer.write(tmp_path_factory.mktemp("trace") / "t")
    found = [
        {
            stretch.cpu: [turn.executed.tolist()[1:] for turn in stretch.turns()]
            for stretch in section
        }
        for section in trace.sections()
    ]
    assert found == [dict(enumerate(stretches)) for stretches in sections]


@pytest.mark.parametrize(
    ("lengths", "usual", "share"),
    [
        ([5, 2, 2, 7, 2], 2, 0.6),
        ([4] * 6 + [3] * 3 + [9], 3, 0.3),
        ([4] * 19 + [3], 4, 0.95),  # the shortest is rare
        (range(2, 22), 2, 0.05),  # all are rare
    ],
)
def test_the_usual_turn_is_the_shortest_that_is_not_rare(
    tmp_path: Path, lengths: Sequence[int], usual: int, share: float
) -> None:
    writer = Writer()
    for number in (SECTION, BEGIN):
        writer.execute(number)
    for length in lengths:
        writer.execute(STAMP)
        for _ in range(length - 1):
            writer.execute(PLAIN)
    for number in (STAMP, END):
        writer.execute(number)
    ((stretch,),) = writer.write(tmp_path / "t").sections()
    turn, found = usual_turn(stretch.turns())
    assert turn.executed.size == usual
    assert found == pytest.approx(share)


def test_no_turn_is_usual_if_there_is_none() -> None:
    with pytest.raises(ValueError, match="no turn"):
        usual_turn([])
