# SPDX-License-Identifier: Apache-2.0
"""Where the calling thread runs, within ``pinned`` and after it."""

from __future__ import annotations

import os

import pytest

from kickbench.affinity import pinned
from kickbench.errors import MeasurementError

CPUS = os.sched_getaffinity(0)
NOWHERE = 4095  # no host that runs these tests has so many CPUs


@pytest.mark.parametrize("cpus", [{min(CPUS)}, {max(CPUS)}, CPUS, None])
def test_it_runs_there_and_comes_back(cpus: set[int] | None) -> None:
    with pinned(cpus):
        assert os.sched_getaffinity(0) == (CPUS if cpus is None else cpus)
    assert os.sched_getaffinity(0) == CPUS


def test_it_comes_back_from_an_error() -> None:
    with pytest.raises(KeyError), pinned({max(CPUS)}):
        raise KeyError
    assert os.sched_getaffinity(0) == CPUS


def test_pins_within_pins_come_back_one_by_one() -> None:
    with pinned({max(CPUS)}):
        with pinned({min(CPUS)}):
            assert os.sched_getaffinity(0) == {min(CPUS)}
        assert os.sched_getaffinity(0) == {max(CPUS)}


@pytest.mark.parametrize("beside", [set(), {min(CPUS)}, CPUS])
def test_a_cpu_that_is_not_there_is_named_and_nothing_moves(beside: set[int]) -> None:
    """Beside others the kernel would drop it without a word."""
    named = f"^vCPU 3 cannot run on CPU {NOWHERE}: it is offline, or this process may not use it"
    with pytest.raises(MeasurementError, match=named), pinned({NOWHERE, *beside}, "vCPU 3"):
        pytest.fail("it runs")
    assert os.sched_getaffinity(0) == CPUS
