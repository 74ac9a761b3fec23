# SPDX-License-Identifier: Apache-2.0
"""Where the rounds of a process lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from kickbench.stats.location import HUBER, huber, trimmed

ROUNDS = st.lists(st.floats(-1e6, 1e6).map(lambda v: round(v, 3)), min_size=2, max_size=60)


def of(rounds: list[float]) -> tuple[float, float]:
    """Huber's estimate, and the scale of these rounds."""
    values = np.array(rounds)
    return huber(values)[0], 1.4826 * float(np.median(np.abs(values - np.median(values))))


@given(ROUNDS)
def test_the_rounds_on_either_side_pull_alike(rounds: list[float]) -> None:
    estimate, scale = of(rounds)
    if scale > 0:
        reach = HUBER * scale
        pull = np.clip(np.array(rounds) - estimate, -reach, reach).sum()
        assert abs(pull) <= 1e-6 * reach * len(rounds)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_root_that_a_solver_finds(seed: int) -> None:
    values = np.random.default_rng(seed).standard_t(2, 31)
    estimate, scale = of(values.tolist())
    reach = HUBER * scale
    root = brentq(lambda at: np.clip(values - at, -reach, reach).sum(), values.min(), values.max())
    assert estimate == pytest.approx(root, abs=1e-6 * scale)


@given(ROUNDS, st.integers(-1000, 1000), st.sampled_from([0.5, 2.0, -1.0, -4.0]))
def test_it_moves_with_the_rounds(rounds: list[float], more: int, factor: float) -> None:
    estimate, scale = of(rounds)
    moved, _ = of([factor * value + more for value in rounds])
    rounding = 1e-9 * max(1.0, *map(abs, rounds))
    if scale > 1e-6 * max(1.0, *map(abs, rounds)):
        assert moved == pytest.approx(
            factor * estimate + more, abs=abs(factor) * (1e-6 * scale + rounding)
        )


@given(ROUNDS)
def test_influences_have_a_mean_of_zero_and_are_bounded(rounds: list[float]) -> None:
    _, influence = huber(np.array(rounds))
    assert influence.shape == (len(rounds),)
    assert abs(influence.mean()) <= 1e-9 * max(1.0, np.abs(influence).max())
    _, scale = of(rounds)
    if scale > 0:
        assert np.abs(influence).max() <= 2 * HUBER * scale * len(rounds) * (1 + 1e-9)


def test_a_few_rounds_far_off_move_it_as_little_as_near_ones() -> None:
    calm = np.random.default_rng(1).standard_normal(40)
    near, far = calm.copy(), calm.copy()
    near[:12] = 5
    far[:12] = 1e9
    assert huber(near)[0] == pytest.approx(huber(far)[0])
    assert huber(far)[0] < 1


def test_rounds_that_are_mostly_equal_have_the_trimmed_mean() -> None:
    rounds = np.array([5.0] * 8 + [7.0, 9.0])
    assert huber(rounds)[0] == trimmed(rounds)[0]
    assert (huber(rounds)[1] == trimmed(rounds)[1]).all()
    assert np.abs(huber(rounds)[1]).max() > 0
