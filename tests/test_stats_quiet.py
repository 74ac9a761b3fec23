# SPDX-License-Identifier: Apache-2.0
"""The quiet exit of a block."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kickbench.stats.floor import FLOOR_LEVEL, floor
from kickbench.stats.quiet import QUIET_LEVELS, quiet

COSTS = st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=50)


def levels(costs: list[int] | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.quantile(costs, QUIET_LEVELS)


def test_a_block_has_one_quiet_exit() -> None:
    assert quiet([10, 11, 12, 13, 14]) == 12.0
    blocks = np.array([[10, 20], [11, 20], [12, 20], [13, 20], [14, 25]], dtype=np.float64)
    assert quiet(blocks).tolist() == [12.0, 21.0]


def test_a_block_without_exits_has_no_quiet_exit() -> None:
    blocks = np.array([[10.0, np.nan]] * 5)
    np.testing.assert_array_equal(quiet(blocks), [10.0, np.nan])
    assert np.isnan(quiet([10.0] * 4 + [np.nan]))


@pytest.mark.parametrize("shape", [(4,), (4, 5), (0,), (17, 2)])
def test_other_levels_than_its_own_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="QUIET_LEVELS"):
        quiet(np.zeros(shape))


@given(st.lists(st.lists(st.floats(0, 1e9), min_size=5, max_size=5), min_size=1, max_size=9))
def test_it_is_the_same_mean_for_one_block_and_for_many(blocks: list[list[float]]) -> None:
    wanted = np.mean(blocks, axis=-1)
    assert quiet(np.array(blocks).T).tolist() == wanted.tolist()
    assert [quiet(one) for one in blocks] == wanted.tolist()


@given(COSTS)
def test_the_quiet_exit_lies_between_its_levels(costs: list[int]) -> None:
    found = levels(costs)
    rounding = 1e-9 * found[-1]
    assert found[0] - rounding <= quiet(found) <= found[-1] + rounding


@given(COSTS, st.floats(0, 1e6), st.floats(0.5, 2))
def test_the_quiet_exit_moves_with_the_exits(costs: list[int], more: float, factor: float) -> None:
    moved = levels(factor * np.array(costs, dtype=np.float64) + more)
    np.testing.assert_allclose(quiet(moved), factor * quiet(levels(costs)) + more)


@given(st.lists(st.integers(1, 10_000), min_size=20, max_size=200), st.integers(1, 1_000_000))
def test_what_happens_to_the_slower_half_does_not_reach_it(costs: list[int], delay: int) -> None:
    ordered = np.sort(np.array(costs, dtype=np.float64))
    late = ordered.copy()
    late[late.size // 2 :] += delay
    assert quiet(levels(late)) == quiet(levels(ordered))


# --- the floor of a run ---------------------------------------------------------------------------


def test_the_floor_is_a_low_quantile_of_the_lowest_process() -> None:
    rounds = np.concatenate([np.arange(11.0) + 20, np.arange(11.0) + 10, [np.nan]])
    assert floor(rounds, [0] * 11 + [1] * 12) == 11.0


def test_without_rounds_there_is_no_floor() -> None:
    assert np.isnan(floor([], []))
    assert np.isnan(floor([np.nan, np.nan], [0, 1]))


@given(COSTS, COSTS, st.integers(0, 2**32))
def test_what_disturbs_a_process_does_not_move_the_floor(
    costs: list[int], others: list[int], more: int
) -> None:
    calm = np.quantile(costs, FLOOR_LEVEL)
    disturbed = np.maximum(others, max(costs)) + more
    process = [0] * len(costs) + [1] * len(others)
    assert floor([*costs, *disturbed], process) == calm


@given(COSTS, st.floats(0.5, 2))
def test_the_floor_moves_with_the_rounds(costs: list[int], factor: float) -> None:
    process = np.arange(len(costs)) % 3
    found = floor(factor * np.array(costs), process)
    assert found == pytest.approx(factor * floor(costs, process), rel=1e-9)
