# SPDX-License-Identifier: Apache-2.0
"""What the plugin writes, and what is read of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_trace import KERNEL_STAMP, LOOPS, OTHER_MARK, PLAIN, STAMP, VDSO_STAMP, Writer

from kickbench.lab.explain.trace import AT, BEGIN, CODE, END, EXECUTED, READ, SECTION, WROTE, Trace
from kickbench.lab.explain.trace import usual as usual_of


def test_turns_begin_and_end_with_the_loops_stamps(tmp_path: Path) -> None:
    writer = Writer()
    for number in (SECTION, BEGIN, PLAIN, STAMP, PLAIN, KERNEL_STAMP, STAMP, PLAIN, PLAIN, STAMP,
                   PLAIN, END):  # fmt: skip
        writer.execute(number)
    (section,) = writer.write(tmp_path / "t").sections()
    (stretch,) = section.stretches()
    assert [turn.tolist() for turn in stretch.turns()] == [
        [STAMP, PLAIN, KERNEL_STAMP],
        [STAMP, PLAIN, PLAIN],
    ]


def test_a_thread_that_asks_for_the_time_ends_no_turn(tmp_path: Path) -> None:
    writer = Writer()
    for number in (SECTION, BEGIN, STAMP, PLAIN, VDSO_STAMP, PLAIN, STAMP, END):
        writer.execute(number)
    (section,) = writer.write(tmp_path / "t").sections()
    (turn,) = section.stretches()[0].turns()
    assert turn.tolist() == [STAMP, PLAIN, VDSO_STAMP, PLAIN]


def test_memory_is_no_instruction(tmp_path: Path) -> None:
    writer = Writer()
    for number in (SECTION, BEGIN, STAMP):
        writer.execute(number)
    writer.touch(READ, 0x40, 0x7F40)
    for number in (PLAIN, STAMP, END):
        writer.execute(number)
    (section,) = writer.write(tmp_path / "t").sections()
    (turn,) = section.stretches()[0].turns()
    assert turn.tolist() == [STAMP, PLAIN]


KERNELS = 1 << 36
"""The highest bit of the number of a virtual page."""


@given(
    st.lists(
        st.tuples(
            st.sampled_from([READ, WROTE]),
            st.integers(0, (1 << 35) - 1),
            st.sampled_from([0x7F, 0x80, 0x84, (1 << 36) - 1, KERNELS, KERNELS | 0x7F]),
            st.integers(0, 4095),
            st.integers(0, 3),
        )
    )
)
def test_accesses_are_read_as_they_were_made(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[int, int, int, int, int]]
) -> None:
    """Each between two instructions, in pages that may share a slot, in two sections alike."""
    writer = Writer()
    wanted = []
    for kind, place, virtual, offset, cpu in made:
        wanted += [
            (EXECUTED, cpu, PLAIN),
            (kind, cpu, place << 12 | offset),
            (AT, cpu, virtual << 12 | offset),
        ]
    for _ in range(2):
        writer.execute(SECTION)
        for kind, place, virtual, offset, cpu in made:
            writer.execute(PLAIN, cpu)
            vaddr = (virtual // KERNELS) << 63 | (virtual % KERNELS) << 12 | offset
            writer.touch(kind, place << 12 | offset, vaddr, cpu)
    for section in writer.write(tmp_path_factory.mktemp("trace") / "t").sections():
        columns = (section.kinds, section.cpus, section.values)
        assert list(zip(*(column.tolist() for column in columns), strict=True)) == wanted


def test_a_stretch_that_is_begun_anew_did_not_end(tmp_path: Path) -> None:
    writer = Writer()
    for number in (SECTION, BEGIN, PLAIN, BEGIN, STAMP, STAMP, END, END, SECTION):
        writer.execute(number)
    first, second = writer.write(tmp_path / "t").sections()
    found = [stretch.executed.tolist() for stretch in first.stretches()]
    assert found == [[BEGIN, STAMP, STAMP, END]]
    assert second.stretches() == []


def test_what_was_not_finished_is_left_out(tmp_path: Path) -> None:
    writer = Writer()
    for number in (SECTION, BEGIN, STAMP, STAMP, END, SECTION, BEGIN, STAMP):
        writer.execute(number)
    writer.write(tmp_path / "t")
    with (tmp_path / "t.trace").open("ab") as file:
        file.write(b"\x01\x02\x03")
    first, second = Trace.read(tmp_path / "t", LOOPS).sections()
    assert len(first.stretches()) == 1
    assert second.stretches() == []


def test_a_stretch_without_time(tmp_path: Path) -> None:
    writer = Writer()
    for number in (SECTION, BEGIN, STAMP, END):
        writer.execute(number)
    (section,) = writer.write(tmp_path / "t").sections()
    (stretch,) = section.stretches()
    assert stretch.turns() == []


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
        sorted([turn.tolist()[1:] for turn in stretch.turns()] for stretch in section.stretches())
        for section in trace.sections()
    ]
    assert found == [sorted(stretches) for stretches in sections]


@pytest.mark.parametrize(
    ("lengths", "usual", "share"),
    [
        ([5, 2, 2, 7, 2], 2, 0.6),
        ([4] * 6 + [3] * 3 + [9], 3, 0.3),
        ([4] * 19 + [3], 4, 0.95),  # the shortest is rare
        (range(2, 22), 2, 0.05),  # all are rare
    ],
)
def test_the_usual_one_is_the_shortest_that_is_not_rare(
    lengths: Sequence[int], usual: int, share: float
) -> None:
    place, found = usual_of(lengths)
    assert lengths[place] == usual
    assert usual not in lengths[place + 1 :]  # what is done once was done before
    assert found == pytest.approx(share)


def test_none_is_usual_if_there_is_none() -> None:
    with pytest.raises(ValueError, match="nothing is whole"):
        usual_of([])


def test_on_arm64_a_mark_is_a_move_and_a_stamp_reads_the_counter(tmp_path: Path) -> None:
    words = [0xD280001F | (0x4B00 + mark) << 5 for mark in (SECTION, BEGIN, END)]
    words += [0xD53BE042, 0xD503201F, 0xD280001F | 0x4A00 << 5, 0xD53BE042]
    places = [0x1000 + 4 * number for number in range(len(words) - 1)] + [0x9000]
    section, begin, end, stamp, nop, other, outside = range(len(words))
    records = [(at, 4, [*word.to_bytes(4, "little")] + [0] * 11)
               for at, word in zip(places, words, strict=True)]  # fmt: skip
    np.array([(at, size, code) for at, size, code in records], CODE).tofile(tmp_path / "t.code")
    executed = [section, begin, stamp, nop, outside, other, stamp, end]
    np.array([executed[0], 3 << 28, *executed[1:]], "<u4").tofile(tmp_path / "t.trace")
    (found,) = Trace.read(tmp_path / "t", LOOPS).sections()
    (turn,) = found.stretches()[0].turns()
    assert turn.tolist() == [stamp, nop, outside, other]
