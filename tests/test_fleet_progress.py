# SPDX-License-Identifier: Apache-2.0
"""The progress of a fleet, for people."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from kickbench.fleet.progress import LiveProgress, Observer, PlainProgress


def screen(begin: list[tuple[str, ...]], width: int = 80, height: int = 24) -> list[str]:
    """What a terminal shows after these calls of an observer."""
    console = Console(file=io.StringIO(), width=width, height=height)
    live = LiveProgress(console)
    tell(live, begin)
    with console.capture() as captured:
        console.print(live)
    return captured.get().splitlines()


def tell(observer: Observer, calls: list[tuple[str, ...]]) -> None:
    for what, *words in calls:
        match what:
            case "note":
                observer.note(words[0])
            case "planned":
                observer.planned(words)
            case "said":
                observer.said(*words)
            case "finished":
                observer.ended(words[0], None)
            case "failed":
                observer.ended(*words)


def test_the_screen_has_counts_failures_and_running_estimates() -> None:
    lines = screen(
        [
            ("note", "fleet F: looking at 4 workers"),
            ("planned", "a", "b", "c", "d"),
            ("said", "a", "[1/2] exits-pm_timer: at most 7 s left"),
            ("said", "a", "28 rounds: sigmask - immediate_exit +111 ± 3 ns"),
            ("said", "b", "[1/2] exits-pm_timer: at most 7 s left"),
            ("said", "c", "[1/2] exits-pm_timer: at most 7 s left"),
            ("finished", "b"),
            ("failed", "c", "its worker is gone"),
        ],
        100,
    )
    assert lines[0].startswith("fleet F")
    assert lines[1].startswith("1 finished, 1 failed, 1 measuring, 1 waiting, ")
    assert lines[2].split() == ["c", "its", "worker", "is", "gone"]
    assert lines[3].startswith("a  [1/2] exits-pm_timer  28 rounds: sigmask")
    assert len(lines) == 4


def test_a_thousand_hosts_are_a_screen() -> None:
    hosts = [f"host{number:03}" for number in range(1000)]
    calls = [("planned", *hosts)]
    calls += [("said", host, "[1/1] case: at most 1 s left") for host in hosts[:500]]
    calls += [("failed", host, "why") for host in hosts[:100]]
    lines = screen([("note", "n"), *calls])
    assert len(lines) == 23
    assert "100 failed, 400 measuring, 500 waiting" in lines[1]
    assert lines[6].startswith("and 96 more")
    assert lines[-1].startswith("and 385 more")


WORDS = st.text(max_size=30)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("note"), WORDS),
            st.tuples(st.just("planned"), WORDS, WORDS, WORDS),
            st.tuples(st.just("said"), WORDS, WORDS),
            st.tuples(st.just("finished"), WORDS),
            st.tuples(st.just("failed"), WORDS, WORDS),
        ),
        max_size=60,
    ),
    st.integers(20, 100),
    st.integers(10, 30),
)
def test_any_progress_fits_its_terminal(
    calls: list[tuple[str, ...]], width: int, height: int
) -> None:
    lines = screen(calls, width, height)
    assert len(lines) < height
    assert all(cell_len(line) <= width for line in lines)


def test_without_a_terminal_each_line_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    tell(
        PlainProgress(),
        [
            ("note", "fleet F"),
            ("planned", "b", "a"),
            ("said", "a", "[1/1] case"),
            ("finished", "a"),
            ("failed", "b", "why\x1b[31m"),
        ],
    )
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "kickbench: fleet F",
        "kickbench: 2 hosts to measure: a, b",
        "a: [1/1] case",
        "a: finished",
        "b: failed: why\\x1b[31m",
    ]
