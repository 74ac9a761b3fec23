# SPDX-License-Identifier: Apache-2.0
"""Which lines of a trace are shared, and what the machine's kernel says they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_trace import HAS_SENT, PLAIN, STAMP, Writer

from kickbench.errors import MeasurementError
from kickbench.lab.explain.lines import (
    LEAST_TURNS,
    Thread,
    Use,
    calls,
    exits,
    per_turn,
    shared,
    takings,
)
from kickbench.lab.explain.shared import check_turns
from kickbench.lab.explain.trace import BEGIN, END, READ, SECTION, WROTE, Section

DIRECT = 0xFFFF_8880_0000_0000
ARM64 = 0xFFFF_0000_0000_0000
VCPUS = [Thread(f"vCPU {cpu}", "vCPU", cpu, exits) for cpu in (0, 1)]


def touch(writer: Writer, cpu: int, what: int, place: int) -> None:
    writer.touch(what, place, DIRECT + place, cpu)


def section_of(writer: Writer, path: Path) -> Section:
    (section,) = writer.write(path / "t").sections()
    return section


def block(writer: Writer, turns: Iterable[Iterable[tuple[int, int]]], cpu: int) -> None:
    """A block of exits: (READ or WROTE, place) of each turn."""
    writer.execute(BEGIN, cpu)
    writer.execute(STAMP, cpu)  # the first turn is not looked at
    touch(writer, cpu, WROTE, 0x7000)
    for accesses in turns:
        writer.execute(STAMP, cpu)
        for what, place in accesses:
            writer.execute(PLAIN, cpu)
            touch(writer, cpu, what, place)
    writer.execute(STAMP, cpu)
    writer.execute(END, cpu)


def test_an_address_of_the_kernels_is_none_of_the_users(tmp_path: Path) -> None:
    """On arm64 nothing but the bits above the lower 48 tells them apart."""
    writer = Writer()
    writer.execute(SECTION)
    for cpu, vaddr in enumerate((ARM64 | 0x1000, 0x1000)):
        writer.execute(BEGIN, cpu)
        for _ in range(5):
            writer.execute(STAMP, cpu)
            writer.touch(WROTE, 0x8000, vaddr, cpu)
        writer.execute(END, cpu)
    (line,) = shared(section_of(writer, tmp_path), VCPUS)
    assert list(line.accesses["vCPU 0"]) == [ARM64 | 0x1000]
    assert list(line.accesses["vCPU 1"]) == [0x1000]


def test_a_line_is_shared_if_two_touch_it_and_one_writes(tmp_path: Path) -> None:
    writer = Writer()
    writer.execute(SECTION)
    both_read, both_write, one_writes, own = 0x1000, 0x1040, 0x1080, 0x10C0
    first = [(READ, both_read), (WROTE, both_write), (READ, both_write), (WROTE, one_writes)]
    second = [(READ, both_read + 8), (WROTE, both_write + 63), (READ, one_writes), (WROTE, own)]
    block(writer, [first] * 4, 0)
    block(writer, [second] * 3, 1)
    found = shared(section_of(writer, tmp_path), VCPUS)
    assert [line.place for line in found] == [both_write, one_writes]
    siglock = found[0]
    assert siglock.uses == {"vCPU 0": Use(1, 1), "vCPU 1": Use(0, 1)}
    assert siglock.accesses == {
        "vCPU 0": {DIRECT + both_write: 8},
        "vCPU 1": {DIRECT + both_write + 63: 3},
    }
    assert siglock.by == {PLAIN: 11}
    assert per_turn(siglock, VCPUS) == Use(0.5, 1)


def test_what_happens_in_few_turns_does_not_count(tmp_path: Path) -> None:
    writer = Writer()
    writer.execute(SECTION)
    line, rarely_touched, rarely_written = 0x1000, 0x2000, 0x3000
    usual = [(WROTE, line), (READ, rarely_written)]
    block(writer, [[*usual, (WROTE, rarely_touched), (WROTE, rarely_written)], *[usual] * 19], 0)
    block(writer, [[*usual, (WROTE, rarely_touched)]] * 20, 1)
    assert [one.place for one in shared(section_of(writer, tmp_path), VCPUS)] == [line]


def test_accesses_outside_of_turns_do_not_count(tmp_path: Path) -> None:
    writer = Writer()
    writer.execute(SECTION)
    for cpu in (0, 1):
        writer.execute(BEGIN, cpu)
        touch(writer, cpu, WROTE, 0x40)  # before the first stamp
        block(writer, [[(WROTE, 0x80)]] * 3, cpu)
        writer.execute(PLAIN, cpu)
        touch(writer, cpu, WROTE, 0xC0)  # behind the end
    assert [line.place for line in shared(section_of(writer, tmp_path), VCPUS)] == [0x80]


def test_kicks_of_two_kickers(tmp_path: Path) -> None:
    """Both write one line in their calls; one line is the vCPU's and each kicker's."""
    writer = Writer()
    writer.execute(SECTION)
    between, flag = 0x1000, 0x2000
    for _ in range(3):
        for kicker in (1, 2):
            writer.execute(BEGIN, kicker)
            touch(writer, kicker, WROTE, between)
            touch(writer, kicker, WROTE, flag)
            writer.execute(HAS_SENT, kicker)
            touch(writer, kicker, WROTE, 0x3000)  # it waits
        writer.execute(PLAIN, 0)
        touch(writer, 0, READ, flag)
        touch(writer, 0, READ, 0x3000)
        writer.execute(END, 0)
        touch(writer, 0, WROTE, between)  # it goes on
    threads = [
        Thread("vCPU 0", "vCPU", 0, takings),
        *(Thread(f"kicker {cpu}", "kicker", cpu, calls) for cpu in (1, 2)),
    ]
    section = section_of(writer, tmp_path)
    assert len(calls(section, 1)) == len(takings(section, 0)) == 3
    found = {line.place: line for line in shared(section, threads)}
    assert set(found) == {between, flag}
    assert set(found[between].uses) == {"kicker 1", "kicker 2"}
    assert per_turn(found[flag], threads) == Use(1, 1)  # one kick: one call, one taking


@pytest.mark.parametrize("nothing", [[], [SECTION, BEGIN, STAMP]])
def test_threads_without_turns_share_nothing(tmp_path: Path, nothing: list[int]) -> None:
    writer = Writer()
    for number in nothing or [SECTION]:
        writer.execute(number)
    assert shared(section_of(writer, tmp_path), VCPUS) == []


ACCESSES = st.lists(
    st.tuples(st.sampled_from([READ, WROTE]), st.integers(0, 3 * 64 - 1)), max_size=5
)


@given(st.lists(st.lists(ACCESSES, min_size=3, max_size=7), min_size=2, max_size=2))
def test_shared_is_what_the_sets_say(tmp_path_factory, blocks) -> None:  # type: ignore[no-untyped-def]
    """With so few turns, what happens in three of them counts."""
    writer = Writer()
    writer.execute(SECTION)
    for cpu, turns in enumerate(blocks):
        block(writer, turns, cpu)
    found = shared(section_of(writer, tmp_path_factory.mktemp("lines")), VCPUS)
    flat = [[access for turn in turns for access in turn] for turns in blocks]

    def often(turns: list[list[tuple[int, int]]], kinds: set[int]) -> set[int]:
        lines = Counter(
            line for turn in turns for line in {at // 64 for what, at in turn if what in kinds}
        )
        return {line for line, count in lines.items() if count >= LEAST_TURNS}

    touched = [often(turns, {READ, WROTE}) for turns in blocks]
    written = set().union(*(often(turns, {WROTE}) for turns in blocks))
    assert {line.place // 64 for line in found} == touched[0] & touched[1] & written
    for line in found:
        for cpu, turns in enumerate(blocks):
            use = line.uses[f"vCPU {cpu}"]
            own = [what for what, place in flat[cpu] if place // 64 == line.place // 64]
            assert use.writes * len(turns) == pytest.approx(own.count(WROTE))
            assert use.reads * len(turns) == pytest.approx(own.count(READ))


def test_a_thread_that_hardly_ran_is_an_error(tmp_path: Path) -> None:
    writer = Writer()
    writer.execute(SECTION)
    block(writer, [[(WROTE, 0x40)]] * 8, 0)
    block(writer, [[(WROTE, 0x40)]] * 2, 1)
    section = section_of(writer, tmp_path)
    check_turns(section, VCPUS[:1], "sigmask")
    with pytest.raises(MeasurementError, match="sigmask: vCPU 1, on CPU 1, has 2 turns"):
        check_turns(section, VCPUS, "sigmask")
