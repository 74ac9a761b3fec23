# SPDX-License-Identifier: Apache-2.0
"""Contrasts in which a round counts by how steady rounds like it are. Their coverage is in
test_stats_coverage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kickbench.stats.contrasts import paired_contrast
from kickbench.stats.location import huber
from kickbench.stats.steady import steady_contrast, steady_processes, steady_running_interval

Floats = NDArray[np.float64]

VALUES = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Floats], list[Floats]]:
    sizes = draw(st.lists(st.integers(2, 30), min_size=1, max_size=5))
    made = [
        [np.array(draw(st.lists(VALUES, min_size=n, max_size=n))) for n in sizes] for _ in range(2)
    ]
    return made[0], made[1]


def jumping(
    rng: np.random.Generator, processes: int = 10, rounds: int = 16, shift: float = 160.0
) -> tuple[list[Floats], list[Floats]]:
    """Differences and levels of a host on which a third of the rounds is at full speed."""
    steady = rng.random((processes, rounds)) < 1 / 3
    scatter = np.where(steady, 40.0, 1200.0)
    levels = np.where(steady, 13_300 + 30 * rng.standard_normal(steady.shape), 0)
    levels += np.where(steady, 0, 15_000 + 700 * rng.standard_normal(steady.shape))
    return list(shift + scatter * rng.standard_normal(steady.shape)), list(levels)


def test_on_a_host_that_jumps_the_steady_rounds_say_it() -> None:
    rng = np.random.default_rng(1)
    widths, errors = [], []
    for _ in range(50):
        differences, levels = jumping(rng)
        steady = steady_contrast(differences, levels)
        usual = paired_contrast(differences, location=huber)
        widths.append(steady.half_width / usual.half_width)
        errors.append((abs(steady.estimate - 160), abs(usual.estimate - 160)))
    assert np.median(widths) < 0.25
    of_steady, of_usual = np.median(errors, axis=0)
    assert of_steady < 0.25 * of_usual


def test_on_a_host_that_does_not_jump_it_is_as_without_levels() -> None:
    rng = np.random.default_rng(2)
    widths = []
    for _ in range(50):
        differences, levels = list(rng.normal(0, 1, (5, 60))), list(rng.normal(0, 1, (5, 60)))
        usual = paired_contrast(differences, location=huber)
        steady = steady_contrast(differences, levels)
        assert steady.estimate == pytest.approx(usual.estimate, abs=0.1)
        widths.append(steady.half_width / usual.half_width)
    assert 0.85 < np.median(widths) < 1.15


def test_a_process_that_was_never_steady_hardly_moves_it() -> None:
    differences, levels = jumping(np.random.default_rng(3))
    before = steady_contrast(differences, levels)
    differences.append(np.full(16, 5000.0) + np.arange(16) * 200)
    levels.append(np.full(16, 18_000.0))
    after = steady_contrast(differences, levels)
    assert after.estimate == pytest.approx(before.estimate, abs=before.half_width / 4)
    assert after.n_processes == before.n_processes + 1


def test_processes_that_differ_widen_it() -> None:
    rng = np.random.default_rng(4)
    differences, levels = jumping(rng, processes=6, rounds=60)
    apart = [own + 400 * rng.standard_normal() for own in differences]
    alike, other = steady_contrast(differences, levels), steady_contrast(apart, levels)
    assert other.half_width > 5 * alike.half_width
    running = steady_running_interval(apart, levels)
    assert other.half_width > 3 * running.half_width


def test_the_estimate_of_each_process_is_made_of_its_steady_rounds() -> None:
    differences, levels = jumping(np.random.default_rng(5), processes=3, rounds=60)
    steady = [own[level < 14_000] for own, level in zip(differences, levels, strict=True)]
    expected = [np.median(own) for own in steady]
    assert steady_processes(differences, levels) == pytest.approx(expected, abs=25)


@given(cases())
def test_any_rounds_have_a_finite_interval_around_their_estimate(
    case: tuple[list[Floats], list[Floats]],
) -> None:
    differences, _ = case
    every = np.concatenate(differences)
    for interval in (steady_contrast(*case), steady_running_interval(*case)):
        assert np.isfinite([interval.low, interval.estimate, interval.high]).all()
        assert interval.low <= interval.estimate <= interval.high
        assert every.min() - 1e-6 <= interval.estimate <= every.max() + 1e-6
        assert interval.n_rounds == len(every)
    if every.min() < every.max():
        assert steady_contrast(*case).half_width > 0
    # Not over several processes: those of [0, 0] and [1, 1] have no noise of rounds.
    for own, level in zip(*case, strict=True):
        if own.min() < own.max():
            assert steady_running_interval([own], [level]).half_width > 0


@given(cases(), st.floats(-1e3, 1e3), st.floats(0.1, 10))
def test_it_moves_with_the_differences_and_only_the_order_of_levels_counts(
    case: tuple[list[Floats], list[Floats]], by: float, times: float
) -> None:
    differences, levels = case
    here = steady_contrast(differences, levels)
    moved = steady_contrast([-times * own + by for own in differences], [2 * m + 7 for m in levels])
    size = max(1.0, float(np.abs(np.concatenate(differences)).max())) * times + abs(by)
    assert moved.estimate == pytest.approx(-times * here.estimate + by, abs=1e-6 * size)
    assert moved.half_width == pytest.approx(times * here.half_width, rel=1e-4, abs=1e-6 * size)


@pytest.mark.parametrize(
    ("differences", "levels", "why"),
    [
        ([], [], "at least one process"),
        ([[1.0]], [[1.0]], "2 rounds or more"),
        ([[1.0, 2.0]], [[1.0]], "each round has a level"),
        ([[1.0, 2.0]], [], "each round has a level"),
        ([[1.0, float("nan")]], [[1.0, 2.0]], "not a finite number"),
    ],
)
def test_what_is_no_contrast(
    differences: Sequence[Sequence[float]], levels: Sequence[Sequence[float]], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        steady_contrast(differences, levels)
