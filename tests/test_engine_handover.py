# SPDX-License-Identifier: Apache-2.0
"""The loop that hands a cache line over: it ends, counts, and says why it cannot."""

from __future__ import annotations

import os

import pytest

from kickbench.engine.engine import Clock
from kickbench.engine.handover import exchange
from kickbench.errors import MeasurementError

TSC = Clock("tsc", 1e9, 20)
RAW = Clock("monotonic_raw", 1e9, 20)
CPUS = sorted(os.sched_getaffinity(0))
two_cpus = pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")


@pytest.mark.parametrize("clock", [TSC, RAW])
@two_cpus
def test_each_bout_has_a_length(clock: Clock) -> None:
    for first, second in (CPUS[:2], CPUS[1::-1]):
        cycles = exchange(first, second, clock, handovers=32, bouts=50)
        assert len(cycles) == 50
        assert min(cycles) > 0


def test_one_cpu_takes_both_turns_alone() -> None:
    assert min(exchange(CPUS[0], CPUS[0], TSC, handovers=2, bouts=100)) > 0


@two_cpus
def test_a_line_that_travels_takes_longer_than_one_that_stays() -> None:
    """Preemption makes bouts longer, and never shorter."""
    alone = exchange(CPUS[0], CPUS[0], TSC, handovers=256, bouts=100)
    handed = exchange(*CPUS[:2], TSC, handovers=256, bouts=100)
    assert min(handed) > 2 * min(alone)


def test_the_calling_thread_is_where_it_was() -> None:
    exchange(CPUS[-1], CPUS[-1], TSC, handovers=2, bouts=1)
    assert sorted(os.sched_getaffinity(0)) == CPUS


@pytest.mark.parametrize("first_is_there", [True, False])
def test_a_cpu_that_is_not_there_is_named(first_is_there: bool) -> None:
    absent = 9999
    pair = (CPUS[0], absent) if first_is_there else (absent, CPUS[0])
    with pytest.raises(MeasurementError, match=f"on CPUs {pair[0]} and {pair[1]}: a CPU went off"):
        exchange(*pair, TSC, handovers=2, bouts=1)
    assert sorted(os.sched_getaffinity(0)) == CPUS


@pytest.mark.parametrize(("handovers", "bouts"), [(0, 1), (3, 1), (2, 0)])
def test_a_bout_is_an_even_number_of_hand_overs(handovers: int, bouts: int) -> None:
    with pytest.raises(ValueError, match="even number"):
        exchange(0, 0, TSC, handovers=handovers, bouts=bouts)


def test_no_bout_is_left_untimed() -> None:
    assert 0 not in exchange(CPUS[0], CPUS[0], TSC, handovers=2, bouts=1000)
