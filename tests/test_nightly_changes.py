# SPDX-License-Identifier: Apache-2.0
"""Change points over a history: found with their night, size and environment; noise has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kickbench.nightly.changes import ChangePoint, change_points
from kickbench.nightly.settings import Settings
from kickbench.nightly.trends import Key, Nights, Trend

SETTINGS = Settings()


def nights(n: int, new_kernel: int | None = None) -> Nights:
    def environment(night: int) -> dict[str, Any]:
        new = new_kernel is not None and night >= new_kernel
        return {"kernel": {"release": "6.12.4" if new else "6.12.3"}, "load": night}

    return Nights(
        tuple(f"run{i}" for i in range(n)),
        tuple(f"night {i}" for i in range(n)),
        tuple(environment(i) for i in range(n)),
    )


def trend(value: NDArray[np.float64], error: float = 0.001) -> Trend:
    return Trend(
        Key("case", "sigmask", None, "ns_per_exit"),
        "lower",
        np.arange(len(value)),
        value,
        value * (1 - error),
        value * (1 + error),
        np.full(len(value), 10),
        None,
        np.ones(len(value), np.bool_),
        0,
    )


def noisy(seed: int, n: int = 200, sd: float = 0.003, df: float = 4.0) -> NDArray[np.float64]:
    return 8000 * (1 + sd * np.random.default_rng(seed).standard_t(df, n))


def points(value: NDArray[np.float64], **how: Any) -> list[ChangePoint]:
    return change_points([trend(value, **how)], nights(len(value)), SETTINGS)


def test_a_step_is_found_with_its_night_size_and_what_changed_with_it() -> None:
    value = noisy(7)
    value[120:] *= 1.03
    (found,) = change_points([trend(value)], nights(200, new_kernel=120), SETTINGS)
    assert (found.night, found.when_utc) == (120, "night 120")
    assert (found.run_before, found.run_after) == ("run119", "run120")
    assert found.low < 0.03 * 8000 < found.high
    assert found.relative == pytest.approx(0.03, abs=0.005)
    assert found.size == pytest.approx(found.after - found.before)
    assert found.direction == "worse"
    assert [(c.title, c.before, c.after) for c in found.environment] == [
        ("kernel", "6.12.3", "6.12.4")
    ]


def test_a_step_without_a_known_cause_says_nothing_of_the_environment() -> None:
    value = noisy(1)
    value[120:] *= 1.03
    (found,) = change_points([trend(value)], nights(200, new_kernel=60), SETTINGS)
    assert found.environment == ()


def test_nights_without_a_value_leave_the_indices_right() -> None:
    value = noisy(2)
    value[120:] *= 1.05
    value[[10, 50, 119, 120]] = np.nan
    (found,) = points(value)
    assert (found.night, found.run_before, found.run_after) == (121, "run118", "run121")


def test_several_steps_in_either_direction() -> None:
    value = noisy(3, n=400)
    value[100:] *= 1.03
    value[200:] *= 0.95
    value[300:] *= 1.02
    found = points(value)
    assert [p.direction for p in found] == ["worse", "better", "worse"]
    np.testing.assert_allclose([p.night for p in found], [100, 200, 300], atol=2)
    higher = replace(trend(value), better="higher")
    mirrored = change_points([higher], nights(400), SETTINGS)
    assert [p.direction for p in mirrored] == ["better", "worse", "better"]


def test_one_night_is_no_change_point_however_far_off() -> None:
    value = noisy(4)
    value[[30, 31, 90, 150]] *= 1.5
    assert points(value) == []


def test_an_outlier_beside_a_step_does_not_move_it() -> None:
    value = noisy(8)
    value[120:] *= 1.03
    value[[116, 123]] *= 50
    assert [p.night for p in points(value)] == [120]


def test_heavy_and_slow_noise_has_no_change_points() -> None:
    for seed in range(10):
        assert points(noisy(seed, n=600, df=2.5)) == []
        slow = np.random.default_rng(seed).standard_normal(600)
        for i in range(1, 600):
            slow[i] += 0.4 * slow[i - 1]
        assert points(8000 * (1 + 0.003 * slow)) == []


def test_a_change_below_the_minimal_effect_is_left_out() -> None:
    value = noisy(5, sd=0.0002)
    value[100:] *= 1.01
    assert len(points(value)) == 1
    large = replace(SETTINGS, default_min_effect=0.02)
    assert change_points([trend(value)], nights(200), large) == []


def test_an_exact_figure_changes_where_it_changes() -> None:
    value = np.full(30, 2430.0)
    value[29:] += 1
    (found,) = points(value, error=0.0)
    assert (found.night, found.size, found.low, found.high) == (29, 1, 1, 1)


def test_short_histories_have_none() -> None:
    for n in range(8):
        assert points(noisy(6, n=n)) == []


odd = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True, width=32),
    st.sampled_from([0.0, 8000.0, np.nan, np.inf, 1e300, -1e300, 1e-300]),
)


@settings(max_examples=60)
@given(st.lists(odd, max_size=40), st.booleans())
def test_odd_numbers_never_crash(values: list[float], exact: bool) -> None:
    array = np.array(values, np.float64)
    t = replace(
        trend(np.zeros(len(array))),
        value=array,
        low=array if exact else np.full(len(array), np.nan),
        high=array if exact else np.full(len(array), np.nan),
    )
    for found in change_points([t], nights(len(array)), SETTINGS):
        assert 0 < found.night < len(array)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 64.0, 1e9]))
def test_the_unit_does_not_matter(seed: int, unit: float) -> None:
    value = noisy(seed)
    value[90:] *= 1.02
    assert [p.night for p in points(value)] == [p.night for p in points(value * unit)]
