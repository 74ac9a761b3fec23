# SPDX-License-Identifier: Apache-2.0
"""Many cases on one host: what they have in common, and what a case shows without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kickbench.nightly.common import floors, groups
from kickbench.nightly.trends import Key, Trend

CASES, NIGHTS = 30, 80


def host(seed: int, cases: int = CASES, *, slow: bool = True) -> NDArray[np.float64]:
    """(cases, nights): 0.2 % of noise, and nights on which the whole host is up to 30 % slower.

    The last eight nights are good ones.
    """
    random = np.random.default_rng(seed)
    night = np.where(random.random(NIGHTS) < 0.3, random.uniform(1, 1.3, NIGHTS), 1.0)
    night[-8:] = 1.0
    level = random.uniform(2000, 9000, (cases, 1))
    noise = 1 + 0.002 * random.standard_normal((cases, NIGHTS))
    return np.asarray(level * (night if slow else 1.0) * noise)


def trends(values: NDArray[np.float64], metric: str = "ns_per_exit") -> list[Trend]:
    found = []
    for i, value in enumerate(values):
        n = len(value)
        half = 0.001 * value
        found.append(
            Trend(
                Key(f"case{i}", "sigmask", None, metric),
                "lower",
                np.arange(n),
                value,
                value - half,
                value + half,
                np.full(n, 10),
                None,
                np.ones(n, np.bool_),
                0,
            )
        )
    return found


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.2, 5), min_size=NIGHTS, max_size=NIGHTS))
def test_no_speed_of_the_host_is_seen_in_a_case(factors: list[float]) -> None:
    values = host(5, 12, slow=False)
    (calm,), (moved,) = (
        groups(trends(some), NIGHTS - 1) for some in (values, values * np.array(factors))
    )
    for one, other in zip(calm.relative, moved.relative, strict=True):
        ratio = other.value / one.value
        np.testing.assert_allclose(ratio, np.median(ratio), rtol=0.002)
    # All that nights have in common is in the factor.
    ratio = moved.common.value / calm.common.value / np.array(factors)
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=0.002)


def test_nights_without_a_floor_have_their_level_in_its_place() -> None:
    level = host(13)
    level[2, -3:] *= 1.02
    floor = 0.8 * level
    for known in (1, 2, 20):
        floor[:, :-known] = np.nan
        some = [replace(t, floor=row) for t, row in zip(trends(level), floor, strict=True)]
        np.testing.assert_allclose(floors(some[0]).value, 0.8 * level[0])
