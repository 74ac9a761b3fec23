# SPDX-License-Identifier: Apache-2.0
"""A recording becomes keys of a scenario that the model accepts, and that keep what they are of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kickbench.guest.mix import EXITS, SIZES
from kickbench.scenario.model import Scenario
from kickbench.scenario.recording import gap_means, mix_tables

COUNTS = st.dictionaries(
    st.tuples(st.sampled_from(tuple(EXITS)), st.integers(0, 2**64 - 1), st.sampled_from(SIZES)),
    st.integers(0, 10**15),
    max_size=300,
)
HISTOGRAM = st.lists(
    st.tuples(st.floats(0.001, 1e6), st.integers(1, 10**12)), min_size=1, max_size=40
)


@given(COUNTS, st.sampled_from(["none", "split", "kernel"]))
def test_any_exits_are_a_mix_that_a_scenario_accepts(
    counts: dict[tuple[str, int, int], int], irqchip: str
) -> None:
    tables = mix_tables(counts, irqchip)
    if not any(counts.values()):
        assert tables == []
        return
    scenario = Scenario.from_dict(
        {
            "name": "s",
            "vm": {"vcpus": 1, "irqchip": irqchip},
            "guest": {"program": "mix", "mix": tables},
        }
    )
    shares = [one.share for one in scenario.guest.mix]
    assert sum(shares) == pytest.approx(1, rel=1e-4)
    assert shares == sorted(shares, reverse=True)


def test_exits_that_are_moved_to_one_address_are_one() -> None:
    counts = {
        ("port_read", 0x608, 4): 900,
        ("mmio_write", 0xB_8000, 1): 60,
        ("mmio_write", 0x8000B_8000, 1): 40,
        ("port_write", 0x80, 1): 0,
    }
    assert mix_tables(counts, "kernel") == [
        {"exit": "port_read", "address": 0x608, "size": 4, "share": 0.9},
        {"exit": "mmio_write", "address": 0x800B_8000, "size": 1, "share": 0.1},
    ]


@given(HISTOGRAM, st.integers(2, 200))
def test_the_mean_and_the_quantiles_of_gaps_are_kept(
    histogram: list[tuple[float, int]], parts: int
) -> None:
    gaps, counts = zip(*histogram, strict=True)
    means = gap_means(gaps, counts, parts)
    Scenario.from_dict(
        {
            "name": "s",
            "vm": {"vcpus": 1},
            "guest": {"program": "pm_timer", "gaps_us": means},
        }
    )
    assert np.mean(means) == pytest.approx(np.average(gaps, weights=counts), rel=1e-4)
    assert means == pytest.approx(by_sorting(gaps, counts, parts), rel=1e-4, abs=1e-6)
    assert all(float(f"{mean:.5g}") == mean for mean in means)


def by_sorting(gaps: Sequence[float], counts: Sequence[int], parts: int) -> list[float]:
    """The same with whole numbers: each part takes what is left of the shortest gaps."""
    total = sum(counts)
    left = sorted((gap, count * parts) for gap, count in zip(gaps, counts, strict=True))
    means = []
    for _ in range(parts):
        room, taken = total, 0.0
        while room:
            gap, count = left.pop(0)
            used = min(room, count)
            taken += gap * used
            room -= used
            if count > used:
                left.insert(0, (gap, count - used))
        means.append(taken / total)
    return means


def test_a_few_long_gaps_decide_the_mean_and_not_the_other_parts() -> None:
    assert gap_means([2, 1000], [99, 1], 10) == pytest.approx([2] * 9 + [101.8])


def test_gaps_beyond_a_scenario_are_its_shortest_and_longest() -> None:
    assert gap_means([0, 5e9], [1, 1], 2) == [0.001, 1e6]


@pytest.mark.parametrize(("gaps", "counts", "parts"), [([], [], 9), ([1], [0], 9), ([1], [1], 1)])
def test_nothing_recorded_is_an_error(
    gaps: Sequence[float], counts: Sequence[int], parts: int
) -> None:
    with pytest.raises(ValueError, match=r"recorded|expected 2 to 1024 parts"):
        gap_means(gaps, counts, parts)
