# SPDX-License-Identifier: Apache-2.0
"""Kicks and pauses in a trace: where they begin and end, on one CPU and on several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_trace import (
    BEGIN_PAUSE,
    END_PAUSE,
    HAS_SENT,
    L1_STAMP,
    PLAIN,
    STAMP,
    WAITING,
    Writer,
)

from kickbench.lab.explain import events
from kickbench.lab.explain.events import CALL, DELIVERY, SWITCH, WAY_OUT
from kickbench.lab.explain.trace import BEGIN, END, SECTION, Section

LOOP, HANDLER = ("kb_kick_loop [kickbench]",), ("kick_signal_handler [kickbench]",)
KERNEL, OUT, IN = ("schedule",), ("schedule", "__switch_to_asm"), ("schedule", "__switch_to")


def section_of(folder: Path, *executed: int | tuple[int, int]) -> Section:
    """A section of these instructions: a number for CPU 0, or a number and a CPU."""
    writer = Writer()
    writer.execute(SECTION)
    for one in executed:
        writer.execute(*(one if isinstance(one, tuple) else (one, 0)))
    (section,) = writer.write(folder / "t").sections()
    return section


def waits_of(section: Section) -> np.ndarray:
    return section.values == WAITING


def test_a_kick_lasts_from_the_kickers_stamp_to_the_vcpus(tmp_path: Path) -> None:
    section = section_of(
        tmp_path, BEGIN, STAMP, PLAIN, STAMP, HAS_SENT, PLAIN, STAMP, PLAIN, STAMP, PLAIN, END
    )
    (kick,) = events.kicks(section)
    assert (kick.begin, kick.end, kick.kicker) == (1, 8, 0)
    (part,) = events.parts(section, kick, waits_of(section))
    assert part.is_all
    assert part.size == 7
    assert part.calls == ((0, 2),)
    assert part.takes == (7,)


def test_a_round_trip_has_the_stamps_of_the_guest_hypervisor(tmp_path: Path) -> None:
    section = section_of(tmp_path, BEGIN, PLAIN, L1_STAMP, PLAIN, PLAIN, L1_STAMP, END)
    (one,) = events.kicks(section)
    assert (one.begin, one.end) == (2, 5)


@pytest.mark.parametrize(
    "executed",
    [
        (BEGIN, STAMP, PLAIN, STAMP),  # its block was over
        (BEGIN, PLAIN, END),
        (BEGIN, STAMP, PLAIN, END),  # taken before it was sent
        (STAMP, STAMP, END),  # the conductor's
        ((BEGIN, 1), (PLAIN, 1), (STAMP, 0), (END, 0)),
    ],
)
def test_what_is_no_whole_kick(tmp_path: Path, executed: tuple[int, ...]) -> None:
    assert events.kicks(section_of(tmp_path, *executed)) == []


def test_with_cpus_of_their_own_the_kicker_has_its_call_and_the_vcpu_what_does_not_wait(
    tmp_path: Path,
) -> None:
    kicker, vcpu, other = 3, 1, 2
    section = section_of(
        tmp_path,
        *((number, kicker) for number in (BEGIN, STAMP, PLAIN, PLAIN)),
        (WAITING, vcpu),
        (PLAIN, other),
        *((number, kicker) for number in (STAMP, HAS_SENT, PLAIN)),
        *((number, vcpu) for number in (WAITING, PLAIN, PLAIN, PLAIN, STAMP, END)),
    )
    (kick,) = events.kicks(section)
    assert kick.cpus == [kicker, vcpu]
    parts = events.parts(section, kick, waits_of(section))
    assert [part.size for part in parts] == [3, 3]
    assert [part.is_all for part in parts] == [False, False]
    paths = [("send_kick",)] * len(parts[0].places)
    assert events.phases(parts[0], paths) == [CALL, CALL, CALL, None, None, None]
    paths = [LOOP, LOOP, KERNEL, KERNEL, KERNEL]
    waiting = [*events.phases(parts[1], paths)]
    assert waiting == [None, None, WAY_OUT, WAY_OUT, WAY_OUT]


def test_the_phases_of_a_kick_on_one_cpu(tmp_path: Path) -> None:
    section = section_of(
        tmp_path,
        *(BEGIN, STAMP, PLAIN, STAMP, HAS_SENT, PLAIN),
        *(PLAIN, PLAIN, STAMP, PLAIN, STAMP, END),
    )
    (kick,) = events.kicks(section)
    (part,) = events.parts(section, kick, waits_of(section))
    sender = ("send_kick",)
    paths = [sender, sender, sender, sender, OUT, IN, KERNEL, HANDLER, HANDLER]
    assert len(paths) == len(part.places)
    assert events.phases(part, paths) == [
        *[CALL, CALL, SWITCH, SWITCH, SWITCH],
        *[DELIVERY, DELIVERY, WAY_OUT, WAY_OUT],
    ]


def test_a_pause_has_a_call_and_a_way_out_for_each_vcpu(tmp_path: Path) -> None:
    call = (BEGIN, STAMP, PLAIN, STAMP, HAS_SENT)
    taken = (PLAIN, PLAIN, STAMP, END, PLAIN)
    section = section_of(
        tmp_path, BEGIN_PAUSE, STAMP, *call, *call, PLAIN, *taken, *taken, END_PAUSE, STAMP, END
    )
    (pause,) = events.pauses(section, 2)
    assert events.pauses(section, 3) == []
    (part,) = events.parts(section, pause, waits_of(section))
    sender = ("pause_once",)
    paths = [*[sender] * 11, OUT, IN, LOOP, LOOP, LOOP, OUT, IN, LOOP]
    assert len(paths) == len(part.places)
    found = events.phases(part, paths)
    first = [SWITCH, SWITCH, CALL, CALL, SWITCH, SWITCH, SWITCH, CALL, CALL, SWITCH, SWITCH]
    # The second vCPU's thread is switched to when the first one has slept.
    assert found[:11] == first
    assert found[11] == SWITCH
    assert found[12:14] == [DELIVERY, WAY_OUT]
    assert found[14:17] == [SWITCH] * 3
    assert found[17:] == [DELIVERY, WAY_OUT]


def test_a_pause_that_did_not_end_is_left_out(tmp_path: Path) -> None:
    section = section_of(tmp_path, BEGIN_PAUSE, STAMP, BEGIN, STAMP, STAMP, HAS_SENT, STAMP, END)
    assert events.pauses(section, 1) == []


ANY = st.lists(
    st.tuples(
        st.sampled_from(
            [BEGIN, END, STAMP, PLAIN, HAS_SENT, BEGIN_PAUSE, END_PAUSE, L1_STAMP, WAITING]
        ),
        st.integers(0, 3),
    ),
    max_size=60,
)


@given(ANY, st.integers(1, 2))
def test_whatever_is_executed_an_event_adds_up(
    tmp_path_factory: pytest.TempPathFactory, executed: list[tuple[int, int]], n_vcpus: int
) -> None:
    """Each instruction has one phase, or is not the event's. The size is that of its own ones."""
    section = section_of(tmp_path_factory.mktemp("trace"), *executed)
    for event in [*events.kicks(section), *events.pauses(section, n_vcpus)]:
        assert event.begin < event.end
        parts = events.parts(section, event, waits_of(section))
        for part in parts:
            paths = [LOOP] * len(part.places)
            found = events.phases(part, paths)
            assert len(found) == len(part.places)
            if part.is_all:
                assert None not in found
                assert part.size == len(found)
