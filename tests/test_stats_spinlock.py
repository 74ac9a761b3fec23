# SPDX-License-Identifier: Apache-2.0
"""The simulated lock against what is known of such queues."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kickbench.stats.spinlock import Away, Lock, Threads, spread, taking_ns

TIMES = st.floats(1, 1e5)


def alike(n: int, away_ns: float, variation: float, nodes: int = 1) -> Threads:
    """Threads that are always away for the same kind of time."""
    return Threads(spread(n, nodes), (Away(away_ns, variation),))


def repairmen_ns(n: int, away_ns: float, hold_ns: float) -> float:
    """The time at a server of exponential times, with n customers: mean value analysis."""
    at_server, queue = 0.0, 0.0
    for customers in range(1, n + 1):
        at_server = hold_ns * (1 + queue)
        queue = customers * at_server / (away_ns + at_server)
    return at_server


@given(n=st.integers(1, 300), data=st.data())
def test_threads_are_spread_evenly(n: int, data: st.DataObject) -> None:
    nodes = data.draw(st.integers(1, n))
    counts = np.bincount(spread(n, nodes), minlength=nodes)
    assert counts.sum() == n
    assert counts.max() - counts.min() <= 1
    assert (np.diff(spread(n, nodes)) >= 0).all()


@given(hold_ns=TIMES, away_ns=TIMES, line_ns=TIMES, variation=st.floats(0, 2))
def test_one_thread_waits_for_nobody(
    hold_ns: float, away_ns: float, line_ns: float, variation: float
) -> None:
    lock = Lock(hold_ns, line_ns, line_ns)
    threads = alike(1, away_ns, variation)
    assert taking_ns(lock, threads, 8, np.random.default_rng(0)) == pytest.approx(hold_ns)


@given(n=st.integers(2, 40), hold_ns=TIMES, away_ns=TIMES, line_ns=TIMES, seed=st.integers(0, 9))
def test_within_the_limits_of_every_closed_queue(
    n: int, hold_ns: float, away_ns: float, line_ns: float, seed: int
) -> None:
    """No faster than with an idle lock, and no slower than the last one of all others."""
    lock = Lock(hold_ns, line_ns, line_ns)
    found = taking_ns(lock, alike(n, away_ns, 0.5), 64, np.random.default_rng(seed))
    assert found >= hold_ns * (1 - 1e-9)
    assert found <= n * (hold_ns + 2 * line_ns) * (1 + 1e-9)


@given(n=st.integers(3, 60), away_ns=st.floats(0, 100))
def test_a_lock_that_everybody_waits_for_is_handed_from_one_to_the_next(
    n: int, away_ns: float
) -> None:
    lock = Lock(1000, 50, 50)
    found = taking_ns(lock, alike(n, away_ns, 0), 100, np.random.default_rng(0))
    assert found + away_ns == pytest.approx(n * 1100, rel=0.01)


@pytest.mark.parametrize("n", [1, 2, 8, 32])
@pytest.mark.parametrize("away_ns", [500.0, 8_000.0, 60_000.0])
def test_a_short_hold_agrees_with_the_formula(n: int, away_ns: float) -> None:
    """Holds that do not vary wait less than exponential ones, and more than half as much.

    The time that an arrival still finds of a hold is half a hold if holds do not vary, and a whole
    one if they are exponential (the inspection paradox).
    """
    threads = alike(n, away_ns, 1)
    found = taking_ns(Lock(1000, 0, 0), threads, 4000, np.random.default_rng(1))
    exponential = repairmen_ns(n, away_ns, 1000)
    assert 1000 + 0.45 * (exponential - 1000) <= found <= 1.02 * exponential


def test_two_threads_take_turns_at_a_lock_that_only_one_can_wait_for() -> None:
    threads = alike(2, 10, 0)
    found = taking_ns(Lock(1000, 50, 50), threads, 100, np.random.default_rng(0))
    assert found + 10 == pytest.approx(2 * 1075, rel=0.01)


def test_a_free_lock_comes_from_its_last_holder() -> None:
    """Of 32 threads that hardly meet, the next one is another one in 31 of 32 cases."""
    threads = alike(32, 1e8, 1)
    found = taking_ns(Lock(1000, 50, 50), threads, 400, np.random.default_rng(0))
    assert found == pytest.approx(1000 + 25 * 31 / 32, rel=0.005)


def test_the_times_away_take_turns() -> None:
    """Who comes back at once finds the line where it left it: half of the takings move none."""
    threads = Threads(spread(32, 1), (Away(0, 0), Away(1e8, 1)))
    found = taking_ns(Lock(1000, 50, 50), threads, 400, np.random.default_rng(0))
    assert found == pytest.approx(1000 + 25 * 31 / 32 / 2, rel=0.005)


def test_a_queue_that_keeps_itself_up_stays() -> None:
    """A lock that is waited for is slower: eight threads fill it, and would not fill a free one."""
    lock, away_ns = Lock(0, 1000, 1000), 10_000
    assert 8 * 500 < away_ns < 8 * 2000
    found = taking_ns(lock, alike(8, away_ns, 0.02), 400, np.random.default_rng(0))
    assert found == pytest.approx(8 * 2000 - away_ns, rel=0.01)


def test_threads_of_other_nodes_make_the_line_travel_farther() -> None:
    lock = Lock(100, 50, 300)
    rng = np.random.default_rng(2)
    near, far = (taking_ns(lock, alike(8, 0, 0.2, k), 2000, rng) for k in (1, 8))
    assert near == pytest.approx(8 * 200, rel=0.02)
    assert far == pytest.approx(8 * 700, rel=0.02)


@pytest.mark.parametrize(
    ("lock", "away_ns", "variation", "takings"),
    [
        (Lock(-1, 0, 0), 0, 0, 4),
        (Lock(0, -1, 0), 0, 0, 4),
        (Lock(0, 0, -1), 0, 0, 4),
        (Lock(0, 0, 0), -1, 0, 4),
        (Lock(0, 0, 0), 0, -1, 4),
        (Lock(0, 0, 0), 0, 0, 3),
    ],
)
def test_what_cannot_be(lock: Lock, away_ns: float, variation: float, takings: int) -> None:
    with pytest.raises(ValueError, match="or more"):
        taking_ns(lock, alike(2, away_ns, variation), takings, np.random.default_rng())


@pytest.mark.parametrize(("threads", "nodes"), [(0, 1), (3, 4), (3, 0)])
def test_nodes_without_threads(threads: int, nodes: int) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        spread(threads, nodes)
